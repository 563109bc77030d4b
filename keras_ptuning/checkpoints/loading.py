"""From a checkpoint's tensors to a model's weights."""

import os

import numpy as np

from keras_ptuning.checkpoints.names import PER_TOKEN, tensor_names
from keras_ptuning.checkpoints.safetensors import SafetensorsCheckpoint
from keras_ptuning.checkpoints.tensorflow import TensorFlowCheckpoint


def open_checkpoint(path):
    """Opens a `.safetensors` file, or else a TensorFlow checkpoint by its prefix."""
    is_safetensors = os.fspath(path).endswith(".safetensors")
    return (SafetensorsCheckpoint if is_safetensors else TensorFlowCheckpoint)(path)


def check_depth(num_hidden_layers, checkpoint, architecture):
    """Raises a ValueError if the checkpoint has more layers than the configuration."""
    for name, _ in tensor_names(architecture, f"Transformer-{num_hidden_layers}-FeedForward"):
        name = _name_in(checkpoint, name)
        if name in checkpoint.shapes:
            raise ValueError(
                f"The configuration does not match the checkpoint {checkpoint.path!r}: it has "
                f"num_hidden_layers={num_hidden_layers}, and the checkpoint has more, such as "
                f"the tensor {name!r}. To use only the lower layers, give `num_hidden_layers` as "
                "an argument."
            )


def load_weights(layers, checkpoint, architecture, keep_tokens=None):
    """Loads a checkpoint into layers; all of it, or nothing.

    Args:
        layers: Dictionary of built Keras layers by name, as `BERT.layers`.
        checkpoint: A reader with `path`, `shapes` and `read`, e.g. `TensorFlowCheckpoint`.
        architecture: Name of a table in `checkpoints.names`, e.g. `"bert"`.
        keep_tokens: Optional list of token ids, to load only these rows of the vocabulary.

    Raises:
        ValueError: if the checkpoint lacks tensors of these layers, or they have another shape,
            or cannot be read. Nothing has been loaded then.
    """
    plan = []
    for layer_name, layer in layers.items():
        names = tensor_names(architecture, layer_name)
        # A layer may have weights after its pretrained ones, e.g. a prompt.
        plan += [
            (variable, _name_in(checkpoint, name), third, layer_name)
            for variable, (name, third) in zip(layer.weights, names)  # noqa: B905
        ]
    missing = [(name, layer) for _, name, _, layer in plan if name not in checkpoint.shapes]
    if missing:
        raise ValueError(_describe_missing(missing, checkpoint, architecture))
    if keep_tokens is not None:
        rows = next(
            checkpoint.shapes[name][0] for _, name, _, layer in plan if layer == "Embedding-Token"
        )
        outside = [i for i in keep_tokens if not 0 <= i < rows]
        if outside:
            raise ValueError(
                f"`keep_tokens` names tokens that {checkpoint.path!r} does not have. Received: "
                f"{outside[:5]} with a vocabulary of {rows}."
            )
    for variable, name, third, layer_name in plan:
        expected = tuple(variable.shape)
        if third is not None:
            expected = (*expected[:-1], 3 * expected[-1])
        found = checkpoint.shapes[name]
        if keep_tokens is not None and layer_name in PER_TOKEN:
            found = (len(keep_tokens), *found[1:])
        if found != expected:
            raise ValueError(
                f"The configuration does not match the checkpoint {checkpoint.path!r}: its tensor "
                f"{name!r} has the shape {found}, and the layer {layer_name!r}, built from the "
                f"configuration, expects {expected}."
            )
    values = []
    for variable, name, third, layer_name in plan:
        value = checkpoint.read(name)
        if third is not None:
            # A copy, without which the other two thirds would stay in memory.
            value = np.split(value, 3, axis=-1)[third].copy()
        if keep_tokens is not None and layer_name in PER_TOKEN:
            value = value[keep_tokens]
        values.append((variable, value))
    for variable, value in values:
        variable.assign(value)
    for layer in layers.values():
        # Layers that lay vectors of their own over a table start from the loaded one.
        if hasattr(layer, "reset_prompt"):
            layer.reset_prompt()


def _name_in(checkpoint, name):
    """A tensor's name in this checkpoint: some releases of GPT-2 leave out the prefix."""
    short = name.removeprefix("transformer.")
    return short if short in checkpoint.shapes else name


def _describe_missing(missing, checkpoint, architecture):
    parts = {layer_name.split("-")[0] for _, layer_name in missing}
    names = list(dict.fromkeys(name for name, _ in missing))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if parts == {"MLM"}:
        what = (
            "has no MLM head, so it cannot fill in a mask. Use a release that includes the head "
            "(`cls/predictions/...`); for a plain encoder leave out `with_mlm`."
        )
    elif parts == {"Pooler"}:
        what = "has no pooler. Leave out `with_pool`."
    else:
        what = f"does not have all the tensors of the architecture {architecture!r}."
    return (
        f"The checkpoint {checkpoint.path!r} {what} Missing: {shown}. It has "
        f"{len(checkpoint.shapes)} tensors, such as {min(checkpoint.shapes, default=None)!r}."
    )
