import keras
import numpy as np
import pytest
from conftest import LABELS
from keras import ops
from small_bert import CONFIG, vocabulary

from keras_ptuning import (
    PlainText,
    Template,
    TextClassifier,
    build_classifier,
    build_ptuning_model,
    build_transformer_model,
)

pytestmark = pytest.mark.usefixtures("eagerly")

TEXTS = ["书贵", "屏幕房间不", "好"]
SOFT = np.array([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5]])


@pytest.fixture
def plain(tokenizer):
    return PlainText(list(LABELS), tokenizer, maxlen=64)


@pytest.fixture
def make_classifier(small_bert, plain):
    """A classifier without dropout, whose predictions depend on the text clearly."""

    def make(scale=0.5, **kwargs):
        kwargs = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0, **kwargs}
        model = build_classifier(*small_bert[:2], plain, **kwargs)
        rng = np.random.default_rng(1)
        model.classifier.kernel.assign(rng.normal(scale=scale, size=(32, 2)))
        return model

    return make


def test_scores_are_log_probabilities_of_the_dense_layer(make_classifier, plain, small_bert):
    """The model against its parts: the plain BERT's vector of [CLS], and the rest in NumPy."""
    x = plain.encode(TEXTS)
    model = make_classifier()
    model.classifier.bias.assign([0.3, -0.4])
    bert = build_transformer_model(*small_bert[:2])
    vectors = bert.predict([x["token_ids"], x["segment_ids"]], verbose=0)[:, 0]
    logits = vectors @ ops.convert_to_numpy(model.classifier.kernel) + [0.3, -0.4]
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-4)
    assert np.ptp(expected[:, 0]) > 0.05


def test_pairs(small_bert, tokenizer):
    """The second text has the segment 1, and counts."""
    pairs = PlainText(list(LABELS), tokenizer, maxlen=64, pairs=True)
    model = build_classifier(*small_bert[:2], pairs)
    x = pairs.encode([("书", "好"), ("书", "贵")])
    assert x["segment_ids"].tolist() == [[0, 0, 0, 1, 1]] * 2
    scores = model.predict(x, verbose=0)
    assert not np.allclose(scores[0], scores[1])
    x["segment_ids"][0] = 0
    assert not np.allclose(model.predict(x, verbose=0)[0], scores[0])


@pytest.mark.graph
def test_it_learns(make_classifier, plain, reviews):
    """All of the weights do; texts in other words than those of a template."""
    model = make_classifier(scale=0.02)
    model.compile(keras.optimizers.Adam(3e-3))
    before = [w.copy() for w in model.get_weights()]
    data = plain.dataset(*reviews, batch_size=8)
    untrained = model.evaluate(data, verbose=0)[1]
    model.fit(data, epochs=5, verbose=0)
    assert untrained < 0.7 and model.evaluate(data, verbose=0)[1] > 0.9
    assert plain.decode(model.predict(plain.dataset(reviews[0]), verbose=0)) == reviews[1]
    for old, new in zip(before, model.get_weights(), strict=True):
        assert not np.array_equal(old, new)


def test_loss(make_classifier, plain):
    """The mean cross-entropy of the labels: numbers, or probabilities; and of texts with one."""
    x = plain.encode(TEXTS)
    model = make_classifier()
    scores = model.predict(x, verbose=0)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    hard = np.array([1, 0, 1])
    of_numbers = model.train_on_batch(x, hard)[0]
    np.testing.assert_allclose(of_numbers, -scores[[0, 1, 2], hard].mean(), 1e-4)
    np.testing.assert_allclose(model.train_on_batch(x, np.eye(2)[hard])[0], of_numbers, 1e-6)
    expected = -(SOFT * scores).sum(axis=1).mean()
    np.testing.assert_allclose(model.train_on_batch(x, SOFT)[0], expected, 1e-4)
    np.testing.assert_allclose(model.test_on_batch(x, SOFT)[0], expected, 1e-4)
    weights = np.array([0.0, 1.0, 2.0])
    expected = (-(SOFT * scores).sum(axis=1) * weights).mean()
    found = model.train_on_batch(x, SOFT, sample_weight=weights)[0]
    np.testing.assert_allclose(found, expected, 1e-4)


