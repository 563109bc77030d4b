"""Reading `bert_config.json`."""

import json

REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)


def load_config(path):
    """Reads a configuration file, as it stands.

    Args:
        path: Path of a `bert_config.json`; a dictionary is returned as it is.

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
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{name} does not exist. A Google-format BERT has it beside the checkpoint, as "
            "`bert_config.json`."
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
        config: Path of a `bert_config.json`, or a dictionary with what stands in one.

    Returns:
        A dictionary: the file's entries that the models use, under the names that
        `build_transformer_model` has for them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON, lacks an entry, or has one that makes no sense.

    Example:

    >>> read_config({"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1,
    ...              "num_attention_heads": 2, "intermediate_size": 16,
    ...              "hidden_dropout_prob": 0.1})["dropout_rate"]
    0.1
    """
    name = "The configuration" if isinstance(config, dict) else f"The configuration {config!r}"
    config = load_config(config)
    missing = [key for key in REQUIRED if key not in config]
    if missing:
        raise ValueError(f"{name} lacks {', '.join(missing)}. Received: {sorted(config)}.")
    for key in REQUIRED:
        if not isinstance(config[key], int) or config[key] < 1:
            raise ValueError(f"{name}: {key} must be a positive integer. Received: {config[key]!r}")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise ValueError(
            f"{name}: hidden_size must be a multiple of num_attention_heads. "
            f"Received: {config['hidden_size']} and {config['num_attention_heads']}."
        )
    return {
        **{key: config[key] for key in REQUIRED},
        "hidden_act": config.get("hidden_act", "gelu"),
        "max_position": config.get("max_position_embeddings", 512),
        "segment_vocab_size": config.get("type_vocab_size", 2),
        "dropout_rate": config.get("hidden_dropout_prob") or 0.0,
        "attention_dropout_rate": config.get("attention_probs_dropout_prob") or 0.0,
        "initializer_range": config.get("initializer_range", 0.02),
    }
