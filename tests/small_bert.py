"""A small BERT with random weights in Google's format, and a vocabulary for it.

Imports neither Keras nor this package, so that the scripts that record goldens with other
libraries can use it too.
"""

import json
import os

import numpy as np

CONFIG = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
}

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CHARACTERS = (
    "很不满意好差理想这趟北京之旅我感觉错。，？！一书房间服务态度糟糕"
    "喜欢快慢贵便宜屏幕电池物流的了是在有体育财经科技娱乐"
)
PIECES = ["ok", "##ay", "##s", "good", "1", "##2", "a", "b", "##b"]


def vocabulary(size=CONFIG["vocab_size"], unused=True):
    """`[PAD]`, twenty `[unused]` (or as many plain words), special tokens, characters, pieces."""
    first = [f"[unused{i}]" if unused else f"word{i}" for i in range(1, 21)]
    tokens = ["[PAD]", *first, *SPECIAL[1:], *dict.fromkeys(CHARACTERS), *PIECES]
    tokens += [f"filler{i}" for i in range(size - len(tokens))]
    assert len(tokens) == size
    return tokens


def tensors(config=CONFIG, seed=0, scale=0.15):
    """The tensors of a BERT with MLM head and pooler, by Google's names.

    The scale is larger than that of an untrained BERT, so that positions, attention and
    normalisation all leave their mark in the output.
    """
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {
        "bert/embeddings/word_embeddings": (config["vocab_size"], hidden),
        "bert/embeddings/token_type_embeddings": (config["type_vocab_size"], hidden),
        "bert/embeddings/position_embeddings": (config["max_position_embeddings"], hidden),
        **_norm("bert/embeddings", hidden),
        **_dense("bert/pooler/dense", hidden, hidden),
        **_dense("cls/predictions/transform/dense", hidden, hidden),
        **_norm("cls/predictions/transform", hidden),
        "cls/predictions/output_bias": (config["vocab_size"],),
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"bert/encoder/layer_{i}"
        for name in ("query", "key", "value"):
            shapes |= _dense(f"{layer}/attention/self/{name}", hidden, hidden)
        shapes |= _dense(f"{layer}/attention/output/dense", hidden, hidden)
        shapes |= _norm(f"{layer}/attention/output", hidden)
        shapes |= _dense(f"{layer}/intermediate/dense", hidden, inner)
        shapes |= _dense(f"{layer}/output/dense", inner, hidden)
        shapes |= _norm(f"{layer}/output", hidden)
    rng = np.random.default_rng(seed)
    values = {
        name: rng.normal(scale=scale, size=shape).astype("float32")
        for name, shape in sorted(shapes.items())
    }
    return {name: v + 1 if name.endswith("gamma") else v for name, v in values.items()}


def _dense(name, inputs, outputs):
    return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}


def _norm(name, size):
    return {f"{name}/LayerNorm/gamma": (size,), f"{name}/LayerNorm/beta": (size,)}


def write_tensors(prefix, values):
    """Writes a TensorFlow checkpoint."""
    import tensorflow as tf

    names = sorted(values)
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(values[name]) for name in names],
    )


def write_small_bert(folder, config=CONFIG, seed=0, vocab=None, values=None):
    """Writes `bert_config.json`, `bert_model.ckpt.*` and `vocab.txt`; returns their paths."""
    paths = [os.path.join(folder, n) for n in ("bert_config.json", "bert_model.ckpt", "vocab.txt")]
    with open(paths[0], "w", encoding="utf-8") as file:
        json.dump(config, file)
    write_tensors(paths[1], tensors(config, seed) if values is None else values)
    with open(paths[2], "w", encoding="utf-8") as file:
        file.write("\n".join(vocab or vocabulary(config["vocab_size"])) + "\n")
    return paths
