"""Reading `bert_config.json`, and Hugging Face's `config.json`."""

import json
import os

from keras_ptuning.assets import NAMES
from keras_ptuning.checkpoints import find_config
from keras_ptuning.layers.feed_forward import get_activation

REQUIRED = object()
# Entry of the file: name of the argument, default, check, and what it must be.
_POSITIVE = (lambda v: isinstance(v, int) and v > 0, "a positive integer")
_RATE = (lambda v: v is None or 0 <= v < 1, "at least 0 and below 1")
_COUNT = (lambda v: isinstance(v, int) and v >= 0, "an integer, 0 or greater")
ENTRIES = {
    "vocab_size": ("vocab_size", REQUIRED, *_POSITIVE),
    "hidden_size": ("hidden_size", REQUIRED, *_POSITIVE),
    "num_hidden_layers": ("num_hidden_layers", REQUIRED, *_POSITIVE),
    "num_attention_heads": ("num_attention_heads", REQUIRED, *_POSITIVE),
    "intermediate_size": ("intermediate_size", REQUIRED, *_POSITIVE),
    "max_position_embeddings": ("max_position", 512, *_POSITIVE),
    "type_vocab_size": ("segment_vocab_size", 2, *_COUNT),
    "embedding_size": (
        "embedding_size",
        None,  # the hidden size
        lambda v: v is None or (isinstance(v, int) and v > 0),
        "a positive integer",
    ),
    "hidden_dropout_prob": ("dropout_rate", 0.0, *_RATE),
    "attention_probs_dropout_prob": ("attention_dropout_rate", 0.0, *_RATE),
    "initializer_range": ("initializer_range", 0.02, lambda v: v > 0, "a positive number"),
    "hidden_act": (
        "hidden_act",
        "gelu",
        lambda v: isinstance(v, str) and callable(get_activation(v)),
        "the name of an activation of Keras, or 'gelu_new'",
    ),
    "layer_norm_eps": (
        "norm_epsilon",
        None,  # that of the architecture
        lambda v: v is None or v > 0,
        "a positive number",
    ),
}
# The same entries in a GPT-2 of Hugging Face, where they have another name, and their defaults.
GPT2_NAMES = {
    "hidden_size": ("n_embd", REQUIRED),
    "num_hidden_layers": ("n_layer", REQUIRED),
    "num_attention_heads": ("n_head", REQUIRED),
    "intermediate_size": ("n_inner", None),
    "max_position_embeddings": ("n_positions", 1024),
    "hidden_dropout_prob": ("resid_pdrop", 0.1),
    "attention_probs_dropout_prob": ("attn_pdrop", 0.1),
    "hidden_act": ("activation_function", "gelu_new"),
    "layer_norm_eps": ("layer_norm_epsilon", None),
}
# Entries that only one architecture has.
OWN_ENTRIES = {
    "ernie": {"task_type_vocab_size": ("task_vocab_size", 3, *_COUNT)},
    "nezha": {"max_relative_position": ("max_relative_position", 64, *_POSITIVE)},
}
# What changes a model's numbers, and is not implemented otherwise.
FIXED = {
    "add_cross_attention": False,
    "inner_group_num": 1,
    "num_hidden_groups": 1,
    "position_embedding_type": "absolute",
    "rotary_value": False,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
}


def load_config(path):
    """Reads a configuration file, as it stands.

    Args:
        path: Path of a `bert_config.json` or `config.json`, or of a checkpoint's folder, or the
            name of an embedded checkpoint; a dictionary is returned as it is.

    Returns:
        A dictionary.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a JSON object.
    """
    if isinstance(path, dict):
        return path
    if not str(path).endswith(".json") or path in NAMES or os.path.isdir(path):
        path = find_config(path)
    name = f"The configuration {str(path)!r}"
    try:
        with open(path, encoding="utf-8-sig") as file:
            config = json.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{name} does not exist. A checkpoint has it beside its weights, as "
            "`bert_config.json` or `config.json`; the embedded checkpoints are called "
            f"{' and '.join(NAMES)}."
        ) from None
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{name} is not a JSON object. Received: {type(config).__name__}.")
    return config


