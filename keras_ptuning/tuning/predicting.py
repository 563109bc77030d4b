"""Predictions of more texts than fit into memory: read, predicted and written as they go."""

import contextlib
import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterable, Sequence, Sized

import keras
import numpy as np

from keras_ptuning.backend import is_shared
from keras_ptuning.checks import Path, check_integer, check_list, check_verbose
from keras_ptuning.files import (
    LABELED,
    TABLES,
    check_target,
    iterate_lines,
    iterate_table,
    lock,
    naming,
    parse_json,
    read_json,
    replacing,
)
from keras_ptuning.text.tags import TaggedText
from keras_ptuning.tuning.base import LabelModel
from keras_ptuning.tuning.classifier import TextClassifier
from keras_ptuning.tuning.cloze import ClozeModel

# The most texts that are tokenized, sorted by length, predicted and written together.
CHUNK = 2048
RATE = ["texts/s"]


def predict_to_file(
    model: ClozeModel | TextClassifier,
    texts: Path | Iterable[str] | Iterable[tuple[str, str]],
    filepath: Path,
    batch_size: int = 64,
    verbose: bool | int | str = True,
    column: str | Sequence[str] | None = None,
) -> int:
    """Predicts the labels of any number of texts, and writes them to a file as it goes.

    Memory does not grow with the number of texts. The first texts are written after one batch, and
    then more and more at once. Call it again with the same arguments after an interruption, and it
    continues: until the end the predictions are in `filepath` with `.part` after it, and how far
    they go in a file with `.progress` after it.

    Args:
        model: A `ClozeModel` or `TextClassifier`, whose template has labels.
        texts: Path of a text file in UTF-8, also a gzip, with one text a line and nothing else; or
            path of a table with a `column` of texts; or an iterable of strings, or of pairs of
            strings if the template has `{text_b}`. To continue, it must begin with the same texts
            again.
        filepath: Path of the file to write. For each text, in their order, it has a line of JSON:
            `{"index": 0, "label": "正面", "probabilities": {"负面": 0.07, "正面": 0.93}}`. The
            first text has the index 0. The probabilities have the names of the labels, as strings.
        batch_size: Integer. Defaults to `64`.
        verbose: Whether to show Keras's progress bar, with texts per second, as in
            `keras.Model.predict`. Defaults to `True`.
        column: String, the name of the column of texts in a table: a file whose name ends in
            `.csv`, `.tsv` or `.jsonl`, also a gzip of it, or in `.parquet`, which needs `pyarrow`.
            A list of two names if the template has `{text_b}`.

    Returns:
        Integer, the number of texts.

    Raises:
        BlockingIOError: if another process writes the same file.
        FileExistsError: if there is such a file, with the complete predictions or other content;
            or if there is a file with `.part` after its name that no interrupted predictions left.
        FileNotFoundError: if there is no file of texts, or no folder to write into.
        TypeError: if `model` is none of these; if `texts` is a table, or one of the texts is not a
            string (or a pair); what was predicted before stays.
        ValueError: if `filepath` ends in `.gz`, `.csv`, `.tsv` or `.parquet`; if the file of texts
            is a table without a `column`, damaged or binary, or a line is not UTF-8; if a column is
            missing, or there are not as many as the template has texts; if it is one of the files
            to write; if the interrupted predictions are damaged, or of other texts or another
            model; if several processes share the model's work.

    Example:

    ```python
    model = load_model("model.keras")
    predict_to_file(model, "million_reviews.txt", "predictions.jsonl")

    predict_to_file(model, "reviews.csv", "predictions.jsonl", column="review")
    predict_to_file(model, table["review"], "predictions.jsonl")
    pandas.read_json("predictions.jsonl", lines=True)["label"]
    ```
    """
    check_integer("batch_size", batch_size, 1)
    check_verbose(verbose)
    if not isinstance(model, LabelModel):
        raise TypeError(
            "Expected a `ClozeModel` or `TextClassifier`. Of a `PromptClassifier` or "
            f"`PetClassifier` give `classifier.model_`. Received: {type(model).__name__}."
        )
    names = named_labels(model.template)
    if is_shared(model.distribution):
        raise ValueError(
            "Several processes cannot write one file. Predict in one process, or let each call "
            "`model.predict`."
        )
    columns = _as_columns(column, texts, model.template)
    filepath = check_output(filepath)
    files = [filepath, filepath + ".part", filepath + ".progress"]
    if isinstance(texts, str | os.PathLike):
        if os.path.realpath(texts) in files:
            raise ValueError(
                f"The texts would be overwritten with the predictions, which need the files "
                f"{files}. Received: texts={os.fspath(texts)!r}."
            )
        path, texts = texts, iterate_texts(texts, columns, names)
        count = count_texts(path, columns)
    else:
        check_list("texts", texts)
        count = len(texts) if isinstance(texts, Sized) else None
    texts = checked_texts(texts, model.template)
    for path in files[1:]:
        check_target(path)
    _refuse_existing(filepath)
    with naming(files[1]), open(files[1], "ab+") as file:
        locked = lock(file)
        # Only now is it sure whether another process has just completed it.
        _refuse_existing(filepath)
        if locked is False or not _is_at(file, files[1]):
            raise BlockingIOError(
                f"Another process writes {filepath!r}. Wait until it has ended, or give another "
                "name."
            )
        try:
            total = _predict(model, texts, names, file, files[2], batch_size, count, verbose)
        except BaseException:
            if not os.fstat(file.fileno()).st_size:
                os.remove(files[1])
            raise
        os.replace(files[1], filepath)
        # After a kill here it is not needed any more.
        with contextlib.suppress(FileNotFoundError):
            os.remove(files[2])
    return total


