import copy
import json
import pickle

import keras
import numpy as np
import pytest
from keras import ops
from sklearn.linear_model import LogisticRegression
from small_bert import tensors, vocabulary, write_small_bert

from keras_ptuning import LabelWords, Template, build_ptuning_model, search_label_words
from keras_ptuning.tuning.label_words import (
    LEAST,
    _find_words,
    _likelihood_scores,
    _rank,
    open_cloze,
    token_log_probabilities,
)

pytestmark = pytest.mark.usefixtures("eagerly")

PATTERN = "[MASK]满意。{text}"


@pytest.fixture
def search(small_bert, make_model, make_template, reviews):
    """The search with a ready model, on the texts about books and screens."""
    model = make_model(make_template(PATTERN))

    def make(pattern=PATTERN, texts=reviews[0], labels=reviews[1], **kwargs):
        kwargs = {"verbose": 0, "candidates": 200, **kwargs}
        return search_label_words(model, pattern, texts, labels, **kwargs)

    return make


def probabilities(model, template, texts):
    """Of all tokens at the masks of each text."""
    x = template.encode(texts)
    names = [layer.name for layer in model.backbone.inputs]
    given = {
        "Input-Token": x["token_ids"],
        "Input-Segment": x["segment_ids"],
        "Input-Gather": x["mask_positions"],
    }
    return ops.convert_to_numpy(ops.softmax(model.backbone.predict([given[n] for n in names])))


def score(p, is_own):
    """The score of a word, written out as in the paper and divided by the number of others."""
    s = np.where(is_own, (~is_own).sum() / is_own.sum(), 1.0)
    odds = np.log(p) - np.log1p(-p)
    return (s * np.where(is_own, 1, -1) * odds).sum() / (~is_own).sum()


def test_scores_are_likelihood_ratios(search, make_model, make_template, reviews):
    template = make_template(PATTERN)
    p = probabilities(make_model(template), template, reviews[0])[:, 0]
    words = search(words_per_label=20)
    is_positive = np.equal(reviews[1], "正面")
    for label, ranked in words.ranking.items():
        is_own = is_positive if label == "正面" else ~is_positive
        for word, found in ranked:
            token_id = template.tokenizer.token_to_id(word)
            assert found == pytest.approx(score(p[:, token_id], is_own), abs=1e-4)
        assert [x for _, x in ranked] == sorted((x for _, x in ranked), reverse=True)
        assert words[label] == [word for word, _ in ranked[:20]]


@pytest.mark.parametrize("pattern", [PATTERN, "[MASK][MASK]{text}"])
def test_scores_of_a_classifier(search, make_model, make_template, reviews, pattern):
    """As in the paper: it learns from the vectors at the masks, and reads those of words."""
    words = list("很不满意好差理想书屏幕")
    if pattern != PATTERN:
        words = [a + b for a in words for b in words]
    template = make_template(pattern, {"负面": words[0], "正面": words[1]})
    model = make_model(template)
    x = template.encode(reviews[0])
    norm = model.backbone.get_layer("MLM-Norm").output
    inputs = [x["token_ids"], x["segment_ids"], x["mask_positions"]]
    h = keras.Model(model.backbone.inputs, norm).predict(inputs, verbose=0)
    numbers = np.equal(reviews[1], "正面").astype(int)
    fitted = LogisticRegression(max_iter=1000).fit(h.reshape(24, -1), numbers)
    table = model.backbone.get_layer("Embedding-Token").embeddings.numpy()
    ids = template.tokenizer.token_ids(words)
    p = fitted.predict_proba(table[np.array(ids)].reshape(len(ids), -1))
    found = search(pattern, words=words, score="classifier")
    scores = {(label, w): s for label, rows in found.ranking.items() for w, s in rows}
    assert len(scores) > 8
    expected = np.log(p) - np.log(p).mean(axis=0)
    for (label, word), found in scores.items():
        row = expected[words.index(word)]
        assert found == pytest.approx(row[["负面", "正面"].index(label)], abs=1e-3)


def test_a_classifier_after_answers(reviews):
    """A T5 that has written something still has the vectors of its head."""
    template = Template("{text}[DECODER][MASK]", {"负面": "差", "正面": "好"}, "t5-mini-zh", 32)
    model = build_ptuning_model("t5-mini-zh", template=template, auxiliary=False)
    model.generate(reviews[0][:2], max_tokens=2)
    found = search_label_words(model, template.pattern, *reviews, score="classifier", verbose=0)
    assert set(found) == {"负面", "正面"}


