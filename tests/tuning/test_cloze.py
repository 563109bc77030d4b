import json
import os
import pathlib
import re
from functools import partial

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import LABELS
from keras import ops
from small_bert import CONFIG, tensors, vocabulary, write_small_bert, write_tensors

from keras_ptuning import (
    PlainText,
    Prompt,
    Template,
    Tokenizer,
    build_classifier,
    build_ptuning_model,
    build_transformer_model,
    build_vat_classifier,
    load_tuned,
)
from keras_ptuning.datasets import load_sentiment
from keras_ptuning.tuning.nan import StopAtNaN

pytestmark = pytest.mark.usefixtures("eagerly")


def values(model):
    """All weights by layer and place."""
    return {
        (layer.name, i): ops.convert_to_numpy(w).copy()
        for layer in model.backbone.layers
        for i, w in enumerate(layer.weights)
    }


def changed(before, after):
    return {key for key in before if not np.array_equal(before[key], after[key])}


def test_scores_are_log_probabilities_of_the_label_words(small_bert, make_model, make_template):
    """The model against its parts: the plain BERT's probabilities at the mask."""
    template = make_template("[MASK]满意{text}", {0: ["不", "差"], 1: "很"})
    x = template.encode(["书贵", "很喜欢"])
    bert = build_transformer_model(*small_bert[:2], with_mlm=True)
    p = bert.predict([x["token_ids"], x["segment_ids"]], verbose=0)[:, 1]
    no, bad, very = (template.tokenizer.token_to_id(w) for w in "不差很")
    expected = np.log(np.stack([p[:, no] + p[:, bad], p[:, very]], axis=1))
    found = make_model(template).predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.graph
def test_only_the_prompt_learns(make_model, make_template, reviews):
    model = make_model()
    model.compile()
    before = values(model)
    model.fit(make_template().dataset(*reviews, batch_size=8), epochs=2, verbose=0)
    assert changed(before, values(model)) == {("Embedding-Token", 1)}
    slots = [v.shape for v in model.optimizer.variables if len(v.shape) > 0]
    assert slots == [(8, 32)] * 2
    assert [tuple(v.shape) for v in model.trainable_variables] == [(8, 32)]


def test_everything_learns(make_model, make_template, reviews):
    model = make_model(tune="all")
    model.compile()
    before = values(model)
    model.fit(make_template().dataset(*reviews, batch_size=8), epochs=1, verbose=0)
    assert changed(before, values(model)) == set(before)


@pytest.mark.graph
def test_it_learns_and_repeats(make_model, make_template, reviews):
    """The prompt alone makes a random BERT tell books from screens; twice the same way."""
    template = make_template()
    losses = []
    for _ in range(2):
        model = make_model(normalization="labels")
        model.compile(keras.optimizers.Adam(0.02))
        dataset = template.dataset(*reviews, batch_size=8, seed=1)
        untrained = model.evaluate(dataset, verbose=0, return_dict=True)
        losses.append(model.fit(dataset, epochs=40, verbose=0).history["loss"])
    trained = model.evaluate(dataset, verbose=0, return_dict=True)
    assert losses[0] == losses[1]
    assert untrained["accuracy"] < 0.7 and trained["accuracy"] > 0.9
    assert template.decode(model.predict(template.dataset(reviews[0]), verbose=0)) == reviews[1]


def loss_by_hand(model, x, y, positions, targets, token_ids):
    """Mean cross-entropy over answers and auxiliary targets, in NumPy."""
    template = model.template
    logits = model.backbone.predict(
        [token_ids, x["segment_ids"], positions.astype("int32")], verbose=0
    )
    logits = logits - logits.max(axis=-1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    words = np.array([template.word_ids[i][0] for i in y])
    targets = np.concatenate([words, targets], axis=1)
    picked = np.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    return -(picked * (targets >= 0)).sum() / (targets >= 0).sum()


@pytest.mark.parametrize("pattern", ["[u1][MASK][u2]{text}", "[u1][MASK][MASK]{text}"])
def test_objective_with_and_without_the_auxiliary_task(make_model, make_template, reviews, pattern):
    labels = LABELS if "[MASK][MASK]" not in pattern else {"负面": "不好", "正面": "满意"}
    template = make_template(pattern, labels)
    x, y = template.dataset(*reviews, batch_size=24)[0]
    answers = x["mask_positions"]
    for auxiliary in (True, False):
        model = make_model(template, auxiliary=auxiliary)
        if auxiliary:
            positions = np.concatenate([answers, x["auxiliary_positions"]], axis=1)
            expected = loss_by_hand(
                model, x, y, positions, x["auxiliary_ids"], x["masked_token_ids"]
            )
        else:
            nothing = np.zeros((len(y), 0), "int32")
            expected = loss_by_hand(model, x, y, answers, nothing, x["token_ids"])
        model.compile(keras.optimizers.SGD(0.0))
        np.testing.assert_allclose(model.train_on_batch(x, y)[0], expected, rtol=1e-4)
        if not auxiliary:
            np.testing.assert_allclose(model.test_on_batch(x, y)[0], expected, rtol=1e-4)


def test_label_normalization(make_model, make_template, reviews):
    model = make_model(normalization="labels", auxiliary=False)
    model.compile(keras.optimizers.SGD(0.0))
    x, y = make_template().encode(*reviews)
    scores = model.predict(x, verbose=0)
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    expected = -log_p[np.arange(len(y)), y].mean()
    np.testing.assert_allclose(model.train_on_batch(x, y)[0], expected, rtol=1e-4)


def test_sample_weights(make_model, make_template, reviews):
    model = make_model(auxiliary=False)
    model.compile(keras.optimizers.SGD(0.0))
    x, y = make_template().encode(*reviews)
    losses = -np.take_along_axis(model.predict(x, verbose=0), y[:, None], axis=1)[:, 0]
    weights = np.linspace(0, 2, len(y)).astype("float32")
    for column in (weights, weights[:, None]):
        found = model.train_on_batch(x, y, sample_weight=column)[0]
        np.testing.assert_allclose(found, (losses * weights).mean(), rtol=1e-4)
    for given in (weights.tolist(), weights[:, None], ops.convert_to_tensor(weights)):
        data = {"x": x, "y": y, "sample_weight": given, "verbose": 0}
        found = [
            model.fit(**data, batch_size=24).history["loss"][0],
            model.fit(x, y, validation_data=(x, y, given), verbose=0).history["val_loss"][0],
            model.evaluate(**data)[0],
        ]
        np.testing.assert_allclose(found, (losses * weights).mean(), rtol=1e-4)
        found = model.fit(**data, batch_size=24, class_weight={"负面": 1}).history["loss"]
        np.testing.assert_allclose(found, (losses * weights).mean(), rtol=1e-4)


@pytest.mark.parametrize("weights", [[1.0] * 23, [1.0] * 23 + [np.nan], ["1"] * 24, [-1.0] * 24])
def test_bad_sample_weights(make_model, make_template, reviews, weights):
    model = make_model(auxiliary=False)
    model.compile()
    x, y = make_template().encode(*reviews)
    message = "`sample_weight` must be 24 finite numbers from 0 on, one for each text"
    for options in ({}, {"class_weight": "balanced"}):
        with pytest.raises(ValueError, match=message):
            model.fit(x, y, sample_weight=weights, verbose=0, **options)
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, validation_data=(x, y, weights), verbose=0)
    with pytest.raises(ValueError, match=message):
        model.evaluate(x, y, sample_weight=weights, verbose=0)


