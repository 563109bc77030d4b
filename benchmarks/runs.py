"""Finished runs in a file, a line of JSON for each."""

import json
import os
import sys


def add_run(path, run):
    """Appends a finished run, in place of half a line that a killed process has left.

    Several processes need a file each.
    """
    _, rest = _read(path)
    with open(path, "ab") as file:
        if rest:
            file.truncate(file.tell() - len(rest))
        file.write(json.dumps(run, ensure_ascii=False).encode() + b"\n")


def read_runs(path):
    """The runs in a file; none if there is no file. Half a line is left out."""
    return _read(path)[0]


def _read(path):
    """The runs, and what follows the last whole line."""
    if not os.path.exists(path):
        return [], b""
    with open(path, "rb") as file:
        content = file.read()
    *lines, rest = content.split(b"\n")
    runs = []
    for number, line in enumerate([*lines, rest], 1):
        try:
            if number <= len(lines):
                runs.append(json.loads(line))
            # Of another file nothing is cut off.
            elif not b'{"'.startswith(rest[:2]):
                raise ValueError
        except ValueError:
            sys.exit(
                "Expected --out to be a new file, or one of finished runs, a line of JSON for "
                f"each. Received: {str(path)!r}, whose line {number} is {line[:60]!r}."
            )
    return runs, rest
