"""The dense classifier over the mean vector, next to the cloze."""

import keras
import numpy as np
import pytest
from small_bert import CONFIG, write_small_bert

from keras_ptuning import (
    Template,
    build_ptuning_model,
    build_transformer_model,
    load_model,
    load_tuned,
)

pytestmark = pytest.mark.usefixtures("eagerly")

LABELS = {"负面": "不", "正面": "很"}


@pytest.fixture
def make_classifier(make_model, make_template):
    def make(pattern="[MASK]满意。{text}", **kwargs):
        kwargs = {"normalization": "labels", "classifier": True, **kwargs}
        return make_model(make_template(pattern), **kwargs)

    return make


def test_it_begins_with_the_answers_of_the_cloze(make_classifier, reviews):
    plain = make_classifier(classifier=False)
    data = plain.template.dataset(reviews[0])
    expected = keras.ops.log_softmax(plain.predict(data, verbose=0))
    found = make_classifier().predict(data, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_scores_are_those_of_cloze_and_mean_vector(small_bert, make_classifier, reviews):
    model = make_classifier()
    rng = np.random.default_rng(0)
    kernel, bias = (rng.normal(size=v.shape) for v in model.classifier.weights)
    model.classifier.set_weights([kernel, bias])
    x = model.template.encode(reviews[0])
    sequence = build_transformer_model(*small_bert[:2]).predict_on_batch(
        [x["token_ids"], x["segment_ids"]]
    )
    # Padding does not count.
    vectors = [
        row[ids != 0].mean(axis=0) for row, ids in zip(sequence, x["token_ids"], strict=True)
    ]
    mean = np.stack(vectors)
    unit = (mean - mean.mean(1, keepdims=True)) / mean.std(1, keepdims=True)
    cloze = make_classifier(classifier=False).predict(x, verbose=0)
    expected = keras.ops.log_softmax(cloze + unit @ kernel + bias)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-4)


@pytest.mark.graph
@pytest.mark.parametrize("tune", [None, "lora"])
def test_it_learns_and_is_saved(small_bert, make_classifier, reviews, tune, tmp_path):
    model = make_classifier(tune=tune)
    data = model.template.dataset(*reviews, mask_rate=0)
    model.compile(keras.optimizers.Adam(0.05))
    model.fit(data, epochs=15, verbose=0)
    assert model.evaluate(data, verbose=0, return_dict=True)["accuracy"] == 1
    assert np.abs(model.classifier.weights[0]).max() > 0.1
    expected = model.predict(data, verbose=0)
    model.save(tmp_path / "model.keras")
    model.save_tuned(tmp_path / "model.tuned")
    for loaded in (
        load_model(tmp_path / "model.keras"),
        load_tuned(tmp_path / "model.tuned", *small_bert),
    ):
        np.testing.assert_allclose(loaded.predict(data, verbose=0), expected, atol=1e-6)


@pytest.mark.graph
def test_with_the_auxiliary_task(make_classifier, reviews):
    model = make_classifier(tune="all", auxiliary=True)
    model.compile(keras.optimizers.Adam(0.01))
    data = model.template.dataset(*reviews)
    loss = model.fit(data, epochs=8, verbose=0).history["loss"]
    assert loss[-1] < loss[0]


@pytest.mark.graph
def test_of_a_causal_model(tmp_path, reviews):
    paths = write_small_bert(tmp_path, {**CONFIG, "is_decoder": True})
    template = Template("{text}我[MASK]", LABELS, paths[2], maxlen=32, causal=True)
    model = build_ptuning_model(
        *paths[:2], template, normalization="labels", classifier=True, auxiliary=False
    )
    model.compile(keras.optimizers.Adam(0.05))
    data = template.dataset(*reviews, mask_rate=0)
    loss = model.fit(data, epochs=10, verbose=0).history["loss"]
    assert loss[-1] < loss[0] / 2


def test_what_it_cannot_do(make_model, make_template, make_classifier, tmp_path):
    with pytest.raises(ValueError, match=r"`normalization='labels'` too.*'vocabulary'"):
        make_classifier(normalization="vocabulary")
    with pytest.raises(ValueError, match=r"candidates of their own"):
        make_model(make_template("[MASK]{text}", None), normalization="labels", classifier=True)
    with pytest.raises(ValueError, match=r"no place for 'Classifier'"):
        make_classifier().save_checkpoint(tmp_path / "checkpoint")


def test_the_summary_tells_its_size(make_classifier, capsys):
    make_classifier().summary()
    assert "head: 66 parameters" in capsys.readouterr().out
