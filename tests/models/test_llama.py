"""LLaMA, Qwen2 and Qwen3, with the numbers that `goldens/record_decoders.py` recorded."""

import gc
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from small_decoders import CONFIGS, tensors, write_small_decoder

from keras_ptuning import backend, build_transformer_model
from keras_ptuning.models import (
    find_application,
    find_model,
    inspect_checkpoint,
    override,
    read_config,
    weights,
)

pytestmark = pytest.mark.usefixtures("eagerly")

GOLDEN = dict(np.load(pathlib.Path(__file__).parents[1] / "goldens" / "transformers_decoders.npz"))
TOKENS = GOLDEN["token_ids"]
LINEAR = {"with_mlm": "linear"}


def predict(model, *inputs):
    return model.predict([np.array(x) for x in inputs or [TOKENS]], verbose=0)


def error(found, expected):
    """The greatest difference, of the largest logit."""
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.graph
@pytest.mark.parametrize("name", CONFIGS)
def test_same_numbers_as_hugging_face(name, tmp_path):
    """Also of id 0, which is a token."""
    model = build_transformer_model(write_small_decoder(tmp_path, name), **LINEAR)
    assert error(predict(model), GOLDEN[name]) < 1e-5


def test_at_some_positions_and_some_tokens(tmp_path):
    """A table of its own loses the same tokens as the embedding."""
    folder = write_small_decoder(tmp_path, "qwen3")
    keep = sorted(set(TOKENS.flat))
    model = build_transformer_model(folder, gather_positions=True, keep_tokens=keep, **LINEAR)
    positions = np.array([[23, 0], [5, 5], [0, 9]])
    expected = np.take_along_axis(GOLDEN["qwen3"], positions[..., None], axis=1)[..., keep]
    ids = np.searchsorted(keep, TOKENS).astype("int32")
    assert error(predict(model, ids, positions), expected) < 1e-5


def test_padding_that_the_configuration_names(tmp_path):
    """What is no text is not seen, wherever it is."""
    model = build_transformer_model(
        write_small_decoder(tmp_path, "llama", pad_token_id=7), **LINEAR
    )
    ids = np.where(TOKENS == 7, 8, TOKENS)
    assert model.transformer.pad_id == 7
    padded = np.concatenate([ids, np.full((3, 4), 7, "int32")], axis=1)
    assert error(predict(model, padded)[:, :24], predict(model, ids)) < 1e-5
    changed = predict(model, np.where(np.arange(24) == 1, 7, ids))
    others = predict(model, np.where(np.arange(24) == 1, 9, ids))
    assert np.abs(changed - others)[:, 2:].max() > 1e-2


@pytest.mark.parametrize(
    "entries",
    [
        {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": 4},
        {"rope_parameters": {"rope_theta": None}},
        {"add_cross_attention": None, "attention_bias": None},
    ],
)
def test_entries_that_change_nothing(entries, tmp_path):
    """A window of no block, and what is `null`."""
    folder = write_small_decoder(tmp_path, "llama", **entries)
    assert error(predict(build_transformer_model(folder, **LINEAR)), GOLDEN["llama"]) < 1e-5


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_the_tensors_tell_the_architecture(name, tmp_path):
    folder = write_small_decoder(tmp_path, name, model_type=None)
    assert find_model(folder)[0]["model_type"] == name


@pytest.mark.parametrize("rope", [None, {"rope_type": "default", "rope_theta": 500.0}])
def test_a_changed_base_is_written_where_it_counts(rope):
    config = {**CONFIGS["llama"], "rope_parameters": rope}
    changed = override(config, {"rope_theta": 50.0, "tie_embeddings": False})
    settings = read_config(changed)
    assert settings["rope_theta"] == changed["rope_theta"] == 50.0
    assert not settings["tie_embeddings"]


def test_always_causal():
    assert {find_application(config) for config in CONFIGS.values()} == {"lm"}


def test_newer_configurations(tmp_path):
    """`rope_parameters` has what `rope_theta` and `rope_scaling` had."""
    rope = {"rope_type": "default", "rope_theta": 500.0}
    folder = write_small_decoder(tmp_path, "llama", rope_theta=1.0, rope_parameters=rope)
    assert error(predict(build_transformer_model(folder, **LINEAR)), GOLDEN["llama"]) < 1e-5


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "Positions are scaled.*'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "Positions are scaled.*'llama3'"),
        ({"use_sliding_window": True}, "use_sliding_window must be False"),
        ({"use_sliding_window": True, "max_window_layers": 1}, "max_window_layers=1 of 2"),
        ({"use_sliding_window": "false"}, "use_sliding_window must be true or false.*'false'"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 50}}}, "several kinds"),
        ({"rope_parameters": {"rope_theta": -1}}, "rope_theta must be a positive number"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised.*bfloat16.*'fp8'"),
        ({"hidden_act": "leaky_relu"}, "hidden_act must be one of .*'leaky_relu'"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings must be true or false"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding window"),
        ({"attention_bias": True}, "attention_bias must be False"),
        ({"mlp_bias": True}, "mlp_bias must be False"),
        ({"num_key_value_heads": 3}, "`heads` must be a multiple of `key_heads`.*heads=4"),
        ({"model_type": "mistral"}, "Unknown architecture.*mistral"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a positive number"),
    ],
)
def test_what_is_not_implemented_is_refused(entries, message, tmp_path):
    folder = write_small_decoder(tmp_path, "llama", **entries)
    with pytest.raises(ValueError, match=message):
        build_transformer_model(folder)