def test_words_of_two_tokens(search, make_model, make_template, reviews):
    """Each token at its mask."""
    template = make_template("[MASK][MASK]。{text}", {"负面": "不好", "正面": "满意"})
    p = probabilities(make_model(template), template, reviews[0])
    found = search("[MASK][MASK]。{text}", words=["电池", "体育", "很", "okay", "很好很"])
    scores = {word: x for ranked in found.ranking.values() for word, x in ranked}
    assert set(scores) == {"电池", "体育", "okay"}
    is_positive = np.equal(reviews[1], "正面")
    for label, ranked in found.ranking.items():
        for word, _ in ranked:
            first, second = template.tokenizer.token_ids([word])[0]
            of_word = p[:, 0, first] * p[:, 1, second]
            expected = score(of_word, is_positive if label == "正面" else ~is_positive)
            assert scores[word] == pytest.approx(expected, abs=1e-4)


@pytest.mark.graph
def test_a_planted_word_is_found(tmp_path, reviews):
    """The head of a BERT favours one word after texts about books, another after the others."""
    values = tensors()
    paths = write_small_bert(tmp_path, values=values)
    words = {"负面": "理", "正面": "旅"}
    template = Template(PATTERN, words, paths[2], maxlen=64)
    model = build_ptuning_model(*paths[:2], template, tune="all", auxiliary=False)
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(template.dataset(*reviews, batch_size=8), epochs=15, verbose=0)
    found = search_label_words(model, PATTERN, *reviews, verbose=0)
    assert found == {"负面": ["理"], "正面": ["旅"]}
    # The search leaves the model alone.
    assert model.template.labels == {"负面": ["理"], "正面": ["旅"]}


def test_no_word_twice_and_only_words(search, reviews):
    labels = [i % 3 for i in range(24)]
    found = search(labels=labels, words_per_label=5)
    words = [word for own in found.values() for word in own]
    assert len(words) == len(set(words)) == 15
    ranked = [word for rows in found.ranking.values() for word, _ in rows]
    assert len(ranked) == len(set(ranked))
    assert list(found) == [0, 1, 2]
    everything = search(words_per_label=20)
    shown = {word for rows in everything.ranking.values() for word, _ in rows}
    assert not shown & {"，", "？", "。", "！", "1", "##2", "##ay", "[unused3]", "[MASK]", "[UNK]"}
    assert all(word.isalpha() for word in shown)


def test_candidates_are_likely_words(search, make_model, make_template, reviews):
    template = make_template(PATTERN)
    p = probabilities(make_model(template), template, reviews[0])[:, 0]
    found = search(candidates=20)
    is_positive = np.equal(reviews[1], "正面")
    tokenizer = template.tokenizer
    words = [i for i in template.ordinary_ids if tokenizer.id_to_token(i).isalpha()]
    for label, ranked in found.ranking.items():
        own = np.log(p[is_positive if label == "正面" else ~is_positive]).mean(axis=0)
        usual = sorted(words, key=lambda i: -own[i])[:20]
        assert {word for word, _ in ranked} <= {tokenizer.id_to_token(i) for i in usual}


def test_a_template_takes_them(search, make_template, make_model, reviews):
    words = search(words_per_label=2)
    assert isinstance(words, dict) and isinstance(words, LabelWords)
    template = make_template(PATTERN, words)
    assert template.labels == words
    assert make_model(template).predict(template.dataset(reviews[0]), verbose=0).shape == (24, 2)
    for copied in (copy.deepcopy(words), pickle.loads(pickle.dumps(words))):
        assert copied == words and str(copied) == str(words)
    assert json.loads(json.dumps(words)) == words


def test_label_tokens_do_not_move_the_virtual_ones(tmp_path, reviews):
    """Where there are no `[unused]` rows, `[v1]` and `[v2]` come before `[u1]` and `[u2]`."""
    paths = write_small_bert(tmp_path, vocab=vocabulary(unused=False))
    words = {"负面": ["不", "[v1]"], "正面": ["很", "[v2]"]}
    template = Template("[u1][u2][MASK]满意。{text}", words, paths[2], maxlen=64)
    model = build_ptuning_model(*paths[:2], template)
    model.prompt.assign(np.random.default_rng(0).normal(size=model.prompt.shape))
    x = template.encode(reviews[0])
    p = model._token_probabilities({k: ops.convert_to_tensor(v) for k, v in x.items()})
    expected = np.log(ops.convert_to_numpy(p)[:, 0])
    model, opened = open_cloze(model, template.pattern, 128, {})
    assert opened.labels is None and model.template.labels == words
    for rows, log_p in token_log_probabilities(model, opened, reviews[0], 32, verbose=0):
        found = ops.convert_to_numpy(log_p)[:, 0]
        np.testing.assert_allclose(found, expected[rows], atol=1e-4)


def test_words_out_of_texts(make_template):
    pytest.importorskip("jieba")
    template = make_template("[MASK][MASK]{text}", None)
    texts = [("物流很快12，北京", "okay!"), ("电池鱼旅", "the 物流")]
    found = _find_words(None, texts, template)
    assert list(found) == ["物流", "很快", "北京", "okay", "电池"]
    assert list(found["okay"]) == template.tokenizer.token_ids(["okay"])[0]


