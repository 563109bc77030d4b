"""From a model's weights to a checkpoint's tensors."""

import os

import keras
import numpy as np
import safetensors.numpy

from keras_ptuning.checkpoints.names import tensors_of
from keras_ptuning.files import replacing

# A logit that leaves no probability to a token.
NEVER = -1e4


def checkpoint_tensors(layers, layout, architecture):
    """The weights of layers under a checkpoint's names.

    Vectors laid over a token embedding stand in its rows. Those of additional tokens come after
    them, and a bias of the tokens makes them improbable, since the layer itself predicts none.

    Args:
        layers: Iterable of built Keras layers, as `model.layers`.
        layout: `"google"` or `"hugging_face"`.
        architecture: Name of a table in `checkpoints.names`, e.g. `"bert"`.

    Returns:
        A dictionary of NumPy arrays, in float32.

    Raises:
        ValueError: if a layer has weights that the architecture has no names for.
    """
    parts = {}
    layers = list(layers)
    added = max(getattr(layer, "num_additional", 0) for layer in layers)
    for layer in layers:
        values = [layer.whole_table()] if hasattr(layer, "whole_table") else layer.weights
        tensors = tensors_of(layout, architecture, layer.name)
        if len(tensors) != len(values):
            raise ValueError(
                f"The layer {layer.name!r} has {len(values)} weights, and a checkpoint of "
                f"the architecture {architecture!r} {len(tensors)} names for them. Give the "
                "configuration of this model, or save it whole with `model.save(...)`."
            )
        for tensor, value in zip(tensors, values, strict=True):
            value = keras.ops.convert_to_numpy(value).astype("float32")
            if layer.name == "MLM-Bias":
                value = np.pad(value, (0, added), constant_values=NEVER)
            parts.setdefault(tensor.name, []).append(value.T if tensor.transposed else value)
    # Writers take the numbers as they lie in memory.
    return {
        name: np.ascontiguousarray(np.concatenate(values, axis=-1))
        for name, values in parts.items()
    }


def write_safetensors(path, tensors, dtype=None):
    """Writes tensors to a safetensors file, with numbers of the type `dtype`."""
    if dtype is not None:
        tensors = {name: value.astype(dtype) for name, value in tensors.items()}
    # Not `save_file`, whose files only their owner may read. Other formats than PyTorch's are
    # refused by Hugging Face; the numbers are the same.
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(safetensors.numpy.save(tensors, metadata={"format": "pt"}))


def write_tensorflow(prefix, tensors):
    """Writes tensors to a TensorFlow checkpoint (`prefix.index` and one `prefix.data-...`)."""
    import tensorflow as tf

    names = sorted(tensors)
    index, data = f"{prefix}.index", f"{prefix}.data-00000-of-00001"
    # The index goes last: a checkpoint without one is seen to be incomplete.
    with replacing(index) as new_index, replacing(data) as new_data:
        folder = os.path.dirname(new_data)
        written = os.path.join(folder, "checkpoint")
        tf.raw_ops.SaveV2(
            prefix=written,
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.constant(tensors[name]) for name in names],
        )
        os.replace(f"{written}.index", new_index)
        os.replace(f"{written}.data-00000-of-00001", new_data)
