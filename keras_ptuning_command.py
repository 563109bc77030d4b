"""The command `keras-ptuning`: says what a checkpoint is, and predicts the labels of a file.

It is no part of the package `keras_ptuning`, which imports Keras and its backend: that takes
seconds, and `--help` needs none of it.
"""

import argparse
import importlib.metadata
import json
import os
import sys

# Of an error of Keras, which may quote a whole vocabulary.
LONGEST_ERROR = 1000


def main(arguments=None):
    """Runs the command.

    Args:
        arguments: List of strings. Defaults to those of the process.
    """
    options = _parse(arguments)
    # Before TensorFlow is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        status = options.function(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"\nInterrupted. {_what_is_done(options)}".rstrip(), file=sys.stderr)
        status = 130
    except BrokenPipeError:
        # As of `keras-ptuning inspect ... | head -1`. Python would write the rest at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except Exception as error:
        text = str(error)[:LONGEST_ERROR]
        if not isinstance(error, ImportError | OSError | TypeError | ValueError):
            text = f"{type(error).__name__}: {text}"
        status = f"keras-ptuning: {text}"
    sys.exit(status)


def _parse(arguments):
    parser = argparse.ArgumentParser(prog="keras-ptuning")
    version = f"keras_ptuning {importlib.metadata.version('keras_ptuning')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser(
        "inspect", help="what a checkpoint is, and whether it can answer a cloze"
    )
    inspect.add_argument(
        "path",
        help="folder of a checkpoint, path of its weights, embedded name, or name on Hugging Face",
    )
    inspect.add_argument("--model", help="the architecture, where nothing tells it, e.g. nezha")
    inspect.add_argument("--application", help="lm or unilm, where nothing tells it")
    inspect.set_defaults(function=_inspect)
    predict = commands.add_parser(
        "predict", help="labels for a file of texts, however long; continues after an interruption"
    )
    predict.add_argument("path", metavar="model", help="what model.save wrote, a .keras file")
    predict.add_argument("texts", help="UTF-8 text, or a gzip of it, one text a line")
    predict.add_argument("out", help="file to write, a line of JSON for each text")
    predict.add_argument("--batch-size", type=int, default=64)
    predict.set_defaults(function=_predict)
    return parser.parse_args(arguments)


def _what_is_done(options):
    if options.command != "predict":
        return ""
    out = os.path.realpath(options.out)
    try:
        with open(f"{out}.progress", encoding="utf-8") as file:
            done = f"{json.load(file)['count']:,} texts are predicted, in {out}.part."
    except (OSError, ValueError, KeyError, TypeError):
        done = "Nothing is predicted yet."
    return f"{done} Run the same command again to continue."


def _import_keras():
    """Imports Keras, without what its backend writes past Python, such as that there is no GPU."""
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import keras

        # It looks for devices only now.
        keras.ops.zeros(())
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _predict(options):
    _import_keras()
    from keras_ptuning import load_model
    from keras_ptuning.tuning.predicting import count_predictions, count_texts, predict_to_file

    if os.path.exists(options.out):
        count = count_texts(options.texts)
        if count is not None and count == count_predictions(options.out):
            print(
                f"Nothing to do: {options.out} has the predictions of all {count:,} texts. Delete "
                "it to predict them again."
            )
            return 0
    model = load_model(options.path)
    if not hasattr(model, "template"):
        raise ValueError(f"{options.path} has a model without a template, not one of keras_ptuning")
    predict_to_file(model, options.texts, options.out, options.batch_size)
    return 0


def _inspect(options):
    _import_keras()
    from keras_ptuning import inspect_checkpoint

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
    return 1 if problems else 0


if __name__ == "__main__":
    main()
