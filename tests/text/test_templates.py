import json
import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import LABELS
from sklearn.base import clone
from small_bert import vocabulary

from keras_ptuning import PackedDataset, PlainText, Template, Tokenizer


def tokens(template, text):
    x = template.encode([text])
    return [template.tokenizer.id_to_token(i) for i in x["token_ids"][0]]


@pytest.mark.parametrize(
    ("pattern", "expected", "masks"),
    [
        ("[MASK]满意。{text}", ["[MASK]", *"满意。", *"书贵"], [1]),
        ("{text}[MASK]满意。", [*"书贵", "[MASK]", *"满意。"], [3]),
        ("感觉{text}[MASK]好", [*"感觉", *"书贵", "[MASK]", "好"], [5]),
        ("[u2][MASK]{text}[u1]", ["[unused2]", "[MASK]", *"书贵", "[unused1]"], [2]),
        ("[u1][u1]{text}？[MASK]", ["[unused1]"] * 2 + [*"书贵", "？", "[MASK]"], [6]),
        ("[MASK]好{text}[unused9]", ["[MASK]", "好", *"书贵", "[unused9]"], [1]),
    ],
)
def test_placement(make_template, pattern, expected, masks):
    template = make_template(pattern)
    assert tokens(template, "书贵") == ["[CLS]", *expected, "[SEP]"]
    assert template.encode(["书贵"])["mask_positions"].tolist() == [masks]


def test_several_masks_and_words_of_several_characters(make_template):
    labels = {0: ["体育", "财经"], 1: "科技"}
    template = make_template("[MASK]是[MASK]{text}", labels)
    assert template.encode(["书"])["mask_positions"].tolist() == [[1, 3]]
    words = [[template.tokenizer.decode(w) for w in words] for words in template.word_ids]
    assert words == [["体育", "财经"], ["科技"]]


def test_pairs_and_segments(make_template):
    template = make_template("{text}？[SEP][MASK]，{text_b}")
    x = template.encode([("书贵", "贵"), ("很快", "不慢")])
    first = [template.tokenizer.id_to_token(i) for i in x["token_ids"][0]]
    assert first == ["[CLS]", *"书贵？", "[SEP]", "[MASK]", "，", "贵", "[SEP]", "[PAD]"]
    assert x["segment_ids"].tolist() == [[0] * 5 + [1] * 4 + [0], [0] * 5 + [1] * 5]
    # The slots may come in the other order.
    assert tokens(make_template("{text_b}[MASK]{text}"), ("书", "贵"))[1:4] == [
        "贵",
        "[MASK]",
        "书",
    ]


def test_truncation_cuts_texts_only(make_template):
    template = make_template("[u1]{text}[MASK]满意", maxlen=12)
    assert tokens(template, "书" * 50) == [
        "[CLS]", "[unused1]", *"书" * 6, "[MASK]", *"满意", "[SEP]",
    ]  # fmt: skip
    template = make_template("{text}？[MASK]，{text_b}", maxlen=12)
    assert tokens(template, ("书" * 50, "贵" * 3)).count("书") == 4
    assert tokens(template, ("书" * 50, "贵" * 50)).count("书") == 3
    template = make_template("{text:2}？[MASK]，{text_b:4}", maxlen=64)
    row = tokens(template, ("书" * 50, "贵" * 50))
    assert (row.count("书"), row.count("贵")) == (2, 4)


def test_a_text_cannot_reach_into_the_template(make_template):
    template = make_template("[MASK]满意{text}")
    x = template.encode(["[MASK][MASK]", ""])
    assert x["mask_positions"].tolist() == [[1], [1]]
    assert (x["token_ids"] == template.mask_id).sum() == 2


def test_virtual_tokens_without_unused_rows():
    vocab = vocabulary(unused=False)
    template = Template("[u3][MASK][u1]{text}", LABELS, vocab)
    assert template.virtual_ids == [len(vocab), len(vocab) + 1]
    row = template.encode(["书"])["token_ids"][0].tolist()
    assert row[1:4] == [len(vocab) + 1, template.mask_id, len(vocab)]


def test_columns_of_arrays_and_tables(make_template):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"text": ["书贵", "很好"], "label": [0, 1]}, index=[7, 3])
    template = make_template(labels={0: "不", 1: "很"})
    expected = template.encode(["书贵", "很好"], [0, 1])
    for texts, labels in (
        (table["text"], table["label"]),
        (table["text"].to_numpy(), table["label"].to_numpy()),
    ):
        x, y = template.encode(texts, labels)
        np.testing.assert_array_equal(x["token_ids"], expected[0]["token_ids"])
        np.testing.assert_array_equal(y, expected[1])
    with pytest.raises(TypeError, match=r"one column of a table.*DataFrame"):
        template.encode(table)


