"""The command `keras-ptuning`: `keras-ptuning inspect PATH` says what a checkpoint is."""

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_ptuning.models import inspect_checkpoint


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="keras-ptuning", description=__doc__.split(": ")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser(
        "inspect", help="what a checkpoint is, and whether it can answer a cloze"
    )
    inspect.add_argument(
        "path", help="folder of a checkpoint, path of its weights, or embedded name"
    )
    inspect.add_argument("--model", help="the architecture, where nothing tells it, e.g. nezha")
    inspect.add_argument("--application", help="lm or unilm, where nothing tells it")
    options = parser.parse_args(arguments)
    try:
        found = inspect_checkpoint(options.path, options.model, options.application)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"{options.path}: {error}")
    problems = found.pop("problems")
    found["parameters"] = f"{found['parameters']:,}"
    if found["max_length"] is None:
        found["max_length"] = "unlimited"
    for key, value in found.items():
        print(f"{key.replace('_', ' '):14} {'none' if value is None else value}")
    for problem in problems:
        print(f"Problem: {problem}")
    if not problems:
        print("It can answer a cloze.")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
