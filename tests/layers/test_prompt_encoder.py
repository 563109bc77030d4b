import pathlib

import keras
import numpy as np
import pytest
import test_layers
from keras import ops
from test_layers import SIZE, VOCAB, table

from keras_ptuning.layers import PromptEncoder, PtuningEmbedding

pytestmark = pytest.mark.usefixtures("eagerly")

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "torch_prompt_encoder.npz"
# The last one lies beyond the table.
TUNED = [3, 1, 7, VOCAB]


def embedding(tuned_ids=TUNED, **kwargs):
    return test_layers.embedding(tuned_ids, **kwargs)


def torch_weights(golden):
    """The weights that PyTorch has under these names, as Keras keeps them."""
    weights = []
    for layer in range(2):
        for direction in ("", "_reverse"):
            end = f"_l{layer}{direction}"
            weights += [golden[f"lstm.weight_ih{end}"].T, golden[f"lstm.weight_hh{end}"].T]
            # Both have the gates in the order input, forget, cell, output.
            weights += [golden[f"lstm.bias_ih{end}"] + golden[f"lstm.bias_hh{end}"]]
    for dense in ("mlp.0", "mlp.2"):
        weights += [golden[f"{dense}.weight"].T, golden[f"{dense}.bias"]]
    return weights


def test_same_numbers_as_pytorch():
    golden = np.load(GOLDEN)
    weights = torch_weights(golden)
    encoder = PromptEncoder("lstm")
    encoder.build(golden["inputs"].shape)
    encoder.set_weights(weights)
    difference = np.abs(ops.convert_to_numpy(encoder(golden["inputs"])) - golden["outputs"])
    assert difference.max() < 1e-5
    encoder = PromptEncoder("mlp")
    encoder.build(golden["inputs"].shape)
    encoder.set_weights(weights[-4:])
    difference = np.abs(ops.convert_to_numpy(encoder(golden["sequence"])) - golden["outputs"])
    assert difference.max() < 1e-5


def test_no_encoder():
    x = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    encoder = PromptEncoder(None)
    np.testing.assert_array_equal(ops.convert_to_numpy(encoder(x)), x)
    assert not encoder.weights


@pytest.mark.parametrize("kind", ["lstm", "mlp", None])
def test_serialization(kind, tmp_path):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, PromptEncoder(kind)(inputs))
    model.save(tmp_path / "encoder.keras")
    restored = keras.models.load_model(tmp_path / "encoder.keras")
    x = np.random.default_rng(0).normal(size=(3, 8)).astype("float32")
    np.testing.assert_array_equal(*(ops.convert_to_numpy(m(x)) for m in (model, restored)))


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("gru", (3, 4), "kind='gru'"),
        ("lstm", (0, 4), "at least one virtual token"),
        ("mlp", (0, 4), "at least one virtual token"),
        ("lstm", (3, 5), "must be even; use 'mlp'"),
    ],
)
def test_errors(kind, shape, message):
    with pytest.raises(ValueError, match=message):
        PromptEncoder(kind).build(shape)


@pytest.mark.parametrize("kind", ["lstm", "mlp"])
def test_the_outputs_are_laid_in(kind):
    """At the encoded rows the encoder's outputs, at the others the rows themselves."""
    layer = embedding(prompt_encoder=kind, num_label_tokens=2)
    prompt = ops.convert_to_numpy(layer.prompt)
    expected = prompt.copy()
    expected[:2] = ops.convert_to_numpy(layer.encoder(prompt[:2]))
    assert np.abs(expected[:2] - prompt[:2]).max() > 0.01
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.vectors()), expected)
    found = ops.convert_to_numpy(layer(np.array([*TUNED, 5])))
    np.testing.assert_allclose(found, [*expected, table()[5]], atol=1e-6)
    logits = ops.convert_to_numpy(layer(np.eye(SIZE, dtype="float32"), reverse=True))
    rows = table()
    rows[TUNED[:3]] = expected[:3]
    # The last one is a label word beyond the table.
    np.testing.assert_allclose(logits.T, [*rows, expected[3]], atol=1e-6)


