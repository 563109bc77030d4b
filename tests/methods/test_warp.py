"""WARP: words that learn, which start as words of the vocabulary and compete with each other."""

import keras
import numpy as np
import pytest
import small_bert
import small_gpt2
from keras import ops

from keras_ptuning import (
    Prompt,
    Template,
    build_ptuning_model,
    build_transformer_model,
    load_tuned,
)
from keras_ptuning.methods.method import to_numpy

pytestmark = pytest.mark.usefixtures("eagerly")

NO_DROPOUT = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}
PATTERN = "[MASK]满意。{text}"
WORDS = ["不", "很"]
TEXTS = ["书贵", "屏幕很好，喜欢"]
WARP = {"负面": "[v1]", "正面": "[v2]"}
CLOZE = {"负面": "不", "正面": "很"}


@pytest.fixture(scope="module")
def plain_bert(tmp_path_factory):
    """A checkpoint whose vocabulary has no `[unused]` tokens."""
    vocab = small_bert.vocabulary(unused=False)
    return small_bert.write_small_bert(tmp_path_factory.mktemp("plain"), vocab=vocab)


def build(paths, labels=WARP, pattern=PATTERN, **kwargs):
    template = Template(pattern, labels, paths[2], maxlen=24)
    return build_ptuning_model(*paths[:2], template, **NO_DROPOUT, **kwargs)


def scores(model, texts=TEXTS):
    return to_numpy(model(model.template.encode(list(texts)), training=False))


def among_labels(model):
    return to_numpy(ops.log_softmax(scores(model)))


@pytest.mark.parametrize("unused", [True, False])
@pytest.mark.parametrize("normalization", ["labels", "vocabulary"])
def test_rows_of_words_are_the_ordinary_cloze(small_bert, plain_bert, unused, normalization):
    """With the words' rows and biases, in a row of the vocabulary or in an additional one."""
    paths = small_bert if unused else plain_bert
    cloze = build(paths, CLOZE, normalization=normalization)
    warp = build(paths, tune=Prompt(label_start=WORDS), normalization=normalization)
    np.testing.assert_allclose(among_labels(warp), among_labels(cloze), rtol=1e-5, atol=1e-5)
    # It has the row, and the bias, of neither 不 nor 很 without that.
    assert np.abs(among_labels(build(paths)) - among_labels(cloze)).max() > 0.01
    # The loss, which is among the labels, or among these and all other words.
    x, y = cloze.template.encode(TEXTS, ["负面", "正面"])
    losses = [
        to_numpy(model.compute_loss(x, ops.convert_to_tensor(y), model(x)))
        for model in (cloze, warp)
    ]
    same = normalization == "labels"
    assert np.isclose(*losses, rtol=1e-5) == same


def test_a_word_for_each_label_token(small_bert):
    """Of a word of several tokens the mean; and each token its own, in the order of numbers."""
    model = build(small_bert, {"a": "[v2]", "b": "[v1]"}, tune=Prompt(label_start=["很", "不满"]))
    embedding, template = model.embedding, model.template
    ids = template.tokenizer.token_ids(["很", "不满"])
    table, bias = map(to_numpy, (embedding.embeddings, model.backbone.get_layer("MLM-Bias").bias))
    for row, own, word in zip(
        to_numpy(embedding.prompt), template.label_token_ids, ids, strict=True
    ):
        np.testing.assert_allclose(row, table[word].mean(axis=0), rtol=1e-6)
        k = template.label_token_ids.index(own)
        found = bias[own] + to_numpy(embedding.label_bias)[k]
        np.testing.assert_allclose(found, bias[word].mean(), rtol=1e-5, atol=1e-6)


def test_starting_as_the_mask(small_bert):
    """All alike and none preferred: the scores tie."""
    model = build(small_bert, tune=Prompt(label_start="mask"))
    table = to_numpy(model.embedding.embeddings)
    np.testing.assert_array_equal(
        to_numpy(model.embedding.prompt), np.tile(table[model.template.mask_id], (2, 1))
    )
    np.testing.assert_allclose(among_labels(model), np.log(0.5), rtol=1e-5)


