"""T5, mT5 and t5-pegasus: the same numbers as other libraries, recorded by `goldens/record_t5.py`.

The live tests run that script again, with other weights, where the other library is installed.
"""

import importlib.util
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import small_bert
import small_t5
from small_t5 import BERT4KERAS, HUGGING_FACE

from keras_ptuning import build_transformer_model, save_transformer_model
from keras_ptuning.layers.relative import find_buckets
from keras_ptuning.models import (
    find_model,
    inspect_checkpoint,
    load_config,
    override,
    read_config,
)

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
VOCAB = small_bert.vocabulary(small_t5.VOCAB_SIZE)


def build(folder, **kwargs):
    return build_transformer_model(str(folder), **{"with_mlm": "linear", **kwargs})


def logits_of(model, read=None, written=None):
    inputs = small_t5.make_inputs()
    return model.predict(
        [inputs[0] if read is None else read, inputs[1] if written is None else written], verbose=0
    )


def check(model, library, name, goldens=GOLDENS, tolerance=1e-5):
    """Compares the logits of what is no padding."""
    _, written = small_t5.make_inputs()
    found = logits_of(model)
    with np.load(goldens / f"{library}_t5.npz") as golden:
        expected = golden[name]
    # The first token is that of padding too.
    real = np.pad(written[:, 1:] != 0, [(0, 0), (1, 0)], constant_values=True)
    found, expected = found[:, :, ::2][real], expected[real]
    difference = np.abs(found - expected).max() / max(np.abs(expected).max(), 1)
    print(f"{library} {name}: {difference:.1e}")
    assert difference < tolerance


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_face(tmp_path, name):
    small_t5.write_hugging_face(tmp_path, name)
    check(build(tmp_path), "transformers", name)


@pytest.mark.parametrize("name", BERT4KERAS)
def test_bert4keras(tmp_path, name):
    """It always scales the output, whatever the checkpoint, and did so in training t5-pegasus."""
    small_t5.write_bert4keras(tmp_path, name)
    traps = {"scale_output": True, "cross_position_bias": BERT4KERAS[name][1]}
    check(build(tmp_path, model=name.split("-")[0], **traps), "bert4keras", name)


def test_the_vocabulary_tells_who_trained_it(tmp_path):
    """With a BERT's it was bert4keras, which has both traps; Google's have a SentencePiece."""
    small_t5.write_bert4keras(tmp_path, "mt5.1.1", vocab=True)
    check(build(tmp_path), "bert4keras", "mt5.1.1")
    (tmp_path / "vocab.txt").unlink()
    config, _ = find_model(str(tmp_path))
    assert not config["scale_decoder_outputs"] and not config["cross_position_bias"]
    # The same weights are in Hugging Face's layout those of an mT5, but for its approximate GELU.
    found = logits_of(build(tmp_path, hidden_act="gated-gelu"))
    folder = tmp_path / "hugging_face"
    folder.mkdir()
    small_t5.write_hugging_face(folder, "mt5")
    np.testing.assert_allclose(found, logits_of(build(folder)), atol=1e-4)


def test_one_table_written_twice_is_a_tied_head(tmp_path):
    values = small_t5.hugging_face_tensors("t5")
    for name in ("lm_head", "encoder.embed_tokens", "decoder.embed_tokens"):
        values[f"{name}.weight"] = values["shared.weight"]
    small_t5.write_hugging_face(tmp_path, "t5", values=values)
    model = build(tmp_path)
    assert "Output-Token" not in [layer.name for layer in model.layers]
    check(model, "transformers", "t5")


