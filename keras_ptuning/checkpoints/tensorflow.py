"""Reading TensorFlow checkpoints (`bert_model.ckpt.index` and `.data-00000-of-00001`)."""

import glob
import os
import re

from keras_ptuning.files import check_file


class TensorFlowCheckpoint:
    """A TensorFlow checkpoint, whose tensors are read one at a time.

    Needs TensorFlow, whichever backend Keras runs on.

    Args:
        path: The checkpoint's prefix, e.g. `bert_model.ckpt`; or one of its files.

    Raises:
        FileNotFoundError: if the checkpoint, or a part of it, does not exist.
        ValueError: if it cannot be read.
        ImportError: if TensorFlow is not installed.

    Example:

    ```python
    checkpoint = TensorFlowCheckpoint("chinese_L-12_H-768_A-12/bert_model.ckpt")
    checkpoint.shapes["bert/embeddings/word_embeddings"]  # (21128, 768)
    checkpoint.read("bert/embeddings/word_embeddings")    # a NumPy array
    ```
    """

    def __init__(self, path):
        self.path = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", os.fspath(path))
        parts = glob.glob(glob.escape(self.path) + ".data-*")
        # Unfinished downloads have other names.
        data = sorted(part for part in parts if re.search(r"\.data-\d+-of-\d+$", part))
        index = self.path + ".index"
        has_index = os.path.exists(index)
        if not has_index and not data:
            beside = sorted(glob.glob(os.path.join(glob.escape(self.path), "*.index")))
            hint = f" Did you mean {beside[0][: -len('.index')]!r}?" if beside else ""
            raise FileNotFoundError(
                f"There is no TensorFlow checkpoint {self.path!r}. Expected the files "
                f"{os.path.basename(self.path)}.index and "
                f"{os.path.basename(self.path)}.data-00000-of-00001.{hint}"
            )
        if not has_index:
            raise FileNotFoundError(
                f"The checkpoint is incomplete: {index} is missing (there is "
                f"{data[0]}). Copy the rest of the files."
            )
        shards = int(data[0].rsplit("-", 1)[1]) if data else 1
        parts = [f"{self.path}.data-{i:05d}-of-{shards:05d}" for i in range(shards)]
        for part in (index, *parts):
            check_file(
                part,
                f"The checkpoint is incomplete: {part} is missing (there is {index}). Copy the "
                "rest of the files.",
            )
        try:
            import tensorflow as tf
        except ImportError:
            raise ImportError(
                "Reading a TensorFlow checkpoint needs TensorFlow, also when Keras runs on "
                "another backend: `pip install tensorflow`."
            ) from None
        try:
            self._reader = tf.train.load_checkpoint(self.path)
            shapes = self._reader.get_variable_to_shape_map()
        except Exception as error:  # TensorFlow has no one class for what can go wrong here
            raise ValueError(
                f"The checkpoint's index {index} cannot be read; it is damaged, or "
                f"not a TensorFlow checkpoint. Copy it again. TensorFlow says: {_line(error)}"
            ) from None
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}

    def read(self, name):
        """Returns the tensor `name` as a NumPy array; of the type bfloat16, as float32."""
        try:
            value = self._reader.get_tensor(name)  # compares its checksum too
        except Exception as error:
            raise ValueError(
                f"The tensor {name!r} cannot be read from {self.path}.data-*; the file is cut "
                f"short or damaged. Copy it again. TensorFlow says: {_line(error)}"
            ) from None
        is_bfloat16 = getattr(value, "dtype", None) == "bfloat16"
        return value.astype("float32") if is_bfloat16 else value


def _line(error):
    return str(getattr(error, "message", error)).strip().split("\n")[0]
