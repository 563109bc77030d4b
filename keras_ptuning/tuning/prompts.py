"""The file of a tuned prompt: vectors, template, and what they belong to."""

import hashlib
import json

import safetensors
import safetensors.numpy

from keras_ptuning.files import replacing

FORMAT = "keras_ptuning prompt 1"


def vocabulary_fingerprint(vocab):
    """A SHA-256 of a vocabulary: the same tokens with the same ids."""
    return hashlib.sha256("\n".join(vocab).encode()).hexdigest()


def write_prompt(filepath, vectors, metadata):
    """Writes a prompt file (safetensors, with the rest as JSON in its header).

    Args:
        filepath: Path of the file to write.
        vectors: Array of shape `(virtual tokens, hidden)`.
        metadata: Dictionary with the `template`'s configuration, and the fingerprint of the
            `backbone`.
    """
    tokenizer = dict(metadata["template"]["tokenizer"])
    # A vocabulary is larger than a prompt, and stands beside the checkpoint anyway.
    tokenizer["vocab"] = vocabulary_fingerprint(tokenizer["vocab"])
    template = {**metadata["template"], "tokenizer": tokenizer}
    content = json.dumps({**metadata, "template": template}, ensure_ascii=False)
    header = {"format": FORMAT, "content": content, "sha256": _checksum(vectors, content)}
    # Not `save_file`, whose files only their owner may read.
    with replacing(filepath) as temporary, open(temporary, "wb") as file:
        file.write(safetensors.numpy.save({"prompt": vectors}, metadata=header))


def read_prompt(filepath):
    """Reads a prompt file.

    Args:
        filepath: Path of a file that `ClozeModel.save_prompt` wrote.

    Returns:
        `(vectors, metadata)`, as `write_prompt` took them, with a fingerprint in place of the
        vocabulary.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or not a prompt file.
    """
    try:
        with safetensors.safe_open(filepath, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(f"its format is {header.get('format')!r}, not {FORMAT!r}")
            vectors, content = file.get_tensor("prompt"), header["content"]
            if header["sha256"] != _checksum(vectors, content):
                raise ValueError("its checksum is wrong")
            return vectors, json.loads(content)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no prompt file {str(filepath)!r}.") from None
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ValueError(
            f"The prompt file {str(filepath)!r} is damaged or not a prompt file ({error}). "
            "Expected a whole file written by `model.save_prompt(...)`."
        ) from None


def _checksum(vectors, content):
    return hashlib.sha256(vectors.tobytes() + content.encode()).hexdigest()
