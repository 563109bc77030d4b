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