@pytest.mark.graph
def test_additional_rows_train_and_are_saved(plain_bert, reviews, tmp_path):
    model = build(
        plain_bert,
        pattern="[u1][u2][MASK]{text}",
        tune=Prompt(label_start=WORDS),
        normalization="labels",
        auxiliary=False,
    )
    template, rows = model.template, to_numpy(model.embedding.prompt)
    assert template.label_token_ids == [120, 121] and template.virtual_ids == [122, 123]
    # The vectors learn, and the biases do not.
    assert [tuple(v.shape) for v in model.trainable_variables] == [(4, 32)]
    biases = to_numpy(model.embedding.label_bias)
    assert np.abs(biases).min() > 0
    model.compile(keras.optimizers.Adam(0.05), run_eagerly=True)
    losses = model.fit(template.dataset(*reviews), epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    assert (np.abs(to_numpy(model.embedding.prompt) - rows).max(axis=1) > 0.01).all()
    np.testing.assert_array_equal(to_numpy(model.embedding.label_bias), biases)
    model.save(tmp_path / "warp.keras")
    model.save_tuned(tmp_path / "warp.tuned")
    for loaded in (
        keras.models.load_model(tmp_path / "warp.keras"),
        load_tuned(tmp_path / "warp.tuned", *plain_bert),
    ):
        np.testing.assert_array_equal(scores(loaded), scores(model))
        assert loaded.normalization == "labels" and not loaded.auxiliary


@pytest.mark.parametrize("unused", [True, False])
def test_a_checkpoint_keeps_the_scores(small_bert, plain_bert, unused, tmp_path):
    """The rows and the biases are in it, and the tokens have names."""
    paths = small_bert if unused else plain_bert
    model = build(paths, pattern="[u1][MASK]{text}", tune=Prompt(label_start=WORDS))
    rng = np.random.default_rng(0)
    model.embedding.prompt.assign(rng.normal(size=(3, 32), scale=0.3))
    model.save_checkpoint(tmp_path / "warp")
    vocab = (tmp_path / "warp" / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    names = [vocab[i] for i in model.template.virtual_ids + model.template.label_token_ids]
    assert names == (["[unused1]", "[unused20]", "[unused19]"] if unused else
                     ["[unused1]", "[unused_v1]", "[unused_v2]"])  # fmt: skip
    ids = [vocab.index(name) for name in names]
    other = build_transformer_model(tmp_path / "warp", with_mlm="linear", **NO_DROPOUT)
    x = model.template.encode(TEXTS)
    logits = to_numpy(other([x["token_ids"], x["segment_ids"]], training=False))
    places = x["mask_positions"][:, 0]
    found = logits[np.arange(2), places][:, ids[1:]]
    found = to_numpy(ops.log_softmax(found))
    np.testing.assert_allclose(found, among_labels(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unused", [True, False])
def test_gpt2(unused, tmp_path):
    """Its head has no biases, so words' rows are enough."""
    paths = small_gpt2.write_small_gpt2(tmp_path)
    vocab = small_bert.vocabulary(unused=unused)
    found = []
    for labels, tune in ((CLOZE, None), (WARP, Prompt(label_start=WORDS))):
        template = Template("{text}[MASK]", labels, vocab, 16, causal=True)
        found.append(among_labels(build_ptuning_model(*paths, template, tune=tune, **NO_DROPOUT)))
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("label_start", "message"),
    [
        (["不"], "a word for each of the 2 label tokens"),
        ("不很", "start at 'mask', or at a list of words"),
        (["不", 3], "start at 'mask', or at a list of words"),
        (["不", "龘"], "not all in the vocabulary"),
    ],
)
def test_bad_starts(small_bert, label_start, message):
    with pytest.raises(ValueError, match=message):
        build(small_bert, tune=Prompt(label_start=label_start))


def test_a_start_of_words_that_do_not_learn(small_bert):
    with pytest.raises(ValueError, match=r"no label words that learn.*leave out `label_start`"):
        build(small_bert, CLOZE, "[u1][MASK]{text}", tune=Prompt(label_start=WORDS))
