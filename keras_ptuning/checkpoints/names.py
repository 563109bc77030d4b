"""Which tensors of a checkpoint belong to which layer, as data.

One table per architecture, `{layer name: tensor names}`, with `{}` where a layer's number goes.
The tensors stand in the order of the layer's weights. Where a tensor holds three of them, side by
side on its last axis, each is a pair of the tensor's name and 0, 1 or 2.
"""


def _dense(name):
    return [f"{name}/kernel", f"{name}/bias"]


def _norm(name):
    return [f"{name}/LayerNorm/gamma", f"{name}/LayerNorm/beta"]


def _pair(name):
    return [f"{name}.weight", f"{name}.bias"]


_BLOCK = "bert/encoder/layer_{}"
_GPT2_BLOCK = "transformer.h.{}"

TABLES = {
    "bert": {
        "Embedding-Token": ["bert/embeddings/word_embeddings"],
        "Embedding-Segment": ["bert/embeddings/token_type_embeddings"],
        "Embedding-Position": ["bert/embeddings/position_embeddings"],
        "Embedding-Norm": _norm("bert/embeddings"),
        "Transformer-{}-MultiHeadSelfAttention": [
            *_dense(f"{_BLOCK}/attention/self/query"),
            *_dense(f"{_BLOCK}/attention/self/key"),
            *_dense(f"{_BLOCK}/attention/self/value"),
            *_dense(f"{_BLOCK}/attention/output/dense"),
        ],
        "Transformer-{}-MultiHeadSelfAttention-Norm": _norm(f"{_BLOCK}/attention/output"),
        "Transformer-{}-FeedForward": [
            *_dense(f"{_BLOCK}/intermediate/dense"),
            *_dense(f"{_BLOCK}/output/dense"),
        ],
        "Transformer-{}-FeedForward-Norm": _norm(f"{_BLOCK}/output"),
        "Pooler-Dense": _dense("bert/pooler/dense"),
        "MLM-Dense": _dense("cls/predictions/transform/dense"),
        "MLM-Norm": _norm("cls/predictions/transform"),
        "MLM-Bias": ["cls/predictions/output_bias"],
    },
    # As Hugging Face names them.
    "gpt2": {
        "Embedding-Token": ["transformer.wte.weight"],
        "Embedding-Position": ["transformer.wpe.weight"],
        "Transformer-{}-MultiHeadSelfAttention-Norm": _pair(f"{_GPT2_BLOCK}.ln_1"),
        "Transformer-{}-MultiHeadSelfAttention": [
            *((name, i) for i in range(3) for name in _pair(f"{_GPT2_BLOCK}.attn.c_attn")),
            *_pair(f"{_GPT2_BLOCK}.attn.c_proj"),
        ],
        "Transformer-{}-FeedForward-Norm": _pair(f"{_GPT2_BLOCK}.ln_2"),
        "Transformer-{}-FeedForward": [
            *_pair(f"{_GPT2_BLOCK}.mlp.c_fc"),
            *_pair(f"{_GPT2_BLOCK}.mlp.c_proj"),
        ],
        "Output-Norm": _pair("transformer.ln_f"),
    },
}

# Tensors with one row (or value) per token of the vocabulary, which `keep_tokens` selects from.
PER_TOKEN = ("Embedding-Token", "MLM-Bias")


def tensor_names(architecture, layer_name):
    """The tensors of the layer `layer_name`; none if it has no pretrained weights.

    They are pairs: the name, and which third of the tensor it is, `None` for all of it.
    """
    digits = "".join(c for c in layer_name if c.isdigit())
    template = layer_name.replace(digits, "{}") if digits else layer_name
    entries = TABLES[architecture].get(template, [])
    pairs = (entry if isinstance(entry, tuple) else (entry, None) for entry in entries)
    return [(name.format(digits), third) for name, third in pairs]
