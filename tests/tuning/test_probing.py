"""Probing: planted scores have known ranks, and the ranks are those of the model's own scores."""

import numpy as np
import pytest

from keras_ptuning import build_ptuning_model, probe

pytestmark = pytest.mark.usefixtures("eagerly")

FACTS = [("书", "好"), ("屏幕", "不"), ("电池", "好"), ("物流", "快")]


@pytest.fixture
def model(make_template, make_model):
    return make_model(make_template("{text}很[MASK]。", None))


def test_planted_ranks(model, monkeypatch):
    """The candidates are 好, 不, 快, in the order of the facts."""
    scores = [[-1, -2, -3], [-1, -2, -3], [-9, -2, -3], [-1, -2, -1.5]]
    monkeypatch.setattr(model, "predict", lambda *_, **__: np.array(scores, "float32"))
    assert probe(model, FACTS) == {
        "p@1": 0.25,
        "p@10": 1.0,
        "mrr": pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 2) / 4),
        "majority_p@1": 0.5,
        "majority_object": "好",
        "majority_of": "facts",
        "ranks": [1, 2, 3, 2],
        "facts": 4,
        "candidates": 3,
    }
    found = probe(model, FACTS, train=[("北京", "快"), ("趟", "快"), ("书", "贵")])
    assert (found["majority_p@1"], found["majority_object"]) == (0.25, "快")
    assert found["majority_of"] == "train"


def test_ten_are_ten_and_ties_count_against_the_object(model, monkeypatch):
    names = list("好不快慢贵便宜差满意错书")
    scores = np.zeros((4, 12), "float32")
    # As likely as nine, ten and eleven others; then alone in front.
    for row, (lower, right) in enumerate([(2, 0), (1, 1), (0, 0), (0, 2)]):
        scores[row, 12 - lower :] = -1
        scores[row, right] += row == 3
    monkeypatch.setattr(model, "predict", lambda *_, **__: scores)
    found = probe(model, FACTS, candidates=names)
    assert found["ranks"] == [10, 11, 12, 1]
    assert (found["p@1"], found["p@10"], found["candidates"]) == (0.25, 0.5, 12)
    assert found["mrr"] == pytest.approx((1 / 10 + 1 / 11 + 1 / 12 + 1) / 4)
    scores[0, 3] = np.nan
    with pytest.raises(ValueError, match=r"scores of the objects has numbers that are not finite"):
        probe(model, FACTS, candidates=names)


def test_objects_of_several_tokens(make_template, make_model):
    """The ranks are those of the scores that the model itself gives."""
    template = make_template("{text}[MASK][MASK]。", None)
    model = make_model(template)
    facts = [("书" * (1 + i % 9), name) for i, name in enumerate(["便宜", "不", "满意", "好"] * 20)]
    names = ["便宜", "不", "满意", "好"]
    x = template.encode([subject for subject, _ in facts], candidates=[names] * len(facts))
    scores = model.predict_on_batch(x)
    order = np.argsort(-np.asarray(scores), axis=1).tolist()
    expected = [
        own.index(names.index(name)) + 1 for own, (_, name) in zip(order, facts, strict=True)
    ]
    found = probe(model, facts)
    assert found["ranks"] == expected and len(set(expected)) > 1
    assert found["p@1"] == np.mean(np.array(expected) == 1)


@pytest.mark.parametrize("labels", [None, {"负面": "不", "正面": "很"}])
def test_open_vocabulary(make_template, make_model, labels):
    """The ranks are those of `fill`, without the tokens that are no words."""
    template = make_template("[u1]{text}很[MASK]。", labels)
    model = make_model(template)
    facts = [("书" * (1 + i % 9), name) for i, name in enumerate("好不快贵" * 20)]
    vocab = template.tokenizer.vocab
    names = {vocab[i] for i in template.ordinary_ids}
    assert "[MASK]" not in names and len(names) < len(vocab)
    filled = model.fill([subject for subject, _ in facts], top=len(vocab))
    expected = [
        [token for token, _ in mask if token in names].index(name) + 1
        for (mask,), (_, name) in zip(filled, facts, strict=True)
    ]
    found = probe(model, facts, open_vocabulary=True)
    assert found["ranks"] == expected
    assert found["candidates"] == len(names)


@pytest.mark.parametrize(
    ("facts", "options", "message"),
    [
        ([], {}, "at least one"),
        ([("书", "好"), ("书", "")], {}, "object of fact 1 of `facts` is missing"),
        ([("书", None)], {}, "object of fact 0 of `facts` is missing"),
        ([("书", "好"), ("屏幕", "好")], {}, r"one object asks nothing.*Received: \['好'\]"),
        (FACTS, {"candidates": ["好", "不"]}, "'快' of fact 3 is not among the candidates"),
        (FACTS, {"train": []}, "`train` must have at least one"),
        (FACTS, {"train": [("书", None)]}, "fact 0 of `train` is missing"),
        ([("书", "便宜")], {"open_vocabulary": True}, r"'便宜' of fact 0.*\['便', '宜'\]"),
        ([("书", "猫")], {"open_vocabulary": True}, r"'猫' of fact 0.*\['\[UNK\]'\]"),
        (FACTS, {"open_vocabulary": True, "candidates": ["好"]}, "leave out `candidates`"),
    ],
)
def test_wrong_facts(model, facts, options, message):
    with pytest.raises(ValueError, match=message):
        probe(model, facts, **options)


def test_wrong_types_and_templates(model, make_template, make_model):
    for fact in ("书好", ("书",), ("书", 5), (None, "好")):
        with pytest.raises(TypeError, match=r"must be pairs of strings .*Received: fact 1 is"):
            probe(model, [("书", "好"), fact])
    with pytest.raises(ValueError, match=r"must have no labels.*\['负面', '正面'\]"):
        probe(make_model(make_template("{text}很[MASK]。")), FACTS)
    model = make_model(make_template("{text}很[MASK][MASK]。", None))
    with pytest.raises(ValueError, match=r"needs one \[MASK\]"):
        probe(model, FACTS, open_vocabulary=True)


def test_a_model_of_random_weights(small_bert, make_template):
    """It is built from the configuration alone, and needs nothing else."""
    template = make_template("{text}很[MASK]。", None)
    with pytest.warns(UserWarning, match="The weights are random"):
        model = build_ptuning_model(small_bert[0], template=template)
    assert probe(model, FACTS)["facts"] == 4
