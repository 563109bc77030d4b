"""Finished runs in a file, a line of JSON for each."""

import json
import os
import sys


def read_runs(path):
    """The runs in a file; none if there is no file.

    A run that was killed may have left half a line, which is cut off.
    """
    if not os.path.exists(path):
        return []
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
    if rest:
        os.truncate(path, len(content) - len(rest))
    return runs
