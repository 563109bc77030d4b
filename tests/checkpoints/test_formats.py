"""Reading checkpoints of all formats, and finding their files."""

import json
import os
import pathlib
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from small_bert import write_tensors

from keras_ptuning.assets import NAMES
from keras_ptuning.checkpoints.locating import (
    find_checkpoint,
    find_config,
    find_vocab,
    find_weights,
)
from keras_ptuning.checkpoints.opening import open_checkpoint
from keras_ptuning.checkpoints.pytorch import PyTorchCheckpoint
from keras_ptuning.checkpoints.safetensors import SafetensorsCheckpoint
from keras_ptuning.checkpoints.tensorflow import TensorFlowCheckpoint

RNG = np.random.default_rng(0)
TENSORS = {
    "bert/embeddings/word_embeddings": RNG.normal(size=(20, 8)).astype("float32"),
    "bert/pooler/dense/kernel": RNG.normal(size=(8, 8)).astype("float32"),
    "bert/pooler/dense/bias": RNG.normal(size=8).astype("float16"),
    "cls/predictions/output_bias": RNG.normal(size=20).astype(ml_dtypes.bfloat16),
    "global_step": np.array(7),
}


def write_torch(path, values, **kwargs):
    torch = pytest.importorskip("torch")
    tensors = {}
    for name, value in values.items():
        is_bfloat16 = value.dtype == ml_dtypes.bfloat16
        tensor = torch.tensor(value.astype("float32") if is_bfloat16 else value)
        tensors[name] = tensor.bfloat16() if is_bfloat16 else tensor
    torch.save(tensors, path, **kwargs)