@pytest.mark.parametrize(("kind", "labels"), [("lstm", 2), ("mlp", 0)])
def test_training_moves_prompt_and_encoder(kind, labels, tmp_path):
    layer = PtuningEmbedding(
        VOCAB, SIZE, TUNED, prompt_encoder=kind, num_label_tokens=labels, dtype="mixed_bfloat16"
    )
    ids = keras.Input((None,), dtype="int32")
    model = keras.Model(ids, layer(keras.layers.Dense(SIZE)(layer(ids)), reverse=True))
    # A checkpoint's tensors go to the first weights.
    shapes = [tuple(v.shape) for v in layer.weights]
    assert shapes[:2] == [(VOCAB, SIZE), (len(TUNED), SIZE)]
    assert len(shapes) == {"lstm": 18, "mlp": 6}[kind] + (labels > 0)
    layer.reset_prompt()
    before = [ops.convert_to_numpy(v).copy() for v in layer.weights]
    start = ops.convert_to_numpy(layer.vectors())
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x = np.random.default_rng(0).integers(0, VOCAB + 1, (32, 9))
    model.fit(x, np.minimum(x, VOCAB - 1), epochs=2, batch_size=8, verbose=0)
    after = [ops.convert_to_numpy(v) for v in layer.weights]
    np.testing.assert_array_equal(after[0], before[0])
    for variable, a, b in zip(layer.weights[1:], after[1:], before[1:], strict=True):
        assert (np.abs(a - b).max() > 1e-4) == (variable is not layer.label_bias), variable.path
    np.testing.assert_array_equal(layer.start, start)
    vectors = ops.convert_to_numpy(layer.vectors())
    assert vectors.dtype == "float32" and np.abs(vectors - start).max() > 0.01

    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    again = restored.get_layer(layer.name)
    assert again.prompt_encoder == kind and again.num_label_tokens == labels
    np.testing.assert_array_equal(again.start, start)
    np.testing.assert_array_equal(ops.convert_to_numpy(again.vectors()), vectors)
    np.testing.assert_array_equal(model.predict(x, verbose=0), restored.predict(x, verbose=0))


def test_in_a_model_that_is_built_by_training():
    layer = PtuningEmbedding(VOCAB, SIZE, TUNED, prompt_encoder="lstm")
    model = keras.Sequential([layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    history = model.fit(np.array([[1, 7], [2, 3]]), np.ones((2, 1)), epochs=2, verbose=0)
    assert history.history["loss"][1] < history.history["loss"][0]


def test_start():
    layer = PtuningEmbedding(VOCAB, SIZE, TUNED)
    layer.build()
    assert layer.start is None
    layer.reset_prompt()
    np.testing.assert_array_equal(layer.start, ops.convert_to_numpy(layer.prompt))
    values = np.random.default_rng(1).normal(size=(len(TUNED), SIZE)).astype("float32")
    layer.start_from(values)
    layer.prompt.assign(values + 1)
    np.testing.assert_array_equal(layer.start, values)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.vectors()), values + 1)


def test_start_is_saved_with_the_weights_if_there_is_one(tmp_path):
    model = keras.Sequential([keras.Input((2,), dtype="int32"), PtuningEmbedding(VOCAB, SIZE, [1])])
    (layer,) = model.layers
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    layer.reset_prompt()
    model.load_weights(path)
    assert layer.start is None
    layer.reset_prompt()
    start = layer.start.copy()
    model.save_weights(path)
    layer.start_from(start + 1)
    model.load_weights(path)
    np.testing.assert_array_equal(layer.start, start)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_encoder": "gru"}, "one of"),
        ({"num_label_tokens": 5}, "from 0 to 4"),
        ({"num_label_tokens": -1}, "from 0 to 4"),
        ({"prompt_encoder": "mlp", "num_label_tokens": 4}, "at least one virtual token"),
    ],
)
def test_embedding_errors(options, message):
    with pytest.raises(ValueError, match=message):
        PtuningEmbedding(VOCAB, SIZE, TUNED, **options).build()
