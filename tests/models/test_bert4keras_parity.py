"""The same numbers and ids as bert4keras 0.11.5, recorded by `goldens/record_bert4keras.py`."""

import hashlib
import json
import os
import pathlib

import keras
import numpy as np
import pytest
import small_bert
from keras import ops

import keras_ptuning
from keras_ptuning.datasets import SPLITS, load_sentiment

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
TOKENS = json.loads((GOLDENS / "bert4keras_tokens.json").read_text("ascii"))

# Texts whose ids differ from bert4keras's, and why.
DIFFERENCES = {
    "surrogate alone": "half a character is dropped; bert4keras keeps it, as part of the word",
    "greek final sigma": "lower-cased letter by letter, to a plain sigma",
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_bert.write_small_bert(str(tmp_path_factory.mktemp("small_bert")))


@pytest.mark.parametrize(
    "output, kwargs",
    [("logits", {"with_mlm": "linear"}), ("hidden", {}), ("pooled", {"with_pool": True})],
)
def test_outputs(small, output, kwargs):
    golden = np.load(GOLDENS / "bert4keras_logits.npz")
    config, checkpoint, _ = small
    model = keras_ptuning.build_transformer_model(config, checkpoint, **kwargs)
    inputs = [golden["token_ids"], golden["segment_ids"]]
    difference = np.abs(model.predict(inputs, verbose=0) - golden[output])
    if output != "pooled":
        difference = difference[golden["token_ids"] != 0]
    assert difference.max() < 1e-5


def test_causal_outputs(small):
    golden = np.load(GOLDENS / "bert4keras_lm.npz")
    model = keras_ptuning.build_transformer_model(*small[:2], with_mlm="linear", application="lm")
    found = model.predict([golden["token_ids"], golden["segment_ids"]], verbose=0)
    difference = np.abs(found - golden["logits"])[golden["token_ids"] != 0]
    assert difference.max() < 1e-5


@pytest.mark.parametrize("name", ["bert-mini-zh", "gpt-mini-zh"])
def test_embedded_checkpoints(name):
    golden = np.load(GOLDENS / "bert4keras_assets.npz")
    token_ids, expected = golden[f"{name}-token_ids"], golden[f"{name}-logits"]
    model = keras_ptuning.build_transformer_model(name, with_mlm="linear")
    found = model.predict([token_ids, np.zeros_like(token_ids)], verbose=0)[:, :, ::20]
    assert np.abs(found - expected)[token_ids != 0].max() < 1e-4


def test_ptuning(small):
    golden = np.load(GOLDENS / "bert4keras_ptuning.npz")
    template = keras_ptuning.Template(
        "[u1][u2][u3][u4][MASK][u5][u6][u7][u8]{text}",
        labels={0: "不", 1: "很"},
        tokenizer=keras_ptuning.Tokenizer(small[2]),
        maxlen=golden["token_ids"].shape[-1],
    )
    model = keras_ptuning.build_ptuning_model(
        *small[:2], template, dropout_rate=0.0, attention_dropout_rate=0.0
    )
    model.compile(keras.optimizers.Adam(6e-4))
    names = ("masked_token_ids", "mask_positions", "auxiliary_positions", "auxiliary_ids")
    losses, prompts = [], []
    for step, labels in enumerate(golden["labels"]):
        token_ids = golden["token_ids"][step]
        x = {name: golden[name][step] for name in names}
        # There, 0 says that no token is predicted.
        x["auxiliary_ids"] = np.where(x["auxiliary_ids"] == 0, -1, x["auxiliary_ids"])
        x |= {"token_ids": token_ids, "segment_ids": np.zeros_like(token_ids)}
        # Otherwise the loss would be a mean over all steps so far.
        model.reset_metrics()
        losses.append(model.train_on_batch(x, labels, return_dict=True)["loss"])
        prompts.append(ops.convert_to_numpy(model.prompt).copy())
    np.testing.assert_allclose(losses, golden["losses"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(prompts, golden["prompts"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", TOKENS["texts"])
def test_token_ids(name):
    golden = TOKENS["texts"][name]
    small_tokenizer = keras_ptuning.Tokenizer(small_bert.vocabulary(), do_lower_case=True)
    wide_tokenizer = keras_ptuning.Tokenizer(TOKENS["wide_vocabulary"], do_lower_case=True)
    small_ids, _ = small_tokenizer.encode(golden["text"])
    wide_ids, _ = wide_tokenizer.encode(golden["text"])
    if name in DIFFERENCES:
        # An entry that has become untrue must go.
        assert wide_ids != golden["wide"]
    else:
        assert small_ids == golden["small"]
        assert wide_ids == golden["wide"]


@pytest.mark.parametrize("golden", TOKENS["pairs"])
def test_truncation(golden):
    tokenizer = keras_ptuning.Tokenizer(small_bert.vocabulary(), do_lower_case=True)
    encoded = tokenizer.encode(golden["text"], golden["second_text"], maxlen=golden["maxlen"])
    assert encoded == (golden["token_ids"], golden["segment_ids"])


def test_all_reviews():
    """Needs the data, in `$KERAS_PTUNING_DATA/sentiment`, and a certain vocabulary."""
    golden = json.loads((GOLDENS / "bert4keras_sentiment.json").read_text("ascii"))
    data, checkpoint = (os.environ.get(f"KERAS_PTUNING_{n}") for n in ("DATA", "CHECKPOINT"))
    if not data:
        pytest.skip("no reviews: set KERAS_PTUNING_DATA to a folder with sentiment/")
    if not checkpoint:
        pytest.skip("no vocabulary: set KERAS_PTUNING_CHECKPOINT to a folder with vocab.txt")
    vocab = pathlib.Path(checkpoint) / "vocab.txt"
    if hashlib.sha256(vocab.read_bytes()).hexdigest() != golden["vocab_sha256"]:
        pytest.skip("the vocabulary in KERAS_PTUNING_CHECKPOINT is not the one recorded")
    reviews = load_sentiment(pathlib.Path(data) / "sentiment")
    texts = [text for split in SPLITS for text in reviews[split][0]]
    tokenizer = keras_ptuning.Tokenizer(vocab, do_lower_case=True)
    digest = hashlib.sha256()
    for text in texts:
        ids, _ = tokenizer.encode(text)
        digest.update((" ".join(map(str, ids)) + "\n").encode())
    assert len(texts) == golden["count"]
    assert digest.hexdigest() == golden["ids_sha256"]