def test_a_checkpoint_by_name_and_a_causal_one(reviews):
    texts, labels = reviews
    found = search_label_words("bert-mini-zh", PATTERN, texts, labels, verbose=0, maxlen=32)
    assert set(found) == {"负面", "正面"}
    found = search_label_words("gpt-mini-zh", "{text}很[MASK]", texts, labels, 2, verbose=0)
    template = Template("{text}很[MASK]", found, "gpt-mini-zh", causal=True)
    assert template.num_labels == 2
    with pytest.raises(ValueError, match="causal model predicts a second token"):
        search_label_words("gpt-mini-zh", "{text}[MASK][MASK]", texts, labels, words=["很好"])


def test_the_batch_size_makes_no_difference(search):
    a, b = (search(batch_size=n) for n in (5, 32))
    assert a == b
    for label in a:
        for (word, x), (same, y) in zip(a.ranking[label], b.ranking[label], strict=True):
            assert word == same and x == pytest.approx(y, abs=1e-4)


def test_the_table(search):
    lines = str(search(words_per_label=2)).split("\n")
    assert lines[0].startswith("label  words, and their scores") and len(lines) == 3
    assert all(line.count("*") == 2 for line in lines[1:])


def test_the_table_of_a_label_that_is_left_out():
    words = LabelWords({"负面": [("不", 2.5)], "正面": [("很", 2.25)]}, 1)
    del words["负面"]
    assert str(words).split("\n")[1:] == ["负面   不 2.50", "正面   *很 2.25"]


def test_no_infinity(search):
    """Certain words, and impossible ones."""
    assert np.isfinite(np.log(np.float32(LEAST)))
    for rows in search(words_per_label=20).ranking.values():
        assert np.isfinite([x for _, x in rows]).all()


def test_bad_arguments(search, make_model, make_template, reviews, small_bert):
    texts, labels = reviews
    with pytest.raises(ValueError, match=r"'likelihood' or 'classifier'.*'ratio'"):
        search(score="ratio")
    with pytest.raises(ValueError, match="24 texts and 23 labels"):
        search(labels=labels[1:])
    with pytest.raises(ValueError, match=r"at least two labels.*only the label '正面'"):
        search(labels=["正面"] * 24)
    with pytest.raises(TypeError, match="`texts` must be a list"):
        search(texts="书贵")
    with pytest.raises(ValueError, match=r"No word of `words` has 1 tokens.*Received: \['鱼'"):
        search(words=["鱼", "很好"])
    with pytest.raises(ValueError, match=r"are for the label.*words_per_label=40"):
        search(words_per_label=40, candidates=30)
    with pytest.raises(ValueError, match="at least one"):
        search("满意{text}")
    with pytest.raises(ValueError, match="belong to the pattern of the model"):
        search("[u1][MASK]{text}")
    with pytest.raises(ValueError, match=r"A template with \[DECODER\] needs a model that reads"):
        search("{text}[DECODER][MASK]")
    with pytest.raises(ValueError, match=r"leave out .*dtype"):
        search(dtype="float32")
    arguments = {"tune": "lora", "classifier": True, "data_parallel": True}
    with pytest.raises(ValueError, match=r"leave out \['classifier', 'data_parallel', 'tune'\]"):
        search_label_words("bert-mini-zh", PATTERN, texts, labels, **arguments)
    for name in ("words_per_label", "candidates"):
        with pytest.raises(ValueError, match=f"`{name}` must be an integer"):
            search(**{name: 0})
    with pytest.raises(FileNotFoundError):
        search_label_words("/no/such/folder", PATTERN, texts, labels)


@pytest.mark.parametrize(
    "odds, expected",
    [
        # 财经 is good for the second label, and the first one has another word.
        ([[3, 2.9, 0, 0], [0, 2.5, 0, 0], [0, 0, 2, 0]], ["股票", "财经", "上市"]),
        # A word of its own, though a weak one, comes first.
        ([[5, 4, 0, 0], [0, 3, 0, 0.9], [0, 0, 2, 0]], ["股票", "经济", "上市"]),
        # The first label spares its best word, since the second has no other.
        ([[5, 1, 0, 0], [3, 0, 0, 0], [0, 0, 2, 0]], ["财经", "股票", "上市"]),
    ],
)
def test_labels_share_the_words(odds, expected):
    labels, words = ["股市", "金融", "公司"], ["股票", "财经", "上市", "经济"]
    # Sums of log p, and of the log-odds, over the one text of each label.
    odds = np.array(odds)
    scores = _likelihood_scores(odds, np.ones(3, int))
    found = _rank(words, labels, odds, scores, candidates=4, words_per_label=1)
    assert [found[label][0][0] for label in labels] == expected