def named_labels(template):
    """The names of the labels as strings, where each text has the same labels."""
    if template.labels is None:
        raise ValueError(
            "Expected a template with labels. With candidates for each text, use `model.predict`."
        )
    if isinstance(template, TaggedText):
        raise ValueError(
            "Expected a model that gives each text one label. For the tags of words, use "
            f"`model.predict` and `template.decode`. Received: {template!r}."
        )
    names = [str(name) for name in template.label_names]
    if len(set(names)) < len(names):
        raise ValueError(
            "The labels name the probabilities, so they must differ as strings. Received: "
            f"{template.label_names}."
        )
    return names


def checked_texts(texts, template):
    """The texts, as long as they are texts, or pairs of them if the template has `{text_b}`."""
    pairs = "text_b" in template.slots
    for number, text in enumerate(texts):
        is_pair = isinstance(text, tuple | list | np.ndarray) and len(text) == 2
        parts = text if pairs and is_pair else [text]
        if pairs != is_pair or not all(isinstance(part, str) for part in parts):
            expected = "pairs of strings" if pairs else "strings"
            raise TypeError(f"Texts must be {expected}. Received: text {number} is {text!r:.80}.")
        yield text


def rounded_probabilities(scores):
    """What the scores of a model mean, in float64, with as many digits as are worth writing."""
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(scores)).astype("float64")
    if not np.isfinite(probabilities).all():
        raise ValueError("The model predicts numbers that are not finite: its weights are damaged.")
    return probabilities.round(6)


def count_texts(path, columns=()):
    """The number of texts in a file; `None` of a pipe, which can be read only once."""
    if os.path.exists(path) and not os.path.isfile(path):
        return None
    return sum(1 for _ in (iterate_table(path, columns) if columns else iterate_lines(path)))


def count_predictions(path):
    """The number of texts that a file has predictions of; `None` if it has anything else."""
    count = 0
    try:
        for count, line in enumerate(iterate_lines(path), 1):
            if parse_json(line)["index"] != count - 1:
                return None
    except (KeyError, TypeError, ValueError):
        return None
    return count


def check_output(path):
    """Where writing predictions to a path leads, if its name does not promise another format."""
    ending = os.path.splitext(path)[1].lower()
    if ending in (".gz", ".csv", ".tsv", ".parquet"):
        raise ValueError(
            "The predictions are lines of JSON, not compressed. Give the file a name such as "
            f"'predictions.jsonl', without {ending!r} at its end. Received: {os.fspath(path)!r}."
        )
    return check_target(path)


def _refuse_existing(path):
    if os.path.exists(path):
        raise FileExistsError(
            f"The file {path!r} exists. Delete it to predict the texts again, or give another name."
        )


def _is_at(file, path):
    """Whether a path still leads to an open file."""
    return os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), os.stat(path))


def iterate_texts(source, columns=(), names=()):
    """The texts of a file, without keeping them.

    Args:
        source: Path of a text file or a table; or an open binary file of lines.
        columns: List of the names of the columns of a table. Empty for one text a line.
        names: List of labels, as strings. A first line `text<TAB>label` is of labelled texts.

    Yields:
        Strings, or pairs of them if there are two columns.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has more than texts, and no columns are given; if it cannot be read.
    """
    if columns:
        return iterate_table(source, columns)
    is_path = isinstance(source, str | os.PathLike)
    what = os.fspath(source) if is_path else source.name
    # Parquet has no lines.
    lines = iter(()) if what.lower().endswith(".parquet") else iterate_lines(source)
    first = next(lines, "")
    _, tab, label = first.rstrip("\r\n").rpartition("\t")
    labeled = LABELED.search(first) or (tab and label in names)
    if labeled or what.lower().removesuffix(".gz").endswith((*TABLES, ".json")):
        raise ValueError(
            f"Expected a file with one text a line, and nothing else. Received: {what!r}, which "
            f"begins with {first[:60]!r}. Of a table or of JSON lines say which column has the "
            "texts: column='text' in Python, --column text in the command. The name of such a "
            f"file ends in one of {', '.join(TABLES)}."
        )
    return (line.rstrip("\r\n") for line in itertools.chain([first] if first else [], lines))


