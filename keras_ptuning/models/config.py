"""Reading `bert_config.json`, and Hugging Face's `config.json`."""

import os
from typing import Any, Literal

from keras_ptuning.assets import NAMES
from keras_ptuning.checkpoints import find_config
from keras_ptuning.checks import check_integer
from keras_ptuning.files import read_json
from keras_ptuning.models.architectures import find_architecture
from keras_ptuning.models.entries import REQUIRED, check_setting
from keras_ptuning.text import PieceTokenizer, Tokenizer

# More than any model of these architectures has: building it would only fill the memory.
MOST_PARAMETERS = 10**11


def load_config(path):
    """Reads a configuration file, as it is.

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
    missing = (
        f"{name} does not exist. A checkpoint has it in its folder, as `bert_config.json` or "
        f"`config.json`; the embedded checkpoints are called {', '.join(NAMES)}."
    )
    try:
        config = read_json(path, missing)
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{name} is not a JSON object. Received: {type(config).__name__}.")
    return config


def new_config(
    tokenizer: Tokenizer | PieceTokenizer,
    application: Literal["encoder", "lm", "encoder-decoder"] = "encoder",
    num_layers: int = 3,
    hidden_size: int = 192,
    max_position: int = 128,
    dropout_rate: float = 0.0,
) -> dict[str, Any]:
    """The configuration of a new, small BERT, GPT or T5, to be pretrained from scratch.

    Each attention head has 64 numbers. The feed-forward layers are four times as wide as the rest.
    A T5 is like T5 1.1, but its head shares the table of its embedding.

    Args:
        tokenizer: A `Tokenizer` or `PieceTokenizer`, for the size of the vocabulary and the ids of
            its special tokens.
        application: `"encoder"` for a BERT, `"lm"` for a GPT of BERT's layers, `"encoder-decoder"`
            for a T5. Defaults to `"encoder"`.
        num_layers: Integer, the blocks; of a T5 in each half. Defaults to `3`.
        hidden_size: Integer, a multiple of 64. Defaults to `192`.
        max_position: Integer, the most tokens of a text. A T5 has no limit. Defaults to `128`.
        dropout_rate: Float, for training. Defaults to `0.0`.

    Returns:
        A dictionary, as `build_transformer_model` takes it.

    Raises:
        ValueError: if there is no such application, or a number is out of range.

    Example:

    >>> from keras_ptuning.text import Tokenizer
    >>> config = new_config(Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "很"]))
    >>> config["vocab_size"], config["num_attention_heads"], config["intermediate_size"]
    (6, 3, 768)

    Reference:
        - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805), section 3.
        - T5 1.1: [Shazeer, 2020](https://arxiv.org/abs/2002.05202).
    """
    check_integer("num_layers", num_layers, 1)
    check_integer("max_position", max_position, 1)
    check_integer("hidden_size", hidden_size, 64)
    if hidden_size % 64:
        raise ValueError(f"`hidden_size` must be a multiple of 64. Received: {hidden_size}.")
    if not 0 <= dropout_rate < 1:
        raise ValueError(f"`dropout_rate` must be from 0 to below 1. Received: {dropout_rate}.")
    if application == "encoder-decoder":
        # A decoder begins with padding where no token begins a text.
        start = tokenizer.pad_id if tokenizer.start_id is None else tokenizer.start_id
        return {
            "model_type": "t5",
            "vocab_size": tokenizer.vocab_size,
            "d_model": hidden_size,
            "d_kv": 64,
            "d_ff": 4 * hidden_size,
            "num_layers": num_layers,
            "num_heads": hidden_size // 64,
            "feed_forward_proj": "gated-gelu",
            "dropout_rate": dropout_rate,
            "pad_token_id": tokenizer.pad_id,
            "eos_token_id": tokenizer.end_id,
            "decoder_start_token_id": start,
        }
    if application not in ("encoder", "lm"):
        raise ValueError(
            "`application` must be 'encoder', 'lm' or 'encoder-decoder'. Received: "
            f"application={application!r}."
        )
    return {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": hidden_size // 64,
        "intermediate_size": 4 * hidden_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": dropout_rate,
        "attention_probs_dropout_prob": dropout_rate,
        "max_position_embeddings": max_position,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "is_decoder": application == "lm",
    }


def read_config(config, path=None, model=None):
    """Reads a model's configuration into the arguments of a transformer.

    Args:
        config: Path of a `bert_config.json` or `config.json`, or of a checkpoint's folder, the name
            of an embedded checkpoint, or a dictionary with what is in such a file.
        path: Where a dictionary comes from, for messages. Optional.
        model: The architecture, as `build_transformer_model` takes it. Optional.

    Returns:
        A dictionary: the file's entries that the models use, under the names that
        `build_transformer_model` has for them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON, lacks an entry, or has one that no model can have.

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
    if config.get("quantization_config"):
        method = config["quantization_config"]
        method = method.get("quant_method", method) if isinstance(method, dict) else method
        raise ValueError(
            f"{name} is of quantised weights, which are not read: take the release in bfloat16 or "
            f"float32. Received: quantization_config of {method!r:.60}."
        )
    architecture = find_architecture(config, model)
    entries = architecture.config_entries(config)
    missing = [key for key, entry in entries.items() if entry[1] is REQUIRED and key not in config]
    if missing:
        raise ValueError(f"{name} lacks {', '.join(missing)}. Received: {sorted(config)}.")
    settings = {}
    for key, (argument, default, check, expected) in entries.items():
        settings[argument] = config.get(key, default)
        check_setting(f"{name}: {key}", settings[argument], check, expected)
        if settings[argument] is None and argument.endswith("dropout_rate"):
            settings[argument] = 0.0
    divides = settings["hidden_size"] % settings["num_attention_heads"] == 0
    if not divides and not settings.get("head_size"):
        keys = {entry[0]: key for key, entry in entries.items()}
        raise ValueError(
            f"{name}: {keys['hidden_size']} must be a multiple of {keys['num_attention_heads']}. "
            f"Received: {settings['hidden_size']} and {settings['num_attention_heads']}."
        )
    for key, expected in architecture.fixed.items():
        # `null` is the default.
        if config.get(key) is not None and config[key] != expected:
            raise ValueError(
                f"{name}: {key} must be {expected!r}, all that is implemented. Received: "
                f"{config[key]!r}."
            )
    settings = architecture.settings_of(config, settings)
    size = _count_parameters(settings)
    if size > MOST_PARAMETERS:
        sizes = {key: settings[entry[0]] for key, entry in entries.items() if entry[1] is REQUIRED}
        raise ValueError(
            f"{name} describes a model of about {size:.0e} parameters. At most "
            f"{MOST_PARAMETERS:.0e} are possible, so an entry is wrong. Received: {sizes}."
        )
    return settings


def _count_parameters(settings):
    """About how many there are, whatever the architecture."""
    hidden, inner = settings["hidden_size"], settings["intermediate_size"]
    rows = settings["vocab_size"] + settings["max_position"]
    blocks = settings["num_hidden_layers"] * (4 * hidden + 2 * inner) * hidden
    return rows * (settings.get("embedding_size") or hidden) + blocks


def override(config, settings):
    """A configuration with the entries that arguments of `build_transformer_model` set otherwise.

    Args:
        config: A dictionary with what is in a configuration.
        settings: Dictionary with arguments of a model, under the names that it has for them.

    Returns:
        A new dictionary.

    Example:

    >>> override({"num_hidden_layers": 12, "hidden_act": "gelu"}, {"num_hidden_layers": 3})
    {'num_hidden_layers': 3, 'hidden_act': 'gelu'}
    """
    architecture = find_architecture(config, settings.get("model"))
    entries = architecture.config_entries(config)
    given = {key: settings[entry[0]] for key, entry in entries.items() if entry[0] in settings}
    for key, entry in entries.items():
        if entry[0].endswith("dropout_rate") and given.get(key, 0) is None:
            # It is that of the configuration.
            del given[key]
    return {**config, **given, **architecture.config_of(config, settings)}
