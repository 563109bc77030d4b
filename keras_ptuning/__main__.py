"""The command `keras-ptuning`: says what a checkpoint is, and predicts the labels of a file."""

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from keras_ptuning.models import inspect_checkpoint
from keras_ptuning.tuning import predict_to_file


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="keras-ptuning")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser(
        "inspect", help="what a checkpoint is, and whether it can answer a cloze"
    )
    inspect.add_argument(
        "path", help="folder of a checkpoint, path of its weights, or embedded name"
    )
    inspect.add_argument("--model", help="the architecture, where nothing tells it, e.g. nezha")
    inspect.add_argument("--application", help="lm or unilm, where nothing tells it")
    inspect.set_defaults(function=_inspect)
    predict = commands.add_parser(
        "predict", help="labels for a file of texts, however long; goes on where it was interrupted"
    )
    predict.add_argument("path", metavar="model", help="what model.save wrote, a .keras file")
    predict.add_argument("texts", help="UTF-8 text, or a gzip of it, one text a line")
    predict.add_argument("out", help="file to write, a line of JSON for each text")
    predict.add_argument("--batch-size", type=int, default=64)
    predict.set_defaults(function=_predict)
    options = parser.parse_args(arguments)
    try:
        options.function(options)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"{options.path}: {error}")


def _predict(options):
    model = keras.models.load_model(options.path)
    if not hasattr(model, "template"):
        raise ValueError("it is a model without a template, not one of keras_ptuning")
    predict_to_file(model, options.texts, options.out, options.batch_size)


def _inspect(options):
    found = inspect_checkpoint(options.path, options.model, options.application)
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
