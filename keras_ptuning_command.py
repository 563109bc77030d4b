"""The command `keras-ptuning`: inspects a checkpoint, predicts a file of texts, serves prompts.

It is no part of the package `keras_ptuning`, which imports Keras and its backend: that takes
seconds, and `--help` needs none of it.
"""

import argparse
import functools
import importlib.metadata
import importlib.util
import json
import os
import sys
import zipfile

# Standard input, as the path of the texts.
STDIN = "-"
# Of an error of Keras, which may quote a whole vocabulary.
LONGEST_ERROR = 1000


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults of options that have one."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def main(arguments=None):
    """Runs the command.

    Args:
        arguments: List of strings. Defaults to those of the process.
    """
    _repair_streams()
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


def _repair_streams():
    """Makes the standard streams such that nothing that is read or printed ends the command."""
    # In the order of their numbers, which other files would get otherwise.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    # Names of files and patterns may be Chinese, and the terminal's encoding may not.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _parse(arguments):
    parser = argparse.ArgumentParser(prog="keras-ptuning")
    version = f"keras_ptuning {importlib.metadata.version('keras_ptuning')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        parser_class=functools.partial(argparse.ArgumentParser, formatter_class=_Defaults),
    )
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
    predict.add_argument(
        "path",
        metavar="model",
        help="what model.save wrote, a .keras file; or what model.save_tuned wrote, a tuned file",
    )
    predict.add_argument(
        "texts",
        help="UTF-8 text, one text a line, or - for standard input; or a table, .csv, .tsv, .jsonl "
        "or .parquet; all but .parquet also as .gz",
    )
    predict.add_argument("out", help="file to write, a line of JSON for each text")
    predict.add_argument(
        "--checkpoint", help="of a tuned file: the checkpoint it was trained with, as for inspect"
    )
    predict.add_argument(
        "--column",
        action="append",
        help="of a table: the column of texts; given twice for a template with {text_b}",
    )
    predict.add_argument("--batch-size", type=int, default=64, help="texts in a batch")
    predict.set_defaults(function=_predict)
    serve = commands.add_parser("serve", help="answers over HTTP from a folder of tuned files")
    serve.add_argument(
        "folder", help="sentiment.tuned in it is the task sentiment; files may come, change and go"
    )
    serve.add_argument(
        "--checkpoint", default="bert-mini-zh", help="that the files were trained with"
    )
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all networks")
    serve.add_argument("--port", type=int, default=8000, help="0 for any that is free")
    serve.add_argument("--batch-size", type=int, default=32, help="the most texts at a time")
    serve.add_argument("--max-bytes", type=int, default=2**20, help="of a request")
    serve.add_argument(
        "--max-texts", type=int, default=256, help="in a request, and as many candidates in all"
    )
    serve.add_argument("--max-waiting", type=int, default=1024, help="texts that wait")
    serve.set_defaults(function=_serve)
    demo = commands.add_parser("demo", help="a page to try templates on, in a browser")
    demo.add_argument("checkpoint", nargs="?", default="bert-small-zh", help="as for inspect")
    demo.add_argument("--port", type=int, default=7860, help="port to listen at")
    demo.set_defaults(function=_demo)
    return parser.parse_args(arguments)


def _what_is_done(options):
    if options.command != "predict":
        return ""
    out = os.path.realpath(options.out)
    if os.path.isfile(out):
        return f"{out} stays as it is."
    try:
        with open(f"{out}.progress", encoding="utf-8") as file:
            done = f"{json.load(file)['count']:,} texts are predicted, in {out}.part."
    except (OSError, ValueError, KeyError, TypeError):
        done = "Nothing is predicted yet."
    if options.texts == STDIN:
        return f"{done} To continue, give the same command the same texts from the beginning."
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
    if options.texts == STDIN:
        print("Texts of standard input: an interruption needs the same texts again.", flush=True)
        if options.column:
            raise ValueError("Standard input has one text a line: leave out --column.")
        if sys.stdin.name == os.devnull:
            raise ValueError("Standard input is closed: give the path of a file of texts.")
    # Importing and loading take seconds.
    print(f"Loading {options.path}", flush=True)
    _import_keras()
    from keras_ptuning.files import check_file
    from keras_ptuning.tuning.predicting import (
        check_output,
        count_predictions,
        count_texts,
        iterate_texts,
        named_labels,
        predict_to_file,
    )

    check_file(options.path, f"There is no file {options.path!r}.")
    # A pipe would be waited for.
    check_output(options.out)
    if os.path.exists(options.out) and options.texts != STDIN:
        count = count_texts(options.texts, options.column)
        if count is not None and count == count_predictions(options.out):
            print(
                f"Nothing to do: {options.out} has {count:,} predictions, as many as there are "
                "texts. Whether they are of these texts and this model is not checked. Delete it "
                "to predict again."
            )
            return 0
    if options.texts != STDIN and (
        os.path.isfile(options.texts) or not os.path.exists(options.texts)
    ):
        # A wrong column is told before the model is loaded.
        next(iter(iterate_texts(options.texts, options.column)), None)
    model = _load(options.path, options.checkpoint)
    texts = options.texts
    if texts == STDIN:
        texts = iterate_texts(sys.stdin.buffer, names=named_labels(model.template))
    predict_to_file(model, texts, options.out, options.batch_size, column=options.column)
    return 0


def _load(path, checkpoint):
    """A model of a whole file, or of a tuned one and its checkpoint."""
    from keras_ptuning import load_model, load_tuned
    from keras_ptuning.tuning.tuned_file import is_tuned

    if checkpoint is not None:
        if zipfile.is_zipfile(path):
            raise ValueError(f"{path} has its model: leave out --checkpoint.")
        return load_tuned(path, checkpoint)
    if is_tuned(path):
        raise ValueError(
            f"{path} is a tuned file, without its model. Say which checkpoint it was trained with, "
            "e.g. --checkpoint bert-mini-zh."
        )
    model = load_model(path)
    if not hasattr(model, "template"):
        raise ValueError(f"{path} has a model without a template, not one of keras_ptuning")
    return model


def _serve(options):
    # Before Keras is imported, which takes seconds.
    if importlib.util.find_spec("uvicorn") is None:
        raise ImportError("The server needs uvicorn: pip install 'keras_ptuning[serve]'")
    print(f"Loading {options.checkpoint}", flush=True)
    _import_keras()
    import logging

    from keras_ptuning.serving import serve

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("keras_ptuning").setLevel(logging.INFO)
    serve(
        options.folder,
        options.checkpoint,
        options.host,
        options.port,
        options.batch_size,
        options.max_bytes,
        options.max_texts,
        options.max_waiting,
    )
    return 0


def _demo(options):
    # Before Keras is imported, which takes seconds.
    if importlib.util.find_spec("gradio") is None:
        raise ImportError("The page needs gradio: pip install 'keras_ptuning[demo]'")
    print(f"Loading {options.checkpoint}", flush=True)
    _import_keras()
    from keras_ptuning.serving.demo import show_page

    show_page(options.checkpoint, options.port)
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