def test_masks_are_seen_in_training_only(make_model, make_template, reviews):
    model = make_model()
    x, _ = make_template().dataset(*reviews)[0]
    unmasked = {k: x[k] for k in ("token_ids", "segment_ids", "mask_positions")}
    a, b = (ops.convert_to_numpy(model(inputs, training=False)) for inputs in (x, unmasked))
    np.testing.assert_array_equal(a, b)
    assert set(model(x, training=True)) == {"scores", "auxiliary_loss", "auxiliary_count"}


@pytest.mark.graph
def test_predictions_come_in_the_order_of_the_texts(make_model, make_template):
    template, model = make_template(), make_model()
    texts = ["书" * n for n in (30, 1, 17, 3, 44, 2, 9)]
    one_by_one = np.concatenate([model.predict(template.encode([t]), verbose=0) for t in texts])
    for labels in (None, ["正面"] * 7):
        dataset = template.dataset(texts, labels, batch_size=2)
        np.testing.assert_allclose(model.predict(dataset, verbose=0), one_by_one, atol=1e-5)


@pytest.mark.graph
def test_batches_of_changing_length(make_model, make_template):
    """The first two batches of equal length, later ones not: Keras guesses from two."""
    template, model = make_template(), make_model()
    texts = ["书" * 4] * 4 + ["书" * 30] * 4
    model.compile()
    dataset = template.dataset(texts, ["正面"] * 8, batch_size=2, shuffle=False)
    history = model.fit(dataset, validation_data=dataset, epochs=2, verbose=0).history
    assert len(history["val_accuracy"]) == 2
    assert np.isfinite(model.evaluate(dataset, verbose=0)).all()
    assert model.predict(dataset, verbose=0).shape == (8, 2)


def test_each_epoch_has_its_own_batches(make_model, make_template, reviews):
    """Also where training continues, in the same process or, by `initial_epoch`, in another."""
    dataset = make_template().dataset(*reviews, batch_size=8)
    epochs = []
    model = make_model()
    model.compile()
    see = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: epochs.append(dataset.epoch)
    )
    model.fit(dataset, epochs=2, callbacks=see, verbose=0)
    model.fit(dataset, epochs=1, callbacks=[see], verbose=0)
    model.fit(dataset, initial_epoch=3, epochs=5, callbacks=see, verbose=0)
    assert epochs == [0, 1, 2, 3, 4]
    dataset.epoch = 0
    model.fit(dataset, initial_epoch=7, epochs=8, callbacks=see, verbose=0)
    assert epochs[-1] == 7


def test_a_restored_training_has_the_batches_of_its_epochs(make_model, reviews, tmp_path):
    """In the process that was interrupted, where the dataset has counted the first epoch."""
    model = make_model()
    model.compile(keras.optimizers.Adam(0.01))
    data, epochs = model.template.dataset(*reviews, batch_size=8), []

    def see(epoch, logs):
        epochs.append((epoch, data.epoch))
        if len(epochs) == 2:
            raise KeyboardInterrupt

    def train():
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        watch = keras.callbacks.LambdaCallback(on_epoch_begin=see)
        model.fit(data, epochs=3, callbacks=[backup, watch], verbose=0)

    with pytest.raises(KeyboardInterrupt):
        train()
    train()
    assert epochs == [(0, 0), (1, 1), (1, 1), (2, 2)]


@pytest.mark.graph
def test_arrays_like_any_keras_model(make_model, make_template, reviews):
    """Positional arguments, validation_split, column labels, eager mode."""
    model = make_model()
    x, y = make_template().encode(*reviews)
    for eager in (False, True):
        model.compile(keras.optimizers.SGD(0.0), run_eagerly=eager)
        losses = [
            model.fit(x, labels, 24, 1, verbose=0).history["loss"][0] for labels in (y, y[:, None])
        ]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
        model.fit(make_template().dataset(*reviews), verbose=0)
    history = model.fit(x, y, 8, 2, validation_split=0.25, verbose=0).history
    assert len(history["val_accuracy"]) == 2
    assert model.evaluate(x, y, 8, verbose=0)[0] > 0
    assert model.predict(x, 8, verbose=0).shape == (24, 2)


@pytest.mark.graph
def test_keras_callbacks(make_model, make_template, reviews, tmp_path):
    model, dataset = make_model(), make_template().dataset(*reviews)
    model.compile(keras.optimizers.Adam(0.05))
    best = keras.callbacks.EarlyStopping("val_accuracy", restore_best_weights=True)
    keep = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "val_accuracy", mode="max")
    model.fit(dataset, validation_data=dataset, epochs=3, callbacks=[best, keep], verbose=0)
    assert keras.models.load_model(tmp_path / "best.keras").template.label_names == list(LABELS)


def test_summary_tells_what_trains(make_model):
    lines = []
    make_model().summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert "Trained: 256 of" in text and "8 tokens x 32" in text
    assert "MLM-Dense" in text


def test_prompt_starts_from_unused_rows(make_model, make_template):
    table = tensors()["bert/embeddings/word_embeddings"]
    model = make_model(make_template("[u3][u1][MASK]{text}"))
    np.testing.assert_array_equal(ops.convert_to_numpy(model.prompt), table[[1, 3]])


