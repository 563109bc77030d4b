"""Writing files so that an interruption never costs the one that was there."""

import contextlib
import os
import tempfile

# What the folders of unfinished files are called, which only a killed process leaves behind.
UNFINISHED = ".writing-"


@contextlib.contextmanager
def replacing(path):
    """Gives a path to write to; when the block ends well, that file takes the place of `path`.

    Args:
        path: Path of the file to write or replace.

    Yields:
        A temporary path in the same folder, with the same name.

    Raises:
        FileNotFoundError: if the folder of `path` does not exist.
        IsADirectoryError: if `path` is a folder.

    Example:

    ```python
    with replacing("result.json") as temporary, open(temporary, "w") as file:
        json.dump(result, file)
    ```
    """
    # A link stays a link to the new file.
    path = os.path.realpath(path)
    folder, name = os.path.split(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"Expected the path of a file. Received the folder {path!r}.")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"There is no folder {folder!r} to write {name!r} into.")
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as beside:
        temporary = os.path.join(beside, name)
        yield temporary
        os.replace(temporary, path)
