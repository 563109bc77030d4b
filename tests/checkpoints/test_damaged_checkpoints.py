"""A hundred damaged checkpoints: none is loaded wrong without a word, and none runs code.

Opening one, and reading all of its tensors, must raise an error that names the file or the tensor;
or else give exactly what was written, where the damage fell on something unused.
"""

import collections
import json
import os
import pickle
import shutil
import zlib

import numpy as np
import pytest
from small_bert import CONFIG, tensors, vocabulary, write_small_bert
from test_formats import write_checkpoint

from keras_ptuning import build_transformer_model
from keras_ptuning.checkpoints.opening import open_checkpoint

RNG = np.random.default_rng(1)
TENSORS = {
    f"bert/encoder/layer_{i}/{name}": RNG.normal(size=shape).astype("float32")
    for i in range(2)
    for name, shape in (("dense/kernel", (8, 12)), ("dense/bias", (12,)), ("table", (20, 8)))
}
FILES = {
    "tensorflow": ["model.ckpt-100.index", "model.ckpt-100.data-00000-of-00001"],
    "safetensors": ["model.safetensors"],
    "safetensors in shards": [
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ],
    "pytorch": ["pytorch_model.bin"],
    "pytorch in shards": [
        "pytorch_model.bin.index.json",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
    ],
    "pytorch before 1.6": ["pytorch_model.bin"],
}
CUTS = (0.0, 0.5, 0.99)
FLIPS = 4
INDICES = ("no map", "another tensor", "another shard", "outside")
CODE = ("pytorch", "pytorch before 1.6", "pytorch in shards", "bare pickle")
MISFITS = [(kind, how) for kind in ("tensorflow", "safetensors") for how in ("swapped", "wrong")]


def test_there_are_a_hundred():
    each = len(CUTS) + 1 + FLIPS
    files = sum(map(len, FILES.values()))
    assert each * files + len(INDICES) + len(CODE) + len(MISFITS) == 100


def read(path, names):
    """`"refused"` or `"same"`, or what was read wrong without a word."""
    try:
        checkpoint = open_checkpoint(path)
        # What `load_weights` compares before it reads.
        if checkpoint.shapes != {name: value.shape for name, value in TENSORS.items()}:
            return "refused"
        values = {name: checkpoint.read(name) for name in TENSORS}
    except (FileNotFoundError, ValueError) as error:
        assert any(name in str(error) for name in (*names, *TENSORS)), error
        return "refused"
    for name, expected in TENSORS.items():
        if values[name].dtype != expected.dtype or (values[name] != expected).any():
            return f"{name} is wrong"
    return "same"


@pytest.fixture
def damage(tmp_path):
    """Writes a checkpoint, and a copy of it for each kind of damage; `read` of each copy."""

    def run(kind, damages):
        whole = tmp_path / "whole"
        whole.mkdir()
        path = os.path.basename(write_checkpoint(kind, whole, TENSORS))
        assert read(whole / path, ()) == "same"
        outcomes = {}
        for key, (name, change) in damages.items():
            folder = tmp_path / "damaged"
            shutil.copytree(whole, folder)
            content = change((folder / name).read_bytes())
            (folder / name).unlink()
            if content is not None:
                (folder / name).write_bytes(content)
            # Of TensorFlow's checkpoint the prefix is what is named where a part is missing.
            outcomes[key] = read(folder / path, [name, path])
            shutil.rmtree(folder)
        return outcomes

    return run


@pytest.mark.parametrize("kind", FILES)
def test_cut_short_or_missing(kind, damage):
    damages = {
        (name, share): (name, lambda content, share=share: content[: int(share * len(content))])
        for name in FILES[kind]
        for share in CUTS
    }
    damages |= {(name, "missing"): (name, lambda _: None) for name in FILES[kind]}
    outcomes = damage(kind, damages)
    assert {key: o for key, o in outcomes.items() if o != "refused"} == {}


@pytest.mark.parametrize("kind", FILES)
def test_flipped_bytes(kind, damage):
    data = set()

    def flip(name, part):
        def change(content):
            rng = np.random.default_rng(zlib.crc32(f"{kind} {name} {part}".encode()))
            place = int((part + rng.random()) / FLIPS * len(content))
            if place >= 8 + int.from_bytes(content[:8], "little"):
                data.add((name, part))
            changed = bytearray(content)
            changed[place] ^= int(rng.integers(1, 256))
            return bytes(changed)

        return name, change

    damages = {(name, part): flip(name, part) for name in FILES[kind] for part in range(FLIPS)}
    outcomes = damage(kind, damages)
    wrong = {key for key, outcome in outcomes.items() if outcome not in ("refused", "same")}
    if kind.startswith("safetensors"):
        # The format has no checksum of the numbers: a change in them cannot be seen. One in the
        # header is.
        assert wrong == data and len(data) >= 2
    elif kind == "pytorch before 1.6":
        # Nor has this; what is not a number is mostly seen, and never run.
        assert len(wrong) <= 3
    else:
        assert wrong == set()
        assert collections.Counter(outcomes.values())["refused"] >= 2


@pytest.mark.parametrize("what", INDICES)
def test_an_index_that_does_not_fit(what, damage):
    first, second = FILES["safetensors in shards"][1:]

    def change(content):
        index = json.loads(content)
        weights = index["weight_map"]
        name = next(iter(weights))
        if what == "no map":
            del index["weight_map"]
        elif what == "another tensor":
            weights["other"] = first
        elif what == "another shard":
            assert weights[name] == first
            weights[name] = second
        else:
            # A file that is there, and whole.
            weights[name] = f"../whole/{first}"
        return json.dumps(index).encode()

    kind = "safetensors in shards"
    assert damage(kind, {what: (FILES[kind][0], change)}) == {what: "refused"}


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", CODE)
def test_no_code_is_run(kind, tmp_path):
    torch = pytest.importorskip("torch")
    marker = str(tmp_path / "was-run")
    if kind == "bare pickle":
        path = bad = tmp_path / "model.bin"
        bad.write_bytes(pickle.dumps(Code(marker), protocol=2))
    else:
        path = write_checkpoint(kind, tmp_path, TENSORS)
        bad = tmp_path / FILES[kind][-1]
        content = {**torch.load(bad), "more": Code(marker)}
        torch.save(content, bad, _use_new_zipfile_serialization=kind != "pytorch before 1.6")
    with pytest.raises(ValueError, match=r"could be code\. Nothing in it was run") as error:
        open_checkpoint(path)
    assert bad.name in str(error.value) and os.mkdir.__module__ in str(error.value)
    assert not os.path.exists(marker)
    # The trap works.
    with open(bad, "rb") as file:
        if kind == "bare pickle":
            pickle.load(file)
        else:
            torch.load(file, weights_only=False)
    assert os.path.exists(marker)


@pytest.mark.parametrize(("kind", "how"), MISFITS)
def test_tensors_of_another_shape(kind, how, tmp_path):
    values = tensors()
    name, other = "bert/embeddings/word_embeddings", "bert/embeddings/position_embeddings"
    if how == "swapped":
        values[name], values[other] = values[other], values[name]
    else:
        values[name] = values[name][:, :-1].copy()
    config = write_small_bert(tmp_path, CONFIG, vocab=vocabulary(), values=values)[0]
    with pytest.raises(ValueError, match=rf"{name}|{other}"):
        build_transformer_model(config, write_checkpoint(kind, tmp_path, values))