def test_labels_and_back(make_template):
    template = make_template(labels={0: "不", 1: ["很", "好"]})
    assert template.label_names == [0, 1] and template.num_labels == 2
    assert template.label_ids([1, np.int64(0)]).tolist() == [1, 0]
    x, y = template.encode(["书", "贵"], [1, 0])
    assert y.tolist() == [1, 0] and len(x["token_ids"]) == 2
    assert template.decode([[-1.0, -3.0], [-2.0, -0.5]]) == [0, 1]


def test_config_survives_json(make_template):
    template = make_template(labels={0: "不", 1: ["很", "好"]}, maxlen=33)
    restored = Template.from_config(json.loads(json.dumps(template.get_config())))
    assert restored.label_names == [0, 1] and restored.maxlen == 33
    for a, b in zip(
        template.encode(["书贵 OKAY"]).values(),
        restored.encode(["书贵 OKAY"]).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": "很满意{text}"}, r"at least one \[MASK\]"),
        ({"pattern": "[MASK]满意"}, r"the slot \{text\} once"),
        ({"pattern": "[MASK]{text}{text}"}, r"the slot \{text\} once"),
        ({"pattern": "[MASK]{texts}"}, r"Unknown '\{texts\}'"),
        ({"pattern": "[MASK]{}{text}"}, r"Unknown '\{\}'"),
        ({"pattern": "[mask]{text}"}, r"Unknown '\[mask\]'"),
        ({"pattern": "[u0][MASK]{text}"}, r"Unknown '\[u0\]'"),
        ({"pattern": "[PAD][MASK]{text}"}, r"Unknown '\[PAD\]'"),
        ({"pattern": "[u1][unused1][MASK]{text}"}, r"'\[unused1\]' .* another number"),
        ({"pattern": "[MASK]满足{text}"}, "'满足' of the template are not all in the vocabulary"),
        ({"labels": {"a": "坏", "b": "好"}}, "'坏' of the label 'a' is not in the vocabulary"),
        ({"labels": {"a": "", "b": "好"}}, "not in the vocabulary"),
        ({"labels": {"a": "满意", "b": "好"}}, "has 2 tokens .* has 1 mask"),
        ({"pattern": "[MASK][MASK]{text}"}, "has 2 masks, and the longest word has 1 token"),
        ({"pattern": "[v1][MASK]{text}"}, r"Unknown '\[v1\]'"),
        ({"labels": {"a": "[v13]", "b": "好"}}, r"\[v13\] takes .* the template uses"),
        ({"labels": {"a": "[v1]", "b": "[v1]"}}, r"'\[v1\]' means 'a' and again 'b'"),
        ({"labels": {"a": "很", "b": ["好", "很"]}}, "'很' means 'a' and again 'b'"),
        ({"labels": {"a": "很"}}, "at least two labels"),
        ({"labels": {"a": [], "b": "好"}}, "'a' has no word"),
        ({"labels": {None: "不", "b": "好"}}, "strings or integers"),
        ({"labels": {False: "不", True: "好"}}, "integers. Received: False of type bool"),
        ({"maxlen": 11}, "the template alone takes 11 tokens .* at least 12"),
    ],
)
def test_bad_templates(make_template, change, message):
    with pytest.raises(ValueError, match=message):
        make_template(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": None}, "pattern must be a string"),
        ({"maxlen": None}, "`maxlen` must be an integer"),
        ({"maxlen": "64"}, "`maxlen` must be an integer"),
        ({"labels": {"a": 5, "b": "好"}}, "needs a word, or a list of words"),
    ],
)
def test_wrong_types(make_template, change, message):
    with pytest.raises(TypeError, match=message):
        make_template(**change)


def test_vocabulary_without_mask():
    vocab = [t for t in vocabulary() if t != "[MASK]"]
    with pytest.raises(ValueError, match=r"vocabulary with \[MASK\]"):
        Template("[MASK]{text}", LABELS, Tokenizer(vocab))


