"""Reading PyTorch's files of weights (`pytorch_model.bin`)."""

import os
import pickle
import re
import zipfile

from keras_ptuning.checkpoints.sharded import locate_tensors
from keras_ptuning.files import check_archive, check_file

# Before this, a file could get its code run all the same: CVE-2025-32434, CVE-2026-24747.
SAFE_SINCE = (2, 10)
# Bytes to read of a file before it is opened again: about a BERT's largest tensor.
_AT_ONCE = 64 * 2**20

_HOW = """Many releases have a `model.safetensors` too, which needs no PyTorch. Otherwise install \
its CPU build,

    pip install torch --index-url https://download.pytorch.org/whl/cpu

or convert the file once, on a machine that has PyTorch:

    import torch, safetensors.torch
    tensors = torch.load("pytorch_model.bin", map_location="cpu", weights_only=True)
    tensors = {n: t.contiguous().clone() for n, t in tensors.items() if torch.is_tensor(t)}
    safetensors.torch.save_file(tensors, "model.safetensors", metadata={"format": "pt"})
"""


class PyTorchCheckpoint:
    """A checkpoint in PyTorch's files, whose tensors are read one at a time.

    Needs PyTorch, 2.10 or newer, whichever backend Keras runs on. Nothing in a file is ever run:
    one that holds more than tensors, numbers, strings, and lists and dictionaries of them, is
    refused.

    Files that PyTorch 1.6 or newer wrote have checksums, which are compared first. Older ones have
    none, and are read into memory whole.

    Args:
        path: Path of the file, e.g. `pytorch_model.bin`; or of the index of several, which
            ends in `.bin.index.json`.

    Raises:
        FileNotFoundError: if there is no such file, or one that the index names is missing.
        ValueError: if one cannot be read, or holds what could be run.
        ImportError: if PyTorch is not installed, or too old to be safe.

    Example:

    ```python
    checkpoint = PyTorchCheckpoint("pytorch_model.bin")
    checkpoint.shapes["bert.embeddings.word_embeddings.weight"]  # (21128, 768)
    checkpoint.read("bert.embeddings.word_embeddings.weight")    # a NumPy array
    ```
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        self._open, self._read = {}, 0
        self.shapes, self._files = locate_tensors(self.path, self._read_shapes)

    def read(self, name):
        """Returns the tensor `name` as a NumPy array; of the type bfloat16, as float32."""
        path = self._files[name]
        try:
            value = _to_numpy(self._tensors(path)[name].detach())
        except (RuntimeError, TypeError) as error:  # a kind of tensor that NumPy does not have
            raise ValueError(
                f"The tensor {name!r} cannot be read from {path}. PyTorch says: {error}"
            ) from None
        # What was read of a file stays in memory as long as it is open; opening it takes time.
        self._read += value.nbytes
        if self._read > _AT_ONCE:
            self._open = {p: tensors for p, tensors in self._open.items() if not _is_zip(p)}
            self._read = 0
        return value

    def _tensors(self, path):
        if path not in self._open:
            self._open[path] = _load(path)
        return self._open[path]

    def _read_shapes(self, path):
        check_file(path, f"There is no checkpoint file {path!r}.")
        _import_torch(path)  # the first of what can be wrong
        if _is_zip(path):
            _compare_checksums(path)
        return {name: tuple(tensor.shape) for name, tensor in self._tensors(path).items()}


def _import_torch(path):
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"Reading {path!r} needs PyTorch, also when Keras runs on another backend. {_HOW}"
        ) from None
    if torch.__version__ < SAFE_SINCE:
        raise ImportError(
            f"Reading {path!r} needs PyTorch {'.'.join(map(str, SAFE_SINCE))} or newer: before "
            "that a file could run code of its own. Received: PyTorch "
            f"{torch.__version__}. {_HOW}"
        )
    return torch


def _load(path):
    """The tensors of one file, by name: on disk still, if it is a zip file."""
    torch = _import_torch(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise _damaged(path, error) from None
        raise ValueError(
            f"The checkpoint {path!r} is refused: it holds {found[1]!r}, which is no tensor, and "
            "could be code. "
            "Nothing in it was run. Look for a `model.safetensors`, or a file with the tensors "
            "alone, as `torch.save(model.state_dict(), path)` writes it."
        ) from None
    except Exception as error:  # damage can end in any of them
        raise _damaged(path, error) from None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = content.items() if isinstance(content, dict) else ()
    tensors = {n: t for n, t in tensors if isinstance(n, str) and isinstance(t, torch.Tensor)}
    if not tensors:
        raise ValueError(
            f"The checkpoint {path!r} has no tensors. Expected what `torch.save(model."
            f"state_dict(), path)` writes. Received: a {type(content).__name__}."
        )
    return tensors


def _to_numpy(tensor):
    if str(tensor.dtype) == "torch.bfloat16":  # which NumPy lacks
        return tensor.float().numpy()
    # A copy: the tensor itself is a part of the file, which will be closed.
    return tensor.numpy().copy()


def _is_zip(path):
    """Whether PyTorch will take this for one of its newer files, which are zip files."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _compare_checksums(path):
    try:
        with zipfile.ZipFile(path) as file:
            check_archive(file, os.path.getsize(path))
            damaged = file.testzip()
    except Exception as error:  # damage can end in any of them
        raise _damaged(path, error) from None
    if damaged is not None:
        raise _damaged(path, f"the checksum of its part {damaged!r} is wrong")


def _damaged(path, reason):
    # PyTorch's own advice is to run what is in the file.
    reason = "it holds more than weights" if "weights_only" in str(reason) else str(reason)
    return ValueError(
        f"The checkpoint {path!r} cannot be read; it is damaged, or not a file of PyTorch. Copy "
        f"it again. The reason: {reason.strip().splitlines()[0] if reason else 'unknown'}"
    )
