"""Finished runs in a file, a line of JSON for each."""

import json
import os


def read_runs(path):
    """The runs in a file; none if there is no file.

    A run that was killed may have left half a line, which is cut off.
    """
    if not os.path.exists(path):
        return []
    with open(path, "rb+") as file:
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            file.truncate(len(whole))
    return [json.loads(line) for line in whole.splitlines()]