@pytest.mark.parametrize(
    ("texts", "labels", "error", "message"),
    [
        (["书", None], None, TypeError, "text 1 is None"),
        ("书贵", None, TypeError, "must be a list.*'书贵'"),
        (None, None, TypeError, "must be a list.*None"),
        ({"text": ["书"]}, None, TypeError, "one column of a table.* dict"),
        ([], [], ValueError, "`texts` must not be empty"),
        (["书", "贵"], ["正面"], ValueError, "2 texts and 1 labels"),
        (["书", "贵"], ["正面", "中性"], ValueError, "Label 1 is '中性'.*负面.*正面"),
        (["书", "贵"], ["正面", None], ValueError, "Label 1 is None"),
        (["书", "贵"], [True, False], ValueError, "Label 0 is True of type bool"),
    ],
)
@pytest.mark.parametrize("method", ["encode", "dataset"])
def test_bad_examples(make_template, method, texts, labels, error, message):
    with pytest.raises(error, match=message):
        getattr(make_template(), method)(texts, labels)


@pytest.mark.parametrize(
    "texts", [["书贵"], [("书", "贵", "快")], [("书", None)], [7], [{"text": "书"}]]
)
def test_bad_pairs(make_template, texts):
    with pytest.raises(TypeError, match=r"text 0 is|pairs"):
        make_template("{text}[MASK]{text_b}").encode(texts)


def test_bad_scores(make_template):
    with pytest.raises(ValueError, match=r"\(n, 2\).*\(4, 3\)"):
        make_template().decode(np.zeros((4, 3)))


def test_words_of_different_lengths(make_template):
    """A short word takes the first masks."""
    template = make_template("[MASK][MASK]{text}", {"a": ["不", "不好"], "b": "满意"})
    ids = template.tokenizer.token_to_id
    assert template.word_ids == [[[ids("不")], [ids("不"), ids("好")]], [[ids("满"), ids("意")]]]
    assert template.word_slots == [[[0], [0, 1]], [[0, 1]]]


def test_brackets_are_words(tokenizer):
    """Also where a pattern begins with one."""
    vocab = [*tokenizer.vocab, "[", "]"]
    encoded = Template("[好]{text}[MASK]", LABELS, vocab).encode(["很"])["token_ids"][0]
    assert "".join(vocab[i] for i in encoded) == "[CLS][好]很[MASK][SEP]"


def test_label_tokens(make_template):
    """They count [unused] rows from the last, and virtual tokens from the first."""
    template = make_template("[u1][MASK]{text}", {"a": ["不", "[v2]"], "b": "[v1]"})
    ids = template.tokenizer.token_to_id
    assert template.word_ids == [[[ids("不")], [ids("[unused19]")]], [[ids("[unused20]")]]]
    assert template.label_token_ids == [ids("[unused20]"), ids("[unused19]")]
    assert template.tuned_names == ["[u1]", "[v1]", "[v2]"]


def test_the_end_of_a_text(make_template):
    """A negative limit keeps the last tokens, also where the template's length cuts."""
    decode = make_template().tokenizer.vocab.__getitem__
    template = make_template("{text:-3}[MASK]{text_b:2}")
    ids = template.encode([("很不满意", "好书贵")])["token_ids"][0]
    assert "".join(map(decode, ids)) == "[CLS]不满意[MASK]好书[SEP]"
    template = make_template("{text:-9}[MASK]{text_b}", maxlen=7)
    ids = template.encode([("很不满意", "好书贵")])["token_ids"][0]
    assert "".join(map(decode, ids)) == "[CLS]满意[MASK]好书[SEP]"


OWN = [["很", "不好"], ["满意", "书", "不好"]]


def test_candidates(make_template):
    template = make_template("{text}[MASK][MASK]{text_b}", None)
    texts = [("书", "好"), ("", "贵")]
    x, y = template.encode(texts, ["不好", "满意"], candidates=OWN)
    assert y.tolist() == [1, 0] and x["candidate_ids"].shape == (2, 3, 2)
    assert x["candidate_slots"].tolist() == [[[0, 0], [0, 1], [0, 0]], [[0, 1], [0, 0], [0, 1]]]
    scores = [[-3.0, -1.0, -1e9], [-1.0, -2.0, -0.5]]
    assert template.decode(scores, candidates=OWN) == ["不好", "不好"]
    # Of a shuffled table, places count and not the index.
    column = pd.Series(OWN, index=[1, 0])
    assert template.encode(texts, ["不好", "满意"], candidates=column)[1].tolist() == [1, 0]
    assert template.decode(scores, candidates=column) == ["不好", "不好"]
    with pytest.raises(ValueError, match="shape \\(2, 2\\)"):
        template.decode([[-3.0, -1.0]] * 2, candidates=OWN)
    restored = Template.from_config(json.loads(json.dumps(template.get_config())))
    assert restored.labels is None and restored.pattern == template.pattern