@pytest.mark.graph
def test_training_on_soft_labels(make_classifier, plain):
    """Predictions become the probabilities; the accuracy is that of the more probable label."""
    soft = np.array([[0.2, 0.8], [0.7, 0.3], [0.9, 0.1]])
    model = make_classifier(scale=0.02)
    model.compile(keras.optimizers.Adam(3e-3))
    data = plain.dataset(TEXTS, soft, batch_size=3)
    model.fit(data, epochs=40, verbose=0)
    p = np.exp(model.predict(plain.dataset(TEXTS), verbose=0))
    np.testing.assert_allclose(p, soft, atol=0.05)
    assert model.evaluate(data, verbose=0)[1] == 1.0


@pytest.mark.parametrize(
    "soft",
    [
        [[0.2, 0.7], [1.0, 0.0], [0.5, 0.5]],
        [[-0.2, 1.2], [1.0, 0.0], [0.5, 0.5]],
        [[0.2, 0.8, 0.0]] * 3,
        [[1, 0]] * 3,
        [[np.nan, 0.5]] * 3,
    ],
)
def test_bad_soft_labels(plain, soft):
    with pytest.raises(ValueError, match=r"Soft labels must be probabilities.*\(n, 2\)"):
        plain.dataset(TEXTS, np.array(soft))


def test_soft_labels_of_some_of_the_texts(plain):
    with pytest.raises(ValueError, match="3 texts and 2 labels"):
        plain.dataset(TEXTS, SOFT[:2])


def test_unlabelled_texts_are_refused(make_classifier, plain):
    model = make_classifier()
    model.compile()
    with pytest.raises(ValueError, match="learns nothing from texts without a label"):
        model.fit(plain.dataset(TEXTS, ["负面", "正面", "正面"], unlabeled=["很好"]), verbose=0)


def test_save_and_load(make_classifier, plain, tmp_path):
    model = make_classifier(dropout_rate=0.2)
    data = plain.dataset(TEXTS)
    expected = model.predict(data, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is TextClassifier and type(loaded.template) is PlainText
    assert loaded.template.get_config() == plain.get_config()
    np.testing.assert_array_equal(loaded.predict(data, verbose=0), expected)
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
    x = plain.encode(TEXTS)
    first, second = (ops.convert_to_numpy(loaded(x, training=True)) for _ in range(2))
    assert not np.allclose(first, second)


def test_mixed_precision(make_classifier, plain):
    data = plain.dataset(TEXTS)
    found = make_classifier(dtype="mixed_bfloat16").predict(data, verbose=0)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, make_classifier().predict(data, verbose=0), atol=0.1)


def test_bad_models(small_bert, plain, tokenizer, make_template):
    with pytest.raises(TypeError, match="must be a `PlainText`"):
        build_classifier(*small_bert[:2], make_template())
    with pytest.raises(TypeError, match="Received: template=None"):
        build_classifier(*small_bert[:2])
    with pytest.raises(ValueError, match=r"has not seen the text.*'bert-mini-zh'"):
        build_classifier("gpt-mini-zh", template=PlainText(list(LABELS), "gpt-mini-zh"))
    with pytest.raises(ValueError, match="it has 121 tokens, and the model 120"):
        build_classifier(CONFIG, None, PlainText(list(LABELS), [*vocabulary(), "more"]))
    with pytest.raises(ValueError, match=r"up to 65 tokens.* 64 positions"):
        build_classifier(CONFIG, None, PlainText(list(LABELS), tokenizer, maxlen=65))


def test_a_dataset_of_a_cloze_is_refused(make_classifier, make_template):
    cloze = Template("[MASK]满意{text}", LABELS, make_template().tokenizer, maxlen=64)
    with pytest.raises(ValueError, match="another template than the model's"):
        make_classifier().predict(cloze.dataset(TEXTS), verbose=0)


@pytest.mark.parametrize("trainable", ["classifier", "cloze"])
def test_steps_of_the_learning_rate(small_bert, tokenizer, plain, trainable):
    """Adam's first step is no longer than the learning rate, however often a token occurs."""
    template = plain
    if trainable == "classifier":
        model = build_classifier(*small_bert[:2], plain)
    else:
        template = Template("[MASK]{text}", LABELS, tokenizer, maxlen=64)
        model = build_ptuning_model(*small_bert[:2], template, tune="all")
    before = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    model.compile(keras.optimizers.Adam(1e-3))
    data = template.dataset(["书书书书贵书书"] * 8, ["正面"] * 8, batch_size=8)
    model.fit(data, verbose=0)
    for variable, old in zip(model.trainable_variables, before, strict=True):
        step = np.abs(ops.convert_to_numpy(variable) - old).max()
        assert step < 1.01e-3, variable.path
