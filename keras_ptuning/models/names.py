"""How checkpoints call their tensors: the pieces that architectures write their tables with.

A table is `{layer name: tensor names}`, with `{}` where a layer's number goes. The tensors are in
the order of the layer's weights.

Google's layout is that of TensorFlow checkpoints, and of those for bert4keras. Hugging Face's is
made of it by the rules that PyTorch's names follow, and by what an architecture calls otherwise.
"""

import re
from typing import NamedTuple

# What wrappers of a model put before the names of its tensors: `torch.compile`, data parallelism,
# PEFT, and classes that have the model as an attribute; also several of them.
WRAPPERS = re.compile(r"^(?:(?:base_model\.model|_orig_mod|module|model)\.)+")


class Tensor(NamedTuple):
    """Where a layer's weight is in a checkpoint.

    `third` is which third of the tensor's last axis it is, `None` for all of it. `transposed` says
    that the tensor's two axes are the other way around.
    """

    name: str
    transposed: bool = False
    third: int | None = None


def dense(name):
    return [f"{name}/kernel", f"{name}/bias"]


def norm(name):
    return [f"{name}/LayerNorm/gamma", f"{name}/LayerNorm/beta"]


def without(table, *layers):
    return {layer: names for layer, names in table.items() if layer not in layers}


def renamed(table, *renamings):
    """A table with parts of its names replaced, in this order."""

    def rename(name):
        for old, new in renamings:
            name = name.replace(old, new)
        return name

    return {layer: [rename(name) for name in names] for layer, names in table.items()}


def hugging_face(table, *renamings):
    """A table of Google's as Hugging Face has it, after parts of its names were replaced."""
    table = renamed(table, *renamings)
    return {layer: [_as_pytorch(name) for name in names] for layer, names in table.items()}


def _as_pytorch(name):
    """A tensor of Google's under the name, and with the axes, that PyTorch's modules have."""
    name = re.sub(r"/layer_(\d+|{})/", r"/layer.\1/", name)
    name = name.replace("output_bias", "bias").replace("/", ".")
    name = re.sub(r"_embeddings$", r"\g<0>.weight", name)
    transposed = name.endswith(".kernel")
    name = re.sub(r"\.(kernel|gamma)$", ".weight", name)
    return Tensor(re.sub(r"\.beta$", ".bias", name), transposed)


def tensors_of(table, layer_name):
    """The tensors of the layer `layer_name`; none if it has no pretrained weights.

    Example:

    >>> tensors_of({"Transformer-{}-Scale": ["layer_{}/scale"]}, "Transformer-12-Scale")
    [Tensor(name='layer_12/scale', transposed=False, third=None)]
    """
    number = re.search(r"(?<=-)\d+(?=-)", layer_name)
    number = number[0] if number else ""
    pattern = layer_name.replace(f"-{number}-", "-{}-", 1) if number else layer_name
    entries = table.get(pattern, [])
    entries = [e if isinstance(e, Tensor) else Tensor(e) for e in entries]
    return [entry._replace(name=entry.name.format(number)) for entry in entries]


def layout_of(names):
    """The layout of a checkpoint with tensors of these names."""
    return "google" if any("/" in name for name in names) else "hugging_face"


def spellings(names, table):
    """How a checkpoint calls the tensors that newer releases, or whole models, call otherwise.

    Args:
        names: The names of a checkpoint in Hugging Face's layout.
        table: The architecture's table in that layout.

    Returns:
        A dictionary from the names of the table to those of the checkpoint, where they differ.
    """
    prefix = table["Embedding-Token"][0].name.split(".")[0]
    known = {getattr(entry, "name", entry) for entries in table.values() for entry in entries}
    found = {}
    for name in names:
        usual = re.sub(r"(?<=LayerNorm\.)gamma$", "weight", name)
        usual = re.sub(r"(?<=LayerNorm\.)beta$", "bias", usual)
        usual = usual.replace("predictions.decoder.bias", "predictions.bias")
        usual = WRAPPERS.sub("", usual)
        # Of architectures from before they had a class.
        usual = re.sub(r"^bert\.", f"{prefix}.", usual)
        # Of a model that was saved without its head.
        whole = f"{prefix}.{usual}"
        if known & {whole, re.sub(r"(?<=\.)\d+(?=\.)", "{}", whole)}:
            usual = whole
        if usual not in names:
            found[usual] = name
    return found