def read_config(config, path=None):
    """Reads a model's configuration into the arguments of a transformer.

    Args:
        config: Path of a `bert_config.json` or `config.json`, or of a checkpoint's folder, the name
            of an embedded checkpoint, or a dictionary with what stands in such a file.
        path: Where a dictionary comes from, for messages. Optional.

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
    >>> settings = read_config({"model_type": "gpt2", "vocab_size": 9, "n_embd": 8, "n_layer": 1,
    ...     "n_head": 2})
    >>> settings["intermediate_size"], settings["max_position"]
    (32, 1024)
    """
    path = config if path is None else path
    name = "The configuration" if isinstance(path, dict) else f"The configuration {str(path)!r}"
    config = load_config(config)
    entries = _gpt2_entries() if has_gpt2_names(config) else ENTRIES
    entries = {**entries, **OWN_ENTRIES.get(config.get("model_type"), {})}
    missing = [key for key, entry in entries.items() if entry[1] is REQUIRED and key not in config]
    if missing:
        raise ValueError(f"{name} lacks {', '.join(missing)}. Received: {sorted(config)}.")
    settings = {}
    for key, (argument, default, check, expected) in entries.items():
        value = config.get(key, default)
        if key == "n_inner" and value is None:
            value = 4 * settings["hidden_size"]
        try:
            good = check(value) and not isinstance(value, bool)
        except (TypeError, ValueError):
            good = False
        if not good:
            raise ValueError(f"{name}: {key} must be {expected}. Received: {value!r}.")
        settings[argument] = value
    if settings["hidden_size"] % settings["num_attention_heads"]:
        keys = {entry[0]: key for key, entry in entries.items()}
        raise ValueError(
            f"{name}: {keys['hidden_size']} must be a multiple of {keys['num_attention_heads']}. "
            f"Received: {settings['hidden_size']} and {settings['num_attention_heads']}."
        )
    for key, expected in FIXED.items():
        if config.get(key, expected) != expected:
            raise ValueError(
                f"{name}: {key} must be {expected!r}, all that is implemented. Received: "
                f"{config[key]!r}."
            )
    # One rate serves embeddings and blocks.
    rate = config.get("embd_pdrop", settings["dropout_rate"])
    if rate != settings["dropout_rate"]:
        raise ValueError(
            f"{name}: embd_pdrop must be {settings['dropout_rate']!r}, the same as resid_pdrop. "
            f"Received: {rate!r}."
        )
    if config.get("model_type") == "ernie" and not config.get("use_task_id"):
        settings["task_vocab_size"] = 0
    return settings


def override(config, settings):
    """A configuration with the entries that arguments of `build_transformer_model` set otherwise.

    Args:
        config: A dictionary with what stands in a configuration.
        settings: Dictionary with arguments of a model, under the names that it has for them.

    Returns:
        A new dictionary.

    Example:

    >>> override({"num_hidden_layers": 12, "hidden_act": "gelu"}, {"num_hidden_layers": 3})
    {'num_hidden_layers': 3, 'hidden_act': 'gelu'}
    """
    entries = _gpt2_entries() if has_gpt2_names(config) else ENTRIES
    entries = {**entries, **OWN_ENTRIES.get(config.get("model_type"), {})}
    given = {key: settings[entry[0]] for key, entry in entries.items() if entry[0] in settings}
    return {**config, **given}


def has_gpt2_names(config):
    """Whether a configuration has the entries of a GPT-2 under the names of Hugging Face."""
    return "n_embd" in config or (
        config.get("model_type") == "gpt2" and "hidden_size" not in config
    )


def _gpt2_entries():
    """`ENTRIES` under GPT-2's names, in the same order."""
    entries = {}
    for key, (argument, default, check, expected) in ENTRIES.items():
        name, default = GPT2_NAMES.get(key, (key, default))
        entries[name] = (argument, default, check, expected)
    return entries
