"""Writing files so that an interruption never costs the one that was there."""

import contextlib
import os
import tempfile


@contextlib.contextmanager
def replacing(path):
    """Gives a path to write to; when the block ends well, that file takes the place of `path`.

    Args:
        path: Path of the file to write or replace.

    Yields:
        A temporary path in the same folder, with the same name.

    Raises:
        FileNotFoundError: if the folder of `path` does not exist.

    Example:

    >>> with replacing("result.json") as temporary:
    ...     with open(temporary, "w") as file:
    ...         file.write("{}")
    """
    path = os.fspath(path)
    folder, name = os.path.split(path)
    if not os.path.isdir(folder or "."):
        raise FileNotFoundError(f"There is no folder {folder!r} to write {name!r} into.")
    with tempfile.TemporaryDirectory(dir=folder or ".", prefix=".writing-") as beside:
        temporary = os.path.join(beside, name)
        yield temporary
        os.replace(temporary, path)
