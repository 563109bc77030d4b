"""Which tensors of a checkpoint belong to which layer, as data.

One table per layout and architecture, `{layer name: tensor names}`, with `{}` where a layer's
number goes. The tensors stand in the order of the layer's weights.

Google's layout is that of TensorFlow checkpoints, and of those for bert4keras. Hugging Face's is
made of it by the rules that PyTorch's names follow, and by what an architecture calls otherwise.
"""

import re
from typing import NamedTuple


class Tensor(NamedTuple):
    """Where a layer's weight stands in a checkpoint.

    `third` is which third of the tensor's last axis it is, `None` for all of it. `transposed` says
    that the tensor's two axes are the other way around.
    """

    name: str
    transposed: bool = False
    third: int | None = None


def _dense(name):
    return [f"{name}/kernel", f"{name}/bias"]


def _norm(name):
    return [f"{name}/LayerNorm/gamma", f"{name}/LayerNorm/beta"]


_BLOCK = "bert/encoder/layer_{}"
_BERT = {
    "Embedding-Token": ["bert/embeddings/word_embeddings"],
    "Embedding-Segment": ["bert/embeddings/token_type_embeddings"],
    "Embedding-Position": ["bert/embeddings/position_embeddings"],
    "Embedding-Norm": _norm("bert/embeddings"),
    "Embedding-Mapping": _dense("bert/encoder/embedding_hidden_mapping_in"),
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
}
_SHARED = "bert/encoder/transformer/group_0/inner_group_0"
_HALF = "MultiHeadSelfAttention"


def _without(table, *layers):
    return {layer: names for layer, names in table.items() if layer not in layers}


def _renamed(table, *renamings):
    """A table with parts of its names replaced, in this order."""

    def rename(name):
        for old, new in renamings:
            name = name.replace(old, new)
        return name

    return {layer: [rename(name) for name in names] for layer, names in table.items()}


_RELATIVE = _without(_BERT, "Embedding-Position")
GOOGLE = {
    "bert": _BERT,
    "nezha": _RELATIVE,
    "roformer": _RELATIVE,
    "albert": {
        **{layer: names for layer, names in _BERT.items() if "{}" not in layer},
        f"Transformer-{_HALF}": [
            *_dense(f"{_SHARED}/attention_1/self/query"),
            *_dense(f"{_SHARED}/attention_1/self/key"),
            *_dense(f"{_SHARED}/attention_1/self/value"),
            *_dense(f"{_SHARED}/attention_1/output/dense"),
        ],
        f"Transformer-{_HALF}-Norm": _norm(_SHARED),
        "Transformer-FeedForward": [
            *_dense(f"{_SHARED}/ffn_1/intermediate/dense"),
            *_dense(f"{_SHARED}/ffn_1/intermediate/output/dense"),
        ],
        "Transformer-FeedForward-Norm": [
            f"{_SHARED}/LayerNorm_1/gamma",
            f"{_SHARED}/LayerNorm_1/beta",
        ],
    },
    # Generator and discriminator stand in one checkpoint, and share the embeddings.
    "electra": _renamed(
        _without(_BERT, "Pooler-Dense"),
        ("bert/encoder/embedding_hidden_mapping_in", "generator/embeddings_project"),
        ("bert/encoder", "generator/encoder"),
        ("bert/", "electra/"),
        ("cls/predictions/transform/LayerNorm", "generator_predictions/LayerNorm"),
        ("cls/predictions/transform/dense", "generator_predictions/dense"),
        ("cls/predictions", "generator_predictions"),
    ),
    # As bert4keras has it, e.g. of CPM.
    "gpt2": {
        **_renamed(
            {
                layer: names
                for layer, names in _BERT.items()
                if "{}" in layer or layer in ("Embedding-Token", "Embedding-Position")
            },
            ("bert/encoder", "gpt/transformer"),
            ("bert/", "gpt/"),
            ("output/LayerNorm", "input/LayerNorm"),
        ),
        "Output-Norm": _norm("gpt/output"),
    },
}


def _as_pytorch(name):
    """A tensor of Google's under the name, and with the axes, that PyTorch's modules have."""
    name = re.sub(r"/layer_(\d+|{})/", r"/layer.\1/", name)
    name = name.replace("output_bias", "bias").replace("/", ".")
    name = re.sub(r"_embeddings$", r"\g<0>.weight", name)
    transposed = name.endswith(".kernel")
    name = re.sub(r"\.(kernel|gamma)$", ".weight", name)
    return Tensor(re.sub(r"\.beta$", ".bias", name), transposed)


def _hugging_face(table, *renamings):
    table = _renamed(table, *renamings)
    return {layer: [_as_pytorch(name) for name in names] for layer, names in table.items()}


def _gpt2_pair(name):
    return [Tensor(f"transformer.{name}.weight"), Tensor(f"transformer.{name}.bias")]


