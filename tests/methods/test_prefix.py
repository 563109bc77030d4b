"""Prefixes: keys and values that tokens look at in every block."""

import keras
import numpy as np
import pytest
import small_bert
import small_checkpoints
import small_gpt2
from keras import ops

from keras_ptuning import (
    Prefix,
    Template,
    build_ptuning_model,
    build_transformer_model,
    load_tuned,
)
from keras_ptuning.layers import KeyValuePrefix
from keras_ptuning.methods.method import to_numpy

pytestmark = pytest.mark.usefixtures("eagerly")

LABELS = {"负面": "不", "正面": "很"}
NO_DROPOUT = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}
WORDS = "很不满意"
TEXTS = ["书", "屏幕很好，喜欢", "服务态度"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Configurations and checkpoints of several architectures."""
    found = {"gpt2": small_gpt2.write_small_gpt2(tmp_path_factory.mktemp("gpt2"))}
    for name in ("bert", "albert", "nezha", "roformer"):
        folder = tmp_path_factory.mktemp(name)
        small_checkpoints.write_hugging_face(folder, name)
        found[name] = [folder]
    return found


def make_template(pattern="[MASK]{text}", labels=LABELS, maxlen=16, **kwargs):
    return Template(pattern, labels, small_bert.vocabulary(), maxlen=maxlen, **kwargs)


def build(paths, name, template=None, causal=False, tune=None, **kwargs):
    if causal and name != "gpt2":
        kwargs["application"] = "lm"
    template = template or make_template(
        "{text}[MASK]" if causal else "[MASK]{text}", causal=causal
    )
    tune = Prefix(4) if tune is None else tune
    return build_ptuning_model(*paths[name], template=template, tune=tune, **NO_DROPOUT, **kwargs)


def scores(model, texts=TEXTS):
    return to_numpy(model(model.template.encode(texts), training=False))


def fill(model, seed=0):
    """A prefix of numbers large enough to leave its mark."""
    variable = model.backbone.get_layer("Prefix").prefix
    values = np.random.default_rng(seed).normal(size=variable.shape).astype("float32")
    variable.assign(values)
    return values


def logits(model, token_ids, positions=None):
    """What a backbone predicts of one sequence, at all of its positions or at some."""
    ids = np.array([token_ids], "int32")
    places = range(len(token_ids)) if positions is None else positions
    named = {
        "Input-Token": ids,
        "Input-Segment": np.zeros_like(ids),
        "Input-Reach": np.full_like(ids, 10**6),
        "Input-Gather": np.array([places], "int32"),
    }
    return to_numpy(model([named[x.name] for x in model.inputs], training=False))[0]


@pytest.mark.parametrize("name", ["gpt2", "bert", "albert", "roformer"])
def test_keys_and_values_of_real_tokens_are_these_tokens(paths, name):
    """In a causal model; and so positions continue those of the prefix."""
    model = build(paths, name, causal=True, tune=Prefix(4, start=WORDS))
    ids = model.template.tokenizer.token_ids([WORDS, TEXTS[1]])
    kwargs = {} if name == "gpt2" else {"application": "lm"}
    plain = build_transformer_model(*paths[name], with_mlm="linear", **NO_DROPOUT, **kwargs)
    expected = logits(plain, ids[0] + ids[1])[4:]
    np.testing.assert_allclose(logits(model.backbone, ids[1]), expected, rtol=1e-5, atol=2e-5)
    # Not because the prefix does nothing.
    assert np.abs(logits(plain, ids[1]) - expected).max() > 0.1


def test_words_are_repeated_or_cut(paths):
    whole = to_numpy(
        build(paths, "bert", tune=Prefix(6, start=WORDS)).backbone.get_layer("Prefix").prefix
    )
    ids = np.resize(make_template().tokenizer.token_ids([WORDS])[0], 6)
    table = build(paths, "bert").backbone.get_layer("Embedding-Token").embeddings
    assert whole.shape == (2, 2, 6, 32) and len(np.unique(ids)) == 4
    other = build(paths, "bert", tune=Prefix(6, start=["很不满意", "很不"]))
    np.testing.assert_array_equal(to_numpy(other.backbone.get_layer("Prefix").prefix), whole)
    cut = build(paths, "bert", tune=Prefix(2, start=WORDS)).backbone.get_layer("Prefix").prefix
    assert tuple(cut.shape) == (2, 2, 2, 32) and tuple(table.shape) == (120, 32)


def test_zeros_take_mass(paths):
    """Tokens look at keys of 0 too, and find nothing there, so it is not the model without."""
    model = build(paths, "bert")
    model.backbone.get_layer("Prefix").prefix.assign(np.zeros((2, 2, 4, 32), "float32"))
    without = build_ptuning_model(*paths["bert"], template=model.template, **NO_DROPOUT)
    assert np.abs(scores(model) - scores(without)).max() > 0.01


@pytest.mark.parametrize("name", ["bert", "albert", "nezha", "roformer"])
def test_padding_changes_nothing(paths, name):
    model = build(paths, name)
    fill(model)
    together = scores(model)
    for text, expected in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(scores(model, [text])[0], expected, rtol=1e-5, atol=1e-5)
    assert np.abs(together - scores(build(paths, name))).max() > 0.01


@pytest.mark.parametrize("name", ["gpt2", "bert", "nezha"])
def test_words_of_several_tokens_after_a_causal_model(paths, name):
    """The branches see the prefix, and padding changes nothing."""
    labels = {"a": "不好书", "b": ["不好", "满"], "c": "很", "d": "不差"}
    template = make_template("{text}觉[MASK][MASK][MASK]", labels, causal=True)
    model = build(paths, name, template, causal=True)
    values = fill(model)
    together = scores(model)
    for text, expected in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(scores(model, [text])[0], expected, rtol=1e-5, atol=2e-5)
    # The first token of a word is predicted as without branches.
    one = make_template("{text}觉[MASK]", {"c": "很", "e": "满"}, causal=True)
    single = build(paths, name, one, causal=True)
    single.backbone.get_layer("Prefix").prefix.assign(values)
    x = single.template.encode(TEXTS)
    ids = x["token_ids"][0, : x["mask_positions"][0, 0] + 1]
    word = model.template.word_ids[2][0][0]
    row = logits(single.backbone, ids)[-1]
    expected = row[word] - np.log(np.exp(row - row.max()).sum()) - row.max()
    # A shorter word counts as one of three tokens.
    np.testing.assert_allclose(together[0, 2], 3 * expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "bert", "nezha", "roformer"])
def test_positions_to_read(paths, name):
    """The last block computes only these, with the same result."""
    values = np.random.default_rng(1).normal(size=(2, 2, 5, 32)).astype("float32")
    found = []
    for gather in (False, True):
        layer = KeyValuePrefix(5, 2, 4, 8, name="Prefix")
        model = build_transformer_model(
            *paths[name],
            with_mlm="linear",
            layers={"Prefix": layer},
            gather_positions=gather,
            **NO_DROPOUT,
        )
        layer.prefix.assign(values)
        found.append(logits(model, [2, 30, 31, 32, 33, 34, 3], [6, 0, 3] if gather else None))
    np.testing.assert_allclose(found[1], found[0][[6, 0, 3]], rtol=1e-5, atol=1e-5)


def test_albert_has_a_prefix_for_each_depth(paths, reviews):
    """Though its blocks are one: each depth reads its own, and each trains."""
    model = build(paths, "albert")
    layer = model.backbone.get_layer("Prefix")
    assert tuple(layer.prefix.shape) == (3, 2, 4, 32)
    values = fill(model)
    before = scores(model)
    for i in range(3):
        changed = values.copy()
        changed[i] = 0
        layer.prefix.assign(changed)
        assert np.abs(scores(model) - before).max() > 1e-3
    layer.prefix.assign(values)
    model.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    model.fit(model.template.dataset(*reviews), verbose=0)
    moved = np.abs(to_numpy(layer.prefix) - values)
    assert (moved.max(axis=(2, 3)) > 1e-4).all()


def test_what_trains(paths):
    model = build(paths, "bert")
    assert [(v.path, tuple(v.shape)) for v in model.trainable_variables] == [
        ("Prefix/prefix", (2, 2, 4, 32))
    ]
    assert list(model.tuned_weights()) == ["prefix"]
    mlp = build(paths, "bert", tune=Prefix(4, "mlp"))
    assert {v.path for v in mlp.trainable_variables} == {
        f"Prefix/{name}"
        for name in ("tokens", "inner/kernel", "inner/bias", "outer/kernel", "outer/bias")
    }


def test_what_a_network_makes_is_stored(paths, reviews, tmp_path):
    model = build(paths, "bert", tune=Prefix(4, "mlp"))
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    model.fit(model.template.dataset(*reviews), verbose=0)
    model.save_tuned(tmp_path / "mlp.tuned")
    # Keys and values of two blocks, in float32; the network would take 300 KiB.
    assert (tmp_path / "mlp.tuned").stat().st_size < 2 * 2 * 4 * 32 * 4 + 1500
    loaded = load_tuned(tmp_path / "mlp.tuned", paths["bert"][0], **NO_DROPOUT)
    assert loaded.backbone.get_layer("Prefix").reparametrize is None
    np.testing.assert_allclose(scores(loaded), scores(model), rtol=1e-6, atol=1e-6)
    assert [v.path for v in loaded.trainable_variables] == ["Prefix/prefix"]
    # The whole model keeps the network.
    model.save(tmp_path / "mlp.keras")
    whole = keras.models.load_model(tmp_path / "mlp.keras")
    assert len(whole.trainable_variables) == 5
    np.testing.assert_allclose(scores(whole), scores(model), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"length": 0}, "`length` must be"),
        ({"length": 2.5}, "`length` must be"),
        ({"reparametrize": "lstm"}, r"one of \(None, 'mlp'\)"),
        ({"reparametrize": "mlp", "start": "很"}, "leave out `start`"),
    ],
)
def test_bad_settings(kwargs, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Prefix(**kwargs)


def test_words_that_the_vocabulary_lacks(paths):
    with pytest.raises(ValueError, match="not all in the vocabulary"):
        build(paths, "bert", tune=Prefix(4, start="龘"))


def test_longer_than_the_positions(paths):
    with pytest.raises(ValueError, match=r"has 64 positions.*prefix of 65\. Use a shorter"):
        build(paths, "bert", tune=Prefix(65))
    with pytest.raises(ValueError, match=r"prefix of 20\. Use a shorter.*maxlen=12"):
        build(paths, "gpt2", causal=True, tune=Prefix(20))
    model = build(paths, "gpt2", causal=True, tune=Prefix(16))
    assert np.isfinite(scores(model, ["书" * 30])).all()
    # These have no end of positions, or the square of the checkpoint's.
    build(paths, "nezha", tune=Prefix(65))
    build(paths, "bert", tune=Prefix(65), hierarchical_position=True)


@pytest.mark.parametrize("start", [5, None, ["很", 5]])
def test_bad_start(start):
    with pytest.raises(ValueError, match=r"a list of words\. Received: start="):
        Prefix(4, start=start)


def test_half_precision(paths):
    model = build(paths, "bert", dtype="mixed_bfloat16")
    values = fill(model)
    exact = build(paths, "bert")
    exact.backbone.get_layer("Prefix").prefix.assign(values)
    assert keras.backend.standardize_dtype(model.trainable_variables[0].dtype) == "float32"
    found = ops.softmax(scores(model)) - ops.softmax(scores(exact))
    assert np.abs(to_numpy(found)).max() < 0.05