@pytest.mark.parametrize(
    ("labels", "candidates", "message"),
    [
        (None, None, "each text needs candidates"),
        (None, OWN[:1], "2 texts and 1 lists"),
        (None, [["很", "不"], []], "Text 1 needs at least two candidates"),
        (None, [["很", "不"], ["很", "很"]], "Text 1 needs at least two candidates, each once"),
        (None, [["很", "不"], ["很", "坏"]], "'坏' among the candidates of text 1 is not in the"),
        (None, [["很", "不"], ["OK", "ok"]], "'OK' and 'ok' of text 1 become the same tokens"),
        (None, [["很", "很\u200b"], ["很", "不"]], "of text 0 become the same tokens"),
        # An unknown token at the end does not count, so nothing tells them apart.
        (None, [["很", "不"], ["很", "很坏"]], "'很' and '很坏' of text 1 become the same tokens"),
        (
            None,
            [["很", "不"], ["很", "不满意"]],
            "candidates of text 1 has 3 tokens .* has 2 masks",
        ),
        (["很", "不"], OWN, "Label 1 is '不' .* which its text does not have.*'满意'"),
    ],
)
def test_bad_candidates(make_template, labels, candidates, message):
    template = make_template("{text}[MASK][MASK]", None)
    with pytest.raises(ValueError, match=message):
        template.encode(["书", "贵"], labels, candidates=candidates)
    for own in ("很", ["很", None], [["很"], ["不"]]):
        with pytest.raises(TypeError, match="candidates of text 0 must be a list of strings"):
            template.encode(["书", "贵"], candidates=[own, ["很", "不"]])


@pytest.mark.parametrize("causal", [False, True])
def test_unknown_characters_of_candidates_do_not_count(tokenizer, causal):
    """Nobody chose them; those of a label's word are an error."""
    template = Template("{text}[MASK][MASK]", None, tokenizer, maxlen=64, causal=causal)
    x = template.encode(["书"], candidates=[["很好", "坏好"]])
    very, good = (tokenizer.token_to_id(w) for w in "很好")
    assert x["candidate_ids"].tolist() == [[[very, good], [-1, good]]]


def test_candidates_and_labels_do_not_mix(make_template):
    with pytest.raises(ValueError, match="has its own labels"):
        make_template().encode(["书", "贵"], candidates=OWN)
    template = make_template("{text}[MASK][MASK]", None)
    with pytest.raises(ValueError, match="give `candidates` too"):
        template.label_ids(["很"])
    with pytest.raises(ValueError, match="n lists of candidates"):
        template.decode([[0.0, 1.0], [1.0, 0.0]], candidates=OWN[:1])


def test_unlabeled_texts_stand_without_the_words_of_a_template(make_template):
    template = make_template("[MASK]好。{text}")
    plain = PlainText(template.label_names, template.tokenizer)
    dataset = template.dataset(["书"], ["正面"], unlabeled=["屏幕不好"], shuffle=False)
    x, y = dataset[0]
    assert y.tolist() == [1, -1]
    alone = plain.encode(["屏幕不好"])["token_ids"][0]
    assert x["token_ids"][1][: len(alone)].tolist() == alone.tolist()
    assert not x["token_ids"][1][len(alone) :].any()
    # Where nothing is asked, and all the words may be masked.
    assert x["mask_positions"].tolist() == [[1], [0]]
    assert dataset.examples[1].maskable.tolist() == [False, True, True, True, True, False]


def test_unlabeled_texts_have_the_limits_of_the_slots(make_template):
    template = make_template("{text_b:-2}[MASK]{text:1}", {0: "很", 1: "不"})
    (example,) = template.dataset(unlabeled=[("书贵", "屏幕不好")]).examples
    assert template.tokenizer.decode(example.token_ids) == "书不好"


def test_spaces_and_a_second_decoder(make_template, tokenizer):
    template = Template("{text}[MASK] ", {0: "很", 1: "不"}, tokenizer, causal=True)
    assert template.encode(["书"])["token_ids"].shape == (1, 2)
    with pytest.raises(ValueError, match=r"one decoder at most.*\[DECODER\] twice"):
        make_template("{text}[DECODER][DECODER][MASK]", {0: "很", 1: "不"})
    with pytest.raises(ValueError, match="2 labels, and candidates of 1 texts"):
        make_template("{text}[MASK]", None).label_ids(["很", "很"], [["很", "不"]])


