import os
import sys
import types
import unicodedata
import warnings

import numpy as np
import pytest

from keras_ptuning import PlainText, Template, build_classifier
from keras_ptuning.layers import PtuningEmbedding
from keras_ptuning.methods.prompt import (
    FREQUENT,
    start_vectors,
)
from keras_ptuning.tuning import reading
from keras_ptuning.tuning.reading import describe_prompt, nearest_tokens, plot_prompt, prompt_table

SPECIAL = ["[PAD]", *(f"[unused{i}]" for i in range(1, 5)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB = [*SPECIAL, *"很不好书的是满意", "$", "ok", "##ay"]
IDS = {token: i for i, token in enumerate(VOCAB)}
HIDDEN = 12
LABELS = {"负面": "不", "正面": ["很", "好"]}


def table():
    return np.random.default_rng(0).normal(size=(len(VOCAB), HIDDEN)).astype("float32")


def rows(words):
    return table()[[IDS[word] for word in words]]


def template(virtual=3, labels=LABELS, masks=1, label_tokens=()):
    """A template; `label_tokens` are the `[unused]` rows that are among its words."""
    pattern = "".join(f"[u{i + 1}]" for i in range(virtual)) + "[MASK]" * masks + "{text}"
    made = Template(pattern, labels, VOCAB)
    made.label_token_ids = [IDS[token] for token in label_tokens]
    made.tuned_names = [f"[u{i + 1}]" for i in range(virtual)]
    made.tuned_names += [f"[v{i + 1}]" for i in range(len(label_tokens))]
    return made


def start(name, made=None, log_frequency=None, seed=0, **kwargs):
    made = made or template()
    rng = np.random.default_rng(seed)
    found = start_vectors(name, made, table(), log_frequency, rng, **kwargs)
    assert found.dtype == "float32"
    return found


# Where a prompt starts.


def test_unused():
    np.testing.assert_array_equal(start("unused"), table()[1:4])
    # Beyond the table there is nothing to start from.
    found = start("unused", template(virtual=6), stddev=0.1)
    np.testing.assert_array_equal(found[:4], table()[1:5])
    assert 0 < np.abs(found[4:]).max() < 0.2


def test_random():
    made = types.SimpleNamespace(virtual_ids=range(1000), word_ids=[], label_token_ids=[])
    found = start("random", made, stddev=0.5)
    assert found.shape == (1000, HIDDEN) and abs(found.mean()) < 0.01
    # The standard deviation of a normal distribution without what is beyond two of them.
    assert 0.9 < np.abs(found).max() < 1 and abs(found.std() - 0.44) < 0.005
    np.testing.assert_array_equal(found, start("random", made, stddev=0.5))
    assert np.abs(found - start("random", made, stddev=0.5, seed=1)).min() > 0


def test_vocabulary(monkeypatch):
    monkeypatch.setattr("keras_ptuning.methods.prompt.FREQUENT", 4)
    assert FREQUENT == 5000

    def chosen(found):
        return {int(i) for row in found for i in np.nonzero((table() == row).all(axis=1))[0]}

    log_frequency = np.zeros(len(VOCAB))
    frequent = [IDS[token] for token in ("意", "##ay", "是", "不")]
    log_frequency[frequent] = [5, 2, 4, 3]
    log_frequency[: len(SPECIAL)] = 9
    sets = [chosen(start("vocabulary", None, log_frequency, seed)) for seed in range(20)]
    assert all(len(found) == 3 for found in sets) and set.union(*sets) == set(frequent)
    sets = [chosen(start("vocabulary", seed=seed)) for seed in range(20)]
    assert set.union(*sets) == {IDS[token] for token in "很不好书"}


def test_labels():
    found = start("labels", template(virtual=4))
    np.testing.assert_array_equal(found[:3], rows("不很好"))
    assert (table()[len(SPECIAL) :] == found[3]).all(axis=1).any()
    np.testing.assert_array_equal(start("labels", template(virtual=1)), rows("不"))
    found = start("labels", template(labels={0: "不好", 1: ["很好", "满意"]}, masks=2))
    means = [rows(word).mean(axis=0) for word in ("不好", "很好", "满意")]
    np.testing.assert_array_equal(found, means)


def test_words():
    found = start(["很满意", "okay"], template(virtual=7))
    np.testing.assert_array_equal(found, rows(["很", "满", "意", "ok", "##ay", "很", "满"]))
    np.testing.assert_array_equal(start(["很满意okay"]), rows("很满意"))
    assert start(["很"], template(virtual=0)).shape == (0, HIDDEN)


@pytest.mark.parametrize("name", ["unused", "random", "vocabulary", "labels", ["书"]])
def test_label_tokens(name):
    """They start as the other words of their label, or as what the table has at their row."""
    made = template(label_tokens=["[unused4]", "[unused3]"])
    made.word_ids = [[[IDS["[unused3]"]]], [[IDS["很"]], [IDS["[unused4]"]], [IDS["好"]]]]
    found = start(name, made)
    assert found.shape == (5, HIDDEN)
    np.testing.assert_allclose(found[3], rows("很好").mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(found[4], table()[IDS["[unused3]"]])
    if name == "labels":
        np.testing.assert_array_equal(found[:2], rows("很好"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("很满意", "one of .*'vocabulary'.*Received: start='很满意'"),
        (None, "one of .*Received: start=None"),
        ([1, 2], "one of "),
        ([], "no words to start from"),
        (["", " "], "no words to start from"),
        (["很", "很棒"], r"'很棒' are not all in the vocabulary: they become \['很', '\[UNK\]'\]"),
    ],
)
def test_bad_starts(name, message):
    with pytest.raises(ValueError, match=message):
        start(name)


def test_no_label_words():
    made = template(label_tokens=["[unused3]", "[unused4]"])
    made.word_ids = [[[IDS["[unused3]"]]], [[IDS["[unused4]"]]]]
    with pytest.raises(ValueError, match="all trainable tokens"):
        start("labels", made)
    made = template()
    made.word_ids = None
    with pytest.raises(ValueError, match="come with each text, as candidates"):
        start("labels", made)
    assert start("vocabulary", made).shape == (3, HIDDEN)


# Reading.


@pytest.fixture
def model():
    """What reading asks of a model: a template, and an embedding that has moved."""
    made = template(virtual=2, label_tokens=["[unused4]"])
    embedding = PtuningEmbedding(len(VOCAB), HIDDEN, made.virtual_ids + made.label_token_ids)
    embedding.build()
    embedding.embeddings.assign(table())
    embedding.reset_prompt()
    moved = embedding.start.copy()
    moved[0] = 2 * rows("书")[0]
    moved[2, :2] += (3, 4)
    embedding.prompt.assign(moved)
    return types.SimpleNamespace(template=made, embedding=embedding)


def test_nearest_tokens():
    vectors = np.stack([3 * rows("好")[0], -rows("书")[0], np.zeros(HIDDEN)])
    found = nearest_tokens(vectors, table(), VOCAB, k=100)
    # Special tokens are left out, and there are no more than the others.
    assert {len(near) for near in found} == {len(VOCAB) - len(SPECIAL)}
    token, cosine = found[0][0]
    assert token == "好" and abs(cosine - 1) < 1e-6
    assert found[1][-1][0] == "书" and abs(found[1][-1][1] + 1) < 1e-6
    assert all(cosine == 0 for _, cosine in found[2])
    for near in found:
        assert [c for _, c in near] == sorted((c for _, c in near), reverse=True)
    assert nearest_tokens(vectors, table(), VOCAB, k=2) == [near[:2] for near in found]
    with pytest.raises(ValueError, match="k=0"):
        nearest_tokens(vectors, table(), VOCAB, k=0)


def test_describe_prompt(model):
    entries = describe_prompt(model, k=3)
    assert [entry["token"] for entry in entries] == ["[u1]", "[u2]", "[v1]"]
    first, second, third = entries
    assert first["nearest"][0][0] == "书" and len(first["nearest"]) == 3
    np.testing.assert_allclose(first["norm"], 2 * np.linalg.norm(rows("书")), rtol=1e-6)
    assert second["moved"] == 0
    np.testing.assert_allclose(third["moved"], 5, rtol=1e-6)
    model.embedding.start = None
    assert [entry["moved"] for entry in describe_prompt(model)] == [None] * 3


def test_prompt_table(model):
    head, *lines = prompt_table(model, k=3).split("\n")
    assert head.split()[:3] == ["token", "moved", "norm"]
    assert [line.split()[0] for line in lines] == ["[u1]", "[u2]", "[v1]"]
    assert "书 1.00" in lines[0] and " 5.00 " in lines[2]

    # In a terminal the columns are below each other.
    def wide(line):
        return "".join(c + "_" * (unicodedata.east_asian_width(c) in "WF") for c in line)

    tokens = [token for entry in describe_prompt(model, k=3) for token, _ in entry["nearest"]]
    assert len({len(wide(token)) for token in tokens}) > 1
    lines = [wide(line) for line in lines]
    for blank in (wide(head).index("norm") - 1, wide(head).index("nearest") - 1):
        assert {line[blank] for line in lines} == {" "}
    begins = [
        [i for i, c in enumerate(line) if c != " " and line[i - 1] == " "][2::2] for line in lines
    ]
    assert begins[0] == begins[1] == begins[2] and len(begins[0]) == 3
    model.embedding.start = None
    assert " - " in prompt_table(model)


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    # Those that other tests have left.
    pyplot.close("all")
    yield pyplot
    pyplot.close("all")


def test_plot_prompt(model, pyplot, monkeypatch, tmp_path):
    # As if this font had Chinese characters, so that nothing needs to be said.
    monkeypatch.setattr(reading, "CHINESE_FONTS", ("No Such Font", "DejaVu Sans"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        figure = plot_prompt(model, tmp_path / "prompt.png", k=4)
    near, far = figure.axes
    assert [label.get_text() for label in near.get_yticklabels()] == ["[u1]", "[u2]", "[v1]"]
    entries = describe_prompt(model, k=4)
    words = [(token, cosine) for entry in entries for token, cosine in entry["nearest"]]
    assert [text.get_text() for text in near.texts] == [token for token, _ in words]
    np.testing.assert_allclose([bar.get_width() for bar in near.patches], [c for _, c in words])
    widths = [bar.get_width() for bar in far.patches]
    np.testing.assert_allclose(widths, [entry["moved"] for entry in entries])
    assert near.texts[0].get_fontfamily() == ["sans-serif", "DejaVu Sans"]
    assert (tmp_path / "prompt.png").read_bytes()[:4] == b"\x89PNG"
    assert os.listdir(tmp_path) == ["prompt.png"]
    # Of many files, pyplot keeps no figures.
    assert not pyplot.get_fignums()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert pyplot.figure(plot_prompt(model).number).axes
    assert len(pyplot.get_fignums()) == 1


def test_plot_without_a_start(model, pyplot):
    model.embedding.start = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(plot_prompt(model).axes) == 1


def test_plot_without_chinese_fonts(model, pyplot, monkeypatch, tmp_path):
    monkeypatch.setattr(reading, "CHINESE_FONTS", ("No Such Font",))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        plot_prompt(model, tmp_path / "prompt.png")
    (warning,) = [w for w in caught if w.category is UserWarning]
    assert "apt install fonts-noto-cjk" in str(warning.message) and warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        plot_prompt(model, tmp_path / "prompt.svg")
        only_latin = [entry for token in ("ok", "##ay") for entry in rows([token])]
        model.embedding.prompt.assign(np.stack([*only_latin, only_latin[0]]))
        plot_prompt(model, k=1)
    # Text stays text, for the viewer's fonts.
    assert ">书</text>" in (tmp_path / "prompt.svg").read_text("utf-8")


def test_plot_without_matplotlib(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plot_prompt(model)


@pytest.mark.parametrize("path", ["plot", "plot.", "plot.doc", ".png"])
def test_a_plot_needs_an_ending(model, tmp_path, path):
    with pytest.raises(ValueError, match=r"must end in one of \[.*'png'.*Received: path='.*plot"):
        plot_prompt(model, tmp_path / "plots" / path)


@pytest.mark.parametrize("read", [describe_prompt, prompt_table, plot_prompt])
def test_a_model_without_a_cloze(small_bert, tokenizer, read):
    model = build_classifier(*small_bert[:2], PlainText(["负面", "正面"], tokenizer, maxlen=64))
    with pytest.raises(ValueError, match=r"Only a `ClozeModel` has a prompt.*TextClassifier"):
        read(model)
