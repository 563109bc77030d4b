"""The small checkpoints that come with the library, by name.

Each has a folder, with a README.md that says what it is and what it is not for.
"""

import os

FOLDER = os.path.dirname(os.path.abspath(__file__))
NAMES = ("bert-mini-zh", "bert-small-zh", "gpt-mini-zh", "t5-mini-zh")


def find_asset(name, file):
    """The path of a file of the embedded checkpoint `name`; `None` if it is not one's name."""
    return os.path.join(FOLDER, name, file) if name in NAMES else None
