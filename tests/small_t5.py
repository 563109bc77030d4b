"""Small T5s with random weights, as others write them.

Imports neither Keras nor this package, so that the script that records goldens with other libraries
can use it too.
"""

import json
import os
import re

import numpy as np
from small_bert import vocabulary, write_tensors
from small_checkpoints import write_safetensors

VOCAB_SIZE = 120
CONFIG = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "is_encoder_decoder": True,
    "vocab_size": VOCAB_SIZE,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 32,
    "dropout_rate": 0.0,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
_NEWER = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
HUGGING_FACE = {
    "t5": CONFIG,
    # Heads of another size, a deeper decoder, and far distances within reach.
    "t5-1.1": {
        **CONFIG,
        **_NEWER,
        "d_kv": 5,
        "num_decoder_layers": 3,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20,
    },
    "mt5": {
        **CONFIG,
        **_NEWER,
        "model_type": "mt5",
        "architectures": ["MT5ForConditionalGeneration"],
        "num_heads": 3,
    },
}
# With what bert4keras is told, and whether its cross-attention knows positions.
BERT4KERAS = {
    "t5.1.0": ("t5", True),
    "mt5.1.1": ("mt5", True),
    "mt5.1.1-google": ("mt5", False),
}
# It counts distances up to 128.
LENGTH, WRITTEN = 140, 9


def make_inputs():
    """Tokens of the encoder and of the decoder, padded with 0 at the end."""
    rng = np.random.default_rng(1)
    read, written = np.zeros((4, LENGTH), "int32"), np.zeros((4, WRITTEN), "int32")
    for row, length in zip(read, (LENGTH, 17, 3, 60), strict=True):
        row[:length] = rng.integers(2, VOCAB_SIZE, length)
    for row, length in zip(written, (WRITTEN, 4, 6, 2), strict=True):
        row[1:length] = rng.integers(2, VOCAB_SIZE, length - 1)
    return read, written


def hugging_face_shapes(config):
    """Names and shapes as `save_pretrained` writes them."""
    size, inner, heads = config["d_model"], config["d_ff"], config["num_heads"]
    width = heads * config["d_kv"]
    inputs = ["wi_0", "wi_1"] if "gated" in config["feed_forward_proj"] else ["wi"]
    shapes = {"shared.weight": (config["vocab_size"], size)}
    if config.get("tie_word_embeddings") is False:
        shapes["lm_head.weight"] = (config["vocab_size"], size)
    for stack, depth, halves in (
        ("encoder", config["num_layers"], ("SelfAttention",)),
        ("decoder", config["num_decoder_layers"], ("SelfAttention", "EncDecAttention")),
    ):
        shapes[f"{stack}.final_layer_norm.weight"] = (size,)
        name = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        shapes[name] = (config["relative_attention_num_buckets"], heads)
        for i in range(depth):
            for n, half in enumerate((*halves, "DenseReluDense")):
                layer = f"{stack}.block.{i}.layer.{n}"
                shapes[f"{layer}.layer_norm.weight"] = (size,)
                if half == "DenseReluDense":
                    shapes |= {f"{layer}.{half}.{name}.weight": (inner, size) for name in inputs}
                    shapes[f"{layer}.{half}.wo.weight"] = (size, inner)
                else:
                    shapes |= {f"{layer}.{half}.{name}.weight": (width, size) for name in "qkv"}
                    shapes[f"{layer}.{half}.o.weight"] = (size, width)
    return shapes


def hugging_face_tensors(name, seed=0):
    rng = np.random.default_rng(seed)
    values = {}
    for key, shape in sorted(hugging_face_shapes(HUGGING_FACE[name]).items()):
        values[key] = rng.normal(scale=0.25, size=shape).astype("float32")
        # So that distances, and what the decoder looks at, leave their mark.
        values[key] += np.float32("layer_norm" in key)
        values[key] *= np.float32(4 if "relative" in key else 1)
    return values


def write_hugging_face(folder, name, seed=0, values=None, vocab=False, **changes):
    """Writes `config.json`, `model.safetensors` and perhaps `vocab.txt` into a folder."""
    values = hugging_face_tensors(name, seed) if values is None else values
    if vocab:
        # As uer's, whose decoder begins with [CLS].
        tokens = write_vocab(folder)
        changes = {"decoder_start_token_id": tokens.index("[CLS]"), **changes}
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump({**HUGGING_FACE[name], **changes}, file)
    write_safetensors(os.path.join(folder, "model.safetensors"), values)


def write_vocab(folder):
    """Writes the vocabulary of a BERT."""
    tokens = vocabulary(VOCAB_SIZE)
    with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8") as file:
        file.write("\n".join(tokens) + "\n")
    return tokens


def bert4keras_config(name):
    config = HUGGING_FACE[BERT4KERAS[name][0]]
    gated = "gated" in config["feed_forward_proj"]
    return {
        "vocab_size": config["vocab_size"],
        "hidden_size": config["d_model"],
        "attention_head_size": config["d_kv"],
        "intermediate_size": config["d_ff"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_heads"],
        "hidden_act": ["gelu", "linear"] if gated else "relu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def bert4keras_tensors(name, seed=0):
    """The same weights as in Hugging Face's layout."""
    tensors = {}
    for key, value in hugging_face_tensors(BERT4KERAS[name][0], seed).items():
        if "layer_norm" not in key and key != "shared.weight":
            value = value.T
        for old, new in (
            (r"^shared\.weight", "shared.embedding"),
            (r"^lm_head\.weight", "decoder.logits.kernel"),
            (r"layer_norm\.weight", "layer_norm.scale"),
            (r"(\.w[io]\w*)\.weight", r"\1.kernel"),
            (r"\.weight$", ""),
            (r"block\.(\d)", r"block_00\1"),
            (r"layer\.(\d)", r"layer_00\1"),
            (r"\.", "/"),
        ):
            key = re.sub(old, new, key)
        if name.startswith("mt5"):
            key = re.sub("final_layer_norm|layer_norm", "rms_norm", key)
        tensors[key] = value
    return tensors


def write_bert4keras(folder, name, seed=0, vocab=False):
    """Writes `t5_config.json`, `model.ckpt.*` and perhaps `vocab.txt` into a folder."""
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(bert4keras_config(name), file)
    write_tensors(os.path.join(folder, "model.ckpt"), bert4keras_tensors(name, seed))
    if vocab:
        write_vocab(folder)
