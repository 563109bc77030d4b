import keras
import numpy as np
import pytest
from keras import ops

from keras_ptuning.layers import (
    Bias,
    Dropout,
    Embedding,
    FeedForward,
    GatherPositions,
    LayerNormalization,
    MultiHeadAttention,
    PositionEmbedding,
    PtuningEmbedding,
    RelativeBias,
    Verbalizer,
)
from keras_ptuning.layers.feed_forward import gelu

VOCAB, SIZE, TUNED = 30, 6, [3, 1, 7]


def gradients(function, variables):
    """The gradients of a scalar function of Keras variables, on any backend."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = function()
        values = tape.gradient(loss, [v.value for v in variables])
        return [tf.convert_to_tensor(v).numpy() for v in values]
    if backend == "torch":
        for v in variables:
            v.value.grad = None
        function().backward()
        return [v.value.grad.detach().cpu().numpy() for v in variables]
    import jax

    def of_values(values):
        pairs = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=pairs):
            return function()

    return [np.asarray(g) for g in jax.grad(of_values)([v.value for v in variables])]


def table():
    return np.random.default_rng(0).normal(size=(VOCAB, SIZE)).astype("float32")


def embedding(tuned_ids=TUNED, **kwargs):
    layer = PtuningEmbedding(VOCAB, SIZE, tuned_ids, **kwargs)
    layer.build()
    layer.embeddings.assign(table())
    layer.reset_prompt()
    return layer


IDS = np.array([[1, 7, 2, 7, 29], [3, 3, 0, 8, 1]])


def test_forward_is_unchanged():
    layer = embedding()
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(IDS)), table()[IDS])
    hidden = np.random.default_rng(1).normal(size=(2, 4, SIZE)).astype("float32")
    logits = ops.convert_to_numpy(layer(hidden, reverse=True))
    np.testing.assert_allclose(logits, hidden @ table().T, atol=1e-5)


@pytest.mark.parametrize("use", ["lookup", "projection", "both"])
def test_gradient_is_that_of_the_masked_stop_gradient(use):
    """`e * m + stop_gradient(e) * (1 - m)` over the whole table, against the small variable."""
    weights = np.random.default_rng(2).normal(size=(2, 5, VOCAB)).astype("float32")
    full = keras.Variable(table())
    mask = np.zeros((VOCAB, 1), "float32")
    mask[TUNED] = 1
    mask = ops.convert_to_tensor(mask)

    def loss(lookup, project):
        hidden = lookup() if use != "projection" else ops.convert_to_tensor(table()[IDS])
        hidden = ops.tanh(hidden)
        if use == "lookup":
            return ops.sum(hidden * ops.convert_to_tensor(weights[..., :SIZE]))
        return ops.sum(ops.log_softmax(project(hidden)) * ops.convert_to_tensor(weights))

    def formula():
        e = ops.convert_to_tensor(full)
        e = e * mask + ops.stop_gradient(e) * (1 - mask)
        return loss(lambda: ops.take(e, IDS, axis=0), lambda h: ops.matmul(h, ops.transpose(e)))

    layer = embedding()
    (expected,) = gradients(formula, [full])
    (found,) = gradients(
        lambda: loss(lambda: layer(IDS), lambda h: layer(h, reverse=True)), layer.trainable_weights
    )
    assert np.abs(expected[TUNED]).min() > 0
    np.testing.assert_allclose(found, expected[TUNED], rtol=1e-4, atol=1e-5)
    assert not np.delete(expected, TUNED, axis=0).any()


def test_in_a_model_that_is_built_by_training():
    layer = PtuningEmbedding(VOCAB, SIZE, TUNED)
    model = keras.Sequential([layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(IDS, np.zeros((2, 1)), verbose=0)
    prompt, rows = (ops.convert_to_numpy(v) for v in (layer.prompt, layer.embeddings))
    np.testing.assert_array_equal(prompt, rows[TUNED])


def test_optimizer_holds_the_chosen_rows_only():
    layer = embedding()
    optimizer = keras.optimizers.Adam()
    optimizer.build(layer.trainable_weights)
    slots = [tuple(v.shape) for v in optimizer.variables if len(v.shape) == 2]
    assert slots == [(len(TUNED), SIZE)] * 2


def test_tokens_beyond_the_table():
    layer = embedding([VOCAB + 1, 4, VOCAB])
    prompt = ops.convert_to_numpy(layer.prompt)
    np.testing.assert_array_equal(prompt[1], table()[4])
    found = ops.convert_to_numpy(layer(np.array([[VOCAB, VOCAB + 1, 4, 5]])))[0]
    np.testing.assert_array_equal(found, [prompt[2], prompt[0], prompt[1], table()[5]])
    layer.prompt.assign(prompt + 1)
    logits = ops.convert_to_numpy(layer(np.eye(SIZE, dtype="float32"), reverse=True))
    expected = table().T.copy()
    expected[:, 4] += 1
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_the_whole_table_learns_on_request():
    layer = embedding(table_trainable=True)
    assert [tuple(w.shape) for w in layer.trainable_weights] == [(VOCAB, SIZE), (3, SIZE)]
    rows, prompt = gradients(lambda: ops.sum(layer(IDS)), layer.trainable_weights)
    assert sorted(np.nonzero(rows.any(axis=1))[0]) == [0, 2, 8, 29]
    np.testing.assert_array_equal(prompt[:, 0], [2, 2, 2])


@pytest.mark.parametrize("layer", [Embedding(VOCAB, SIZE), PtuningEmbedding(VOCAB, SIZE, TUNED)])
def test_keras_own_lora(layer):
    layer.build()
    layer.enable_lora(2)
    layer.lora_embeddings_b.assign(np.ones((2, SIZE), "float32"))
    update = ops.matmul(layer.lora_embeddings_a, layer.lora_embeddings_b)
    expected = to_numpy(layer._embeddings + update)
    others = np.delete(np.arange(VOCAB), TUNED)
    np.testing.assert_allclose(to_numpy(layer(others)), expected[others], rtol=1e-6)
    logits = to_numpy(layer(np.eye(SIZE, dtype="float32"), reverse=True)).T
    np.testing.assert_allclose(logits[others], expected[others], rtol=1e-6)


@pytest.mark.parametrize("tuned_ids", [[], [1, 1], [-1]])
def test_bad_tuned_ids(tuned_ids):
    with pytest.raises(ValueError, match="tuned_ids"):
        PtuningEmbedding(VOCAB, SIZE, tuned_ids)


@pytest.mark.parametrize("options", [{"tie_weights": False}, {"logit_soft_cap": 1.0}])
def test_only_a_plain_tied_projection(options):
    with pytest.raises(ValueError, match="tied and not capped"):
        PtuningEmbedding(VOCAB, SIZE, TUNED, **options)


def test_verbalizer():
    """Tokens of a word multiply, words of a label add, and the vocabulary normalises."""
    logits = np.random.default_rng(0).normal(size=(5, 2, 9)).astype("float32")
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    verbalizer = Verbalizer([[[1, 2], [1, 3]], [[4, 2]]])
    scores = ops.convert_to_numpy(verbalizer(logits))
    first = p[:, 0, 1] * p[:, 1, 2] + p[:, 0, 1] * p[:, 1, 3]
    second = p[:, 0, 4] * p[:, 1, 2]
    np.testing.assert_allclose(np.exp(scores), np.stack([first, second], axis=1), rtol=1e-5)


def test_short_words_are_not_favoured():
    """Where all tokens are equally likely, so are words of one, two and three."""
    verbalizer = Verbalizer([[[1]], [[2, 3]], [[4, 5, 6]]])
    scores = ops.convert_to_numpy(verbalizer(np.zeros((1, 3, 9), "float32")))
    np.testing.assert_allclose(scores, 3 * np.log(np.full((1, 3), 1 / 9)), rtol=1e-5)
    # And where they are not, the mean over a word's tokens counts.
    logits = np.random.default_rng(0).normal(size=(1, 3, 9)).astype("float32")
    log_p = logits[0] - np.log(np.exp(logits[0]).sum(axis=-1, keepdims=True))
    expected = [log_p[0, 1], (log_p[0, 2] + log_p[1, 3]) / 2, log_p[[0, 1, 2], [4, 5, 6]].mean()]
    scores = ops.convert_to_numpy(verbalizer(logits))
    np.testing.assert_allclose(scores[0] / 3, expected, rtol=1e-5)


def test_candidates_are_scored_like_labels():
    logits = np.random.default_rng(0).normal(size=(2, 4, 9)).astype("float32")
    words = [[[1, 2]], [[3]]], [[[5]], [[8, 7]]]
    slots = [[[0, 3]], [[2]]], [[[1]], [[1, 2]]]
    expected = [
        ops.convert_to_numpy(Verbalizer(w, s)(row[None]))[0]
        for w, s, row in zip(words, slots, logits, strict=True)
    ]
    ids = np.array([[[1, 2], [3, -1], [-1, -1]], [[5, -1], [8, 7], [-1, -1]]])
    places = np.array([[[0, 3], [2, 0], [0, 0]], [[1, 0], [1, 2], [0, 0]]])
    found = ops.convert_to_numpy(Verbalizer()(logits, ids, places))
    np.testing.assert_allclose(found[:, :2], expected, rtol=1e-5)
    assert (found[:, 2] < -1e8).all()


@pytest.mark.parametrize("word_ids", [[[[1]], []], [[[1]], [[]]]])
def test_bad_words(word_ids):
    with pytest.raises(ValueError, match="at least one word"):
        Verbalizer(word_ids)


def test_attention_does_not_look_at_masked_keys():
    layer = MultiHeadAttention(heads=2, head_size=4)
    x = np.random.default_rng(0).normal(size=(1, 5, 8)).astype("float32")
    changed = x.copy()
    changed[0, 3:] += 10
    mask = np.array([[[[True, True, True, False, False]]]])
    a, b = (ops.convert_to_numpy(layer(v, attention_mask=mask))[0, :3] for v in (x, changed))
    np.testing.assert_allclose(a, b, atol=1e-6)
    unmasked = ops.convert_to_numpy(layer(changed, attention_mask=np.ones_like(mask)))[0, :3]
    assert np.abs(a - unmasked).max() > 0.01


@pytest.mark.parametrize("axes", [2, 3, 4])
def test_attention_of_some_positions_with_any_mask(axes):
    """All that broadcasts to `(batch, heads, length, length)`."""
    layer = MultiHeadAttention(heads=2, head_size=4)
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    mask = np.tril(np.ones((5, 5), "bool"))[(None,) * (axes - 2)]
    positions = np.array([[1, 3], [0, 2]])
    expected = np.take_along_axis(to_numpy(layer(x, mask)), positions[..., None], axis=1)
    found = to_numpy(layer(x, mask, positions=positions))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_attention_dropout_is_on_in_training_only():
    layer = MultiHeadAttention(heads=2, head_size=4, dropout=0.5)
    x = np.random.default_rng(0).normal(size=(1, 5, 8)).astype("float32")
    mask = np.ones((1, 1, 1, 5), "bool")
    calls = [ops.convert_to_numpy(layer(x, mask, training=t)) for t in (False, False, True)]
    np.testing.assert_array_equal(calls[0], calls[1])
    assert np.abs(calls[0] - calls[2]).max() > 0.01


def test_attention_compares_in_float32():
    """Scores of 256 and 257 are one and the same number in bfloat16."""
    layer = MultiHeadAttention(heads=1, head_size=2, dtype="mixed_bfloat16")
    layer.build((None, None, 2))
    query, key, value = (
        ops.cast(np.array(rows)[None, None], "bfloat16")
        for rows in ([[16.0, 1.0]], [[16.0, 0.0], [16.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]])
    )
    found = layer.attend(query, key, value, np.ones((1, 1, 1, 2), "bool"))
    # A difference of 1, divided by the root of the head's size.
    expected = 1 / (1 + np.exp(-1 / np.sqrt(2)))
    np.testing.assert_allclose(to_numpy(ops.cast(found, "float32"))[0, 0], expected, atol=0.01)


def test_too_long_for_the_positions():
    with pytest.raises(ValueError, match=r"4 positions\. Received: a sequence of 5"):
        PositionEmbedding(4)(np.zeros((1, 5, 8), "float32"))
    with pytest.raises(ValueError, match=r"4 positions\. Received: a sequence of 5"):
        PositionEmbedding(2, hierarchical=True)(np.zeros((1, 5, 8), "float32"))


@pytest.mark.parametrize("settings", [{"buckets": 3}, {"buckets": 32, "max_distance": 8}])
def test_too_few_distances(settings):
    with pytest.raises(ValueError, match=r"`buckets` must be .*Received: buckets="):
        RelativeBias(2, **settings)


def test_gather_positions():
    x = np.arange(24.0).reshape(2, 4, 3)
    positions = np.array([[3, 0], [1, 1]])
    found = ops.convert_to_numpy(GatherPositions()(x, positions))
    np.testing.assert_array_equal(found, [x[0, [3, 0]], x[1, [1, 1]]])


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (Bias(), ("float",)),
        (FeedForward(16, "gelu"), ("float",)),
        (GatherPositions(), ("float", "positions")),
        (MultiHeadAttention(2, 4), ("float", "mask")),
        (PositionEmbedding(9), ("float",)),
        (PtuningEmbedding(9, 8, [1, 2]), ("positions",)),
        (Verbalizer([[[1]], [[2]]]), ("float",)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_survive_serialization(layer, inputs, tmp_path):
    made = {
        "float": keras.Input((3, 8)),
        "positions": keras.Input((2,), dtype="int32"),
        "mask": keras.Input((1, 1, 3), dtype="bool"),
    }
    arrays = {
        "float": np.random.default_rng(0).normal(size=(2, 3, 8)).astype("float32"),
        "positions": np.array([[0, 2], [1, 1]], "int32"),
        "mask": np.ones((2, 1, 1, 3), "bool"),
    }
    model = keras.Model([made[name] for name in inputs], layer(*(made[n] for n in inputs)))
    path = str(tmp_path / "layer.keras")
    model.save(path)
    restored = keras.models.load_model(path)
    x = [arrays[name] for name in inputs]
    np.testing.assert_array_equal(model.predict(x, verbose=0), restored.predict(x, verbose=0))


def to_numpy(x):
    return ops.convert_to_numpy(ops.stop_gradient(x))


def test_gelu_and_its_derivative():
    x = keras.Variable(np.linspace(-6, 6, 101), dtype="float32")
    upstream = ops.convert_to_tensor(np.random.default_rng(0).normal(size=101), "float32")

    def value_and_gradient(function):
        gradient = gradients(lambda: ops.sum(function(1.0 * x) * upstream), [x])
        return to_numpy(function(1.0 * x)), *gradient

    expected = value_and_gradient(keras.activations.gelu)
    np.testing.assert_allclose(value_and_gradient(gelu), expected, atol=1e-6)


def test_layer_normalization_and_its_derivatives():
    rng = np.random.default_rng(0)
    x = keras.Variable(rng.normal(2, 3, (4, 5, 8)), dtype="float32")
    weights = rng.normal(size=(2, 8))
    upstream = ops.convert_to_tensor(rng.normal(size=(4, 5, 8)), "float32")
    found = []
    for layer_class in (LayerNormalization, keras.layers.LayerNormalization):
        layer = layer_class(epsilon=1e-3)
        layer.build((None, None, 8))
        layer.set_weights(list(weights))
        variables = [x, *layer.weights]
        value = to_numpy(layer(1.0 * x))
        derivatives = gradients(lambda norm=layer: ops.sum(norm(1.0 * x) * upstream), variables)
        found.append([value, *derivatives])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_derivatives_in_graphs(dtype):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow's graphs")
    import tensorflow as tf

    def derivatives(norm, activation, jit_compile):
        @tf.function(jit_compile=jit_compile)
        def function(x):
            with tf.GradientTape() as second:
                second.watch(x)
                with tf.GradientTape() as first:
                    first.watch(x)
                    y = tf.reduce_sum(tf.sin(activation(norm(x) if norm else x)))
                gradient = first.gradient(y, x)
            # Keras's normalization has no second derivative: its variance takes means as constants.
            return [gradient, *([] if norm else [second.gradient(gradient, x)])]

        return function

    x = tf.cast(np.random.default_rng(0).normal(size=(3, 4, 8)), dtype)
    layers = [cls(dtype=dtype) for cls in (LayerNormalization, keras.layers.LayerNormalization)]
    for jit_compile in (False, True):
        for ours, theirs in (layers, (None, None)):
            found = derivatives(ours, gelu, jit_compile)(x)
            expected = derivatives(theirs, keras.activations.gelu, jit_compile)(x)
            for one, other in zip(found, expected, strict=True):
                one, other = (tf.cast(value, "float32") for value in (one, other))
                atol = 1e-5 if dtype == "float32" else 0.1
                np.testing.assert_allclose(one, other, atol=atol)


@pytest.mark.parametrize("shape", [(40, 25, 10), (3, 5, 1001)])
def test_dropout(shape):
    layer, x = Dropout(0.1, seed=0), keras.Variable(np.ones(shape), dtype="float32")
    np.testing.assert_array_equal(to_numpy(layer(x)), np.ones(shape))
    first, second = (to_numpy(layer(x, training=True)) for _ in range(2))
    # What is dropped is 0, what is kept 1 / 0.9.
    np.testing.assert_allclose(np.unique(first), [0, 1 / 0.9], rtol=1e-6)
    assert np.mean(first == 0) == pytest.approx(0.1, abs=0.015)
    assert (first != second).any()
    again = Dropout(0.1, seed=0)
    np.testing.assert_array_equal(to_numpy(again(x, training=True)), first)
    np.testing.assert_array_equal(
        gradients(lambda: ops.sum(again(x, training=True)), [x])[0], second
    )
    infinite = to_numpy(layer(np.inf * x, training=True))
    assert set(np.unique(infinite)) == {0, np.inf}
    with pytest.raises(ValueError, match="noise_shape"):
        Dropout(0.1, noise_shape=(1, None))
