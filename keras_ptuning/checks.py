"""Checks of arguments that several rooms share."""

from collections.abc import Mapping

import numpy as np


def check_integer(name, value, least):
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be an integer, at least {least}. Received: {value!r}.")


def as_list(name, values):
    """What `fit` takes as texts or labels, as a list that is not empty."""
    # A table iterates over its column names; one column of it is fine.
    table = isinstance(values, Mapping) or hasattr(values, "columns")
    if values is None or isinstance(values, str) or table:
        raise TypeError(
            f"`{name}` must be a list, e.g. one column of a table. Received: {name}={values!r:.60}."
        )
    values = list(values)
    if not values:
        raise ValueError(f"`{name}` must not be empty. Received: {name}=[].")
    return values


def check_finite(arrays, advice):
    """Refuses NaN and infinite numbers.

    Args:
        arrays: Iterable of pairs `(name, array)`. Each array is read once.
        advice: String, what to do, for the message.

    Raises:
        ValueError: if one of them has such a number.
    """
    for name, array in arrays:
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
