"""The tuned file: what was trained, without the checkpoint that it belongs to."""

import hashlib
import json
import os

import numpy as np
import safetensors
import safetensors.numpy

from keras_ptuning.checks import check_finite
from keras_ptuning.files import check_file, parse_json, replacing

FORMAT = "keras_ptuning tuned 1"
# Of version 0.1.0, with the vectors of a prompt.
PROMPT_FORMAT = "keras_ptuning prompt 1"


def vocabulary_fingerprint(vocab):
    """A SHA-256 of a vocabulary: the same tokens with the same ids."""
    return hashlib.sha256("\n".join(vocab).encode()).hexdigest()


def without_vocabulary(config):
    """A template's configuration with a fingerprint in place of its vocabulary, which is long."""
    tokenizer = config["tokenizer"]
    vocab = vocabulary_fingerprint(tokenizer["vocab"])
    return {**config, "tokenizer": {**tokenizer, "vocab": vocab}}


def write_tuned(filepath, tensors, content, dtype="float32"):
    """Writes a tuned file (safetensors, with the rest as JSON in its header).

    Args:
        filepath: Path of the file to write.
        tensors: Dictionary of arrays, by `method/layer/variable`.
        content: Dictionary with the `model`'s class and `options`, the `methods`, the
            `template`'s configuration, and the fingerprint of the `backbone`.
        dtype: Type of the numbers, `"float32"` or `"float16"`.

    Raises:
        ValueError: if a tensor is not finite, or too large for the type.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f"`dtype` must be 'float32' or 'float16'. Received: dtype={dtype!r}.")
    with np.errstate(over="ignore"):
        tensors = {name: np.ascontiguousarray(v, dtype) for name, v in sorted(tensors.items())}
    check_finite(
        ((f"{name!r}", value) for name, value in tensors.items()),
        f"Nothing was written. Received: dtype={dtype!r}. Train again, with a smaller learning "
        "rate, or use dtype='float32'.",
    )
    # A vocabulary is larger than a prompt, and the checkpoint has it anyway.
    template = without_vocabulary(content["template"])
    text = json.dumps({**content, "template": template}, ensure_ascii=False)
    header = {"format": FORMAT, "content": text, "sha256": _checksum(tensors, text)}
    # Not `save_file`, whose files only their owner may read.
    with replacing(filepath) as temporary, open(temporary, "wb") as file:
        file.write(safetensors.numpy.save(tensors, metadata=header))


def read_tuned(filepath):
    """Reads a tuned file.

    Args:
        filepath: Path of a file that `save_tuned` wrote, or `save_prompt` of version 0.1.0.

    Returns:
        `(tensors, content)`, as `write_tuned` took them, in float32 and with a fingerprint in
        place of the vocabulary.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it cannot be read, or is no file.
        ValueError: if it is damaged, or not a tuned file.
    """
    if os.path.isfile(os.path.join(filepath, "1.tuned")):
        raise IsADirectoryError(
            f"Expected the path of a file. Received the folder {str(filepath)!r} of an ensemble: "
            f"give one of its files, such as {os.path.join(filepath, '1.tuned')!r}."
        )
    check_file(filepath, f"There is no tuned file {str(filepath)!r}.")
    try:
        with safetensors.safe_open(filepath, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") not in (FORMAT, PROMPT_FORMAT):
                raise ValueError(f"its format is {header.get('format')!r}, not {FORMAT!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if header["sha256"] != _checksum(tensors, header["content"]):
                raise ValueError("its checksum is wrong")
            check_finite(((f"{name!r}", value) for name, value in tensors.items()), "Train again.")
            content = parse_json(header["content"])
            if header["format"] == PROMPT_FORMAT:
                tensors = {f"prompt/Embedding-Token/{k}": v for k, v in tensors.items()}
                methods = [{"class": "keras_ptuning>Prompt", "config": {}}]
                content = {"model": "ClozeModel", "options": {}, "methods": methods, **content}
            return {name: value.astype("float32") for name, value in tensors.items()}, content
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise damaged(filepath, error) from None


def is_tuned(path):
    """Whether a file begins as a tuned file does: the size of a header, and then the header."""
    # A pipe would be waited for.
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def damaged(filepath, reason):
    """The error about a file that cannot be used."""
    if isinstance(reason, KeyError):
        reason = f"it lacks the entry {reason}"
    return ValueError(
        f"The tuned file {str(filepath)!r} is damaged or not a tuned file ({reason}). Expected a "
        "whole file written by `model.save_tuned(...)`. Load what `model.save(...)` wrote with "
        "`load_model`."
    )


def _checksum(tensors, content):
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].tobytes())
    digest.update(content.encode())
    return digest.hexdigest()
