"""Which file of a folder is meant, by its name."""

import glob
import os
import re

from keras_ptuning.assets import NAMES, find_asset


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
