"""A small GPT-2 with random weights, as Hugging Face writes one.

Imports neither Keras nor this package, so that the script that records goldens with another
library can use it too.
"""

import json
import os

import numpy as np
import safetensors.numpy

CONFIG = {
    "model_type": "gpt2",
    "vocab_size": 120,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": None,
    "n_positions": 32,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    # Not the usual 1e-5, so that it shows.
    "layer_norm_epsilon": 1e-3,
    "initializer_range": 0.02,
    "bos_token_id": 2,
    "eos_token_id": 3,
}


def tensors(config=CONFIG, seed=0, scale=0.25):
    """The tensors of a GPT-2 by Hugging Face's names.

    The scale is larger than that of an untrained GPT-2, so that positions, attention and
    normalisation all leave their mark in the output, and so does the kind of GELU.
    """
    hidden = config["n_embd"]
    inner = config["n_inner"] or 4 * hidden
    shapes = {
        "transformer.wte.weight": (config["vocab_size"], hidden),
        "transformer.wpe.weight": (config["n_positions"], hidden),
        **_pair("transformer.ln_f", hidden),
    }
    for i in range(config["n_layer"]):
        block = f"transformer.h.{i}"
        shapes |= _pair(f"{block}.ln_1", hidden)
        shapes |= _pair(f"{block}.attn.c_attn", hidden, 3 * hidden)
        shapes |= _pair(f"{block}.attn.c_proj", hidden, hidden)
        shapes |= _pair(f"{block}.ln_2", hidden)
        shapes |= _pair(f"{block}.mlp.c_fc", hidden, inner)
        shapes |= _pair(f"{block}.mlp.c_proj", inner, hidden)
    rng = np.random.default_rng(seed)
    values = {
        name: rng.normal(scale=scale, size=shape).astype("float32")
        for name, shape in sorted(shapes.items())
    }
    # Only a normalisation has a weight of one axis, and it is around 1.
    return {n: v + 1 if n.endswith("weight") and v.ndim == 1 else v for n, v in values.items()}


def _pair(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[-1:]}


def write_small_gpt2(folder, config=CONFIG, seed=0, values=None):
    """Writes `config.json` and `model.safetensors`; returns their paths."""
    paths = [os.path.join(folder, name) for name in ("config.json", "model.safetensors")]
    with open(paths[0], "w", encoding="utf-8") as file:
        json.dump(config, file)
    values = tensors(config, seed) if values is None else values
    # Without this, Hugging Face refuses the file.
    safetensors.numpy.save_file(values, paths[1], metadata={"format": "pt"})
    return paths
