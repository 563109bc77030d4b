"""The files of a checkpoint, which stand beside each other."""

import os

from keras_ptuning.assets import NAMES, find_asset

CONFIGS = ("bert_config.json", "config.json")
WEIGHTS = ("bert_model.safetensors", "model.safetensors", "bert_model.ckpt")


def find_checkpoint(path):
    """Finds configuration, weights and vocabulary of a checkpoint.

    Args:
        path: Name of an embedded checkpoint; or a folder with the files of one; or the path of its
            weights, e.g. `bert_model.ckpt`, in such a folder.

    Returns:
        `(config, weights, vocab)`: paths as `build_transformer_model` and `Tokenizer` take them.

    Raises:
        FileNotFoundError: if one of the three is not there.

    Example:

    >>> [p.split("/")[-1] for p in find_checkpoint("bert-mini-zh")]
    ['bert_config.json', 'bert_model.safetensors', 'vocab.txt']
    """
    path = find_asset(path, "bert_model.safetensors") or os.fspath(path)
    folder, weights = (path, WEIGHTS) if os.path.isdir(path) else os.path.split(path)
    found = []
    for names in (CONFIGS, [weights] if isinstance(weights, str) else weights, ["vocab.txt"]):
        paths = [os.path.join(folder, name) for name in names]
        there = [p for p in paths if os.path.exists(p) or os.path.exists(f"{p}.index")]
        if not there:
            raise FileNotFoundError(
                f"There is no {' or '.join(names)} in {folder or '.'!r}. Expected the files of a "
                f"checkpoint beside each other, or the name of an embedded one, {NAMES}. "
                f"Received: {path!r}."
            )
        found.append(there[0])
    return tuple(found)
