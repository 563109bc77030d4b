"""Predictions for a column of texts, in any process: what Ray, Spark and others call."""

import functools
import os
from collections.abc import Mapping, Sized
from typing import Any

import numpy as np

from keras_ptuning.checks import Path, check_integer, check_list, check_path
from keras_ptuning.tuning.loading import load_model, load_tuned
from keras_ptuning.tuning.predicting import (
    CHUNK,
    checked_texts,
    named_labels,
    rounded_probabilities,
)

# The columns that it adds.
ADDED = ("label", "probability")


class TextPredictor:
    """Predicts the labels of a column of texts, in the process that calls it.

    It holds paths and settings only, so it is cheap to pickle and to send to other processes. Each
    process loads the model once, at the first call, and all copies there share it.
    `examples/predict_ray.py` and `examples/predict_spark.py` use it on many files.

    Args:
        path: Path of a `.keras` file that `save` wrote, or of a tuned file that `save_tuned` wrote.
            Each process must find the file there.
        checkpoint: Name or path of the checkpoint that a tuned file was trained with, as
            `load_tuned` takes it. A `.keras` file needs none. Defaults to `None`.
        column: String, the name of the column with the texts. Defaults to `"text"`.
        batch_size: Integer, the number of texts that the model reads at once. Defaults to `64`.

    Call arguments:
        batch: Dictionary from the names of columns to lists or arrays, or a pandas DataFrame. If
            the template has `{text_b}`, each text is a pair of strings.

    Returns:
        A dictionary or a DataFrame, as it was given, with the same columns and two more: `label`
        has the best label of each text, and `probability` has the probability of this label. Both
        are those that `predict_to_file` writes, but for rounding where the batches differ. If some
        labels are numbers and others strings, all labels of the column are strings.

    Raises:
        FileNotFoundError: at the first call, if there is no such file.
        TypeError: if `batch` is no table; if one of the texts is not a string (or a pair). The
            error shows its row.
        ValueError: if a tuned file comes without a checkpoint, or a `.keras` file with one; if the
            batch has no such column, or has a `label` or `probability` already; if the model's
            template has no labels.

    Example:

    ```python
    predictor = TextPredictor("model.keras")
    predictor({"text": ["物流很快，包装也好。"]})
    # {"text": [...], "label": array(["正面"]), "probability": array([0.93])}

    workers = ray.data.ActorPoolStrategy(size=2)
    reviews = ray.data.read_parquet("reviews")
    reviews.map_batches(TextPredictor, fn_constructor_args=("model.keras",), compute=workers)
    ```
    """

    def __init__(
        self,
        path: Path,
        checkpoint: Path | None = None,
        column: str = "text",
        batch_size: int = 64,
    ) -> None:
        check_path("path", path)
        self.path = os.fspath(path)
        is_whole = self.path.endswith(".keras")
        if checkpoint is None and not is_whole:
            raise ValueError(
                "A tuned file needs the checkpoint that it was trained with: give `checkpoint`, "
                f'e.g. "bert-mini-zh". Received: path={self.path!r}, checkpoint=None.'
            )
        if checkpoint is not None:
            check_path("checkpoint", checkpoint)
            checkpoint = os.fspath(checkpoint)
            if is_whole:
                raise ValueError(
                    "A .keras file has the whole model: leave out `checkpoint`. Received: "
                    f"path={self.path!r}, checkpoint={checkpoint!r}."
                )
        self.checkpoint = checkpoint
        check_integer("batch_size", batch_size, 1)
        self.column = column
        self.batch_size = batch_size

    def __call__(self, batch: Any) -> Any:
        texts = self._texts(batch)
        model = _load(self.path, self.checkpoint, self._stamp())
        template = model.template
        texts = self._checked(texts, template, batch)
        # Strings, if some labels are: a column of a table has one type.
        label_type = np.array(template.label_names).dtype
        # Without any texts, the columns still have their types.
        labels, probabilities = [np.array([], label_type)], [np.array([], "float64")]
        # A block of an engine may have any size, and tokens take more memory than texts.
        for start in range(0, len(texts), CHUNK):
            dataset = template.dataset(texts[start : start + CHUNK], batch_size=self.batch_size)
            scores = model.predict(dataset, verbose=0)
            labels.append(np.array(template.decode(scores), label_type))
            probabilities.append(rounded_probabilities(scores).max(axis=1))
        columns = (np.concatenate(labels), np.concatenate(probabilities))
        found = dict(zip(ADDED, columns, strict=True))
        return {**batch, **found} if isinstance(batch, Mapping) else batch.assign(**found)

    def _stamp(self):
        """What tells the file from one that was saved again, or has this path in another folder."""
        if not os.path.exists(self.path):
            return None
        status = os.stat(self.path)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def _texts(self, batch):
        if not isinstance(batch, Mapping) and not hasattr(batch, "assign"):
            raise TypeError(
                "Expected a dictionary of columns, or a pandas DataFrame. Received: "
                f"{batch!r:.60} of type {type(batch).__name__}."
            )
        if self.column not in batch:
            raise ValueError(
                f"There is no column {self.column!r}. Give the name of the column with the texts "
                f"as `column`. Received the columns: {list(batch)}."
            )
        taken = [name for name in ADDED if name in batch]
        if taken:
            raise ValueError(
                f"The columns {list(ADDED)} are for the predictions. Rename or drop those of the "
                f"batch. Received the columns: {list(batch)}."
            )
        return check_list(f"batch[{self.column!r}]", batch[self.column])

    def _checked(self, texts, template, batch):
        checked = []
        try:
            for text in checked_texts(texts, template):
                checked.append(text)
        except TypeError as error:
            # The number counts the rows of one batch, which nobody sees: what is in the row helps.
            row = {
                name: list(batch[name])[len(checked)]
                for name in batch
                if isinstance(batch[name], Sized) and len(batch[name]) == len(texts)
            }
            raise TypeError(
                f"{error} It is in the column {self.column!r} of the row {row!r:.300}. Fill it or "
                "drop the row."
            ) from None
        return checked


# Two, for a worker that compares models in turn. More would fill its memory.
@functools.lru_cache(maxsize=2)
def _load(path, checkpoint, stamp):
    """The model of a file, as long as the file has the same `stamp`."""
    model = load_model(path) if checkpoint is None else load_tuned(path, checkpoint)
    if not hasattr(model, "template"):
        raise ValueError(
            f"Expected a model of this library, which has a template. Received: {path!r} with a "
            f"{type(model).__name__}."
        )
    named_labels(model.template)
    return model
