"""Which tensors of a checkpoint belong to which layer, as data.

One table per architecture, `{layer name: tensor names}`, with `{}` where a layer's number goes.
The tensors stand in the order of the layer's weights.
"""


def _dense(name):
    return [f"{name}/kernel", f"{name}/bias"]


def _norm(name):
    return [f"{name}/LayerNorm/gamma", f"{name}/LayerNorm/beta"]


_BLOCK = "bert/encoder/layer_{}"

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
}

# Tensors with one row (or value) per token of the vocabulary, which `keep_tokens` selects from.
PER_TOKEN = ("Embedding-Token", "MLM-Bias")


def tensor_names(architecture, layer_name):
    """The tensors of the layer `layer_name`; none if it has no pretrained weights."""
    digits = "".join(c for c in layer_name if c.isdigit())
    template = layer_name.replace(digits, "{}") if digits else layer_name
    return [name.format(digits) for name in TABLES[architecture].get(template, [])]
