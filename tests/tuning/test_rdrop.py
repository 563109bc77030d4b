"""R-Drop: two passes with different dropout, and how far apart they are."""

import keras
import numpy as np
import pytest
from conftest import LABELS
from keras import ops

from keras_ptuning import (
    PlainText,
    build_classifier,
    build_prompt_ensemble,
    build_vat_classifier,
    load_model,
)

ALPHA = 3.0
DROPOUT = {"dropout_rate": 0.3, "attention_dropout_rate": 0.0}


def compiled(model, rdrop=ALPHA, **kwargs):
    model.compile(keras.optimizers.SGD(0.1), rdrop=rdrop, run_eagerly=True, **kwargs)
    return model


@pytest.fixture
def plain(tokenizer):
    return PlainText(list(LABELS), tokenizer, maxlen=64)


@pytest.fixture
def models(make_model, small_bert, plain):
    """A cloze and a classifier, with dropout."""
    return [make_model(**DROPOUT), build_classifier(*small_bert[:2], plain, **DROPOUT)]


def planted(model, first, second):
    """The loss of two passes that say this of each label."""
    y = ops.convert_to_tensor([0, 1, -1])
    if "auxiliary" in model._options():
        model.normalization = "labels"
    first, second = (ops.log_softmax(ops.convert_to_tensor(s, "float32")) for s in (first, second))
    return float(model.compute_loss({}, y, {"scores": first, "again": {"scores": second}}))


def test_the_value(models):
    """Against NumPy; a text without a label has a divergence too."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, 3, 2))
    p, q = (np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) for s in scores)
    likelihood = np.log(p[[0, 1], [0, 1]]) + np.log(q[[0, 1], [0, 1]])
    divergence = (p * np.log(p / q) + q * np.log(q / p)).sum(axis=1) / 2
    # The loss of the paper, for each text, is the sum; and this is half of it.
    expected = (-likelihood.mean() + ALPHA * divergence.mean()) / 2
    for model in models:
        assert planted(compiled(model), *scores) == pytest.approx(expected, rel=1e-5)


def test_texts_that_are_asked_nothing(make_model, make_template):
    """Of a template of words, texts without a label have no divergence: they come without it."""
    template = make_template("[MASK]满意。{text}")
    data = template.dataset(["书"] * 2, ["正面", "负面"], unlabeled=["屏幕"], shuffle=False)
    assert data[0][0]["mask_positions"].tolist() == [[1], [1], [0]]
    scores = np.random.default_rng(0).normal(size=(2, 3, 2))
    model = compiled(make_model(template, tune="all", **DROPOUT))
    found = planted(model, *scores)
    p, q = (np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) for s in scores)
    likelihood = np.log(p[[0, 1], [0, 1]]) + np.log(q[[0, 1], [0, 1]])
    divergence = (p * np.log(p / q) + q * np.log(q / p)).sum(axis=1) / 2
    expected = (-likelihood.mean() + ALPHA * divergence[:2].mean()) / 2
    assert found == pytest.approx(expected, rel=1e-5)
    # Nor a batch of nothing else.
    history = model.fit(template.dataset(unlabeled=["屏幕"]), verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_passes_that_are_the_same(models):
    """Have the loss of one of them."""
    scores = np.random.default_rng(0).normal(size=(3, 2))
    for model in models:
        found = planted(compiled(model), scores, scores)
        p = ops.log_softmax(ops.convert_to_tensor(scores, "float32"))
        alone = model.compute_loss({}, ops.convert_to_tensor([0, 1, -1]), p)
        assert found == pytest.approx(float(alone), rel=1e-6)


def test_two_passes_differ_in_dropout_alone(models, reviews):
    for model in models:
        x, _ = compiled(model).template.encode(*reviews)
        found = model(x, training=True)
        first, second = (ops.convert_to_numpy(p["scores"]) for p in (found, found["again"]))
        assert np.abs(first - second).max() > 0.01
        model.compile()
        # Without it there is one pass, and so it is for prediction.
        assert not isinstance(model(x, training=True), dict)
        assert not isinstance(compiled(model)(x), dict)


def test_none_is_plain_training(make_model, reviews):
    losses = []
    for options in ({}, {"rdrop": 0.0}, {"rdrop": ALPHA}):
        keras.utils.set_random_seed(0)
        model = make_model(**DROPOUT)
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=True, **options)
        data = model.template.dataset(*reviews, batch_size=12)
        losses.append(model.fit(data, epochs=2, verbose=0).history["loss"])
    assert losses[0] == losses[1] and losses[0] != losses[2]


def test_it_draws_predictions_together(make_model, reviews):
    """Nothing else is learned where no text has a label."""
    model = make_model(**DROPOUT, tune="all", auxiliary=False)
    x, _ = model.template.encode(*reviews)
    x = {name: array[:8] for name, array in x.items()}
    y = np.full(8, -1)

    def apart():
        found = model(x, training=True)
        return float(model.compute_loss({}, ops.convert_to_tensor(y), found))

    compiled(model)
    before = np.mean([apart() for _ in range(3)])
    model.optimizer.learning_rate.assign(1.0)
    for _ in range(8):
        model.train_on_batch(x, y)
    assert 0 < np.mean([apart() for _ in range(3)]) < before / 2


def test_it_is_saved(models, reviews, tmp_path):
    for model in models:
        data = model.template.dataset(*reviews, batch_size=24)
        compiled(model).fit(data, verbose=0)
        model.save(tmp_path / "model.keras")
        assert load_model(tmp_path / "model.keras").rdrop == ALPHA


def test_with_vat(small_bert, plain, reviews):
    model = compiled(build_vat_classifier(*small_bert[:2], plain, **DROPOUT))
    history = model.fit(plain.dataset(*reviews, unlabeled=["书好"], batch_size=25), verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_with_an_ensemble(small_bert, make_template):
    """Each member is compared with itself; and a row that only fills up the batch with none."""
    template = make_template()
    model = build_prompt_ensemble(*small_bert[:2], template, normalization="labels", **DROPOUT)
    compiled(model)
    p, q = np.log(np.random.default_rng(0).dirichlet([1, 1], (2, 5, 3))).astype("float32")
    apart = ((np.exp(p) * (p - q) + np.exp(q) * (q - p)).sum(axis=-1) / 2)[:, :2]
    likelihood = (p + q)[:, [0, 1], [0, 1]]
    first, second = (ops.convert_to_tensor(s.reshape(15, 2)) for s in (p, q))
    found = {"scores": None, "member_scores": first, "again": {"scores": second}}
    x = {"is_text": ops.convert_to_tensor(np.array([1, 1, 0], "float32"))}
    loss = model.compute_loss(x, ops.convert_to_tensor([0, 1, -1]), found)
    expected = (-likelihood.mean() + ALPHA * apart.mean()) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_bad_input(make_model, models):
    with pytest.raises(ValueError, match=r"Without dropout.*dropout_rate=0\.1"):
        make_model().compile(rdrop=1.0)
    make_model().compile(rdrop=0)
    for wrong in (-1.0, float("nan"), float("inf"), "1", True):
        with pytest.raises(ValueError, match="`rdrop` must be a finite number from 0 on"):
            models[0].compile(rdrop=wrong)