def test_newer_configurations_call_every_head_tied(tmp_path):
    """That of Transformers 5 says whether to scale, and the tensors that the head is another."""
    changes = {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    small_t5.write_hugging_face(tmp_path, "mt5", **changes)
    check(build(tmp_path), "transformers", "mt5")


@pytest.mark.parametrize(("version", "scaled"), [("5.1.0", False), ("4.57.0", True), (None, True)])
def test_a_tied_mt5(tmp_path, version, scaled):
    """Transformers 5 ties every mT5, and never scales what goes into the head."""
    changes = {"tie_word_embeddings": True, "transformers_version": version}
    source, again = tmp_path / "source", tmp_path / "again"
    source.mkdir()
    values = small_t5.hugging_face_tensors("mt5")
    del values["lm_head.weight"]
    small_t5.write_hugging_face(source, "mt5", values=values, **changes)
    model = build(source)
    expected = logits_of(build(source, scale_output=scaled))
    np.testing.assert_array_equal(logits_of(model), expected)
    assert np.abs(logits_of(build(source, scale_output=not scaled)) - expected).max() > 0.1
    save_transformer_model(model, again, load_config(source), VOCAB)
    assert load_config(again)["model_type"] == "mt5"
    np.testing.assert_array_equal(logits_of(build(again)), expected)


@pytest.mark.parametrize("name", ["t5", "mt5"])
def test_a_head_that_is_missing(tmp_path, name):
    values = small_t5.hugging_face_tensors(name)
    values.pop("lm_head.weight", None)
    small_t5.write_hugging_face(tmp_path, name, values=values, tie_word_embeddings=False)
    build(tmp_path, with_mlm=False)
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        build(tmp_path)
    found = inspect_checkpoint(tmp_path)
    assert found["head"] is None and "no head" in found["problems"][0]


@pytest.mark.parametrize(
    "key", ["tie_word_embeddings", "scale_decoder_outputs", "cross_position_bias"]
)
def test_flags(key):
    """Of a string "false" the truth is true."""
    config = HUGGING_FACE["t5"]
    assert read_config({**config, key: None}) == read_config(config)
    with pytest.raises(ValueError, match=f"{key} must be true or false. Received: 'false'"):
        read_config({**config, key: "false"})


@pytest.mark.parametrize("name", ["scale_output", "cross_position_bias", "tie_embeddings"])
@pytest.mark.parametrize("value", [True, False])
def test_arguments_are_written(name, value):
    assert read_config(override(HUGGING_FACE["t5"], {name: value}))[name] is value


def test_padding_of_another_id():
    assert read_config({**HUGGING_FACE["t5"], "pad_token_id": 9})["pad_id"] == 9


def test_buckets_by_hand():
    """Of 32, on either side 8 are for one distance each, and 8 for ranges that grow."""
    both = find_buckets(32, 128, bidirectional=True)
    at = {d: int(both[128 + d]) for d in range(-128, 129)}
    assert [at[-d] for d in range(9)] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert [at[d] for d in range(1, 9)] == [17, 18, 19, 20, 21, 22, 23, 24]
    # log(n / 8) / log(16) * 8: two buckets for each doubling.
    assert [at[-d] for d in (11, 12, 15, 16, 31, 32, 63, 64, 127, 128)] == [
        *(8, 9, 9, 10, 11, 12, 13, 14, 15, 15),
    ]
    before = find_buckets(32, 128, bidirectional=False)
    at = {d: int(before[128 + d]) for d in range(-128, 129)}
    assert [at[d] for d in (1, 0, -1, -15, -16, -128)] == [0, 0, 1, 15, 16, 31]


@pytest.mark.parametrize("name", ["t5", "t5-1.1"])
def test_padding_changes_nothing(tmp_path, name):
    """On either side of what is read, and after what is written."""
    small_t5.write_hugging_face(tmp_path, name)
    model = build(tmp_path)
    read, written = np.array([[7, 9, 30, 2, 55]]), np.array([[0, 8, 3]])
    expected = logits_of(model, read, written)
    for before, after in ((0, 3), (3, 0), (2, 1)):
        padded = np.pad(read, [(0, 0), (before, after)])
        found = logits_of(model, padded, np.pad(written, [(0, 0), (0, 4)]))[:, :3]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    different = read + 1
    assert np.abs(logits_of(model, different, written) - expected).max() > 0.01


def test_gathered_positions(tmp_path):
    """The last block computes only what is read, with its cross-attention's positions."""
    small_t5.write_bert4keras(tmp_path, "mt5.1.1", vocab=True)
    whole = logits_of(build(tmp_path))
    read, written = small_t5.make_inputs()
    positions = np.array([[8, 0], [2, 3], [1, 1], [0, 1]])
    found = build(tmp_path, gather_positions=True).predict([read, written, positions], verbose=0)
    np.testing.assert_allclose(found, whole[np.arange(4)[:, None], positions], atol=1e-5)


@pytest.mark.parametrize("name", ["mt5", "t5"])
def test_keep_tokens(tmp_path, name):
    """Embedding and head lose the same rows."""
    small_t5.write_hugging_face(tmp_path, name)
    kept = [0, 1, 2, 9, 30, 7, 55, 8, 3]
    read, written = np.array([[7, 9, 30, 2, 55]]), np.array([[0, 8, 3]])
    expected = logits_of(build(tmp_path), read, written)[..., kept]
    new = {token: i for i, token in enumerate(kept)}
    read, written = (np.vectorize(new.get)(ids) for ids in (read, written))
    model = build(tmp_path, keep_tokens=kept)
    np.testing.assert_allclose(logits_of(model, read, written), expected, atol=1e-5)


def test_keep_tokens_of_a_tensorflow_checkpoint(tmp_path):
    small_t5.write_bert4keras(tmp_path, "mt5.1.1", vocab=True)
    kept = [*range(3), 50, 40]
    read, written = np.array([[1, 2, 2]]), np.array([[0, 2]])
    expected = logits_of(build(tmp_path), read, written)[..., kept]
    found = logits_of(build(tmp_path, keep_tokens=kept), read, written)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("layout", ["hugging_face", "google"])
def test_written_back(tmp_path, layout):
    source, folder = tmp_path / "source", tmp_path / "saved"
    source.mkdir()
    if layout == "google":
        small_t5.write_bert4keras(source, "mt5.1.1", vocab=True)
    else:
        small_t5.write_hugging_face(source, "t5-1.1")
    model, (config, _) = build(source), find_model(str(source))
    save_transformer_model(model, str(folder), config, VOCAB)
    expected = logits_of(model)
    np.testing.assert_array_equal(logits_of(build(folder)), expected)
    prefix = str(folder / "bert_model.ckpt")
    found = build_transformer_model(str(folder / "config.json"), prefix, with_mlm="linear")
    np.testing.assert_array_equal(logits_of(found), expected)


def test_bad_input(tmp_path):
    small_t5.write_hugging_face(tmp_path, "mt5")
    config = load_config(str(tmp_path))
    for arguments, error in (
        ({"with_pool": True}, "has no `with_pool`"),
        ({"scale_output": "false"}, "`scale_output` must be True or False.*'false'"),
        ({"document_start_id": 2}, "has no `document_start_id`"),
        ({"application": "lm"}, "must be 'encoder-decoder' for a T5"),
    ):
        with pytest.raises(ValueError, match=error):
            build(tmp_path, **arguments)
    for wrong in ("gated", 5, ["gelu"]):
        with pytest.raises(ValueError, match="feed_forward_proj must be an activation"):
            build_transformer_model({**config, "feed_forward_proj": wrong})
    with pytest.raises(ValueError, match=r"num_hidden_layers=1.*has more.*encoder\.block\.1"):
        build_transformer_model({**config, "num_layers": 1}, str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "umt5"}))
    with pytest.raises(ValueError, match=r"Unknown architecture.*umt5"):
        build(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")
def test_live_transformers(tmp_path):
    script = str(GOLDENS / "record_t5.py")
    arguments = ["transformers", "--seed", "5", "--output", str(tmp_path)]
    subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True)
    for name in HUGGING_FACE:
        folder = tmp_path / name
        folder.mkdir()
        small_t5.write_hugging_face(folder, name, seed=5)
        check(build(folder), "transformers", name, tmp_path, tolerance=1e-4)
