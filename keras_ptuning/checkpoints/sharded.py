"""Checkpoints in several files, as Hugging Face writes large ones.

An index, e.g. `model.safetensors.index.json`, says in its `weight_map` which file of its folder
holds which tensor.
"""

import os

from keras_ptuning.files import check_file, read_json


def locate_tensors(path, read_shapes):
    """Finds the tensors of a checkpoint in one file or several.

    Args:
        path: Path of the one file; or of the index, which ends in `.index.json`.
        read_shapes: Function from the path of a file to `{name: shape}` of its tensors.

    Returns:
        `(shapes, files)`: two dictionaries by the tensors' names.

    Raises:
        FileNotFoundError: if the index, or a file that it names, does not exist.
        ValueError: if the index is damaged, or does not fit its files.
    """
    if not path.endswith(".index.json"):
        shapes = read_shapes(path)
        return shapes, dict.fromkeys(shapes, path)
    files = _read_index(path)
    shards = sorted(set(files.values()))
    for shard in shards:
        check_file(
            shard,
            f"The checkpoint is incomplete: {shard} is missing, which the index {path!r} names. "
            "Copy the rest of the files.",
        )
    found = {shard: read_shapes(shard) for shard in shards}
    for name, shard in files.items():
        if name not in found[shard]:
            raise ValueError(
                f"The index {path!r} does not fit its files: the tensor {name!r} should be in "
                f"{shard}, and is not. Copy all of them again, from one place."
            )
    return {name: found[shard][name] for name, shard in files.items()}, files


def _read_index(path):
    """The file of each tensor."""
    try:
        weight_map = read_json(path, f"There is no checkpoint file {path!r}.")["weight_map"]
        names = [*weight_map, *weight_map.values()]
        if not weight_map or not all(isinstance(name, str) for name in names):
            raise TypeError("its `weight_map` names no files")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"The index {path!r} cannot be read; it is damaged, or not the index of a "
            'checkpoint, {"weight_map": {tensor: file}}. Copy it again. Received: '
            f"{type(error).__name__}: {error}"
        ) from None
    folder = os.path.dirname(path)
    for name, shard in weight_map.items():
        # No index needs another folder; one that names it could make any file be opened.
        if shard != os.path.basename(shard.replace("\\", "/")):
            raise ValueError(
                f"The index {path!r} names a file that is not in its folder, for the tensor "
                f"{name!r}. Received: {shard!r}."
            )
    return {name: os.path.join(folder, shard) for name, shard in weight_map.items()}