def test_unlabeled_pairs_and_no_labels_at_all(make_template):
    template = make_template("{text}？[MASK]，{text_b}")
    x, y = template.dataset(unlabeled=[("书", "屏幕")])[0]
    tokens = [template.tokenizer.id_to_token(i) for i in x["token_ids"][0][:6]]
    assert tokens == ["[CLS]", "书", "[SEP]", "屏", "幕", "[SEP]"]
    assert x["segment_ids"][0][:6].tolist() == [0, 0, 0, 1, 1, 1] and y.tolist() == [-1]
    with pytest.raises(ValueError, match="`texts` must not be empty"):
        template.dataset([], [], unlabeled=[("书", "屏幕")])
    with pytest.raises(ValueError, match="no `texts` that they belong to"):
        template.dataset(labels=["正面"], unlabeled=[("书", "屏幕")])
    for wrong in ("屏幕不好", pd.DataFrame({"a": ["书"], "b": ["贵"]})):
        with pytest.raises(TypeError, match="`unlabeled` must be a list"):
            template.dataset(unlabeled=wrong)


@pytest.mark.parametrize("options", [{}, {"causal": True}])
def test_virtual_tokens_learn_from_unlabeled_texts_too(tokenizer, options):
    pattern = "{text}好[MASK]" if options else "[u1][MASK]{text}"
    template = Template(pattern, {"负面": "不", "正面": "很"}, tokenizer, **options)
    found = template.dataset(unlabeled=["书贵"]).examples[0].token_ids
    assert found.tolist() == template.encode(["书贵"])["token_ids"][0].tolist()


def test_plain_text(tokenizer):
    plain = PlainText(["b", "a"], tokenizer, maxlen=5)
    x, y = plain.encode(["书贵书贵书贵"], ["a"])
    assert x["token_ids"].shape == (1, 5) and y.tolist() == [1]
    assert plain.decode([[0.1, 0.2]]) == ["a"]
    # Nothing is masked, whatever is asked for.
    inputs, _ = plain.dataset(["书"], ["a"], mask_rate=0.5)[0]
    assert not {"masked_token_ids", "auxiliary_ids"} & set(inputs)
    again = PlainText.from_config(plain.get_config())
    assert again.get_config() == plain.get_config()
    for labels in (["a"], ["a", "a"], []):
        with pytest.raises(ValueError, match="at least two labels, each once"):
            PlainText(labels, tokenizer)
    for labels in (["a", 1.5], [0, True], [None, "a"]):
        with pytest.raises(ValueError, match=r"must be strings or integers\. Received"):
            PlainText(labels, tokenizer)


def test_soft_labels(make_template):
    template = make_template()
    soft = np.array([[0.25, 0.75], [1.0, 0.0]])
    dataset = template.dataset(["书", "贵"], soft, shuffle=False)
    np.testing.assert_array_equal(dataset[0][1], soft.astype("float32"))
    for wrong in (soft[:, :1], soft * 2, soft - [[0.5, -0.5]], soft.astype("int32")):
        with pytest.raises(ValueError, match="must be probabilities of the template's labels"):
            template.dataset(["书", "贵"], wrong)
    with pytest.raises(ValueError, match="2 texts and 1 labels"):
        template.dataset(["书", "贵"], soft[:1])
    with pytest.raises(ValueError, match="Unlabelled texts go with"):
        template.dataset(["书", "贵"], soft, unlabeled=["书"])


def test_label_tokens_beyond_the_vocabulary():
    """Where `[unused]` rows are too few, they are the first ids after it, before virtual tokens."""
    vocab = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"很不好"]
    labels = {"a": "[v3]", "b": ["[v2]", "好"]}
    template = Template("[u1][u2][MASK]{text}", labels, vocab)
    assert template.tuned_names == ["[u1]", "[u2]", "[v2]", "[v3]"]
    assert template.label_token_ids == [9, 10] and template.virtual_ids == [1, 11]


