"""Prompts that train together become what each becomes alone."""

import os
from functools import partial

import keras
import numpy as np
import pytest

from keras_ptuning import (
    LoRA,
    Prompt,
    PromptBank,
    build_prompt_ensemble,
    build_ptuning_model,
    describe_prompt,
    load_model,
    load_tuned,
    search_label_words,
)

pytestmark = pytest.mark.usefixtures("eagerly")

LABELS = {"负面": "不", "正面": "很"}


@pytest.fixture
def make_ensemble(small_bert, make_template):
    def make(pattern="[u1][u2][MASK]满意。{text}", labels=LABELS, members=3, **kwargs):
        kwargs = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0, **kwargs}
        template = make_template(pattern, labels)
        return build_prompt_ensemble(*small_bert[:2], template, members, **kwargs)

    return make


@pytest.mark.parametrize(
    ("labels", "auxiliary"),
    [
        pytest.param(LABELS, False, marks=pytest.mark.graph),
        ({"负面": "[v1]", "正面": ["[v2]", "很"]}, True),
    ],
)
def test_each_becomes_what_it_would_become_alone(
    small_bert, make_ensemble, reviews, labels, auxiliary
):
    ensemble = make_ensemble(labels=labels, auxiliary=auxiliary)
    starts = keras.ops.convert_to_numpy(ensemble.prompts)
    assert len({row.tobytes() for row in starts}) == 3
    template = ensemble.template

    def train(model):
        model.compile(keras.optimizers.Adam(0.02))
        model.fit(template.dataset(*reviews, batch_size=8, seed=3), epochs=3, verbose=0)

    train(ensemble)
    scores = []
    for start, prompt in zip(starts, keras.ops.convert_to_numpy(ensemble.prompts), strict=True):
        alone = build_ptuning_model(
            *small_bert[:2],
            template,
            auxiliary=auxiliary,
            dropout_rate=0.0,
            attention_dropout_rate=0.0,
        )
        alone.prompt.assign(start)
        train(alone)
        np.testing.assert_allclose(alone.prompt, prompt, atol=2e-4)
        scores.append(alone.predict(template.dataset(reviews[0]), verbose=0))
    p = keras.ops.convert_to_numpy(keras.ops.softmax(np.stack(scores)))
    found = np.exp(ensemble.predict(template.dataset(reviews[0]), verbose=0))
    np.testing.assert_allclose(found, p.mean(axis=0), atol=2e-3)


def test_the_loss_is_the_mean_of_those_of_the_members(make_ensemble, reviews):
    model = make_ensemble(auxiliary=False, normalization="labels")
    x, y = model.template.encode(*reviews)
    scores = model.predict_members(x, verbose=0)
    expected = -keras.ops.log_softmax(scores)
    expected = np.mean([keras.ops.convert_to_numpy(own)[range(24), y] for own in expected])
    model.compile(keras.optimizers.SGD(0.0))
    assert model.train_on_batch(x, y)[0] == pytest.approx(float(expected), rel=1e-5)


def test_majority(make_ensemble, reviews):
    model = make_ensemble(vote="majority")
    rng = np.random.default_rng(0)
    model.prompts.assign(rng.normal(0, 1, model.prompts.shape))
    scores = np.log([[[0.9, 0.1]], [[0.4, 0.6]], [[0.4, 0.6]]])
    votes = np.exp(keras.ops.convert_to_numpy(model._vote(keras.ops.convert_to_tensor(scores))))
    np.testing.assert_allclose(votes, [[(1 + 1.7 / 3) / 4, (2 + 1.3 / 3) / 4]], rtol=1e-5)
    data = model.template.dataset(reviews[0])
    assert np.isfinite(model.predict(data, verbose=0)).all()


def test_double_precision(make_ensemble, reviews):
    model = make_ensemble(labels={"负面": "[v1]", "正面": "[v2]"}, dtype="float64")
    data = model.template.dataset(*reviews)
    model.compile(keras.optimizers.Adam(0.05))
    model.fit(data, epochs=1, verbose=0)
    assert np.isfinite(model.predict(data, verbose=0)).all()