def test_vocabulary_without_unused_rows(tmp_path):
    paths = write_small_bert(tmp_path, vocab=vocabulary(unused=False))
    template = Template("[u1][u2][MASK]{text}", LABELS, paths[2], maxlen=64)
    model = build_ptuning_model(*paths[:2], template, dropout_rate=0.0)
    x, y = template.dataset(["书贵", "好"] * 4, ["负面", "正面"] * 4)[0]
    prompt = ops.convert_to_numpy(model.prompt).copy()
    assert 0 < np.abs(prompt).max() < 0.1
    model.compile()
    model.train_on_batch(x, y)
    assert np.abs(ops.convert_to_numpy(model.prompt) - prompt).min() > 0


def test_a_template_of_words_is_a_zero_shot_classifier(make_model, make_template, reviews):
    template = make_template("[MASK]满意。{text}")
    model = make_model(template)
    assert model.prompt is None and not model.trainable_variables
    assert model.predict(template.dataset(reviews[0]), verbose=0).shape == (24, 2)
    model.compile()
    with pytest.raises(ValueError, match=r'no virtual tokens.*tune="all"'):
        model.fit(template.dataset(*reviews), verbose=0)
    model = make_model(template, tune="all")
    model.compile()
    model.fit(template.dataset(*reviews), verbose=0)


@pytest.mark.graph
def test_mixed_precision(make_model, make_template, reviews):
    model = make_model(dtype="mixed_bfloat16")
    blocks = [layer for layer in model.backbone.layers if layer.name.endswith("-FeedForward")]
    # The last block computes the answers alone, and may be exact.
    assert [block.compute_dtype for block in blocks] == ["bfloat16", "float32"]
    dataset = make_template().dataset(*reviews)
    exact = make_model().predict(dataset, verbose=0)
    found = model.predict(dataset, verbose=0)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, exact, atol=0.2)
    model.compile()
    assert np.isfinite(model.fit(dataset, verbose=0).history["loss"]).all()


@pytest.mark.graph
@pytest.mark.slow
def test_predictions_of_mixed_precision():
    """Of a tuned prompt on real reviews: whatever is computed too roughly costs a percent."""
    folder = os.environ.get("KERAS_PTUNING_DATA")
    if not folder:
        pytest.skip("no reviews: set KERAS_PTUNING_DATA to a folder with sentiment/")
    reviews = load_sentiment(pathlib.Path(folder) / "sentiment")
    pattern = "[u1][u2][u3][u4][MASK][u5][u6][u7][u8]{text}"
    template = Template(pattern, {"0": "不", "1": "很"}, "bert-mini-zh", maxlen=128)
    exact, mixed = (
        build_ptuning_model("bert-mini-zh", template=template, dtype=dtype)
        for dtype in ("float32", "mixed_bfloat16")
    )
    keras.utils.set_random_seed(0)
    exact.compile(keras.optimizers.Adam(0.01))
    texts, labels = (column[:168] for column in reviews["train"])
    exact.fit(
        template.dataset(texts, [str(label) for label in labels], seed=0), epochs=10, verbose=0
    )
    mixed.set_weights(exact.get_weights())
    test = template.dataset(reviews["test"][0][:1000])
    predicted = [model.predict(test, verbose=0).argmax(axis=1) for model in (exact, mixed)]
    # 99.6% were the same; 97.4% where all is computed in bfloat16.
    assert np.mean(predicted[0] == predicted[1]) > 0.99


def test_bad_models(small_bert, make_template, make_model, tmp_path):
    config, checkpoint, _ = small_bert
    tokens = vocabulary()
    with pytest.raises(ValueError, match="it has 121 tokens, and the model 120"):
        build_ptuning_model(config, checkpoint, make_template(tokenizer=[*tokens, "more"]))
    with pytest.raises(ValueError, match="it has 120 tokens, and the model 300"):
        build_ptuning_model({**CONFIG, "vocab_size": 300}, None, make_template())
    with pytest.raises(ValueError, match=r"up to 65 tokens.* 64 positions"):
        build_ptuning_model(config, checkpoint, make_template(maxlen=65))
    with pytest.raises(ValueError, match="tune='head'"):
        make_model(tune="head")
    with pytest.raises(ValueError, match="normalization='softmax'"):
        make_model(normalization="softmax")
    for option in ("auxiliary", "classifier"):
        for value in ("no", None, 0):
            with pytest.raises(TypeError, match=f"`{option}` must be True or False.*={value!r}"):
                make_model(**{option: value})
    for option in ("layers", "with_mlm", "with_pool", "sequence_length"):
        with pytest.raises(ValueError, match=f"sets .*{option}.* itself"):
            make_model(**{option: 1})
    headless = str(tmp_path / "headless.ckpt")
    write_tensors(headless, {k: v for k, v in tensors().items() if "cls/" not in k})
    with pytest.raises(ValueError, match="has no MLM head"):
        build_ptuning_model(config, headless, make_template())
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": 64}))
    with pytest.raises(ValueError, match=r"\(120, 32\).*\(120, 64\)"):
        build_ptuning_model(tmp_path / "config.json", checkpoint, make_template())


def test_bad_calls(make_model, make_template, reviews):
    model = make_model()
    template = make_template()
    with pytest.raises(ValueError, match="has its own loss"):
        model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"leave out `loss_weights`. Received: .*\[2\.0\]"):
        model.compile("adam", loss_weights=[2.0])
    with pytest.raises(ValueError, match=r"`quantize` .*dtype='bfloat16'"):
        model.quantize("int8")
    model.compile()
    dataset = template.dataset(*reviews)
    unlabeled = template.dataset(reviews[0])
    for call in (
        lambda: model.fit(unlabeled),
        lambda: model.fit(dataset, validation_data=unlabeled),
        lambda: model.evaluate(unlabeled),
    ):
        with pytest.raises(ValueError, match="need labels"):
            call()
    with pytest.raises(ValueError, match="steps_per_epoch"):
        model.fit(dataset, steps_per_epoch=1)
    with pytest.raises(ValueError, match="make a dataset of these"):
        model.predict(dataset, steps=1)
    for method in (model.fit, model.evaluate, model.predict):
        with pytest.raises(ValueError, match=r"leave out `batch_size`.*Received: batch_size=7"):
            method(dataset, batch_size=7)
    x, y = template.encode(*reviews)
    # The size of the batches of arrays, next to a dataset.
    model.fit(x, y, batch_size=12, validation_data=dataset, verbose=0)
    for method in (partial(model.fit, y=y), partial(model.evaluate, y=y), model.predict):
        with pytest.raises(ValueError, match=r"row for each text.*'segment_ids': 2"):
            method({**x, "segment_ids": x["segment_ids"][:2]})
    for labels, message in (
        (y + 1, r"from 0 to 1, the places of \['负面', '正面'\].*\[2"),
        (np.eye(2)[y], r"shape \(n,\).*\(24, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(x, labels)
        with pytest.raises(ValueError, match=message):
            model.evaluate(x, labels)
    model.trainable = False
    with pytest.raises(ValueError, match="all of the model is frozen"):
        model.fit(dataset)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": "[u1][MASK]{text}"}, "another template.*pattern"),
        ({"labels": {"正面": "很", "负面": "不"}}, "another template.*label_names"),
        ({"labels": {"负面": "差", "正面": "很"}}, "another template.*labels"),
        ({"tokenizer": [*vocabulary()[:-1], "x"]}, "another vocabulary"),
        ({"tokenizer": Tokenizer(vocabulary(), do_lower_case=False)}, "other settings"),
    ],
)
def test_data_of_another_template(make_model, make_template, reviews, change, message):
    model = make_model()
    model.compile()
    with pytest.raises(ValueError, match=message):
        model.evaluate(make_template(**change).dataset(*reviews))


