import keras
import numpy as np
import pytest
from conftest import LABELS
from keras import ops
from keras.layers import ReversibleEmbedding
from small_bert import CONFIG

from keras_ptuning import PlainText, Template, build_classifier, build_transformer_model, load_tuned
from keras_ptuning.tuning.vat import XI, VATClassifier, build_vat_classifier

pytestmark = pytest.mark.usefixtures("eagerly")

TEXTS = ["书贵", "屏幕房间不"]
SMALL = {"num_hidden_layers": 1, "dropout_rate": 0.0, "attention_dropout_rate": 0.0}


class Moved(ReversibleEmbedding):
    """The token embedding, plus what the tests want to add to its output."""

    r = None

    def call(self, inputs, reverse=False):
        x = super().call(inputs, reverse)
        return x if self.r is None else x + ops.convert_to_tensor(self.r)


@pytest.fixture
def plain(tokenizer):
    return PlainText(list(LABELS), tokenizer, maxlen=64)


@pytest.fixture
def make_vat(small_bert, plain):
    """A classifier without dropout, whose predictions depend on the text clearly."""

    def make(scale=0.5, **kwargs):
        model = build_vat_classifier(*small_bert[:2], plain, **{**SMALL, **kwargs})
        kernel = np.random.default_rng(1).normal(scale=scale, size=(32, 2))
        model.classifier.kernel.assign(kernel)
        return model

    return make


@pytest.fixture
def direction(monkeypatch):
    """What is drawn at random: the same for each call, and for each length of the padding."""
    d = np.random.default_rng(2).normal(size=(32, 64, 32)).astype("float32")

    def normal(shape, dtype, seed):
        shape = tuple(int(n) for n in shape)
        return ops.convert_to_tensor(d[: shape[0], : shape[1]])

    monkeypatch.setattr(keras.random, "normal", normal)
    return d


class Reference:
    """The classifier out of other parts: the perturbation is added inside of the embedding."""

    def __init__(self, model, small_bert):
        self.embedding = Moved(120, 32, name="Embedding-Token")
        self.bert = build_transformer_model(
            *small_bert[:2], layers={"Embedding-Token": self.embedding}, **SMALL
        )
        self.kernel, self.bias = map(ops.convert_to_numpy, model.classifier.get_weights())

    def vectors(self, x, r):
        self.embedding.r = np.asarray(r, "float32")
        inputs = [ops.convert_to_tensor(x[name]) for name in ("token_ids", "segment_ids")]
        return ops.convert_to_numpy(self.bert(inputs))[:, 0].astype("float64")

    def log_p(self, x, r):
        logits = self.vectors(x, r) @ self.kernel + self.bias
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def divergence(self, x, r):
        log_p, log_q = self.log_p(x, np.zeros((1, 1, 32))), self.log_p(x, r)
        return (np.exp(log_p) * (log_p - log_q)).sum(axis=1)


def perturbation(model, x):
    """What training adds to the token embeddings, and the divergences that come of it."""
    seen, read = [], model._read_embeddings
    model._read_embeddings = lambda x, inputs: seen.append(x) or read(x, inputs)
    divergences = ops.convert_to_numpy(model(x, training=True)["divergence"])
    model._read_embeddings = read
    return ops.convert_to_numpy(seen[-1]) - ops.convert_to_numpy(seen[0]), divergences


def lengths(model, x):
    """The root mean square of the norms of each text's token embeddings."""
    table = ops.convert_to_numpy(model.backbone.get_layer("Embedding-Token").embeddings)
    squares = np.square(table).sum(axis=1)
    return np.array([np.sqrt(squares[ids[ids > 0]].mean()) for ids in x["token_ids"]])


@pytest.mark.parametrize("epsilon", [0.3, 2.0])
def test_the_perturbation_is_one_step_of_the_power_method(
    make_vat, plain, small_bert, direction, epsilon
):
    """Against finite differences of the divergence at the random direction."""
    model = make_vat(epsilon=epsilon)
    x = plain.encode(TEXTS)
    found, divergences = perturbation(model, x)
    unit = lengths(model, x)
    np.testing.assert_allclose(np.sqrt(np.square(found).sum(axis=(1, 2))), epsilon * unit, 1e-3)
    reference = Reference(model, small_bert)
    np.testing.assert_allclose(divergences, reference.divergence(x, found), 1e-2, 1e-6)
    for i, n in enumerate((x["token_ids"] > 0).sum(axis=1)):
        assert (found[i, n:] == 0).all()
        start = direction[i, :n] * XI * unit[i] / np.linalg.norm(direction[i, :n])
        steps = 0.002 * np.eye(n * 32).reshape(-1, n, 32)
        rows = {name: np.repeat(x[name][i : i + 1, :n], len(steps), axis=0) for name in x}
        up, down = (reference.divergence(rows, start + s) for s in (steps, -steps))
        g = (up - down).reshape(n, 32)
        cosine = (g * found[i, :n]).sum() / np.linalg.norm(g) / np.linalg.norm(found[i])
        assert cosine > 0.99