def test_the_votes_of_each_while_they_train(make_ensemble, reviews):
    model = make_ensemble()
    data, found = model.template.dataset(*reviews), []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: found.append(model.predict_members(data, verbose=0))
    )
    model.compile(keras.optimizers.Adam(0.02))
    model.fit(data, epochs=2, callbacks=[watch], verbose=0)
    np.testing.assert_allclose(model.predict_members(data, verbose=0), found[1], atol=1e-5)
    assert np.abs(found[1] - found[0]).max() > 1e-3


@pytest.mark.graph
def test_its_files(small_bert, make_ensemble, reviews, tmp_path):
    model = make_ensemble(labels={"负面": "[v1]", "正面": "[v2]"}, members=2)
    model.compile(keras.optimizers.Adam(0.05))
    data = model.template.dataset(*reviews)
    model.fit(data, epochs=2, verbose=0)
    model.save(tmp_path / "ensemble.keras")
    model.save_tuned(tmp_path / "prompts")
    model.save_tuned(tmp_path / "prompts")
    (tmp_path / "larger").mkdir()
    (tmp_path / "larger" / "3.tuned").write_text("of another ensemble")
    with pytest.raises(ValueError, match=r"3\.tuned.*Nothing was replaced"):
        model.save_tuned(tmp_path / "larger")
    assert os.listdir(tmp_path / "larger") == ["3.tuned"]
    expected = model.predict(data, verbose=0)
    loaded = load_model(tmp_path / "ensemble.keras")
    np.testing.assert_allclose(loaded.predict(data, verbose=0), expected, atol=1e-6)
    with pytest.raises(IsADirectoryError, match=r"of an ensemble: give .*prompts/1\.tuned'"):
        load_tuned(tmp_path / "prompts", *small_bert)
    bank = PromptBank(*small_bert)
    total, members = 0, model.predict_members(data, verbose=0)
    for i in (1, 2):
        path = tmp_path / "prompts" / f"{i}.tuned"
        scores = load_tuned(path, *small_bert).predict(data, verbose=0)
        bank.add(str(i), path)
        np.testing.assert_allclose(members[i - 1], scores, atol=1e-5)
        asked = bank.scores([(str(i), text) for text in reviews[0]])
        np.testing.assert_allclose(asked, scores, atol=1e-5)
        total = total + np.exp(keras.ops.convert_to_numpy(keras.ops.log_softmax(scores))) / 2
    np.testing.assert_allclose(np.exp(expected), total, atol=1e-5)
    np.testing.assert_allclose(model.predict(data, verbose=0), expected, atol=1e-6)


def test_what_it_refuses(make_ensemble, reviews, tmp_path, capsys):
    for tune in (Prompt(), Prompt(["很好"]), Prompt("random", encoder="mlp"), LoRA(), "all"):
        with pytest.raises(
            ValueError, match=r"prompts of an ensemble have no encoder.*Received: tune="
        ):
            make_ensemble(tune=tune)
    with pytest.raises(ValueError, match=r"`members`.*1"):
        make_ensemble(members=1)
    with pytest.raises(ValueError, match=r"`vote` must be one of"):
        make_ensemble(vote="loudest")
    with pytest.raises(ValueError, match=r"no virtual tokens"):
        make_ensemble("[MASK]{text}")
    model = make_ensemble()
    for optimizer in (
        keras.optimizers.SGD(clipnorm=0.1),
        {"prompt": keras.optimizers.Adam(global_clipnorm=0.1)},
    ):
        with pytest.raises(ValueError, match=r"use `clipvalue`. Received: (global_)?clipnorm=0.1"):
            model.compile(optimizer)
    for optimizer in (keras.optimizers.Adafactor(), keras.optimizers.Lamb()):
        with pytest.raises(ValueError, match=rf"{type(optimizer).__name__} scales the steps of 3"):
            model.compile(optimizer)
    model.compile(keras.optimizers.SGD(clipvalue=0.1))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"saved as a folder.*/file'. Give that of a"):
        model.save_tuned(tmp_path / "file")
    with pytest.raises(ValueError, match=r"one prompt, and there are 3"):
        model.save_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match=r"3 prompts, and not the vectors of one.*load_tuned"):
        describe_prompt(model)
    search = partial(search_label_words, model, model.template.pattern, *reviews, verbose=0)
    with pytest.raises(ValueError, match=r"leave out `score`.*Received: score='classifier'"):
        search(score="classifier")
    assert set(search()) == {"负面", "正面"}
    model.summary()
    assert "3 prompts of 2 tokens x 32" in capsys.readouterr().out
