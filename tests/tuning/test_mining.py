"""Mining: what was planted in a corpus is found, counted, and put in the order of its worth."""

import numpy as np
import pytest
from keras import ops

from keras_ptuning import Template, mine_templates, weigh_templates

pytestmark = pytest.mark.usefixtures("eagerly")

pytest.importorskip("jieba")
WORDS = {"负面": "不", "正面": ["很", "好"]}
FACTS = (["书", "屏幕", "电池", "房间"], ["贵", "好", "快", "贵"])


@pytest.fixture
def mine(make_model, make_template, reviews):
    model = make_model(make_template("[MASK]{text}", WORDS))

    def call(pattern, corpus, words=WORDS, texts=reviews[0], labels=reviews[1], **kwargs):
        return mine_templates(
            model, pattern, words, texts, labels, corpus, **{"verbose": 0, **kwargs}
        )

    return call


def found(templates):
    return {t.pattern: t.history[0]["count"] for t in templates}


def test_what_is_between_a_subject_and_its_object(mine):
    corpus = [
        "书的服务贵。屏幕的服务好！",
        "电池的服务快，电池很快",
        # Another object, another sentence, nothing in between, a number, and too many words.
        "书的服务好。书的服务；贵。书贵。书1贵。书的服务态度糟糕的是贵",
        "房间很贵",
    ]
    mined = mine("{text}[T][MASK]。", corpus, None, *FACTS, longest=2)
    # 电池的服务快 and 电池很快 have the object at the nearest place: between is 的服务.
    assert found(mined) == {"{text}的服务[MASK]。": 3, "{text}很[MASK]。": 2}
    assert all(t.labels == {name: [name] for name in ("贵", "好", "快")} for t in mined)
    reverse = mine("[MASK][T]{text}", ["贵的是书。", "快是电池"], None, *FACTS)
    assert found(reverse) == {"[MASK]的是{text}": 1, "[MASK]是{text}": 1}


def test_more_is_taken_after_an_object(mine):
    mined = mine("{text}[T][MASK][T]", ["书很贵的，屏幕很好的。", "电池很快了"], None, *FACTS)
    assert found(mined)["{text}很[MASK]的"] == 2 and found(mined)["{text}很[MASK]了"] == 1


def test_what_is_around_label_words(mine):
    corpus = ["这书很满意。感觉不满意", "房间很便宜", "感觉好", "很。不满意，便宜"]
    mined = mine("[MASK][T]。{text}", corpus, longest=1, top=99)
    assert found(mined) == {"[MASK]满意。{text}": 3, "[MASK]便宜。{text}": 1}
    # Those of both labels are tried first.
    first = mine("[MASK][T]。{text}", corpus, longest=1, candidates=1)
    assert found(first) == {"[MASK]满意。{text}": 3}
    both = mine("{text}。[T][MASK][T]", corpus, longest=1, top=99)
    assert found(both) == {
        "{text}。感觉[MASK]满意": 1,
        "{text}。书[MASK]满意": 1,
        "{text}。房间[MASK]便宜": 1,
    }
    longer = mine("{text}。[T][MASK]", ["这书很", "我感觉很"], longest=2, top=99)
    assert set(found(longer)) == {
        "{text}。书[MASK]", "{text}。这书[MASK]", "{text}。感觉[MASK]", "{text}。我感觉[MASK]",
    }  # fmt: skip


def test_pairs_of_texts(mine, reviews):
    pairs = list(zip(reviews[0], reversed(reviews[0]), strict=True))
    corpus = ["感觉很。感觉不错"]
    mined = mine("{text}，[T][MASK]，{text_b}", corpus, texts=pairs)
    assert found(mined) == {"{text}，感觉[MASK]，{text_b}": 2}


def test_the_best_come_first_and_can_be_weighed(mine, make_model, make_template, reviews):
    corpus = ["很满意。不满意", "不错，很便宜", "很快", "这趟物流很糟糕", "房间不理想。很喜欢"]
    templates = mine("[MASK][T]。{text}", corpus)
    losses = [t.history[0]["loss"] for t in templates]
    assert len(losses) > 3 and losses == sorted(losses)
    best = templates[0]
    model = make_model(make_template(best.pattern, WORDS))
    x, y = model.template.encode(*reviews)
    scores = ops.convert_to_numpy(ops.log_softmax(model.predict(x, verbose=0)))
    assert -scores[np.arange(24), y].mean() == pytest.approx(losses[0], abs=1e-5)
    assert (scores.argmax(axis=1) == y).mean() == pytest.approx(best.history[0]["accuracy"])
    assert [t.pattern for t in mine("[MASK][T]。{text}", corpus, top=2)] == [
        t.pattern for t in templates[:2]
    ]
    weighed = weigh_templates(model, templates, *reviews, verbose=0)
    y = templates[0].label_ids(reviews[1])
    mixed = -weighed.predict(reviews[0])[np.arange(24), y].mean()
    assert mixed < losses[0] + 1e-5


def test_a_checkpoint_and_a_causal_model(reviews):
    templates = mine_templates(
        "gpt-mini-zh", "{text}。[T][MASK]", {"负面": "不", "正面": "很"}, *reviews,
        ["我觉得很好。我觉得不行"], maxlen=48, verbose=0,
    )  # fmt: skip
    assert all(isinstance(t, Template) and t.causal and t.maxlen == 48 for t in templates)
    assert found(templates)["{text}。觉得[MASK]"] == 2


def test_bad_input(mine, reviews):
    corpus = ["很满意"]
    with pytest.raises(ValueError, match=r"needs \[T\] at each place"):
        mine("[MASK]{text}", corpus)
    with pytest.raises(ValueError, match="no virtual tokens"):
        mine("[u1][T][MASK]{text}", corpus)
    for pattern in ("[T]。[MASK]{text}", "[T][T][MASK]{text}", "[MASK][T][MASK]{text}"):
        with pytest.raises(ValueError, match=r"each \[T\] must be next to the masks"):
            mine(pattern, corpus, {"负面": "便宜", "正面": "很"} if "K][T]" in pattern else WORDS)
    with pytest.raises(ValueError, match="is for single texts"):
        mine("{text}[T][MASK]{text_b}", corpus)
    with pytest.raises(ValueError, match="Of 2 texts, none has a sentence with a label word"):
        mine("[MASK][T]。{text}", ["书。很", "很，1"])
    # The vocabulary lacks the character.
    nothing = r"none has a sentence with a text and a word of its label.* put '，' between \[T\]"
    with pytest.raises(ValueError, match=nothing):
        mine("{text}[T][MASK]", ["书鱼贵"], None, *FACTS)
    with pytest.raises(TypeError, match="`corpus` must be a list"):
        mine("[MASK][T]{text}", "很满意")
    with pytest.raises(TypeError, match=r"text 0 is 5"):
        mine("[MASK][T]{text}", [5])
    with pytest.raises(ValueError, match="`corpus` must not be empty"):
        mine("[MASK][T]{text}", [])
    with pytest.raises(ValueError, match="24 texts and 3 labels"):
        mine("[MASK][T]{text}", corpus, labels=reviews[1][:3])
    with pytest.raises(ValueError, match="`longest` must be an integer"):
        mine("[MASK][T]{text}", corpus, longest=0)
    with pytest.raises(ValueError, match=r"鱼.*is not in the vocabulary"):
        mine("[MASK][T]{text}", corpus, {"负面": "鱼", "正面": "很"})
