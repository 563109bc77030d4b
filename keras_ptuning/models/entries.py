"""The entries of a configuration that architectures share."""

import math

from keras_ptuning.layers.feed_forward import ACTIVATIONS

REQUIRED = object()
# More than any model of this kind has; a configuration that says so is damaged.
MOST_LAYERS = 1000
POSITIVE = (lambda v: isinstance(v, int) and v > 0, "a positive integer")
COUNT = (lambda v: isinstance(v, int) and v >= 0, "an integer, 0 or greater")
DEPTH = (
    lambda v: isinstance(v, int) and 0 < v <= MOST_LAYERS,
    f"a positive integer, at most {MOST_LAYERS}",
)
_RATE = (lambda v: v is None or 0 <= v < 1, "at least 0 and below 1")


def check_setting(name, value, check, expected):
    """Raises a ValueError if a setting of a model is not what its entry says it must be."""
    try:
        good = check(value) and not isinstance(value, bool)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{name} must be {expected}. Received: {value!r:.60}.")


def read_flag(config, key, default):
    """An entry that is true or false; `null` means the default, as if it was not there.

    Raises:
        ValueError: if it is something else, such as the string `"false"`.
    """
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ValueError(f"The configuration's {key} must be true or false. Received: {value!r}.")
    return value


# Entry of the file: name of the argument, default, check, and what it must be.
ENTRIES = {
    "vocab_size": ("vocab_size", REQUIRED, *POSITIVE),
    "hidden_size": ("hidden_size", REQUIRED, *POSITIVE),
    "num_hidden_layers": ("num_hidden_layers", REQUIRED, *DEPTH),
    "num_attention_heads": ("num_attention_heads", REQUIRED, *POSITIVE),
    "intermediate_size": ("intermediate_size", REQUIRED, *POSITIVE),
    "max_position_embeddings": ("max_position", 512, *POSITIVE),
    "type_vocab_size": ("segment_vocab_size", 2, *COUNT),
    "embedding_size": (
        "embedding_size",
        None,  # the hidden size
        lambda v: v is None or (isinstance(v, int) and v > 0),
        "a positive integer",
    ),
    "hidden_dropout_prob": ("dropout_rate", 0.0, *_RATE),
    "attention_probs_dropout_prob": ("attention_dropout_rate", 0.0, *_RATE),
    "initializer_range": (
        "initializer_range",
        0.02,
        lambda v: 0 < v < math.inf,
        "a positive number",
    ),
    "hidden_act": (
        "hidden_act",
        "gelu",
        lambda v: v in ACTIVATIONS,
        f"one of {', '.join(sorted(ACTIVATIONS))}",
    ),
    "layer_norm_eps": (
        "norm_epsilon",
        None,  # that of the architecture
        lambda v: v is None or 0 < v < math.inf,
        "a positive number",
    ),
}
