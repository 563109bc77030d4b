"""Checks of arguments that several rooms share."""

from collections.abc import Mapping, Set

import numpy as np


def check_integer(name, value, least):
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be an integer, at least {least}. Received: {value!r}.")


def refuse_table(name, values):
    """Refuses what cannot be a list of texts or labels, before anything iterates over it."""
    # A table iterates over its column names; one column of it is fine. A set has no order.
    table = isinstance(values, Mapping | Set) or hasattr(values, "columns")
    if values is None or isinstance(values, str | bytes) or table:
        raise TypeError(
            f"`{name}` must be a list, e.g. one column of a table. Received: {name}={values!r:.60}."
        )


def as_list(name, values):
    """What `fit` takes as texts or labels, as a list that is not empty."""
    refuse_table(name, values)
    values = list(values)
    if not values:
        raise ValueError(f"`{name}` must not be empty. Received: {name}=[].")
    return values
