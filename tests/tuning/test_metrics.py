"""Keras's metrics in `compile`, against NumPy and scikit-learn."""

import keras
import numpy as np
import pytest
import sklearn.metrics
from keras import metrics, ops

from keras_ptuning import PlainText, build_classifier

pytestmark = pytest.mark.usefixtures("eagerly")

LABELS = {"负面": "不", "中性": "一", "正面": "很"}
NAMES = list(LABELS)


@pytest.fixture
def template(make_template):
    return make_template("[u1][MASK]{text}", LABELS)


@pytest.fixture
def texts():
    """Texts of all labels, in batches that the labels do not share evenly."""
    return [f"{'书贵屏幕好差'[i % 6]}{'很不满意'[i % 4]}" * (1 + i % 3) for i in range(22)]


@pytest.fixture
def labels(texts):
    return [NAMES[i % 6 // 2 if i % 5 else 0] for i in range(len(texts))]


def evaluate(model, dataset, chosen, **kwargs):
    model.compile(metrics=chosen, **kwargs)
    return model.evaluate(dataset, verbose=0, return_dict=True)


def known(model, template, texts, labels):
    """The numbers of the labels, and the predicted probabilities."""
    scores = model.predict(template.dataset(texts), verbose=0)
    return template.label_ids(labels), ops.convert_to_numpy(ops.softmax(scores))


@pytest.mark.graph
def test_macro_f1(make_model, template, texts, labels):
    """The usual measure of few-shot work, over several batches, as scikit-learn computes it."""
    model = make_model(template, tune="all", auxiliary=False)
    dataset = template.dataset(texts, labels, batch_size=5)
    chosen = ["accuracy", metrics.F1Score("macro", name="macro_f1")]
    model.compile(keras.optimizers.Adam(1e-3), metrics=chosen)
    history = model.fit(dataset, validation_data=dataset, epochs=8, verbose=0).history
    y, p = known(model, template, texts, labels)
    guesses = p.argmax(axis=1)
    expected = sklearn.metrics.f1_score(y, guesses, average="macro")
    assert len(set(guesses)) > 1 and abs(expected - (y == guesses).mean()) > 0.01
    assert len(history["macro_f1"]) == 8
    assert history["val_macro_f1"][-1] == pytest.approx(expected, abs=1e-5)
    assert history["val_accuracy"][-1] == pytest.approx((y == guesses).mean())


def test_others_mean_what_they_say(make_model, template, texts, labels):
    model = make_model(template)
    chosen = [
        "categorical_accuracy",
        "sparse_categorical_accuracy",
        metrics.categorical_accuracy,
        metrics.SparseCategoricalCrossentropy(name="sparse"),
        metrics.CategoricalCrossentropy(name="dense"),
        metrics.CategoricalCrossentropy(name="logits", from_logits=True),
        metrics.Precision(class_id=1, thresholds=0.3),
        metrics.Recall(class_id=1, thresholds=0.3),
        metrics.AUC(name="auc", multi_label=True, num_thresholds=2000),
        metrics.TopKCategoricalAccuracy(2, name="top"),
        metrics.MeanSquaredError(name="brier"),
    ]
    found = evaluate(model, template.dataset(texts, labels, batch_size=5), chosen)
    y, p = known(model, template, texts, labels)
    right, taken, one_hot = (p.argmax(axis=1) == y).mean(), p[:, 1] > 0.3, np.eye(3)[y]
    cross_entropy = sklearn.metrics.log_loss(y, p)
    auc = np.mean([sklearn.metrics.roc_auc_score(one_hot[:, k], p[:, k]) for k in range(3)])
    expected = {
        "categorical_accuracy": right,
        "sparse_categorical_accuracy": right,
        "categorical_accuracy_1": right,
        "sparse": cross_entropy,
        "dense": cross_entropy,
        "logits": cross_entropy,
        "precision": (taken & (y == 1)).sum() / max(taken.sum(), 1),
        "recall": (taken & (y == 1)).sum() / (y == 1).sum(),
        "top": sklearn.metrics.top_k_accuracy_score(y, p, k=2),
        "brier": np.square(p - one_hot).mean(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-4), name
    assert found["auc"] == pytest.approx(auc, abs=0.01)


def test_texts_without_a_label_do_not_count(make_model, template, texts, labels):
    model = make_model(template)
    data = template.dataset(texts, labels, 8, unlabeled=texts[::-1])
    # All probabilities are above 0, so that each label is found.
    found = [metrics.TruePositives(thresholds=0.0), metrics.CategoricalAccuracy(name="right")]
    model.compile(keras.optimizers.SGD(0.0), metrics=["accuracy", *found])
    history = model.fit(data, verbose=0).history
    assert history["true_positives"] == [len(texts)]
    assert history["right"] == pytest.approx(history["accuracy"])


def test_soft_labels(make_model, template, texts):
    """Measures of probabilities compare them as they are; others take the most probable."""
    soft = np.random.default_rng(0).dirichlet([1, 1, 1], len(texts)).astype("float32")
    model = make_model(template)
    chosen = [metrics.KLDivergence(name="kl"), metrics.F1Score("macro", name="f1"), "accuracy"]
    found = evaluate(model, template.dataset(texts, soft, batch_size=5), chosen)
    y, p = known(model, template, texts, [NAMES[i] for i in soft.argmax(axis=1)])
    assert found["kl"] == pytest.approx((soft * np.log(soft / p)).sum(axis=1).mean(), rel=1e-3)
    expected = sklearn.metrics.f1_score(y, p.argmax(axis=1), average="macro")
    assert found["f1"] == pytest.approx(expected, abs=1e-5)
    assert found["accuracy"] == pytest.approx((y == p.argmax(axis=1)).mean())


def test_weighted_metrics(make_model, template, texts, labels):
    """`class_weight` weighs these, and not the others."""
    model = make_model(template)
    x, y = template.encode(texts, labels)
    weights = np.arange(1.0, len(texts) + 1)
    model.compile(metrics=["accuracy"], weighted_metrics=[metrics.F1Score("macro")])
    found = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    _, p = known(model, template, texts, labels)
    guesses = p.argmax(axis=1)
    expected = sklearn.metrics.f1_score(y, guesses, average="macro", sample_weight=weights)
    assert found["f1_score"] == pytest.approx(expected, abs=1e-5)
    assert found["accuracy"] == pytest.approx((y == guesses).mean())


def share_of_last(y_true, y_pred):
    """What a function of the user's gets: numbers of labels, and probabilities."""
    return ops.cast(y_true, "float32") + ops.sum(y_pred, axis=-1)


def test_own_functions(make_model, template, texts, labels):
    model = make_model(template)
    found = evaluate(model, template.dataset(texts, labels), [share_of_last])
    expected = template.label_ids(labels).mean() + 1
    assert found["share_of_last"] == pytest.approx(expected, abs=1e-5)


class Count(metrics.Metric):
    """A metric of the user's, without weights, as Keras takes it in `metrics`."""

    def __init__(self):
        super().__init__(name="count")
        self.total = self.add_weight(initializer="zeros")

    def update_state(self, y_true, y_pred):
        self.total.assign_add(ops.cast(ops.shape(y_true)[0], "float32"))

    def result(self):
        return self.total


class WeightedCount(Count):
    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(ops.sum(sample_weight))


def test_own_metrics(make_model, template, texts, labels):
    found = evaluate(make_model(template), template.dataset(texts, labels, 5), [WeightedCount()])
    assert found["count"] == len(texts)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (metrics.Accuracy(), r"Accuracy does not measure.*Use 'accuracy', F1Score"),
        ("binary_accuracy", "BinaryAccuracy does not measure"),
        (metrics.MeanIoU(3), "MeanIoU does not measure"),
        (metrics.Hinge(), "Hinge does not measure"),
        (metrics.Mean(), "Mean does not measure"),
        ("f2", "f2"),
        (Count(), "needs a third argument, `sample_weight=None`. Received: <Count"),
    ],
)
def test_what_cannot_be_is_refused(make_model, template, metric, message):
    with pytest.raises(ValueError, match=message):
        make_model(template).compile(metrics=[metric])


def test_candidates(make_model, make_template):
    template = make_template("{text}[u1][MASK]", None)
    model = make_model(template)
    with pytest.raises(ValueError, match="begins with Sparse"):
        model.compile(metrics=[metrics.F1Score()])
    data = template.dataset(
        ["书", "贵"], ["很", "不"], candidates=[["很", "不", "一"], ["很", "不"]]
    )
    found = evaluate(model, data, ["accuracy", metrics.SparseCategoricalCrossentropy(name="ce")])
    scores = model.predict(data, verbose=0)
    p = ops.convert_to_numpy(ops.softmax(scores))
    assert found["ce"] == pytest.approx(-np.log(p[[0, 1], [0, 1]]).mean(), rel=1e-4)
    assert found["accuracy"] == pytest.approx((p.argmax(axis=1) == [0, 1]).mean())


def test_metrics_are_saved(make_model, template, texts, labels, tmp_path):
    model, data = make_model(template), template.dataset(texts, labels)
    found = evaluate(model, data, ["accuracy", metrics.F1Score("macro")])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded.evaluate(data, verbose=0, return_dict=True)
    assert again == pytest.approx(found, rel=1e-5)


def test_a_classifier(small_bert, texts, labels):
    plain = PlainText(NAMES, small_bert[2], maxlen=64)
    model = build_classifier(*small_bert[:2], plain, dropout_rate=0.0)
    found = evaluate(model, plain.dataset(texts, labels, batch_size=5), [metrics.F1Score("macro")])
    y, p = known(model, plain, texts, labels)
    expected = sklearn.metrics.f1_score(y, p.argmax(axis=1), average="macro")
    assert found["f1_score"] == pytest.approx(expected, abs=1e-5)
