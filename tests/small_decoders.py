"""Small decoders with random weights, as Hugging Face writes them.

Imports neither Keras nor this package, so that the script that records goldens with another
library can use it too.
"""

import json
import os

import numpy as np
import safetensors.numpy

_COMMON = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    # Not the usual numbers, so that they show.
    "rms_norm_eps": 1e-3,
    "rope_theta": 500.0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    # No token is padding.
    "pad_token_id": None,
    "tie_word_embeddings": True,
}
CONFIGS = {
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "llama-untied": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "tie_word_embeddings": False,
        "num_key_value_heads": 4,
    },
    "qwen2": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        # Not the hidden size by the number of heads.
        "head_dim": 12,
        "tie_word_embeddings": False,
    },
}
CONFIGS = {name: {**_COMMON, **config} for name, config in CONFIGS.items()}


def tensors(name, seed=0, scale=0.25):
    """The tensors of a decoder by Hugging Face's names."""
    config = CONFIGS[name]
    kind, hidden = config["model_type"], config["hidden_size"]
    size = config.get("head_dim", hidden // config["num_attention_heads"])
    heads, key_heads = (config[f"num_{k}_heads"] for k in ("attention", "key_value"))
    inner = config["intermediate_size"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        block = f"model.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{block}.{norm}.weight"] = (hidden,)
        for letter, count in (("q", heads), ("k", key_heads), ("v", key_heads)):
            shapes[f"{block}.self_attn.{letter}_proj.weight"] = (count * size, hidden)
            if kind == "qwen2":
                shapes[f"{block}.self_attn.{letter}_proj.bias"] = (count * size,)
            if kind == "qwen3" and letter != "v":
                shapes[f"{block}.self_attn.{letter}_norm.weight"] = (size,)
        shapes[f"{block}.self_attn.o_proj.weight"] = (hidden, heads * size)
        for layer, shape in (("gate", (inner, hidden)), ("up", (inner, hidden))):
            shapes[f"{block}.mlp.{layer}_proj.weight"] = shape
        shapes[f"{block}.mlp.down_proj.weight"] = (hidden, inner)
    rng = np.random.default_rng(seed)
    values = {
        n: rng.normal(scale=scale, size=shape).astype("float32")
        for n, shape in sorted(shapes.items())
    }
    # Only a normalisation has a weight of one axis, and it is around 1.
    return {n: v + 1 if n.endswith("weight") and v.ndim == 1 else v for n, v in values.items()}


def write_small_decoder(folder, name, dtype="float32", **changes):
    """Writes `config.json` and `model.safetensors`; returns the folder."""
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump({**CONFIGS[name], "torch_dtype": dtype, **changes}, file)
    values = {key: value.astype(dtype) for key, value in tensors(name).items()}
    path = os.path.join(folder, "model.safetensors")
    # Without this, Hugging Face refuses the file.
    safetensors.numpy.save_file(values, path, metadata={"format": "pt"})
    return str(folder)


TEXTS = [
    "屏幕很好，物流也快。",
    "书很贵，不满意！",
    "not bad at all, I like it",
    "很好 不好 <|end|>",
]


def write_tokenizer(folder, kind="bytes", **config):
    """Writes a `tokenizer.json` of at most 120 tokens, and a `tokenizer_config.json`."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    special = ["<|end|>", "<|pad|>"]
    if kind == "bytes":
        # As Qwen's: nothing around a text.
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        # Bytes of rare characters are left out, so that the vocabulary is small.
        trainer = trainers.BpeTrainer(vocab_size=110, initial_alphabet=["!"], show_progress=False)
    else:
        # As LLaMA's and T5's: pieces of SentencePiece, a token before each text.
        tokenizer = tokenizers.Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=60, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
        )
    tokenizer.train_from_iterator([t.replace("<|end|>", "") for t in [*3 * TEXTS, "!"]], trainer)
    tokenizer.add_special_tokens(special)
    if kind != "bytes":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|end|> $A", special_tokens=[("<|end|>", tokenizer.token_to_id("<|end|>"))]
        )
    path = os.path.join(folder, "tokenizer.json")
    tokenizer.save(path)
    config = config or {"pad_token": "<|pad|>", "eos_token": {"content": "<|end|>"}}
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    return path