def test_it_is_worse_than_random_perturbations(make_vat, plain, small_bert):
    model = make_vat(epsilon=0.5)
    x = plain.encode([TEXTS[0]] * 20)
    found, divergences = perturbation(model, x)
    assert len(np.unique(found, axis=0)) == 20
    assert not np.array_equal(perturbation(model, x)[0], found)
    random = np.random.default_rng(0).normal(size=found.shape)
    norms = np.sqrt(np.square(random).sum(axis=(1, 2), keepdims=True))
    random *= 0.5 * lengths(model, x)[:, None, None] / norms
    expected = Reference(model, small_bert).divergence(x, random)
    assert divergences.mean() > 3 * expected.mean() > 0


@pytest.mark.parametrize("y", [[1, -1], [-1, -1], [1, 0], [[0.2, 0.8], [0.9, 0.1]]])
def test_loss(make_vat, plain, direction, y):
    """The cross-entropy of the labelled texts, and the divergence of all."""
    model = make_vat()
    x, y = plain.encode(TEXTS), np.array(y)
    scores = model.predict(x, verbose=0)
    _, divergences = perturbation(model, x)
    # The row of a text without a label is the last one, of zeros.
    p = y if y.ndim == 2 else np.eye(3)[y, :2]
    cross_entropy = -(p * scores).sum() / max(p.sum(), 1)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    expected = cross_entropy + divergences.mean()
    np.testing.assert_allclose(model.train_on_batch(x, y)[0], expected, 1e-4)
    np.testing.assert_allclose(model.test_on_batch(x, y)[0], cross_entropy, 1e-4)
    # A row that only fills up a batch has no divergence.
    x["is_text"] = np.array([1, 0], "float32")
    expected = cross_entropy + divergences[0]
    np.testing.assert_allclose(model.train_on_batch(x, y)[0], expected, 1e-4)


@pytest.mark.graph
def test_the_prediction_and_the_perturbation_are_constants(make_vat, plain, small_bert, direction):
    """One step without labels: only the prediction of the moved text follows the gradient."""
    model = make_vat(epsilon=2.0)
    x = plain.encode(TEXTS)
    r, _ = perturbation(model, x)
    reference = Reference(model, small_bert)
    p, q = (np.exp(reference.log_p(x, move)) for move in (np.zeros((1, 1, 32)), r))
    table = model.backbone.get_layer("Embedding-Token").embeddings
    before = ops.convert_to_numpy(table).copy()
    model.compile(keras.optimizers.SGD(1.0))
    model.train_on_batch(x, np.array([-1, -1]))
    kernel, bias = map(ops.convert_to_numpy, model.classifier.get_weights())
    np.testing.assert_allclose(reference.bias - bias, (q - p).mean(axis=0), 1e-3, 1e-6)
    expected = reference.vectors(x, r).T @ (q - p) / 2
    np.testing.assert_allclose(reference.kernel - kernel, expected, 1e-2, 1e-5)
    change = np.abs(ops.convert_to_numpy(table) - before).max(axis=1)
    assert (change[x["token_ids"][1]] > 0).all()


