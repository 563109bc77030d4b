"""Reading `bert_config.json`."""

import json

import keras

from keras_ptuning.assets import NAMES, find_asset

# Entry of the file: name of the argument, default (None: required), check, and what it must be.
_POSITIVE = (lambda v: isinstance(v, int) and v > 0, "a positive integer")
_RATE = (lambda v: v is None or 0 <= v < 1, "at least 0 and below 1")
ENTRIES = {
    "vocab_size": ("vocab_size", None, *_POSITIVE),
    "hidden_size": ("hidden_size", None, *_POSITIVE),
    "num_hidden_layers": ("num_hidden_layers", None, *_POSITIVE),
    "num_attention_heads": ("num_attention_heads", None, *_POSITIVE),
    "intermediate_size": ("intermediate_size", None, *_POSITIVE),
    "max_position_embeddings": ("max_position", 512, *_POSITIVE),
    "type_vocab_size": ("segment_vocab_size", 2, *_POSITIVE),
    "hidden_dropout_prob": ("dropout_rate", 0.0, *_RATE),
    "attention_probs_dropout_prob": ("attention_dropout_rate", 0.0, *_RATE),
    "initializer_range": ("initializer_range", 0.02, lambda v: v > 0, "a positive number"),
    "hidden_act": (
        "hidden_act",
        "gelu",
        lambda v: callable(getattr(keras.activations, v, None)),
        "the name of an activation of Keras",
    ),
}


def load_config(path):
    """Reads a configuration file, as it stands.

    Args:
        path: Path of a `bert_config.json`, or the name of an embedded checkpoint; a dictionary
            is returned as it is.

    Returns:
        A dictionary.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a JSON object.
    """
    if isinstance(path, dict):
        return path
    name = f"The configuration {str(path)!r}"
    try:
        with open(find_asset(path, "bert_config.json") or path, encoding="utf-8") as file:
            config = json.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{name} does not exist. A Google-format BERT has it beside the checkpoint, as "
            f"`bert_config.json`; the embedded checkpoints are called {' and '.join(NAMES)}."
        ) from None
    except IsADirectoryError:
        raise ValueError(f"{name} is a folder. Give the file in it: `bert_config.json`.") from None
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{name} is not a JSON object. Received: {type(config).__name__}.")
    return config


def read_config(config):
    """Reads a model's configuration into the arguments of a transformer.

    Args:
        config: Path of a `bert_config.json`, the name of an embedded checkpoint, or a dictionary
            with what stands in such a file.

    Returns:
        A dictionary: the file's entries that the models use, under the names that
        `build_transformer_model` has for them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON, lacks an entry, or has one that makes no sense.

    Example:

    >>> settings = read_config({"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1,
    ...     "num_attention_heads": 2, "intermediate_size": 16, "hidden_dropout_prob": 0.1})
    >>> settings["dropout_rate"], settings["max_position"]
    (0.1, 512)
    """
    name = "The configuration" if isinstance(config, dict) else f"The configuration {str(config)!r}"
    config = load_config(config)
    missing = [key for key, entry in ENTRIES.items() if entry[1] is None and key not in config]
    if missing:
        raise ValueError(f"{name} lacks {', '.join(missing)}. Received: {sorted(config)}.")
    settings = {}
    for key, (argument, default, check, expected) in ENTRIES.items():
        value = config.get(key, default)
        try:
            good = check(value) and not isinstance(value, bool)
        except TypeError:
            good = False
        if not good:
            raise ValueError(f"{name}: {key} must be {expected}. Received: {value!r}.")
        settings[argument] = value
    if settings["hidden_size"] % settings["num_attention_heads"]:
        raise ValueError(
            f"{name}: hidden_size must be a multiple of num_attention_heads. Received: "
            f"{settings['hidden_size']} and {settings['num_attention_heads']}."
        )
    return settings
