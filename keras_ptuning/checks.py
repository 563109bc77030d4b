"""Checks of arguments that several rooms share."""

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

# What many public functions take.
Path = str | os.PathLike[str]
Config = Path | dict[str, Any]
Vocabulary = Path | Collection[str] | dict[str, int]
Label = str | int
Texts = Collection[str] | Collection[tuple[str, str]]
# The words that each text has to choose from; the words of each sentence.
Candidates = Sequence[Sequence[str]]
Sentences = Sequence[Sequence[str]]
# Each label, and its word or words. The keys of a `Mapping` are of exactly one type.
Words = str | Sequence[str]
LabelsWithWords = Mapping[str, Words] | Mapping[int, Words] | Mapping[Label, Words]
ClassWeight = Mapping[str, float] | Mapping[int, float] | Literal["balanced"]
# The seeds that NumPy's global generator takes.
GREATEST_SEED = 2**32 - 1


def check_integer(name, value, least, most=None):
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not integer or value < least or (most is not None and value > most):
        limit = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"`{name}` must be an integer, {limit}. Received: {value!r}.")


def check_positive(name, value):
    """Raises a ValueError if a number, such as a learning rate, is not above 0 and finite."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be a number above 0. Received: {value!r}.")


def check_number(name, value, least, most=None):
    """Raises a ValueError if something is no finite number from `least` on, or to `most`."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not least <= value < math.inf or (most is not None and value > most):
        limit = f"from {least} on" if most is None else f"from {least} to {most}"
        raise ValueError(f"`{name}` must be a finite number {limit}. Received: {value!r}.")


def check_verbose(value):
    if value not in ("auto", 0, 1, 2):
        raise ValueError(f"`verbose` must be 'auto', 0, 1 or 2. Received: {value!r}.")


def check_path(name, value):
    """Raises an error if something is not a path; an empty one would be the current folder."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(
            f"`{name}` must be a path. Received: {value!r:.60} of type {type(value).__name__}."
        )
    if not os.fspath(value):
        raise ValueError(f"`{name}` must be a path. Received: an empty string.")


def check_list(name, values):
    """Raises a TypeError if something is no list of texts, of labels, or of the like.

    Anything that has an order and can be iterated over is as good as a list. A table gives the
    names of its columns, though, a dictionary its keys, a string its characters, and a set what it
    has in any order.

    Args:
        name: What the argument is called.
        values: What it was given.

    Returns:
        `values`, as they are.
    """
    wrong = isinstance(values, str | bytes | bytearray | Mapping | set | frozenset)
    wrong = wrong or hasattr(values, "columns") or getattr(values, "ndim", 1) == 0
    if wrong or not isinstance(values, Iterable):
        raise TypeError(
            f"`{name}` must be a list, e.g. one column of a table. Received the type "
            f"{type(values).__name__}: {name}={values!r:.60}."
        )
    return values


def as_list(name, values):
    """What was given as a list of texts or labels, as a list that is not empty."""
    values = list(check_list(name, values))
    if not values:
        raise ValueError(f"`{name}` must not be empty. Received: {name}=[].")
    return values


def as_weights(sample_weight, count):
    """How much each of so many texts counts, as a float array.

    Raises:
        TypeError: if the weights are no list.
        ValueError: if they are not of this number, finite, and from 0 on.
    """
    weights = as_list("sample_weight", sample_weight)
    try:
        weights = np.array(weights)
    except ValueError:
        # Of lists of different lengths; what is left is no number.
        weights = np.array([str(weight) for weight in weights])
    good = weights.shape == (count,) and weights.dtype.kind in "fiu"
    if not good or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(
            f"`sample_weight` must be {count} finite numbers from 0 on, one for each text. "
            f"Received: shape {weights.shape}, beginning with {weights[:3].tolist()}."
        )
    return weights.astype("float32")


def as_texts(texts, first=0):
    """Strings without the halves of surrogate pairs, as broken JSON has them: no characters.

    Args:
        texts: List of strings.
        first: Integer, the number of the first of them, for the error. Defaults to `0`.

    Returns:
        A list of strings.

    Raises:
        TypeError: if one of them is not a string; its number is named.
    """
    cleaned = []
    for i, text in enumerate(check_list("texts", texts), first):
        if not isinstance(text, str):
            raise TypeError(
                f"Texts must be strings. Received: text {i} is {text!r:.60} of type "
                f"{type(text).__name__}."
            )
        cleaned.append(text.encode("utf-8", "ignore").decode("utf-8"))
    return cleaned


def check_text(what, value):
    """Raises an error if something that files will hold is no string, or not one in UTF-8."""
    if not isinstance(value, str):
        raise TypeError(
            f"{what} must be a string. Received: {value!r:.60} of type {type(value).__name__}."
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(
            f"{what} has half of a surrogate pair, as broken JSON has it, which no file can hold. "
            f"Received: {value!a:.60}."
        ) from None


def check_finite(arrays, advice):
    """Refuses NaN and infinite numbers, and what is no number.

    Args:
        arrays: Iterable of pairs `(name, array)`. Each array is read once.
        advice: String, what to do, for the message.

    Raises:
        ValueError: if one of them has such a number.
    """
    for name, array in arrays:
        if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
            raise ValueError(f"{name} must be numbers. Received: {array!r:.60}.")
        # A sum takes one pass and no memory. Only where it says no is each number looked at: a sum
        # can overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(array.sum()) or np.isfinite(array).all()
        if not finite:
            raise ValueError(f"{name} has numbers that are not finite (NaN, infinity). {advice}")


def check_entries(what, config, kinds):
    """Refuses a configuration whose entries are not the data that they should be.

    A saved file holds data. Where a class takes a path too, a path in a file would open any file.

    Args:
        what: String, what the configuration is of.
        config: What should be a dictionary.
        kinds: Dictionary from the names of entries to a type, or a tuple of types. An entry that
            is missing is `None`.

    Raises:
        ValueError: if an entry is of another type.
    """
    entries = config if isinstance(config, dict) else {}
    for name, kind in kinds.items():
        if not isinstance(entries.get(name), kind):
            several = kind if isinstance(kind, tuple) else (kind,)
            expected = " or ".join(one.__name__ for one in several)
            raise ValueError(
                f"The configuration of {what} is damaged, or not one that this library wrote. "
                f"Expected {name!r} to be of the type {expected}. Received: "
                f"{entries.get(name, config)!r:.60}."
            )
