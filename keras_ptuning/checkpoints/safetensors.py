"""Reading safetensors files."""

import os

import safetensors


class SafetensorsCheckpoint:
    """A checkpoint in one safetensors file, whose tensors are read one at a time.

    Args:
        path: Path of the file, which ends in `.safetensors`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read.

    Example:

    ```python
    checkpoint = SafetensorsCheckpoint("bert_model.safetensors")
    checkpoint.shapes["bert/embeddings/word_embeddings"]  # (21128, 768)
    checkpoint.read("bert/embeddings/word_embeddings")    # a NumPy array
    ```
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        try:
            self._file = safetensors.safe_open(self.path, framework="numpy")
            self.shapes = {
                name: tuple(self._file.get_slice(name).get_shape())
                for name in self._file.keys()  # noqa: SIM118
            }
        except FileNotFoundError:
            raise FileNotFoundError(f"There is no checkpoint file {self.path!r}.") from None
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(
                f"The checkpoint {self.path!r} cannot be read; it is damaged, or not a "
                f"safetensors file. Copy it again. The library says: {error}"
            ) from None

    def read(self, name):
        """Returns the tensor `name` as a NumPy array."""
        return self._file.get_tensor(name)
