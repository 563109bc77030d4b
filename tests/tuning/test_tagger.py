"""Sequence labelling: the numbers of Hugging Face's model, and each word with its own tag."""

import pathlib

import keras
import numpy as np
import pytest
import small_checkpoints
from keras import ops

from keras_ptuning import (
    PlainText,
    Prefix,
    TaggedText,
    Tagger,
    build_tagger,
    load_model,
    load_tuned,
    predict_to_file,
)

pytestmark = pytest.mark.usefixtures("eagerly")

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "transformers_tagger.npz"
TAGS = ["O", "B-X", "I-X"]
# Each 书 begins a span, which 贵 continues.
SENTENCES = [list("书贵很好"), list("屏幕"), list("很书不好书贵贵"), list("书")]
RIGHT = [[TAGS["书贵".find(w) + 1] for w in words] for words in SENTENCES]


@pytest.fixture
def tagged(tokenizer):
    return TaggedText(TAGS, tokenizer, maxlen=64)


@pytest.fixture
def make_tagger(small_bert, tagged):
    def make(tune="all", **kwargs):
        kwargs = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0, **kwargs}
        return build_tagger(*small_bert[:2], tagged, tune, **kwargs)

    return make


def test_the_logits_are_those_of_transformers(tmp_path):
    golden = np.load(GOLDEN)
    small_checkpoints.write_hugging_face(tmp_path, "bert", 0)
    tagged = TaggedText([f"tag{i}" for i in range(5)], tmp_path, maxlen=24)
    model = build_tagger(tmp_path, template=tagged)
    model.classifier.kernel.assign(golden["kernel"])
    model.classifier.bias.assign(golden["bias"])
    token_ids = golden["token_ids"]
    places = np.tile(np.arange(token_ids.shape[1], dtype="int32"), (len(token_ids), 1))
    x = {"token_ids": token_ids, "segment_ids": 0 * token_ids, "mask_positions": places}
    expected = ops.convert_to_numpy(ops.log_softmax(golden["logits"]))
    found, is_token = model.predict(x, verbose=0), token_ids != 0
    np.testing.assert_allclose(found[is_token], expected[is_token], atol=2e-5)
    # And of some words alone.
    x["mask_positions"] = places[:, [2, 1]]
    np.testing.assert_allclose(model.predict(x, verbose=0), expected[:, [2, 1]], atol=2e-5)


def test_the_first_token_of_a_word_counts(tagged, tokenizer):
    # Pieces of a word, a space, a character that the vocabulary lacks, capitals.
    words = ["okay", "书", " ", "鱼", "GOOD", "12", "贵"]
    x, y = tagged.encode([words, ["好"]], [["B-X", *["I-X"] * 6], ["O"]])
    assert [tokenizer.id_to_token(i) for i in x["token_ids"][0]] == [
        "[CLS]", "ok", "##ay", "书", "[UNK]", "[UNK]", "good", "1", "##2", "贵", "[SEP]",
    ]  # fmt: skip
    assert x["mask_positions"].tolist() == [[1, 3, 4, 5, 6, 7, 9], [1, 0, 0, 0, 0, 0, 0]]
    assert y.tolist() == [[1, *[2] * 6], [0, *[-1] * 6]]
    scores = np.zeros((2, 8, 3))
    scores[0, [0, 6], 2] = scores[1, 0, 1] = 1
    assert tagged.decode(scores, [words, ["好"]]) == [["I-X", *["O"] * 5, "I-X"], ["B-X"]]


def test_long_sentences_take_several_rows(tokenizer, make_tagger, tagged):
    short = TaggedText(TAGS, tokenizer, maxlen=5)
    # Three tokens have room: the second word has two pieces, and the last one is cut.
    words, tags = ["书", "okay", "好", "贵", "12222"], ["B-X", "I-X", "O", "B-X", "I-X"]
    x, y = short.encode([["快"], words, ["慢"]], [["O"], tags, ["I-X"]])
    assert [[tokenizer.id_to_token(i) for i in row if i] for row in x["token_ids"][1:4]] == [
        ["[CLS]", "书", "ok", "##ay", "[SEP]"],
        ["[CLS]", "好", "贵", "[SEP]"],
        ["[CLS]", "1", "##2", "##2", "[SEP]"],
    ]
    assert y.tolist() == [[0, -1], [1, 2], [0, 1], [2, -1], [2, -1]]
    decoded = short.decode(np.eye(3)[np.maximum(y, 0)], [["快"], words, ["慢"]])
    assert decoded == [["O"], tags, ["I-X"]]
    sentences = [list("书贵很好" * 30), list("屏幕")]
    model = make_tagger()
    scores = model.predict(tagged.dataset(sentences), verbose=0)
    assert scores.shape == (3, 62, 3)
    assert [len(row) for row in tagged.decode(scores, sentences)] == [120, 2]


def test_order_and_padding_change_nothing(make_tagger, tagged):
    model = make_tagger()
    found = model.predict(tagged.dataset(SENTENCES, batch_size=2), verbose=0)
    assert found.shape == (4, 7, 3)
    for words, row in zip(SENTENCES, found, strict=True):
        alone = model.predict(tagged.encode([words]), verbose=0)
        np.testing.assert_allclose(row[: len(words)], alone[0], atol=1e-5)


