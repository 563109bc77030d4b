"""Reading safetensors files."""

import contextlib
import os

import ml_dtypes  # noqa: F401  (makes the name "bfloat16" known to NumPy)
import safetensors

from keras_ptuning.checkpoints.sharded import locate_tensors
from keras_ptuning.files import check_file


class SafetensorsCheckpoint:
    """A checkpoint in safetensors files, whose tensors are read one at a time.

    Args:
        path: Path of the file, which ends in `.safetensors`; or of the index of several,
            which ends in `.safetensors.index.json`.

    Raises:
        FileNotFoundError: if there is no such file, or one that the index names is missing.
        ValueError: if one cannot be read.

    Example:

    ```python
    checkpoint = SafetensorsCheckpoint("bert_model.safetensors")
    checkpoint.shapes["bert/embeddings/word_embeddings"]  # (21128, 768)
    checkpoint.read("bert/embeddings/word_embeddings")    # a NumPy array
    ```
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        self.shapes, self._files = locate_tensors(self.path, _read_shapes)

    def read(self, name):
        """Returns the tensor `name` as a NumPy array, of the type that the file has."""
        # Opened again each time: what was read of an open file stays in memory.
        with _opened(self._files[name]) as file:
            return file.get_tensor(name)

    def read_rows(self, name, start, stop):
        """Returns some rows of the tensor `name`."""
        with _opened(self._files[name]) as file:
            return file.get_slice(name)[start:stop]


def _read_shapes(path):
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@contextlib.contextmanager
def _opened(path):
    check_file(path, f"There is no checkpoint file {path!r}.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            yield file
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
            f"The checkpoint {path!r} cannot be read; it is damaged, or not a "
            f"safetensors file. Copy it again. The library says: {error}"
        ) from None
