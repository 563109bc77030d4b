"""From a model's weights to a checkpoint's tensors."""

import safetensors.numpy


def write_safetensors(path, tensors, dtype=None):
    """Writes tensors to a new safetensors file, with numbers of the type `dtype`."""
    if dtype is not None:
        tensors = {name: value.astype(dtype) for name, value in tensors.items()}
    # Not `save_file`, whose files only their owner may read. Other formats than PyTorch's are
    # refused by Hugging Face; the numbers are the same.
    with open(path, "wb") as file:
        file.write(safetensors.numpy.save(tensors, metadata={"format": "pt"}))


def write_tensorflow(prefix, tensors):
    """Writes tensors to a new TensorFlow checkpoint (`prefix.index` and one `prefix.data-...`)."""
    import tensorflow as tf

    names = sorted(tensors)
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(tensors[name]) for name in names],
    )
