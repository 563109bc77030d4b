"""The files of a checkpoint, which are in one folder."""

import os
import re

from keras_ptuning.files import find_local, find_one, folder_of
from keras_ptuning.text.tokenizers import find_vocab

# Regular expressions of file names, the best first.
CONFIGS = (
    r"bert_config\.json",
    r"config\.json",
    r"bert_config_.*\.json",
    r"albert_config.*\.json",
    r"electra_config\.json",
    # Of ELECTRA's two models the generator is the one that fills in masks.
    r".*generator_config\.json",
    r".*discriminator_config\.json",
)
WEIGHTS = (
    r"bert_model\.safetensors",
    r"model\.safetensors",
    r"model\.safetensors\.index\.json",
    r"bert_model\.ckpt\.index",
    r".*\.index",
    r"pytorch_model\.bin",
    r"pytorch_model\.bin\.index\.json",
    # What a trainer leaves in the folder of the weights are no weights.
    r"(?!training_args|optimizer|scheduler).*\.(safetensors|bin)",
)
# In the folder of a Hugging Face model, and not about its architecture.
_OTHER_JSON = (
    ".index.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def find_checkpoint(path):
    """Finds configuration, weights and vocabulary of a checkpoint.

    Args:
        path: Name of an embedded checkpoint, or of a model of Hugging Face's hub, e.g.
            `hfl/chinese-roberta-wwm-ext`; or a folder with the files of one; or the path of its
            weights, e.g. `bert_model.ckpt`, or of its configuration, in such a folder.

    Returns:
        `(config, weights, vocab)`: paths as `build_transformer_model` and `Tokenizer` take them.

    Raises:
        FileNotFoundError: if one of the three is not there.
        ValueError: if there are several of a kind, and none has the usual name.

    Example:

    >>> [p.split("/")[-1] for p in find_checkpoint("bert-mini-zh")]
    ['bert_config.json', 'bert_model.safetensors', 'vocab.txt']
    """
    return find_config(path), find_weights(path), find_vocab(path)


def find_config(path):
    """Finds the configuration of a checkpoint.

    Args:
        path: As `find_checkpoint` takes it. The path of a configuration is returned as it is.

    Returns:
        A path.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if there are several, and none has the usual name.
    """
    is_config = str(path).endswith(".json") and not str(path).endswith(_OTHER_JSON)
    if is_config and os.path.isfile(path):
        return os.fspath(path)
    return find_one(path, CONFIGS, "bert_config.json or config.json")


def find_weights(path):
    """Finds the weights of a checkpoint.

    Args:
        path: As `find_checkpoint` takes it. The path of weights is returned as it is.

    Returns:
        A path, as `open_checkpoint` takes it: of a TensorFlow checkpoint, its prefix.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if there are several, and none has the usual name.
    """
    path = find_local(path)
    # Any other file is taken for weights: `open_checkpoint` says so if it cannot read it.
    is_beside = path.endswith((".json", ".txt")) and not path.endswith(".index.json")
    if os.path.isdir(path) or is_beside:
        _check_shards(path)
        found = find_one(path, WEIGHTS, "model.safetensors, bert_model.ckpt or pytorch_model.bin")
    else:
        folder_of(path)  # there must be something
        found = path
    return found.removesuffix(".index")


def _check_shards(path):
    """Raises a FileNotFoundError if weights are in several files, and nothing says which."""
    folder = folder_of(path) or "."
    names = sorted(os.listdir(folder))
    if any(re.fullmatch(pattern, name) for pattern in WEIGHTS[:-1] for name in names):
        return
    for name in names:
        # One of one is whole.
        shard = re.fullmatch(r"(.+)-\d{5}-of-(?!00001)\d{5}(\.(?:safetensors|bin))", name)
        if shard:
            raise FileNotFoundError(
                f"The checkpoint in {folder!r} is incomplete: {shard[1]}{shard[2]}.index.json is "
                "missing, which says what is in which of its files. Copy it too. Received: "
                f"{name!r}."
            )