def _as_columns(column, texts, template):
    """The names of the columns as a list."""
    if column is None:
        return []
    columns = [column] if isinstance(column, str) else list(column)
    if not isinstance(texts, str | os.PathLike):
        raise ValueError(
            f"`column` belongs to the path of a table. Received: column={column!r}, and texts of "
            f"the type {type(texts).__name__}. Give the texts of the column alone."
        )
    if len(columns) != len(template.slots):
        raise ValueError(
            f"The template needs {len(template.slots)} columns, for "
            f"{' and '.join(f'{{{slot}}}' for slot in sorted(template.slots))}. Received: "
            f"column={column!r}."
        )
    return columns


def _predict(model, texts, names, file, path, batch_size, count, verbose):
    """Writes what an open file lacks; returns the number of all texts."""
    seen, written = hashlib.sha256(), hashlib.sha256()
    start = {
        "model": _fingerprint(model),
        "texts": seen.hexdigest(),
        "predictions": written.hexdigest(),
        "count": 0,
        "bytes": 0,
    }
    progress = _read_progress(path, start)
    if progress is None and file.seek(0, os.SEEK_END):
        raise FileExistsError(
            f"The file {file.name!r} is not of interrupted predictions: there is no {path!r}. "
            "It would be overwritten. Move it, or give another name to write to."
        )
    progress = progress or start
    file.seek(0)
    # In parts, since there may be many.
    sizes = itertools.repeat(2**20, progress["bytes"] // 2**20)
    for size in (*sizes, progress["bytes"] % 2**20):
        written.update(file.read(size))
    if written.hexdigest() != progress["predictions"]:
        raise ValueError(
            f"The interrupted predictions {file.name!r} are not those that {path!r} belongs to. "
            "Delete both to predict the texts again."
        )
    for text in itertools.islice(texts, progress["count"]):
        _add(seen, text)
    if progress["texts"] != seen.hexdigest() or progress["model"] != start["model"]:
        others = "other texts" if progress["model"] == start["model"] else "another model"
        raise ValueError(
            f"The interrupted predictions {file.name!r} are of {others}. Delete them, and "
            f"{path!r}, or give another name."
        )
    verbose = 1 if verbose == "auto" else int(verbose)
    bar = keras.utils.Progbar(count, verbose=verbose, unit_name="text", stateful_metrics=RATE)
    total, before, begin = progress["count"], progress["count"], time.perf_counter()
    # Something is seen before the first texts are predicted, which takes longest.
    bar.update(total)
    # After the last line that is known to be complete.
    file.truncate(progress["bytes"])
    # The sizes depend on the number of texts alone: after an interruption they are the same.
    while chunk := list(itertools.islice(texts, min(total + batch_size, CHUNK))):
        scores = model.predict(model.template.dataset(chunk, batch_size=batch_size), verbose=0)
        lines = _lines(model.template, names, scores, total)
        if not total:
            # Without it, what a kill leaves of the first lines would be taken for another file.
            _write_progress(path, progress)
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
        written.update(lines)
        for text in chunk:
            _add(seen, text)
        total += len(chunk)
        done = {"texts": seen.hexdigest(), "predictions": written.hexdigest()}
        progress = {**progress, **done, "count": total, "bytes": file.tell()}
        _write_progress(path, progress)
        bar.update(total, [(RATE[0], (total - before) / (time.perf_counter() - begin))])
    return total


def _read_progress(path, start):
    """How far the predictions in a file go, which has a file of its own; `None` without it."""
    if not os.path.exists(path):
        return None
    try:
        found = read_json(path, path)
        return {key: type(value)(found[key]) for key, value in start.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"The file {path!r} is damaged ({error!r}), or was not left by interrupted "
            "predictions. Move or delete it to predict the texts from the start."
        ) from None


def _write_progress(path, progress):
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(progress, file)


def _lines(template, names, scores, start):
    rows = zip(template.decode(scores), rounded_probabilities(scores).tolist(), strict=True)
    lines = (
        json.dumps(
            {"index": i, "label": label, "probabilities": dict(zip(names, row, strict=True))},
            ensure_ascii=False,
        )
        for i, (label, row) in enumerate(rows, start)
    )
    return "".join(line + "\n" for line in lines).encode("utf-8")


def _add(digest, text):
    digest.update(json.dumps(text, ensure_ascii=True, default=str).encode() + b"\n")


def _fingerprint(model):
    """A hash of all that the predictions depend on."""
    digest = hashlib.sha256(json.dumps(model.template.get_config(), default=str).encode())
    settings = [model.init_config, type(model).__name__, model._options()]
    digest.update(json.dumps(settings, default=str, sort_keys=True).encode())
    for variable in model.weights:
        digest.update(keras.ops.convert_to_numpy(variable).tobytes())
    return digest.hexdigest()
