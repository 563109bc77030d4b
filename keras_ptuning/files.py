"""Writing files, finding them in a folder, and reading their lines."""

import contextlib
import glob
import gzip
import os
import re
import tempfile
import zlib

from keras_ptuning.assets import NAMES, find_asset
from keras_ptuning.checks import check_path

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
    check_path("path", path)
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


def folder_of(path):
    """The folder of a checkpoint.

    Args:
        path: Name of an embedded checkpoint; a folder; or the path of a file in it, or of a
            TensorFlow checkpoint in it, whose path is the beginning of its files' names.

    Returns:
        Path of the folder.

    Raises:
        FileNotFoundError: if there is nothing at `path`.

    Example:

    >>> folder_of("bert-mini-zh").endswith("assets/bert-mini-zh/")
    True
    """
    check_path("path", path)
    path = find_asset(path, "") or os.fspath(path)
    if os.path.isdir(path):
        return path
    folder, name = os.path.split(path)
    if not any(glob.glob(glob.escape(path) + end) for end in ("", ".index", ".data-*")):
        raise FileNotFoundError(
            f"There is no {name} in {folder or '.'!r}. Expected a checkpoint's folder, or a file "
            f"in it, or the name of an embedded checkpoint, {NAMES}. Received: {path!r}."
        )
    return folder


def find_one(path, patterns, expected):
    """Finds one file in a checkpoint's folder.

    Args:
        path: As `folder_of` takes it.
        patterns: Regular expressions of whole file names, the best first.
        expected: String, what to say is expected where none is there.

    Returns:
        Path of the one file that matches the first pattern that any file matches.

    Raises:
        FileNotFoundError: if no file matches any.
        ValueError: if several match that pattern.
    """
    folder = folder_of(path)
    names = [name for name in sorted(os.listdir(folder or ".")) if not name.startswith(".")]
    for pattern in patterns:
        found = [name for name in names if re.fullmatch(pattern, name)]
        if len(found) == 1:
            return os.path.join(folder, found[0])
        if found:
            raise ValueError(
                f"The folder {folder or '.'!r} has several files that could be meant: "
                f"{', '.join(found)}. Give the path of one of them."
            )
    raise FileNotFoundError(
        f"There is no {expected} in {folder or '.'!r}. Expected the files of a checkpoint beside "
        f"each other, or the name of an embedded one, {NAMES}. Received: {str(path)!r}, with "
        f"{names[:8] or 'no files'}."
    )


def decode_lines(lines, name):
    """The lines of a file as text.

    Args:
        lines: Iterable of bytes, in UTF-8.
        name: What to call the file in errors.

    Yields:
        Strings, with their ends of line. A byte order mark at the beginning is left out.

    Raises:
        ValueError: if a line is not UTF-8; its number is named.

    Example:

    >>> import codecs
    >>> list(decode_lines([codecs.BOM_UTF8 + b"one", b"two"], "x.txt"))
    ['one', 'two']
    """
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}, line {number}: expected text in UTF-8. Received: {line[:80]!r} ({error})."
            ) from None


def iterate_lines(path):
    """The lines of a text file in UTF-8, or of a gzip of one, without keeping them.

    Args:
        path: Path of the file.

    Yields:
        Strings, with their ends of line. A byte order mark at the beginning is left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is not UTF-8 (its number is named), or if a compressed file is
            damaged or cut off.
    """
    try:
        with open(path, "rb") as file:
            lines = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file
            yield from decode_lines(lines, path)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no text file {str(path)!r}.") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"The gzip file {str(path)!r} is damaged or cut off ({error}). Copy or download it "
            "again."
        ) from None
