"""What trains is never in half precision; frozen weights may be, in bfloat16."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ptuning import PlainText, build_classifier, load_tuned

HALF = ["bfloat16", "float16"]


def trained(model, data):
    """How far the trained weights have moved."""
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    before = [np.array(ops.convert_to_numpy(v)) for v in model.trainable_variables]
    model.fit(data, epochs=2, verbose=0)
    after = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    return max(np.abs(b - a).max() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("tune", "dtype"),
    [
        ("prompt", "float16"),
        ("all", "bfloat16"),
    ],
)
def test_the_mixed_policy_in_place_of_a_pure_one(make_model, make_template, reviews, dtype, tune):
    with pytest.warns(UserWarning, match=f"Use dtype='mixed_{dtype}'"):
        model = make_model(tune=tune, dtype=dtype)
    assert {keras.backend.standardize_dtype(v.dtype) for v in model.weights} == {"float32"}
    # Two steps, each about as long as the learning rate.
    assert trained(model, make_template().dataset(*reviews)) == pytest.approx(0.02, abs=0.005)


def test_an_optimizer_for_each_method(make_model, make_template, reviews):
    """Keras puts it into another that scales the loss."""
    model = make_model(tune=["lora", "prompt"], dtype="mixed_float16")
    optimizers = {"lora": keras.optimizers.Adam(1e-3), "prompt": keras.optimizers.Adam(-1.0)}
    with pytest.raises(ValueError, match=r"not below 0. Received: \[.*-1\.0"):
        model.compile(optimizers)
    optimizers["prompt"] = keras.optimizers.Adam(0.02)
    model.compile(optimizers, run_eagerly=True)
    tuned = model.tuned_weights()
    before = {name: ops.convert_to_numpy(v) for name, v in tuned["lora"].items()}
    (prompt,) = tuned["prompt"].values()
    start = ops.convert_to_numpy(prompt)
    model.fit(make_template().dataset(*reviews), epochs=2, verbose=0)
    for name, variable in tuned["lora"].items():
        moved = np.abs(ops.convert_to_numpy(variable) - before[name]).max()
        assert 5e-4 < moved < 2.5e-3
    assert np.abs(ops.convert_to_numpy(prompt) - start).max() == pytest.approx(0.04, rel=0.3)


@pytest.mark.parametrize("tune", ["prompt", "prefix", "lora", "adapter"])
def test_what_is_frozen_stays_in_bfloat16(make_model, make_template, reviews, tune):
    model = make_model(tune=tune, dtype="bfloat16")
    types = {v.path: keras.backend.standardize_dtype(v.dtype) for v in model.backbone.weights}
    trained_types = {types[v.path] for v in model.backbone.trainable_variables}
    assert set(types.values()) == {"bfloat16", "float32"} and trained_types == {"float32"}
    # A variable for the label word that does not learn is with those that do.
    assert list(types.values()).count("float32") < len(types) / 2
    assert trained(model, make_template().dataset(*reviews)) == pytest.approx(0.02, abs=0.005)


@pytest.mark.parametrize("dtype", HALF)
def test_a_head_and_a_global_policy(small_bert, reviews, dtype):
    plain = PlainText(["负面", "正面"], small_bert[2], maxlen=64)
    keras.config.set_dtype_policy(dtype)
    try:
        with pytest.warns(UserWarning, match=f"Use dtype='mixed_{dtype}'"):
            model = build_classifier(*small_bert[:2], plain, dropout_rate=0.0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert trained(model, plain.dataset(*reviews)) == pytest.approx(0.02, abs=0.005)


def test_tuned_files_know_their_checkpoint_in_each_type(make_model, small_bert, tmp_path):
    make_model().save_tuned(tmp_path / "a.tuned")
    for dtype in ("mixed_bfloat16", "mixed_float16", "float64"):
        model = load_tuned(tmp_path / "a.tuned", *small_bert, dtype=dtype)
        model.save_tuned(tmp_path / "b.tuned")
        load_tuned(tmp_path / "b.tuned", *small_bert)