def write_shards(folder, stem, suffix, write, values):
    """Writes `{stem}-00001-of-00002{suffix}`, the other one and the index; returns its path."""
    weight_map, names = {}, list(values)
    for i, part in enumerate((names[:2], names[2:])):
        shard = f"{stem}-0000{i + 1}-of-00002{suffix}"
        write(os.path.join(folder, shard), {name: values[name] for name in part})
        weight_map |= dict.fromkeys(part, shard)
    path = os.path.join(folder, f"{stem}{suffix}.index.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"metadata": {"total_size": 0}, "weight_map": weight_map}, file)
    return path


def write_checkpoint(kind, folder, values=TENSORS):
    """Writes a checkpoint of one of KINDS; returns the path to open it by."""

    def write_safetensors(path, values):
        safetensors.numpy.save_file(values, path)

    folder = os.fspath(folder)
    if kind == "tensorflow":
        path = os.path.join(folder, "model.ckpt-100")
        write_tensors(path, values)
    elif kind == "safetensors":
        path = os.path.join(folder, "model.safetensors")
        write_safetensors(path, values)
    elif kind == "safetensors in shards":
        path = write_shards(folder, "model", ".safetensors", write_safetensors, values)
    elif kind == "pytorch in shards":
        path = write_shards(folder, "pytorch_model", ".bin", write_torch, values)
    else:
        path = os.path.join(folder, "pytorch_model.bin")
        write_torch(path, values, _use_new_zipfile_serialization=kind == "pytorch")
    return path


KINDS = {
    "tensorflow": TensorFlowCheckpoint,
    "safetensors": SafetensorsCheckpoint,
    "safetensors in shards": SafetensorsCheckpoint,
    "pytorch": PyTorchCheckpoint,
    "pytorch in shards": PyTorchCheckpoint,
    "pytorch before 1.6": PyTorchCheckpoint,
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_formats_hold_the_same(kind, tmp_path):
    path = write_checkpoint(kind, tmp_path)
    checkpoint = open_checkpoint(pathlib.Path(path))
    assert type(checkpoint) is KINDS[kind]
    assert checkpoint.path == path
    assert checkpoint.shapes == {name: value.shape for name, value in TENSORS.items()}
    for name, expected in TENSORS.items():
        value = checkpoint.read(name)
        widened = expected.dtype == ml_dtypes.bfloat16 and "safetensors" not in kind
        assert value.dtype == ("float32" if widened else expected.dtype)
        np.testing.assert_array_equal(value, expected.astype(value.dtype))


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="measured as Linux shows it")
@pytest.mark.parametrize("kind", ["safetensors", "pytorch"])
def test_what_was_read_does_not_stay_in_memory(kind, tmp_path, monkeypatch):
    def in_memory():
        """Bytes of files that are mapped into memory, and have been touched."""
        return int(pathlib.Path("/proc/self/statm").read_text().split()[2]) * os.sysconf(
            "SC_PAGESIZE"
        )

    size = 2**22
    monkeypatch.setattr("keras_ptuning.checkpoints.pytorch._AT_ONCE", size)
    values = {f"tensor{i}": np.full(size // 4, i, "float32") for i in range(12)}
    checkpoint = open_checkpoint(write_checkpoint(kind, tmp_path, values))
    before = in_memory()
    kept = [checkpoint.read(name) for name in values]
    assert in_memory() - before < 3 * size
    # A copy, which outlives the file.
    assert [value[-1] for value in kept] == list(range(12))


def test_state_of_a_trainer(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "last.pt"
    state = {"weight": torch.nn.Parameter(torch.ones(2, 3).T), "version": "1"}
    for key in ("state_dict", "model"):
        torch.save({key: state, "epoch": 3}, path)
        checkpoint = open_checkpoint(path)
        assert checkpoint.shapes == {"weight": (3, 2)}
        np.testing.assert_array_equal(checkpoint.read("weight"), np.ones((3, 2)))
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match=r"last\.pt' has no tensors"):
        open_checkpoint(path)
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    with pytest.raises(ValueError, match=r"last\.pt' cannot be read.* more than weights$"):
        open_checkpoint(path)


def test_without_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "pytorch_model.bin"
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin"):
        open_checkpoint(path)
    path.write_bytes(b"whatever")
    with pytest.raises(ImportError, match=r"pytorch_model\.bin' needs PyTorch") as error:
        open_checkpoint(path)
    for help_ in ("`model.safetensors`", "whl/cpu", "safetensors.torch.save_file"):
        assert help_ in str(error.value)


def test_how_to_convert(tmp_path, monkeypatch):
    """What the message says to do, does it."""
    from keras_ptuning.checkpoints.pytorch import _HOW

    pytest.importorskip("torch")
    values = {name: v for name, v in TENSORS.items() if v.dtype != ml_dtypes.bfloat16}
    write_checkpoint("pytorch", tmp_path, values)
    monkeypatch.chdir(tmp_path)
    exec("\n".join(line.strip() for line in _HOW.splitlines()[-5:]), {})
    checkpoint = open_checkpoint("model.safetensors")
    assert checkpoint.shapes == {name: value.shape for name, value in values.items()}


def test_pytorch_that_is_too_old_to_be_safe(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    path = write_checkpoint("pytorch", tmp_path)
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.9.1"))
    with pytest.raises(ImportError, match=r"PyTorch 2\.10 or newer.*Received: PyTorch 2\.9\.1"):
        open_checkpoint(path)


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack", "model.onnx", "a.gguf"])
def test_formats_that_are_not_read(name, tmp_path):
    with pytest.raises(ValueError, match=r"`bert_model\.ckpt`.*`pytorch_model\.bin`.*" + name):
        open_checkpoint(tmp_path / name)
    # A file of any other name is not taken for TensorFlow's either.
    (tmp_path / "weights").write_bytes(b"")
    with pytest.raises(ValueError, match=r"not one of those that are read.*weights"):
        open_checkpoint(tmp_path / "weights")


def test_any_file_of_a_tensorflow_checkpoint(tmp_path):
    prefix = write_checkpoint("tensorflow", tmp_path)
    for end in (".index", ".data-00000-of-00001"):
        assert open_checkpoint(prefix + end).path == prefix
    with pytest.raises(FileNotFoundError, match=r"no TensorFlow checkpoint .*other\.ckpt"):
        open_checkpoint(tmp_path / "other.ckpt")


# Folders as they are released: configuration, weights and vocabulary, and what else is there.
TF = "{0}.index {0}.data-00000-of-00001 {0}.meta"
HUB = "generation_config.json special_tokens_map.json tokenizer_config.json README.md"
FOLDERS = {
    "Google's BERT": (
        "bert_config.json bert_model.ckpt vocab.txt",
        TF.format("bert_model.ckpt"),
    ),
    "this library's, after a training": (
        "bert_config.json bert_model.safetensors vocab.txt",
        TF.format("bert_model.ckpt") + " " + TF.format("model.ckpt-100"),
    ),
    "Google's name among others": (
        "bert_config.json bert_model.ckpt vocab.txt",
        TF.format("bert_model.ckpt") + " " + TF.format("model.ckpt-100"),
    ),
    "a smaller RoBERTa": (
        "bert_config_rbt3.json bert_model.ckpt vocab.txt",
        TF.format("bert_model.ckpt"),
    ),
    "ALBERT": (
        "albert_config_tiny_g.json albert_model.ckpt vocab_chinese.txt",
        TF.format("albert_model.ckpt") + " checkpoint ._albert_model.ckpt.index",
    ),
    "ELECTRA": (
        "base_generator_config.json electra_180g_base.ckpt vocab.txt",
        TF.format("electra_180g_base.ckpt") + " base_discriminator_config.json",
    ),
    "Hugging Face": (
        "config.json model.safetensors vocab.txt",
        f"{HUB} tokenizer.json pytorch_model.bin tf_model.h5 flax_model.msgpack vocab.txt",
    ),
    "Hugging Face, of old": (
        "config.json pytorch_model.bin vocab.txt",
        f"{HUB} tf_model.h5 training_args.bin added_tokens.json",
    ),
    "Hugging Face, in shards": (
        "config.json model.safetensors.index.json tokenizer.json",
        f"{HUB} model-00001-of-00002.safetensors model-00002-of-00002.safetensors",
    ),
    "PyTorch, in shards": (
        "config.json pytorch_model.bin.index.json vocab.txt",
        "pytorch_model-00001-of-00002.bin pytorch_model-00002-of-00002.bin",
    ),
}


def fill(folder, *names):
    for name in " ".join(names).split():
        (folder / name).touch()


@pytest.mark.parametrize(("found", "others"), FOLDERS.values(), ids=FOLDERS)
def test_released_folders(found, others, tmp_path):
    fill(tmp_path, others, *(name for name in found.split() if ".ckpt" not in name))
    expected = tuple(os.path.join(tmp_path, name) for name in found.split())
    config, weights, _ = expected
    for path in (tmp_path, config, weights):
        assert find_checkpoint(path) == expected
    if weights.endswith(".ckpt"):
        assert find_checkpoint(f"{weights}.index") == expected


@pytest.mark.parametrize(
    "name", ["model-0000{}-of-00002.safetensors", "pytorch_model-0000{}-of-00002.bin"]
)
def test_an_index_that_is_missing(name, tmp_path):
    fill(tmp_path, name.format(2))
    index = name.replace("-0000{}-of-00002", "") + ".index.json"
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=f"incomplete: {index} is missing"):
            find_weights(tmp_path)
        fill(tmp_path, name.format(1))
    # Where the weights are there in another format, these are not needed.
    fill(tmp_path, "bert_model.safetensors")
    assert find_weights(tmp_path).endswith("bert_model.safetensors")


def test_a_path_decides(tmp_path):
    fill(tmp_path, TF.format("model.ckpt-100"), TF.format("model.ckpt-200"))
    fill(tmp_path, "albert_config_base.json albert_config_tiny.json vocab_a.txt vocab_b.txt")
    for find, names in (
        (find_config, "albert_config_base.json, albert_config_tiny.json"),
        (find_weights, "model.ckpt-100.index, model.ckpt-200.index"),
        (find_vocab, "vocab_a.txt, vocab_b.txt"),
    ):
        with pytest.raises(ValueError, match=rf"{names}\. Give the path of one"):
            find(tmp_path)
    for name in ("model.ckpt-100", "model.ckpt-200"):
        assert find_weights(tmp_path / name) == str(tmp_path / name)
    for name in ("albert_config_base.json", "albert_config_tiny.json"):
        assert find_config(tmp_path / name) == str(tmp_path / name)
    # Also one that no folder is searched for; and what is not read, so that it can be said.
    fill(tmp_path, "my.json tf_model.h5")
    assert find_config(tmp_path / "my.json") == str(tmp_path / "my.json")
    assert find_weights(tmp_path / "tf_model.h5") == str(tmp_path / "tf_model.h5")


def test_only_what_is_asked_for_must_be_there(tmp_path):
    fill(tmp_path, "config.json")
    assert find_config(tmp_path) == str(tmp_path / "config.json")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors, bert_model\.ckpt or"):
        find_weights(tmp_path)
    fill(tmp_path, "model.safetensors")
    assert find_weights(tmp_path) == str(tmp_path / "model.safetensors")
    with pytest.raises(
        FileNotFoundError, match=r"no vocab\.txt, tokenizer\.json or spiece\.model in"
    ):
        find_checkpoint(tmp_path)
    (tmp_path / "config.json").unlink()
    fill(tmp_path, "tokenizer_config.json")
    for path in (tmp_path, tmp_path / "model.safetensors", tmp_path / "tokenizer_config.json"):
        with pytest.raises(FileNotFoundError, match=r"no bert_config\.json or config\.json in"):
            find_config(path)
    for find in (find_config, find_weights, find_vocab):
        with pytest.raises(FileNotFoundError, match=r"There is no nowhere in .*bert-mini-zh"):
            find(tmp_path / "nowhere")


def test_embedded_checkpoints(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        assert all(map(os.path.isfile, find_checkpoint(name)))