def test_every_word_counts_the_same(make_tagger, tagged):
    """The loss and the accuracy are means over words, and padding is none."""
    model = make_tagger()
    model.compile(run_eagerly=True)
    log_p = model.predict(tagged.dataset(SENTENCES), verbose=0)
    _, y = tagged.encode(SENTENCES, RIGHT)
    rows = np.argwhere(y >= 0)
    right = np.array([log_p[i, j, y[i, j]] for i, j in rows])
    hits = np.array([log_p[i, j].argmax() == y[i, j] for i, j in rows])
    found = model.evaluate(tagged.dataset(SENTENCES, RIGHT), verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(-right.mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx(hits.mean(), rel=1e-5)


@pytest.mark.graph
@pytest.mark.parametrize("tune", ["all", Prefix(4)])
def test_it_learns_and_is_saved(make_tagger, tagged, small_bert, tmp_path, tune):
    model = make_tagger(tune)
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    model.fit(tagged.dataset(SENTENCES, RIGHT), epochs=25, verbose=0)
    scores = model.predict(tagged.dataset(SENTENCES), verbose=0)
    assert tagged.decode(scores, SENTENCES) == RIGHT
    if tune != "all":
        assert {v.name for v in model.trainable_variables} == {"prefix", "kernel", "bias"}
    model.save_tuned(tmp_path / "my.tuned")
    model.save(tmp_path / "my.keras")
    tuned = load_tuned(tmp_path / "my.tuned", *small_bert)
    for loaded in (tuned, load_model(tmp_path / "my.keras")):
        assert type(loaded) is Tagger and loaded.template.label_names == TAGS
        again = loaded.predict(loaded.template.dataset(SENTENCES), verbose=0)
        np.testing.assert_allclose(again, scores, atol=1e-5)


def test_some_of_the_sentences(tagged):
    dataset = tagged.dataset(SENTENCES, RIGHT, batch_size=2, shuffle=False)
    (x, y), expected = dataset.subset(np.array([2, 0]))[0], tagged.encode(SENTENCES)
    ids = [[i for i in row if i] for row in expected["token_ids"][[2, 0]].tolist()]
    assert [[i for i in row if i] for row in x["token_ids"].tolist()] == ids
    assert [[i for i in row if i >= 0] for row in y.tolist()] == [
        [TAGS.index(tag) for tag in RIGHT[i]] for i in (2, 0)
    ]
    assert len(tagged.dataset(SENTENCES).subset(np.array([2]))[0]) == 1


def test_padding_is_not_drawn_together(make_tagger, tagged):
    """R-Drop, over the words alone."""
    model = make_tagger(dropout_rate=0.1)
    model.compile(rdrop=2.0)
    p, q = np.log(np.random.default_rng(0).dirichlet([1, 1, 1], (2, 2, 3))).astype("float32")
    y = np.array([[0, 1, 2], [1, -1, -1]])
    words = y >= 0
    chosen = np.take_along_axis(p + q, np.maximum(y, 0)[..., None], 2)[words]
    apart = (np.exp(p) * (p - q) + np.exp(q) * (q - p)).sum(axis=-1)[words] / 2
    found = {"scores": ops.convert_to_tensor(p), "again": {"scores": ops.convert_to_tensor(q)}}
    loss = float(model.compute_loss({}, ops.convert_to_tensor(y), found))
    assert loss == pytest.approx((-chosen.mean() + 2 * apart.mean()) / 2, rel=1e-5)


def test_numbers_of_numpy_as_tags(tokenizer):
    tagged = TaggedText([0, 1], tokenizer)
    for tags in ([np.array([1, 0])], [[np.int64(1), 0]]):
        assert tagged.dataset([["书", "贵"]], tags)[0][1][0, :2].tolist() == [1, 0]


def test_bad_input(tagged, make_tagger, small_bert, tokenizer):
    with pytest.raises(TypeError, match=r"list\(text\).*sentence 1 is '书贵'"):
        tagged.encode([["书"], "书贵"])
    with pytest.raises(TypeError, match=r"sentence 0 is \['书', 5\]"):
        tagged.encode([["书", 5]])
    with pytest.raises(TypeError, match=r"Sentence 0: .*must be a list"):
        tagged.encode([5])
    with pytest.raises(ValueError, match="Sentence 1 has no words"):
        tagged.encode([["书"], []])
    with pytest.raises(ValueError, match="2 sentences and 1 lists"):
        tagged.dataset([["书"], ["贵"]], [["O"]])
    with pytest.raises(ValueError, match="sentence 1 has 2 words and 1 tags"):
        tagged.dataset([["书"], ["书", "贵"]], [["O"], ["O"]])
    with pytest.raises(ValueError, match=r"Tag 1 of sentence 0 is 'B-Y'\. Expected one of \['O'"):
        tagged.dataset([["书", "贵"]], [["O", "B-Y"]])
    with pytest.raises(ValueError, match=r"Expected scores of shape \(1, 2, 3\)"):
        tagged.decode(np.zeros((1, 1, 3)), [["书", "贵"]])
    with pytest.raises(TypeError, match=r"`template` must be a `TaggedText`"):
        build_tagger(*small_bert[:2], PlainText(TAGS, tokenizer, 64))
    model = make_tagger()
    model.compile()
    with pytest.raises(ValueError, match="leave out `class_weight`"):
        model.fit(tagged.dataset(SENTENCES, RIGHT), class_weight={"O": 2})
    with pytest.raises(ValueError, match=r"gives each text one label.*`template\.decode`"):
        predict_to_file(model, ["书"], "out.csv")
    with pytest.raises(ValueError, match="need labels"):
        model.fit(tagged.dataset(SENTENCES))
    with pytest.raises(ValueError, match=r"datasets only: `template\.dataset"):
        model.fit(*tagged.encode(SENTENCES, RIGHT))
    other = TaggedText(["O", "B-Y"], tokenizer, 64)
    with pytest.raises(ValueError, match="another template"):
        model.predict(other.dataset(SENTENCES))