def test_dropout_is_not_taken_for_divergence(make_vat, plain, direction):
    x = plain.encode(TEXTS)
    _, expected = perturbation(make_vat(), x)
    model = make_vat(dropout_rate=0.3, attention_dropout_rate=0.3)
    np.testing.assert_allclose(perturbation(model, x)[1], expected, 1e-4)
    first, second = (ops.convert_to_numpy(model(x, training=True)["scores"]) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


def test_padding_does_not_matter(make_vat, plain, direction):
    model = make_vat()
    short = plain.encode([TEXTS[0]])
    long = {name: np.pad(array, [(0, 0), (0, 9)]) for name, array in short.items()}
    (r, expected), (padded, found) = (perturbation(model, x) for x in (short, long))
    np.testing.assert_allclose(found, expected, 1e-3)
    np.testing.assert_allclose(padded[:, : r.shape[1]], r, atol=1e-3)


@pytest.mark.graph
def test_it_learns_and_repeats(make_vat, plain, reviews):
    """With four labels; twice the same way."""
    texts, labels = reviews
    few, rest = [0, 1, 4, 5], [i for i in range(24) if i not in (0, 1, 4, 5)]
    data = plain.dataset(
        [texts[i] for i in few], [labels[i] for i in few], 8, unlabeled=[texts[i] for i in rest]
    )
    test = plain.dataset(*reviews)
    losses = []
    for epochs in (1, 12):
        keras.utils.set_random_seed(0)
        model = make_vat(scale=0.02, dropout_rate=0.1)
        model.compile(keras.optimizers.Adam(3e-3))
        data.epoch = 0
        untrained = model.evaluate(test, verbose=0)[1]
        losses.append(model.fit(data, epochs=epochs, verbose=0).history["loss"])
    assert losses[0][0] == losses[1][0]
    assert np.isfinite(losses[1]).all() and losses[1][-1] < 0.3 * losses[1][0]
    assert untrained < 0.7 and model.evaluate(test, verbose=0)[1] > 0.9


def test_a_sure_prediction(make_vat, plain):
    """Where nothing changes the prediction, and all gradients are 0."""
    model = make_vat()
    model.classifier.bias.assign([0.0, 300.0])
    model.compile(keras.optimizers.Adam(1e-3), run_eagerly=True)
    assert perturbation(model, plain.encode(TEXTS))[1].tolist() == [0, 0]
    losses = model.fit(plain.dataset(unlabeled=TEXTS), verbose=0).history["loss"]
    assert losses == [0.0]
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_mixed_precision(make_vat, plain, small_bert, direction):
    x = plain.encode(TEXTS)
    exact, _ = perturbation(make_vat(), x)
    model = make_vat(dtype="mixed_bfloat16")
    found, divergences = perturbation(model, x)
    norms = [np.sqrt(np.square(r).sum(axis=(1, 2))) for r in (exact, found)]
    np.testing.assert_allclose(norms[1], norms[0], 1e-2)
    # With two labels one direction matters; which way along it may hang on the last bits.
    cosines = (exact * found).sum(axis=(1, 2)) / norms[0] / norms[1]
    assert (np.abs(cosines) > 0.9).all()
    expected = Reference(model, small_bert).divergence(x, found)
    np.testing.assert_allclose(divergences, expected, 0.3)


def test_weights_are_those_of_a_plain_classifier(
    make_vat, plain, small_bert, direction, reviews, tmp_path
):
    model = make_vat(epsilon=0.7)
    model.compile(keras.optimizers.Adam(1e-3), run_eagerly=True)
    model.train_on_batch(*plain.dataset(*reviews, 24)[0])
    data = plain.dataset(reviews[0])
    expected = model.predict(data, verbose=0)
    twin = build_classifier(*small_bert[:2], plain, **SMALL)
    for name in ("weights", "trainable_variables"):
        ours, theirs = getattr(model, name), getattr(twin, name)
        assert [tuple(v.shape) for v in ours] == [tuple(v.shape) for v in theirs]
    assert [layer.name for layer in model.layers] == [layer.name for layer in twin.layers]
    model.save_weights(tmp_path / "model.weights.h5")
    twin.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(twin.predict(data, verbose=0), expected, 1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is VATClassifier and loaded.epsilon == 0.7
    np.testing.assert_allclose(loaded.predict(data, verbose=0), expected, 1e-4)
    x = plain.encode(TEXTS)
    np.testing.assert_allclose(*(perturbation(m, x)[1] for m in (model, loaded)), 1e-3)


def test_a_number_of_numpy_is_saved(make_vat, small_bert, tmp_path):
    make_vat(tune="prefix", epsilon=np.float32(0.5)).save_tuned(tmp_path / "a.tuned")
    assert load_tuned(tmp_path / "a.tuned", *small_bert, **SMALL).epsilon == 0.5


def test_bad_input(small_bert, plain, tokenizer):
    for epsilon in (0, -1.0, float("nan"), float("inf"), "0.5", None, True):
        with pytest.raises(ValueError, match=f"`epsilon` must be a number above 0.*{epsilon!r}"):
            build_vat_classifier(CONFIG, None, plain, epsilon=epsilon)
    with pytest.raises(TypeError, match="must be a `PlainText`"):
        build_vat_classifier(CONFIG, None, Template("[MASK]{text}", LABELS, tokenizer))
    with pytest.raises(ValueError, match=r"has not seen the text"):
        build_vat_classifier(CONFIG, None, plain, application="lm")
