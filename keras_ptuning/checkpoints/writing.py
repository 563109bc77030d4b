"""From a model's weights to a checkpoint's tensors."""

import os

import safetensors.numpy

from keras_ptuning.files import replacing


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