def test_repr_is_short_and_has_no_address(make_template, tokenizer):
    template = make_template("[u1][MASK]。{text}", {0: "不", 1: "很"})
    assert repr(template) == "Template('[u1][MASK]。{text}', {0: ['不'], 1: ['很']}, maxlen=64)"
    words = "很不满意好差理想这趟北京之旅我感觉错"
    assert len(repr(make_template("[MASK]{text}", {word: word for word in words}))) < 120
    causal = Template("{text}[MASK]", None, tokenizer, causal=True)
    assert repr(causal) == "Template('{text}[MASK]', None, maxlen=128, causal=True)"
    plain = PlainText(["a", "b"], tokenizer)
    assert repr(plain) == "PlainText('{text}', ['a', 'b'], maxlen=128)"
    assert repr(plain.dataset(["书"] * 5, batch_size=2)) == (
        f"<ClozeDataset: 5 texts without labels, 3 batches of 2, of {plain!r}>"
    )
    assert "1 texts with labels" in repr(plain.dataset(["书"], ["a"]))


def test_set_params(make_template, tokenizer):
    template = make_template()
    copied = clone(template)
    dataset = template.dataset(["书"], ["正面"])
    assert template.set_params(pattern="{text}很[MASK]", labels={"a": "好", "b": "差"}) is template
    # As one that was made so: numbers, ids and places too.
    made = Template("{text}很[MASK]", {"a": "好", "b": "差"}, tokenizer, maxlen=64)
    assert template.get_config() == made.get_config() and template.virtual_ids == []
    assert template.label_ids(["b"]).tolist() == [1]
    # What has the old one keeps it.
    assert copied.pattern == make_template().pattern and copied.label_ids(["正面"]).tolist() == [1]
    assert dataset.template.pattern == copied.pattern
    before = template.get_config()
    for params, message in (
        ({"pattern": "{text}"}, r"at least one \[MASK\]"),
        (
            {"maxlen": 9, "patern": "[MASK]{text}"},
            r"has no \['patern'\]. Expected .*maxlen",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            template.set_params(**params)
        assert template.get_config() == before
    plain = PlainText(["a", "b"], tokenizer).set_params(maxlen=9, pairs=True)
    assert plain.maxlen == 9 and plain.slots == ["text", "text_b"]
    assert clone(plain).get_config() == plain.get_config()


def test_many_unknown_tokens_give_one_warning(make_template):
    """Of texts to learn from; predictions of a million texts give none."""
    template = make_template()
    for learn in (
        lambda: template.dataset(["滿意嗎书", "书贵"], ["正面", "负面"]),
        lambda: template.encode(["滿意嗎书", "书贵"], ["正面", "负面"]),
        lambda: template.dataset(["书贵"], ["正面"], unlabeled=["滿意嗎书", "书贵"]),
        lambda: make_template("[MASK]{text}").dataset(unlabeled=["滿意嗎书", "书贵"]),
        lambda: PackedDataset(["滿意嗎书", "书贵"], template.tokenizer),
    ):
        with pytest.warns(UserWarning, match=r"lacks 2 of the 6 tokens") as caught:
            learn()
        assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        template.dataset(["滿意嗎书"])
        template.encode(["滿"])
        template.dataset(["滿书贵贵", "书"], ["正面", "负面"])
        template.dataset(["", ""], ["正面", "负面"])


def test_sample_weight_goes_with_its_text(make_template):
    texts, labels = ["书" * n for n in range(1, 8)], ["正面"] * 7
    weights = np.arange(7)
    for mask_rate, unlabeled in ((0, None), (0.15, None), (0.15, ["贵贵"])):
        dataset = make_template().dataset(
            texts, labels, 3, mask_rate=mask_rate, sample_weight=weights, unlabeled=unlabeled
        )
        for batch in dataset:
            lengths = (batch[0]["token_ids"] == dataset.template.tokenizer.token_to_id("书")).sum(1)
            expected = np.where(batch[1] < 0, 1, lengths - 1)
            np.testing.assert_array_equal(batch[2], expected)
    part = dataset.subset(np.array([6, 0]))
    assert part.sample_weight.tolist() == [6, 0]


@pytest.mark.parametrize(
    "weights", [[1.0], [1, -1], [1, np.nan], [1, np.inf], ["a", "b"], [[1], [2]], [True, False]]
)
def test_bad_sample_weights(make_template, weights):
    with pytest.raises(ValueError, match="`sample_weight` must be 2 finite numbers from 0 on"):
        make_template().dataset(["书", "贵"], ["正面", "负面"], sample_weight=weights)
    with pytest.raises(ValueError, match="there are no `labels`"):
        make_template().dataset(["书", "贵"], sample_weight=weights)
