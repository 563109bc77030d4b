"""Predictions of more texts than fit into memory: read, predicted and written as they go."""

import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterable

import keras
import numpy as np

from keras_ptuning.backend import is_shared
from keras_ptuning.checks import check_integer
from keras_ptuning.files import iterate_lines, replacing

# Texts that are tokenized, sorted by length, predicted and written together.
CHUNK = 8192
RATE = ["texts/s"]


def predict_to_file(model, texts, filepath, batch_size=64, verbose=True):
    """Predicts the labels of any number of texts, and writes them to a file as it goes.

    Memory does not grow with the number of texts. What was interrupted goes on where it was with
    the next call of the same arguments: until the end, the predictions stand in `filepath` with
    `.part` after it, and how far they go with `.progress`.

    Args:
        model: A `ClozeModel` or `TextClassifier`, whose template has labels.
        texts: Path of a text file in UTF-8, also a gzip, with one text a line; or an iterable of
            strings, or of pairs of strings where the template has `{text_b}`. To go on, it has to
            begin with the same texts again.
        filepath: Path of the file to write. For each text, in their order, it has a line of JSON:
            `{"label": "正面", "probabilities": [0.07, 0.93]}`, the probabilities in the order of
            `template.label_names`.
        batch_size: Integer. Defaults to `64`.
        verbose: Whether to show Keras's progress bar, with texts per second. Defaults to `True`.

    Returns:
        Integer, the number of texts.

    Raises:
        FileExistsError: if there is such a file: the predictions are complete.
        FileNotFoundError: if there is no file of texts, or no folder to write into.
        TypeError: if one of the texts is not a string; what was predicted before stays.
        ValueError: if a line is not UTF-8; if the interrupted predictions are damaged, or of other
            texts or another model; if several processes share the model's work.

    Example:

    ```python
    model = load_model("model.keras")
    predict_to_file(model, "million_reviews.txt", "predictions.jsonl")
    ```
    """
    check_integer("batch_size", batch_size, 1)
    if model.template.labels is None:
        raise ValueError(
            "Expected a template with labels. With candidates for each text, use `model.predict`."
        )
    if is_shared(model.distribution):
        raise ValueError(
            "Several processes cannot write one file. Predict in one process, or let each call "
            "`model.predict`."
        )
    if isinstance(texts, str | os.PathLike):
        # What a pipe says can be read only once.
        piped = os.path.exists(texts) and not os.path.isfile(texts)
        count = None if piped else sum(1 for _ in iterate_lines(texts))
        texts = (line.rstrip("\r\n") for line in iterate_lines(texts))
    elif isinstance(texts, Iterable):
        count = len(texts) if hasattr(texts, "__len__") else None
    else:
        raise TypeError(f"Expected a path or an iterable of texts. Received: texts={texts!r:.60}.")
    filepath = os.fspath(filepath)
    if os.path.exists(filepath):
        raise FileExistsError(
            f"The file {filepath!r} exists. Delete it to predict anew, or give another name."
        )
    folder = os.path.dirname(filepath) or "."
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"There is no folder {folder!r} to write the predictions into.")
    part, texts, digest = filepath + ".part", iter(texts), hashlib.sha256()
    state = {"model": _fingerprint(model), "texts": digest.hexdigest(), "count": 0, "bytes": 0}
    progress = _Progress(filepath + ".progress", state)
    for text in itertools.islice(texts, progress.state["count"]):
        _add(digest, text)
    if progress.state["texts"] != digest.hexdigest() or progress.state["model"] != state["model"]:
        others = "other texts" if progress.state["model"] == state["model"] else "another model"
        raise ValueError(
            f"The interrupted predictions {part!r} are of {others}. Delete them, and "
            f"{progress.path!r}, or give another name."
        )
    bar = keras.utils.Progbar(count, verbose=int(verbose), unit_name="text", stateful_metrics=RATE)
    start, done = time.perf_counter(), 0
    there = os.path.getsize(part) if os.path.exists(part) else 0
    if there < progress.state["bytes"]:
        raise ValueError(
            f"The interrupted predictions {part!r} are shorter than {progress.path!r} says. Delete "
            "both to predict anew."
        )
    with open(part, "ab") as file:
        # After the last line that is known to be complete.
        file.truncate(progress.state["bytes"])
        while chunk := list(itertools.islice(texts, CHUNK)):
            scores = model.predict(model.template.dataset(chunk, batch_size=batch_size), verbose=0)
            file.write(_lines(model.template, scores))
            file.flush()
            os.fsync(file.fileno())
            for text in chunk:
                _add(digest, text)
            done += len(chunk)
            total = progress.state["count"] + len(chunk)
            progress.write(texts=digest.hexdigest(), count=total, bytes=file.tell())
            bar.update(total, [(RATE[0], done / (time.perf_counter() - start))])
    # First the progress: without it, what is left after a kill here is predicted anew, not wrong.
    progress.delete()
    os.replace(part, filepath)
    return progress.state["count"]


class _Progress:
    """How far the predictions in a file go, in a file of its own."""

    def __init__(self, path, start):
        self.path, self.state = path, start
        try:
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
            self.state = {key: type(value)(found[key]) for key, value in start.items()}
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"The file {path!r} is damaged ({error!r}). Delete it to predict anew."
            ) from None

    def write(self, **changes):
        self.state = {**self.state, **changes}
        with replacing(self.path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            json.dump(self.state, file)

    def delete(self):
        if os.path.exists(self.path):
            os.remove(self.path)


def _lines(template, scores):
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(scores)).astype("float64")
    if not np.isfinite(probabilities).all():
        raise ValueError("The model predicts numbers that are not finite: its weights are damaged.")
    probabilities = probabilities.round(6).tolist()
    lines = (
        json.dumps({"label": label, "probabilities": row}, ensure_ascii=False, default=str)
        for label, row in zip(template.decode(scores), probabilities, strict=True)
    )
    return "".join(line + "\n" for line in lines).encode("utf-8")


def _add(digest, text):
    digest.update(json.dumps(text, ensure_ascii=True, default=str).encode() + b"\n")


def _fingerprint(model):
    """A hash of all that the predictions depend on."""
    digest = hashlib.sha256(json.dumps(model.template.get_config(), default=str).encode())
    digest.update(json.dumps(model.init_config, default=str, sort_keys=True).encode())
    for variable in model.weights:
        digest.update(keras.ops.convert_to_numpy(variable).tobytes())
    return digest.hexdigest()