def test_longer_texts_than_the_model_was_made_for(make_model, make_template, reviews):
    model = make_model(make_template(maxlen=20))
    with pytest.raises(ValueError, match="maxlen=64 instead of 20"):
        model.predict(make_template(maxlen=64).dataset(reviews[0]))


@pytest.mark.graph
def test_candidates_learn(make_model, make_template):
    """Idiom cloze: each text has candidates of its own, in an order of their own."""
    template = make_template("{text}[u1][u2][MASK][u3]{text_b}", None)
    texts = [("书" if i % 2 else "屏幕", "好" * (i % 5)) for i in range(24)]
    labels = ["很" if i % 2 else "不" for i in range(24)]
    own = [["很", "不", "满"][: 2 + i % 2] if i % 3 else ["不", "很"] for i in range(24)]
    model = make_model(template, auxiliary=False, normalization="labels")
    model.compile(keras.optimizers.Adam(0.05))
    data = template.dataset(texts, labels, batch_size=8, candidates=own)
    losses = model.fit(data, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * losses[0]
    scores = model.predict(template.dataset(texts, candidates=own), verbose=0)
    assert np.mean(np.equal(template.decode(scores, own), labels)) > 0.9


@pytest.mark.graph
def test_more_candidates_in_one_batch_than_in_another(make_model, make_template):
    template = make_template("[MASK]满意。{text}", None)
    own = [["不", "很"], ["不", "很", "好"], ["很", "不"], ["好", "很"], ["很", "好", "不", "差"]]
    texts = ["书", "贵", "屏幕", "书贵书贵", "好"]
    model = make_model(template)
    found = model.predict(template.dataset(texts, candidates=own, batch_size=2), verbose=0)
    expected = ops.convert_to_numpy(model(template.encode(texts, candidates=own)))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found.shape == (5, 4) and (found[0, 2:] == -1e9).all()


@pytest.mark.graph
def test_unlabelled_texts_count_through_the_auxiliary_task_alone(make_model, make_template):
    template = make_template()
    x, y = template.dataset(["书贵"], ["正面"], unlabeled=["屏幕", "房间"], shuffle=False)[0]
    assert y.tolist() == [1, -1, -1]
    model = make_model(template)
    targets = x["auxiliary_ids"]
    positions = np.concatenate([x["mask_positions"], x["auxiliary_positions"]], axis=1)
    bert = [x["masked_token_ids"], x["segment_ids"], positions]
    logits = ops.convert_to_numpy(model.backbone(bert))
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(log_p[:, 1:], targets[..., None], axis=-1)[..., 0]
    total = (picked * (targets >= 0)).sum() + log_p[0, 0, template.word_ids[1][0][0]]
    model.compile(keras.optimizers.SGD(0.0))
    loss, accuracy = model.train_on_batch(x, y)
    np.testing.assert_allclose(loss, -total / ((targets >= 0).sum() + 1), rtol=1e-4)
    assert accuracy in (0.0, 1.0)
    data = template.dataset(["书贵"], ["正面"], unlabeled=["屏幕"])
    model = make_model(template, auxiliary=False)
    model.compile()
    with pytest.raises(ValueError, match="Only the auxiliary task would"):
        model.fit(data)
    with pytest.raises(ValueError, match="without `unlabeled` texts"):
        model.evaluate(data)
    assert len(template.dataset(["书贵"], ["正面"], unlabeled=[]).examples) == 1
    for options in ({"mask_rate": 0}, {"labels": None}):
        with pytest.raises(ValueError, match="Unlabelled texts go with"):
            template.dataset(
                **{"texts": ["书"], "labels": ["正面"], "unlabeled": ["好"], **options}
            )


@pytest.mark.graph
def test_the_regimes_of_pet(make_model, make_template, reviews):
    """Words of a template and a whole model: without labels it learns the language alone."""
    template = make_template("[MASK]好。{text}")
    model = make_model(template, tune="all")
    model.compile(keras.optimizers.Adam(0.003))
    losses = model.fit(template.dataset(unlabeled=reviews[0]), epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    # The texts are about two things, in their own words; which is good they do not say.
    x = template.encode(reviews[0])
    before = model.evaluate(x, template.label_ids(reviews[1]), verbose=0, return_dict=True)
    assert before["accuracy"] < 0.8
    data = template.dataset(reviews[0][:8], reviews[1][:8], unlabeled=reviews[0][8:], batch_size=8)
    model.fit(data, epochs=30, verbose=0)
    after = model.evaluate(x, template.label_ids(reviews[1]), verbose=0, return_dict=True)
    assert after["accuracy"] > 0.9


def test_soft_labels(make_model, make_template):
    """The cross-entropy with probabilities; certain ones are labels."""
    template = make_template()
    model = make_model(template, auxiliary=False, normalization="labels")
    model.compile()
    texts, soft = ["书贵", "屏幕"], np.array([[0.2, 0.8], [1.0, 0.0]])
    scores = ops.convert_to_numpy(ops.log_softmax(model.predict(template.encode(texts))))
    loss = model.evaluate(template.dataset(texts, soft), verbose=0)[0]
    assert loss == pytest.approx(-(soft * scores).sum() / 2, rel=1e-4)
    certain = model.evaluate(template.dataset(texts, np.eye(2)[[1, 0]]), verbose=0)
    labels = model.evaluate(template.dataset(texts, ["正面", "负面"]), verbose=0)
    assert certain == pytest.approx(labels, rel=1e-5)


def test_label_tokens_learn(make_model, make_template, reviews):
    """Their rows in the projection do, next to chosen words, and start as these."""
    template = make_template("[u1][MASK]{text}", {"负面": ["不", "[v1]"], "正面": ["很", "[v2]"]})
    model = make_model(template)
    table, ids = ops.convert_to_numpy(model.embedding.embeddings), template.tokenizer.token_to_id
    before = ops.convert_to_numpy(model.prompt).copy()
    np.testing.assert_allclose(before[1:], table[[ids("不"), ids("很")]], rtol=1e-6)
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(template.dataset(*reviews), verbose=0)
    assert (np.abs(ops.convert_to_numpy(model.prompt) - before).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize("kind", [pytest.param("lstm", marks=pytest.mark.graph), "mlp"])
def test_the_encoder_is_thrown_away(small_bert, make_model, make_template, reviews, kind, tmp_path):
    """What it makes of the prompt is saved; predictions are the same without it."""
    model = make_model(tune=Prompt(encoder=kind))
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(make_template().dataset(*reviews, batch_size=8), epochs=2, verbose=0)
    x = make_template().encode(reviews[0])
    expected = model.predict(x, verbose=0)
    model.save_tuned(tmp_path / "a.tuned")
    again = load_tuned(tmp_path / "a.tuned", *small_bert, dropout_rate=0.0)
    assert again.embedding.encoder is None
    with pytest.raises(ValueError, match="leave out `tune`"):
        load_tuned(tmp_path / "a.tuned", *small_bert, tune="all")
    np.testing.assert_allclose(again.predict(x, verbose=0), expected, atol=1e-6)
    np.testing.assert_array_equal(again.embedding.start, model.embedding.start)
    model.save(tmp_path / "a.keras")
    whole = keras.models.load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(whole.predict(x, verbose=0), expected)
    np.testing.assert_array_equal(whole.embedding.start, model.embedding.start)


def test_an_encoder_needs_virtual_tokens(make_model, make_template):
    for labels in (LABELS, {"a": "[v1]", "b": "很"}):
        with pytest.raises(ValueError, match="no virtual tokens"):
            make_model(make_template("[MASK]{text}", labels), tune=Prompt(encoder="lstm"))


def test_prompt_starts(make_model, make_template):
    template = make_template("[u1][u2][u3][MASK]{text}")
    ids = template.tokenizer.token_to_id
    for start, tokens in ((["好书"], "好书好"), ("labels", "不很")):
        model = make_model(template, tune=Prompt(start))
        table = ops.convert_to_numpy(model.embedding.embeddings)
        rows = ops.convert_to_numpy(model.prompt)[: len(tokens)]
        np.testing.assert_allclose(rows, table[[ids(t) for t in tokens]], rtol=1e-6)
    starts = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(seed)
        starts.append(make_model(template, tune=Prompt("vocabulary")).embedding.start)
    np.testing.assert_array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])
    with pytest.raises(ValueError, match="start='vocab'"):
        make_model(template, tune=Prompt("vocab"))


@pytest.mark.graph
def test_two_learning_rates(make_model, make_template, reviews):
    """One step of two optimizers: each variable moves as its own optimizer alone would move it."""
    x, y = make_template().dataset(*reviews, batch_size=24)[0]
    moved = {}
    for name, optimizer in (
        ("slow", keras.optimizers.SGD(0.01)),
        ("fast", keras.optimizers.SGD(0.5)),
        ("both", {"all": keras.optimizers.SGD(0.01), "prompt": keras.optimizers.SGD(0.5)}),
    ):
        model = make_model(tune=["all", Prompt(encoder="mlp")])
        for i, layer in enumerate(model.embedding.encoder.dense):
            layer.kernel.assign(np.eye(32) * (1.0 + i))
        before = values(model)
        model.compile(optimizer)
        model.train_on_batch(x, y)
        moved[name] = {key: value - before[key] for key, value in values(model).items()}
    for key, difference in moved["both"].items():
        # Of the embedding layer, all but the table belong to the prompt.
        alone = "fast" if key[0] == "Embedding-Token" and key[1] > 0 else "slow"
        np.testing.assert_allclose(difference, moved[alone][key], atol=1e-6, err_msg=str(key))
    assert np.abs(moved["both"]["Embedding-Token", 1]).max() > 0


class NoNumber(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that is no number from the step on that is given."""

    def __init__(self, first):
        self.first = first

    def __call__(self, step):
        return ops.where(ops.cast(step, "int32") < self.first, 0.01, float("nan"))

    def get_config(self):
        return {"first": self.first}


@pytest.mark.graph
def test_a_loss_that_is_not_finite(make_model, make_template, reviews, tmp_path):
    """Training stops at the step, with the best weights; what callbacks write is good too."""
    template = make_template()
    model = make_model(auxiliary=False)

    model.compile(keras.optimizers.Adam(NoNumber(7)))
    data = template.dataset(*reviews, batch_size=8)
    snapshots = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda e, logs: snapshots.append(ops.convert_to_numpy(model.prompt).copy())
    )
    # The step after the broken one sees weights that are not finite.
    again = template.dataset(*reviews, batch_size=8)
    again.epoch = 2
    texts = sorted(again.batches[2].tolist())
    message = f"after step 9 (epoch 3, batch 3, the texts {texts}), with a learning rate of nan."
    with pytest.raises(FloatingPointError, match=re.escape(message)) as error:
        model.fit(data, epochs=5, verbose=0, callbacks=[keep])
    assert str(error.value).startswith("The loss is nan")
    assert "from epoch 2, the best so far. Compile it again" in str(error.value)
    assert len(snapshots) == 3
    np.testing.assert_array_equal(snapshots[2], snapshots[1])
    np.testing.assert_array_equal(ops.convert_to_numpy(model.prompt), snapshots[1])
    assert np.isfinite(snapshots[1]).all()


@pytest.mark.parametrize("keep", ["model.keras", "weights.h5", "backup", "means"])
def test_callbacks_that_meet_weights_that_are_not_finite(make_model, reviews, tmp_path, keep):
    """They save after each step, or put the means of the weights in their place."""
    callbacks = {
        "model.keras": keras.callbacks.ModelCheckpoint(tmp_path / "model.keras", save_freq=1),
        "weights.h5": keras.callbacks.ModelCheckpoint(
            tmp_path / "model.weights.h5", save_freq=1, save_weights_only=True
        ),
        "backup": keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=1),
        "means": keras.callbacks.Callback(),
    }
    model = make_model(auxiliary=False)
    model.compile(keras.optimizers.Adam(NoNumber(4), use_ema=keep == "means"))
    snapshots = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda e, logs: snapshots.append(ops.convert_to_numpy(model.prompt).copy())
    )
    data = model.template.dataset(*reviews, batch_size=8)
    with pytest.raises(FloatingPointError, match="weights from epoch 1, the best so far"):
        model.fit(data, epochs=3, verbose=0, callbacks=[watch, callbacks[keep]])
    np.testing.assert_array_equal(ops.convert_to_numpy(model.prompt), snapshots[0])


@pytest.mark.parametrize("lost", [False, True])
def test_other_errors_of_callbacks_stay(make_model, reviews, monkeypatch, lost):
    """Also where JAX has lost the weights, as after a step that ran out of memory."""

    def deleted(self):
        raise RuntimeError("Array has been deleted")

    def fail(batch, logs):
        if lost:
            monkeypatch.setattr(StopAtNaN, "_weights", deleted)
        raise OSError("no space left")

    model = make_model(auxiliary=False)
    model.compile()
    with pytest.raises(OSError, match="no space left"):
        model.fit(
            model.template.dataset(*reviews, batch_size=8),
            verbose=0,
            callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=fail)],
        )


def test_epochs_without_a_validation_are_not_the_best(make_model, reviews):
    """The loss of training and that of validation are no match for each other."""
    model = make_model(auxiliary=False)
    model.compile(keras.optimizers.Adam(NoNumber(15)))
    data = model.template.dataset(*reviews, batch_size=8)
    larger = model.template.dataset(*reviews, sample_weight=[9.0] * 24)
    losses = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda e, logs: losses.append(logs.get("val_loss", np.inf))
    )
    with pytest.raises(FloatingPointError) as error:
        model.fit(
            data,
            epochs=9,
            verbose=0,
            callbacks=[watch],
            validation_data=larger,
            validation_freq=2,
        )
    best = np.argmin(losses[:5])
    assert f"weights from epoch {best + 1}, the best so far" in str(error.value)
    assert model.evaluate(larger, verbose=0)[0] == pytest.approx(losses[best], rel=1e-5)


def test_not_finite_from_the_beginning(make_model, make_template, reviews):
    model = make_model(auxiliary=False)
    before = ops.convert_to_numpy(model.prompt).copy()
    model.compile(keras.optimizers.Adam(epsilon=float("nan")))
    with pytest.raises(FloatingPointError, match="weights from before this training"):
        model.fit(make_template().dataset(*reviews, batch_size=8), verbose=0)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.prompt), before)


def test_weights_that_no_loss_was_measured_with(make_model, make_template, reviews):
    """That of an epoch of one step is from before its weights."""
    model = make_model(auxiliary=False, tune="all")
    data = make_template().dataset(*reviews, batch_size=24)
    model.compile(keras.optimizers.SGD(1e25))
    with pytest.raises(FloatingPointError, match="weights from before this training"):
        model.fit(data, epochs=3, verbose=0)
    model.compile(keras.optimizers.SGD(1e-3))
    assert np.isfinite(model.fit(data, epochs=3, verbose=0).history["loss"]).all()


def test_many_classes(make_model, make_template, tmp_path):
    """119 of them: one gather, however many words there are."""
    words = [a + b for a in "很不满意好差理想这趟北" for b in "京之旅我感觉错一书房间"][:119]
    template = make_template("[u1][MASK][MASK]{text}", {word: word for word in words})
    model = make_model(template)
    scores = model.predict(template.encode(["书贵", "屏幕"]), verbose=0)
    assert scores.shape == (2, 119)
    assert template.decode(scores)[0] in words


def test_several_label_tokens_of_one_label_differ(make_model, make_template):
    template = make_template("[MASK]{text}", {"a": ["不", "[v1]", "[v2]"], "b": "很"})
    first, second = make_model(template).embedding.start
    assert 0 < np.abs(first - second).max() < 0.1


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (["正面"] * 24, TypeError, r"template\.label_ids\(labels\)"),
        (pd.Series([0] * 23 + [7]), ValueError, r"from 0 to 1.*Received: \[7\]"),
        (ops.convert_to_tensor([2] * 24), ValueError, r"from 0 to 1"),
        (np.linspace(0, 1, 24), TypeError, "type float64"),
        ([True, False] * 12, TypeError, "type bool"),
        ("正面", TypeError, "`y` must be a list"),
        ({0, 1}, TypeError, "`y` must be a list"),
        (pd.DataFrame({"label": [0] * 24}), TypeError, "`y` must be a list, e.g. one column"),
    ],
)
def test_bad_label_numbers(make_model, make_template, reviews, y, error, message):
    model = make_model()
    model.compile()
    x = make_template().encode(reviews[0])
    for method in (model.fit, model.evaluate):
        with pytest.raises(error, match=message):
            method(x, y, verbose=0)


@pytest.mark.parametrize("wrong", [2, -2])
@pytest.mark.parametrize("auxiliary", [False, True])
def test_label_numbers_that_nothing_has_checked(make_model, reviews, wrong, auxiliary):
    """They are no texts without a label, from which nothing would be learned without a word."""
    model = make_model(auxiliary=auxiliary)
    model.compile(keras.optimizers.SGD(0.1))
    x, y = model.template.encode(*reviews)
    before = ops.convert_to_numpy(model.prompt)

    def batches(first):
        yield x, np.where(np.arange(24) == 0, first, y)

    with pytest.raises(FloatingPointError, match=r"loss is nan.*a label is not one of the temp"):
        model.fit(batches(wrong), verbose=0)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.prompt), before)
    with pytest.raises(ValueError, match=r"loss has numbers.*a label is not one of the template's"):
        model.evaluate(batches(wrong), verbose=0)
    assert np.isnan(model.train_on_batch(*next(batches(wrong)))[0])
    # That of a text without a label.
    model.set_weights(make_model().get_weights())
    model.fit(batches(-1), verbose=0)
    assert np.abs(ops.convert_to_numpy(model.prompt) - before).max() > 0


def test_what_trained_trains_again(make_model):
    """`trainable = True` of Keras would let the pretrained weights train too."""
    model = make_model(tune=["prompt", "lora"])
    before = [v.path for v in model.trainable_variables]
    model.trainable = False
    assert not model.trainable and not model.trainable_variables
    model.trainable = True
    assert model.trainable and [v.path for v in model.trainable_variables] == before


def test_bad_label_numbers_among_candidates(make_model, make_template):
    template = make_template("{text}[u1][MASK]", None)
    model = make_model(template)
    model.compile()
    x = template.encode(["书", "贵"], candidates=[["很", "不"]] * 2)
    with pytest.raises(ValueError, match=r"from 0 to 1, the places of the candidates"):
        model.fit(x, np.array([0, 2]), verbose=0)


def test_options_of_a_prompt_that_is_not_there(make_model, make_template):
    template = make_template("[MASK]{text}")
    with pytest.raises(ValueError, match="no prompt to train"):
        make_model(template, tune="prompt")
    with pytest.raises(ValueError, match=r"each of \['all'\].*'prompt'"):
        make_model(template, tune="all").compile({"all": "adam", "prompt": "sgd"})


@pytest.fixture
def weighting(make_model, make_template, reviews):
    """A model that does not change, its template, and the loss of each review without weights."""
    model, template = make_model(auxiliary=False), make_template()
    model.compile(keras.optimizers.SGD(0.0))
    x, y = template.encode(*reviews)
    losses = -np.take_along_axis(model.predict(x, verbose=0), y[:, None], axis=1)[:, 0]
    return model, template, x, y, losses


def fitted_loss(model, *data, **kwargs):
    return model.fit(*data, verbose=0, **kwargs).history["loss"][0]


def test_class_weights_are_by_label(weighting, reviews):
    model, template, x, _, _ = weighting
    texts, labels = reviews[0], ["负面"] * 20 + ["正面"] * 4
    y, weights = template.label_ids(labels), np.linspace(0, 2, 24)
    scores = model.predict(x, verbose=0)
    losses = -np.take_along_axis(scores, y[:, None], axis=1)[:, 0]
    dataset = template.dataset(texts, labels, 24, mask_rate=0, sample_weight=weights)
    for class_weight, expected in (
        ({"负面": 3.0, "正面": 0.5}, [3.0, 0.5]),
        ({"正面": 0}, [1, 0]),
        # 20 of one and 4 of the other.
        ("balanced", [24 / 2 / 20, 24 / 2 / 4]),
    ):
        weighted = losses * np.array(expected)[y]
        found = fitted_loss(model, x, y, class_weight=class_weight)
        np.testing.assert_allclose(found, weighted.mean(), rtol=1e-4)
        found = fitted_loss(model, dataset, class_weight=class_weight)
        np.testing.assert_allclose(found, (weighted * weights).mean(), rtol=1e-4)
        # They are those of one call.
        np.testing.assert_array_equal(dataset.sample_weight, weights.astype("float32"))
    found = fitted_loss(model, x, y, class_weight="balanced", sample_weight=weights)
    np.testing.assert_allclose(found, (weighted * weights).mean(), rtol=1e-4)
    dataset = template.dataset(texts, labels, 24, mask_rate=0)
    found = fitted_loss(model, dataset, class_weight="balanced")
    np.testing.assert_allclose(found, weighted.mean(), rtol=1e-4)
    assert dataset.sample_weight is None


def test_class_weights_are_not_of_the_validation(weighting, reviews):
    """Of the same dataset: it is as it was, but for its epoch."""
    model, template, *_ = weighting
    dataset = template.dataset(reviews[0], ["负面"] * 20 + ["正面"] * 4, batch_size=8, mask_rate=0)
    loss = model.evaluate(dataset, verbose=0)[0]
    dataset.epoch = 0
    history = model.fit(
        dataset, epochs=2, validation_data=dataset, class_weight={"负面": 3}, verbose=0
    ).history
    np.testing.assert_allclose(history["val_loss"], [loss] * 2, rtol=1e-5)
    assert min(history["loss"]) > 1.5 * loss
    assert dataset.epoch == 2 and dataset.sample_weight is None


def test_class_weights_and_a_share_to_validate_with(weighting):
    model, _, x, y, losses = weighting
    weights = np.linspace(1, 2, len(y))
    options = {"validation_split": 0.25, "verbose": 0, "class_weight": {"负面": 3.0, "正面": 3.0}}
    count = len(y) * 3 // 4
    for own in (None, weights):
        factors = 1 if own is None else own
        history = model.fit(x, y, 64, sample_weight=own, **options).history
        found = history["loss"][0], history["val_loss"][0]
        expected = 3 * (factors * losses)[:count].mean(), (factors * losses)[count:].mean()
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(ValueError, match="leaves no text to train with"):
        model.fit(x, y, **{**options, "validation_split": 0.99})


def test_class_weights_of_soft_labels_and_without_labels(make_model, make_template, reviews):
    template, model = make_template(), make_model(auxiliary=False)
    model.compile(keras.optimizers.SGD(0.0))
    soft = np.array([[0.9, 0.1], [0.2, 0.8]])
    log_p = model.predict(template.encode(["书贵", "屏幕"]), verbose=0)
    expected = (-(soft * log_p).sum(axis=1) * [3, 1]).mean()
    dataset = template.dataset(["书贵", "屏幕"], soft, mask_rate=0)
    found = fitted_loss(model, dataset, class_weight={"负面": 3})
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # Texts without a label are in no class, and learn as before.
    model = make_model()
    model.compile(keras.optimizers.SGD(0.0))
    mixed = template.dataset(*reviews, 32, unlabeled=["书贵" * 3] * 4)
    found = []
    for class_weight in ({"负面": 0, "正面": 0}, None):
        mixed.epoch = 0
        found.append(fitted_loss(model, mixed, class_weight=class_weight))
    assert 0 < found[0] < found[1]


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        (
            {0: 3.0, 1: 0.5},
            r"of the template, some of \['负面', '正面'\]. Received: \[0, 1\]",
        ),
        ({"负面": -1.0}, "finite numbers from 0 on"),
        ({"负面": float("nan")}, "finite numbers from 0 on"),
        ({"负面": "3"}, "finite numbers from 0 on"),
        ("balance", "dictionary from labels to numbers, or 'balanced'. Received: 'balance'"),
        ([3.0, 0.5], "dictionary from labels to numbers"),
    ],
)
def test_bad_class_weights(weighting, reviews, class_weight, message):
    model, template, *_ = weighting
    with pytest.raises(ValueError, match=message):
        model.fit(template.dataset(*reviews), class_weight=class_weight)


RAW = {
    "texts": ["书贵", "屏幕"],
    "pairs": [("书", "贵"), ("屏", "幕")],
    "array of texts": np.array(["书贵", "屏幕"]),
    "series": pd.Series(["书贵", "屏幕"]),
    "table": pd.DataFrame({"text": ["书贵", "屏幕"]}),
    "one text": "书贵",
    "set": {"书贵", "屏幕"},
    "token ids": np.ones((2, 8), "int32"),
    "dictionary of texts": {"text": ["书贵", "屏幕"]},
    "empty dictionary": {},
    "nothing": None,
}


def test_raw_texts_lead_to_the_dataset(make_model, make_template, reviews):
    model, dataset = make_model(), make_template().dataset(*reviews)
    model.compile()
    for name, data in RAW.items():
        calls = [(model.predict, (data,), {})]
        for method in (model.fit, model.evaluate):
            for y in ((), (["正面", "负面"],), (np.array([0, 1]),)):
                calls.append((method, (data, *y), {}))
        calls.append((model.fit, (dataset,), {"validation_data": (data, ["正面", "负面"])}))
        if data is not None:
            calls.append((model.fit, (dataset,), {"validation_data": data}))
        for call, args, kwargs in calls:
            with pytest.raises(TypeError, match=r"`template\.dataset\(texts.*Received"):
                call(*args, **kwargs)
                pytest.fail(name)


def test_labels_where_they_do_not_belong(weighting, reviews):
    model, template, x, y, _ = weighting
    dataset = template.dataset(*reviews)
    for call in (
        lambda: model.fit(dataset, y),
        lambda: model.fit(dataset, sample_weight=np.ones(24)),
        lambda: model.evaluate(dataset, y),
        lambda: model.evaluate(dataset, sample_weight=np.ones(24)),
    ):
        with pytest.raises(ValueError, match="A dataset has the labels"):
            call()
    for call in (lambda: model.fit(x), lambda: model.evaluate(x)):
        with pytest.raises(ValueError, match=r"x, y = template\.encode\(texts, labels\)"):
            call()
    with pytest.raises(ValueError, match=r"from 0 to 1.*\[2"):
        model.fit(dataset, validation_data=(x, y + 1), verbose=0)
    found = model.fit(dataset, validation_data=(x, y), verbose=0).history["val_loss"][0]
    np.testing.assert_allclose(found, model.evaluate(x, y, verbose=0)[0], rtol=1e-5)


def test_a_template_in_the_place_of_the_checkpoint(small_bert, make_template, tokenizer):
    template, plain = make_template(), PlainText(["负面", "正面"], tokenizer)
    for build, wrong in (
        (build_ptuning_model, template),
        (build_classifier, plain),
        (build_vat_classifier, plain),
    ):
        for kwargs in ({}, {"template": wrong}):
            with pytest.raises(TypeError, match=r"as `checkpoint_path`.*`template=template`"):
                build(small_bert[0], wrong, **kwargs)


@pytest.mark.parametrize("auxiliary", [False, pytest.param(True, marks=pytest.mark.graph)])
def test_the_next_call_after_a_wrong_one_works(make_model, make_template, reviews, auxiliary):
    template = make_template()
    expected = make_model(auxiliary=auxiliary)
    expected.compile()
    model = make_model(auxiliary=auxiliary)
    model.set_weights(expected.get_weights())
    model.compile()
    x, y = template.encode(*reviews)
    long = {**x, "token_ids": np.zeros((24, 99), "int32"), "segment_ids": np.zeros((24, 99))}
    nowhere = {**x, "mask_positions": np.zeros((24, 1, 1, 1), "int32")}
    for wrong in (long, nowhere, {**x, "token_ids": x["token_ids"][:, :3]}):
        for call in (
            lambda wrong=wrong: model.fit(wrong, y, verbose=0),
            lambda wrong=wrong: model.evaluate(wrong, y, verbose=0),
            lambda wrong=wrong: model.predict(wrong, verbose=0),
        ):
            with pytest.raises(Exception):  # noqa: B017
                call()
    losses = [
        m.fit(template.dataset(*reviews, mask_rate=0), epochs=2, verbose=0).history["loss"]
        for m in (expected, model)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    a, b = (m.evaluate(x, y, verbose=0) for m in (expected, model))
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_learning_rates_of_optimizers(make_model):
    model = make_model()
    for rate in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"finite, and not below 0. Received: \[.*\]"):
            model.compile(keras.optimizers.Adam(rate))
    # A rise begins at 0.
    schedule = keras.optimizers.schedules.CosineDecay(0.0, 9, warmup_target=1.0, warmup_steps=3)
    model.compile(keras.optimizers.Adam(schedule))


def test_names_that_tensorflow_cannot_take(small_bert, make_model):
    if keras.backend.backend() != "tensorflow":
        assert make_model(name="情感").name == "情感"
        return
    for name in ("情感", "my model", "_model"):
        for make in (make_model, lambda **k: build_transformer_model(*small_bert[:2], **k)):
            with pytest.raises(ValueError, match=rf"letters A to Z .*Received: name='{name}'"):
                make(name=name)
    assert make_model(name="model-2.b").name == "model-2.b"


def test_a_vocabulary_in_another_order_than_the_checkpoints_own(small_bert, tmp_path):
    paths = write_small_bert(tmp_path)
    tokens = vocabulary()
    swapped = list(tokens)
    swapped[30], swapped[31] = tokens[31], tokens[30]
    own = Template("[u1][MASK]{text}", LABELS, swapped, maxlen=64)
    with pytest.raises(ValueError, match=r"2 tokens in other places .*vocab\.txt.*30 in place"):
        build_ptuning_model(*paths[:2], own)
    # Tokens of one's own in place of unused ones are fine, and so are all where there is no file.
    renamed = ["[my]" if token == "[unused5]" else token for token in tokens]
    build_ptuning_model(*paths[:2], Template("[my][MASK]{text}", LABELS, renamed, maxlen=64))
    keep = [0, *range(20, 60)]
    kept = Template("[MASK]{text}", LABELS, [tokens[i] for i in keep], maxlen=64)
    build_ptuning_model(*paths[:2], kept, keep_tokens=keep)
    with pytest.raises(ValueError, match="in other places than"):
        build_ptuning_model(*paths[:2], kept, keep_tokens=[0, *range(21, 60), 20])
    os.remove(paths[2])
    build_ptuning_model(*paths[:2], own)


def test_a_template_that_changes_is_another_for_the_model(make_model, make_template, reviews):
    template = make_template("[MASK]满意。{text}")
    model, before = make_model(template), template.dataset(reviews[0])
    expected = model.predict(before, verbose=0)
    template.set_params(pattern="很[MASK]。{text}")
    assert model.template.pattern == "[MASK]满意。{text}"
    np.testing.assert_array_equal(model.predict(before, verbose=0), expected)
    with pytest.raises(ValueError, match="another template than the model's"):
        model.predict(template.dataset(reviews[0]))