_ALBERT_LAYER = "albert/encoder/albert_layer_groups/0/albert_layers/0"
_PROJECTION = "bert/encoder/embedding_hidden_mapping_in"
HUGGING_FACE = {
    "bert": _hugging_face(_BERT),
    "ernie": _hugging_face(
        {**_BERT, "Embedding-Task": ["bert/embeddings/task_type_embeddings"]}, ("bert/", "ernie/")
    ),
    "nezha": _hugging_face(_RELATIVE, ("bert/", "nezha/")),
    "roformer": _hugging_face(
        _RELATIVE, (_PROJECTION, "roformer/embeddings_project"), ("bert/", "roformer/")
    ),
    "electra": _hugging_face(
        GOOGLE["electra"],
        ("generator/embeddings_project", "electra/embeddings_project"),
        ("generator/encoder", "electra/encoder"),
        ("generator_predictions/output_bias", "generator_lm_head/bias"),
    ),
    "albert": _hugging_face(
        GOOGLE["albert"],
        (f"{_SHARED}/LayerNorm_1", f"{_ALBERT_LAYER}/full_layer_layer_norm"),
        (f"{_SHARED}/LayerNorm", f"{_ALBERT_LAYER}/attention/LayerNorm"),
        (f"{_SHARED}/attention_1/self", f"{_ALBERT_LAYER}/attention"),
        (f"{_SHARED}/attention_1/output/dense", f"{_ALBERT_LAYER}/attention/dense"),
        (f"{_SHARED}/ffn_1/intermediate/dense", f"{_ALBERT_LAYER}/ffn"),
        (f"{_SHARED}/ffn_1/intermediate/output/dense", f"{_ALBERT_LAYER}/ffn_output"),
        ("bert/pooler/dense", "bert/pooler"),
        ("cls/predictions/transform", "predictions"),
        ("cls/predictions", "predictions"),
        # What bears the name already, as well.
        ("albert/", "bert/"),
        ("bert/", "albert/"),
    ),
    "gpt2": {
        "Embedding-Token": [Tensor("transformer.wte.weight")],
        "Embedding-Position": [Tensor("transformer.wpe.weight")],
        f"Transformer-{{}}-{_HALF}-Norm": _gpt2_pair("h.{}.ln_1"),
        f"Transformer-{{}}-{_HALF}": [
            *(t._replace(third=i) for i in range(3) for t in _gpt2_pair("h.{}.attn.c_attn")),
            *_gpt2_pair("h.{}.attn.c_proj"),
        ],
        "Transformer-{}-FeedForward-Norm": _gpt2_pair("h.{}.ln_2"),
        "Transformer-{}-FeedForward": [
            *_gpt2_pair("h.{}.mlp.c_fc"),
            *_gpt2_pair("h.{}.mlp.c_proj"),
        ],
        "Output-Norm": _gpt2_pair("ln_f"),
    },
}
LAYOUTS = {"google": GOOGLE, "hugging_face": HUGGING_FACE}

# Tensors with one row (or value) per token of the vocabulary, which `keep_tokens` selects from.
PER_TOKEN = ("Embedding-Token", "MLM-Bias")

# Parts of names that tell the architecture, where no configuration does.
SIGNS = {
    "albert": ("/inner_group_0/", ".albert_layers."),
    "electra": ("generator_predictions", "discriminator_predictions"),
    "gpt2": ("gpt/output/", "attn.c_attn."),
    "ernie": ("task_type_embeddings", "ernie."),
    "nezha": ("nezha.",),
    "roformer": ("roformer.",),
    "bert": ("position_embeddings",),
}


def tensors_of(layout, architecture, layer_name):
    """The tensors of the layer `layer_name`; none if it has no pretrained weights."""
    digits = "".join(c for c in layer_name if c.isdigit())
    template = layer_name.replace(digits, "{}") if digits else layer_name
    entries = LAYOUTS[layout].get(architecture, {}).get(template, [])
    entries = [e if isinstance(e, Tensor) else Tensor(e) for e in entries]
    return [entry._replace(name=entry.name.format(digits)) for entry in entries]


# What tells that a checkpoint is not of the architecture that it is taken for: a layer that this
# does not have, and how the names of its tensors end.
TELLING = {
    "Embedding-Position": "position_embeddings",
    "Embedding-Task": "task_type_embeddings",
}
# A head's own table, where it is written, beside the token embedding that it is tied to.
TIED = (
    "cls.predictions.decoder.weight",
    "generator_lm_head.weight",
    "lm_head.weight",
    "predictions.decoder.weight",
)


def is_named(architecture, layer_name):
    """Whether checkpoints of an architecture have the weights of this layer."""
    return any(tensors_of(layout, architecture, layer_name) for layout in LAYOUTS)


def layout_of(names):
    """The layout of a checkpoint with tensors of these names."""
    return "google" if any("/" in name for name in names) else "hugging_face"


def architecture_of(names):
    """The architecture that tensors of these names are of; `None` if nothing tells."""
    for architecture, signs in SIGNS.items():
        if any(sign in name for name in names for sign in signs):
            return architecture
    return None


def spellings(names, architecture):
    """How a checkpoint calls the tensors that newer releases, or whole models, call otherwise.

    Args:
        names: The names of a checkpoint in Hugging Face's layout.
        architecture: Name of a table, e.g. `"bert"`.

    Returns:
        A dictionary from the names of the table to those of the checkpoint, where they differ.
    """
    table = HUGGING_FACE[architecture]
    prefix = table["Embedding-Token"][0].name.split(".")[0]
    found = {}
    for name in names:
        usual = re.sub(r"(?<=LayerNorm\.)gamma$", "weight", name)
        usual = re.sub(r"(?<=LayerNorm\.)beta$", "bias", usual)
        usual = usual.replace("predictions.decoder.bias", "predictions.bias")
        # Of a model in a wrapper, and of architectures from before they had a class.
        usual = usual.removeprefix("module.")
        usual = re.sub(r"^bert\.", f"{prefix}.", usual)
        if re.match(r"(embeddings|encoder|embeddings_project|pooler|wte|wpe|h|ln_f)\.", usual):
            usual = f"{prefix}.{usual}"
        if usual not in names:
            found[usual] = name
    return found
