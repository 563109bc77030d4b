"""Writing checkpoints, and reading what was written."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import safetensors.numpy
from small_bert import CONFIG, vocabulary

from keras_ptuning import Tokenizer, build_transformer_model
from keras_ptuning.checkpoints import SafetensorsCheckpoint, TensorFlowCheckpoint
from keras_ptuning.models import save_transformer_model

HEADS = {"with_mlm": "linear", "with_pool": True}
FILES = [
    "bert_model.ckpt.data-00000-of-00001",
    "bert_model.ckpt.index",
    "config.json",
    "model.safetensors",
    "vocab.txt",
]


def build(folder, name="model.safetensors", **kwargs):
    return build_transformer_model(folder / "config.json", folder / name, **{**HEADS, **kwargs})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def model(small_bert):
    return build_transformer_model(*small_bert[:2], **HEADS)


@pytest.fixture
def written(model, tmp_path):
    folder = tmp_path / "written"
    save_transformer_model(model, folder, CONFIG, vocabulary())
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "bert_model.ckpt"])
def test_round_trip(model, written, name):
    assert sorted(contents(written)) == FILES
    for found, expected in zip(build(written, name).weights, model.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (found, expected)))


def test_names_are_those_of_google(small_bert, written):
    original = TensorFlowCheckpoint(small_bert[1])
    checkpoint = TensorFlowCheckpoint(written / "bert_model.ckpt")
    assert checkpoint.shapes == original.shapes
    for name in original.shapes:
        value = checkpoint.read(name)
        assert value.dtype == "float32"
        np.testing.assert_array_equal(value, original.read(name))
    config = json.loads((written / "config.json").read_text("utf-8"))
    assert config == {**CONFIG, "model_type": "bert"}
    assert (written / "vocab.txt").read_text("utf-8").split("\n") == [*vocabulary(), ""]


def test_half_precision_for_half_the_size(model, written):
    path = written / "model.safetensors"
    size = path.stat().st_size
    save_transformer_model(model, written, CONFIG, vocabulary(), dtype="float16")
    assert path.stat().st_size < 0.6 * size
    checkpoint = TensorFlowCheckpoint(written / "bert_model.ckpt")
    assert {checkpoint.read(name).dtype.name for name in checkpoint.shapes} == {"float32"}
    for found, expected in zip(build(written).weights, model.weights, strict=True):
        assert found.dtype == "float32"
        # Half a unit in the last of eleven places; below 6e-5 places get lost.
        np.testing.assert_allclose(
            *map(keras.ops.convert_to_numpy, (found, expected)), rtol=2**-11, atol=2**-25
        )


def test_low_precision_of_a_model_stays_inside(small_bert, tmp_path):
    """Other libraries expect float32 in a TensorFlow checkpoint, and safetensors says so too."""
    model = build_transformer_model(*small_bert[:2], dtype="bfloat16", **HEADS)
    save_transformer_model(model, tmp_path, CONFIG, vocabulary())
    for checkpoint in (
        TensorFlowCheckpoint(tmp_path / "bert_model.ckpt"),
        SafetensorsCheckpoint(tmp_path / "model.safetensors"),
    ):
        assert {checkpoint.read(name).dtype.name for name in checkpoint.shapes} == {"float32"}


def test_weights_without_a_name(small_bert, tmp_path):
    model = build_transformer_model(*small_bert[:2], with_pool=True)
    layer = keras.layers.Dense(2, name="My-Classifier")
    model = keras.Model(model.inputs, layer(model.output))
    with pytest.raises(ValueError, match=r"'My-Classifier' has 2 weights.* 0 names"):
        save_transformer_model(model, tmp_path / "new", CONFIG, vocabulary())
    assert not (tmp_path / "new").exists()


def test_bert4keras_reads_what_was_written(model, written):
    if not all(importlib.util.find_spec(name) for name in ("bert4keras", "tf_keras")):
        pytest.skip("bert4keras and tf_keras are not installed")
    code = """
