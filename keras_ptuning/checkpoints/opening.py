"""Opening a checkpoint of any format."""

import os
import re

from keras_ptuning.checkpoints.pytorch import PyTorchCheckpoint
from keras_ptuning.checkpoints.safetensors import SafetensorsCheckpoint
from keras_ptuning.checkpoints.tensorflow import TensorFlowCheckpoint
from keras_ptuning.checks import check_path

READERS = {
    (".safetensors", ".safetensors.index.json"): SafetensorsCheckpoint,
    (".bin", ".pt", ".pth", ".bin.index.json"): PyTorchCheckpoint,
}
_POINTER = b"version https://git-lfs"
_OTHERS = (".h5", ".hdf5", ".keras", ".msgpack", ".onnx", ".gguf", ".npz", ".pkl")


def open_checkpoint(path):
    """Opens a checkpoint of TensorFlow, PyTorch, or in safetensors files.

    Args:
        path: The prefix of a TensorFlow checkpoint, e.g. `bert_model.ckpt`; or the path of a
            `.safetensors` file, or a `.bin`, `.pt` or `.pth` of PyTorch; or of the
            `.index.json` of a checkpoint in several such files. A reader is returned as it is.

    Returns:
        A reader: its `path`, its `shapes` by the tensors' names, and `read(name)`.

    Raises:
        FileNotFoundError: if the checkpoint, or a part of it, does not exist.
        ValueError: if it has another format, or cannot be read.
        ImportError: if TensorFlow or PyTorch is needed, and not installed.

    Example:

    ```python
    checkpoint = open_checkpoint("pytorch_model.bin")
    checkpoint.shapes["bert.embeddings.word_embeddings.weight"]  # (21128, 768)
    ```
    """
    if hasattr(path, "shapes"):
        return path
    check_path("checkpoint_path", path)
    path = os.fspath(path)
    if os.path.isfile(path):
        with open(path, "rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise ValueError(
                    f"The file {path!r} has no weights: it only says where they are, as a clone "
                    "without Git LFS leaves it. Run `git lfs pull` there, or download the file."
                )
    for suffixes, reader in READERS.items():
        if path.endswith(suffixes):
            return reader(path)
    # A TensorFlow checkpoint's own path is no file; its files begin with it.
    is_part = re.search(r"\.(index|meta|data-\d+-of-\d+)$", path)
    is_prefix = is_part or os.path.exists(f"{path}.index") or not os.path.isfile(path)
    if path.endswith(_OTHERS) or not is_prefix:
        raise ValueError(
            "The format of this checkpoint is not one of those that are read: TensorFlow's, by "
            "its prefix, e.g. `bert_model.ckpt` of `bert_model.ckpt.index`; safetensors, "
            "e.g. `model.safetensors`; and PyTorch's, e.g. `pytorch_model.bin`. Many releases "
            f"come in one of these too. Received: {path!r}."
        )
    return TensorFlowCheckpoint(path)