def test_a_head_that_is_missing(tmp_path):
    """The configuration says that there is a table, and the file has none."""
    folder = write_small_decoder(tmp_path, "llama", tie_word_embeddings=False)
    build_transformer_model(folder)
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        build_transformer_model(folder, **LINEAR)
    found = inspect_checkpoint(folder)
    assert found["head"] is None and "no head" in found["problems"][0]


def test_bfloat16_stays_bfloat16(tmp_path):
    model = build_transformer_model(write_small_decoder(tmp_path, "qwen2", "bfloat16"), **LINEAR)
    assert {keras.backend.standardize_dtype(v.dtype) for v in model.weights} == {"bfloat16"}
    found, expected = predict(model), GOLDEN["qwen2"]
    # Of each number, two digits or three are left.
    assert np.abs(found - expected).mean() < 0.05 * np.abs(expected).std()
    exact = build_transformer_model(str(tmp_path), dtype="float32", **LINEAR)
    assert {v.dtype for v in exact.weights} == {"float32"}
    assert read_config(str(tmp_path))["dtype"] == "bfloat16"


def test_saved_and_loaded(tmp_path):
    model = build_transformer_model(write_small_decoder(tmp_path, "qwen3"), **LINEAR)
    model.save(tmp_path / "model.keras")
    assert (
        np.abs(predict(keras.models.load_model(tmp_path / "model.keras")) - predict(model)).max()
        == 0
    )


def test_inspected(tmp_path):
    found = inspect_checkpoint(write_small_decoder(tmp_path, "qwen3"))
    assert found["architecture"] == "qwen3" and found["application"] == "lm"
    assert found["parameters"] == sum(value.size for value in tensors("qwen3").values())
    json.dumps(found)


def test_more_than_the_memory_holds(tmp_path, monkeypatch):
    """Said before anything is loaded."""
    folder = write_small_decoder(tmp_path, "llama")
    monkeypatch.setattr(weights, "total_memory", lambda: 50_000)
    with pytest.raises(MemoryError, match=r"dtype='bfloat16'"):
        build_transformer_model(folder, **LINEAR)
    build_transformer_model(folder, dtype="bfloat16", num_hidden_layers=1, **LINEAR)


def test_large_tensors_are_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "LARGE", 500)
    model = build_transformer_model(write_small_decoder(tmp_path, "llama-untied"), **LINEAR)
    assert error(predict(model), GOLDEN["llama-untied"]) < 1e-5


def test_large_weights_train_like_small_ones(tmp_path, monkeypatch):
    """On TensorFlow they are in memory of NumPy's."""
    folder = write_small_decoder(tmp_path, "qwen3")
    found = []
    for limit in (2**20, 1):
        monkeypatch.setattr(backend, "LARGE", limit)
        monkeypatch.setattr(weights, "LARGE", limit)
        model = build_transformer_model(folder, **LINEAR)
        gc.collect()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-2), loss)
        losses = [model.train_on_batch(TOKENS[:, :-1], TOKENS[:, 1:]) for _ in range(3)]
        found.append([*losses, *predict(model).ravel()])
    assert found[0][2] < found[0][0]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-5)


MEMORY = """
import pathlib, sys
import keras, numpy as np
from keras_ptuning import build_transformer_model

def memory(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

keras.layers.Dense(1)(np.ones((1, 1)))  # what is only done once
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak so far
before = memory("VmRSS")
model = build_transformer_model(sys.argv[1], with_mlm="linear")
print((memory("VmHWM") - before) / sum(v.value.numpy().nbytes for v in model.weights))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow" or not os.path.isdir("/proc/self"),
    reason="TensorFlow's memory, seen in /proc",
)
def test_loading_takes_little_more_memory_than_the_model(tmp_path, monkeypatch):
    large = {**CONFIGS["qwen2"], "vocab_size": 60_000, "hidden_size": 896, "head_dim": 224}
    monkeypatch.setitem(CONFIGS, "large", large)
    folder = write_small_decoder(tmp_path, "large", "bfloat16")
    command = [sys.executable, "-c", MEMORY, folder]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0.9 < float(done.stdout) < 1.3