import sys
import numpy as np
from bert4keras.models import build_transformer_model
from bert4keras.tokenizers import Tokenizer
folder = sys.argv[1]
model = build_transformer_model(
    folder + "/config.json", folder + "/bert_model.ckpt", with_mlm="linear"
)
ids, segments = Tokenizer(folder + "/vocab.txt", do_lower_case=True).encode("房间很不错", "good")
logits = model(list(map(np.array, ([ids], [segments]))), training=False)
np.savez(folder + "/outputs.npz", ids=[ids], segments=[segments], logits=logits)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(written)],
        env={**os.environ, "TF_KERAS": "1", "TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    golden = np.load(written / "outputs.npz")
    _, logits = model.predict([golden["ids"], golden["segments"]], verbose=0)
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-4)
    assert logits.std() > 0.1


def test_missing_safetensors(written):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file .*nowhere\.safetensors"):
        build(written, "nowhere.safetensors")
    path = written / "model.safetensors"
    tensors = {
        name: value
        for name, value in safetensors.numpy.load_file(path).items()
        if not name.startswith("cls.")
    }
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(ValueError, match=r"model\.safetensors' has no MLM head"):
        build(written)
    build(written, with_mlm=False)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_damaged_safetensors(written, keep):
    path = written / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors' cannot be read; it is damaged"):
        build(written)
    path.write_bytes(b"<html>" * 1000)
    with pytest.raises(ValueError, match="Copy it again"):
        build(written)


@pytest.mark.parametrize("where", ["safetensors", "tensorflow"])
def test_an_interruption_costs_nothing(model, written, monkeypatch, where):
    import tensorflow as tf

    before = contents(written)
    model.get_layer("MLM-Bias").set_weights([np.ones(CONFIG["vocab_size"])])

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        if where == "safetensors":
            interrupted.setattr(safetensors.numpy, "save", stop)
        else:
            interrupted.setattr(tf.raw_ops, "SaveV2", stop)
        with pytest.raises(KeyboardInterrupt):
            save_transformer_model(model, written, CONFIG, vocabulary())
    assert contents(written) == before
    save_transformer_model(model, written, CONFIG, vocabulary())
    assert len([name for name in FILES if contents(written)[name] != before[name]]) == 3


@pytest.mark.parametrize(
    "backend", [name for name in ("jax", "torch") if importlib.util.find_spec(name)]
)
def test_without_tensorflow(backend, tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('not on this machine')\n")
    code = """
import sys
sys.path.insert(0, sys.argv[2])
import numpy as np
from small_bert import CONFIG, vocabulary
from keras_ptuning import build_transformer_model
from keras_ptuning.models import save_transformer_model
folder = sys.argv[1] + "/new"
model = build_transformer_model(CONFIG, with_mlm="linear")
save_transformer_model(model, folder, CONFIG, vocabulary())
paths = folder + "/config.json", folder + "/model.safetensors"
for a, b in zip(build_transformer_model(*paths, with_mlm="linear").weights, model.weights):
    np.testing.assert_array_equal(a.numpy(), b.numpy())
"""
    here = pathlib.Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(here)],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(contents(tmp_path / "new")) == [
        name for name in FILES if not name.startswith("bert_model.ckpt")
    ]


def test_a_vocabulary_of_another_size_is_refused(small_bert, tmp_path):
    model = build_transformer_model(*small_bert[:2], with_mlm=True)
    config = {**CONFIG, "vocab_size": 300}
    with pytest.raises(ValueError, match=r"has 120 tokens, .* vocab_size=300"):
        save_transformer_model(model, tmp_path, config, vocabulary())
    with pytest.raises(ValueError, match=r"has 120 tokens, .* vocab_size=119"):
        save_transformer_model(model, tmp_path, {**CONFIG, "vocab_size": 119}, vocabulary())
    with pytest.raises(ValueError, match=r"has 2 layers, and the configuration says 3"):
        save_transformer_model(model, tmp_path, {**CONFIG, "num_hidden_layers": 3}, vocabulary())
    with pytest.raises(ValueError, match=r"one of .'float32', 'float16', 'bfloat16'"):
        save_transformer_model(model, tmp_path, CONFIG, vocabulary(), dtype="floaty")
    assert not list(tmp_path.iterdir())
    save_transformer_model(model, tmp_path, small_bert[0], small_bert[2])
    assert Tokenizer(tmp_path / "vocab.txt").vocab == vocabulary()
