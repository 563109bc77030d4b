"""One guard for lists of texts, of labels and of the like, on every door."""

import numpy as np
import pandas as pd
import pytest

from keras_ptuning import (
    PackedDataset,
    PetClassifier,
    PlainText,
    PromptClassifier,
    Template,
    Tokenizer,
    build_vocab,
)
from keras_ptuning.checks import as_list, check_list
from keras_ptuning.files import folder_of, replacing

# What is no list: its columns, keys, characters or bytes would be taken for the items, or these
# have no order.
NO_LISTS = {
    "table": pd.DataFrame({"很": ["书"], "不": ["贵"]}),
    "dictionary": {"很": "书", "不": "贵"},
    "set": {"很", "不"},
    "frozenset": frozenset({"很", "不"}),
    "string": "很不",
    "bytes": b"ab",
    "number": 5,
    "array of no dimensions": np.array("很不"),
}
CLOZE = {"负面": "不", "正面": "很"}
DOORS = {
    "build_vocab": lambda x, _: build_vocab(x),
    "PackedDataset": lambda x, t: PackedDataset(x, t.tokenizer),
    "token_ids": lambda x, t: t.tokenizer.token_ids(x),
    "word_numbers": lambda x, t: t.tokenizer.word_numbers(x, list),
    "encode": lambda x, t: t.encode(x),
    "encode, labels": lambda x, t: t.encode(["书", "贵"], x),
    "dataset": lambda x, t: t.dataset(x),
    "dataset, labels": lambda x, t: t.dataset(["书", "贵"], x),
    "dataset, unlabeled": lambda x, t: t.dataset(unlabeled=x),
    "dataset, sample_weight": lambda x, t: t.dataset(["书"], ["正面"], sample_weight=x),
    "label_ids": lambda x, t: t.label_ids(x),
    "PlainText": lambda x, t: PlainText(x, t.tokenizer),
    "candidates": lambda x, t: Template("[MASK]{text}", None, t.tokenizer).encode(
        ["书", "贵"], candidates=x
    ),
    "decode, candidates": lambda x, t: Template("[MASK]{text}", None, t.tokenizer).decode(
        [[0.1, 0.2]] * 2, candidates=x
    ),
    "PromptClassifier, texts": lambda x, t: PromptClassifier(t).fit(x, ["正面", "负面"]),
    "PromptClassifier, labels": lambda x, t: PromptClassifier(t).fit(["书", "贵"], x),
    "PromptClassifier, unlabeled": lambda x, t: PromptClassifier(t, auxiliary=True).fit(
        ["书", "贵"], ["正面", "负面"], x
    ),
    "PetClassifier, texts": lambda x, t: PetClassifier([t]).fit(x, ["正面", "负面"], ["书"]),
    "PetClassifier, labels": lambda x, t: PetClassifier([t]).fit(["书", "贵"], x, ["书"]),
    "PetClassifier, unlabeled": lambda x, t: PetClassifier([t]).fit(
        ["书", "贵"], ["正面", "负面"], x
    ),
}


@pytest.mark.parametrize("wrong", NO_LISTS)
@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_list_is_refused_on_every_door(make_template, door, wrong):
    with pytest.raises(TypeError, match=r"must be a list, e\.g\. one column of a table"):
        DOORS[door](NO_LISTS[wrong], make_template("[MASK]{text}"))


@pytest.mark.parametrize("wrong", ["set", "table", "number"])
def test_a_vocabulary_is_a_list_or_a_dictionary_or_a_path(wrong):
    with pytest.raises(TypeError, match="`vocab` must be a list"):
        Tokenizer(NO_LISTS[wrong])


def test_what_has_an_order_is_a_list():
    for values in (
        ["书"],
        ("书",),
        pd.Series(["书"]),
        np.array(["书"]),
        iter(["书"]),
        {"书": 1}.keys(),
    ):
        assert as_list("texts", check_list("texts", values)) == ["书"]
    with pytest.raises(ValueError, match=r"`texts` must not be empty"):
        as_list("texts", [])


def test_texts_of_a_vocabulary_are_strings():
    with pytest.raises(TypeError, match="text 1001 is None of type NoneType"):
        build_vocab(["书"] * 1001 + [None])
    assert "很" in build_vocab(["很\ud83d好"] * 10)


# Half of a character beyond the first 65536, as broken JSON has it. Files cannot hold it.
HALF = "很\ud83d"


@pytest.mark.parametrize(
    "make",
    [
        lambda t: Template("[MASK]{text}" + HALF, CLOZE, t),
        lambda t: Template("[MASK]{text}", {"负面": "不", "正面": HALF}, t),
        lambda t: Template("[MASK]{text}", {"负面": "不", HALF: "很"}, t),
        lambda t: PlainText(["负面", HALF], t),
        lambda t: Tokenizer([*t.vocab, HALF]),
    ],
    ids=["pattern", "word", "label", "label of PlainText", "vocabulary"],
)
def test_half_characters_are_refused_where_they_would_be_saved(tokenizer, make):
    with pytest.raises(ValueError, match=r"half of a surrogate pair.*\\ud83d"):
        make(tokenizer)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": -1.0},
        {"learning_rate": 0},
        {"learning_rate": "1e-2"},
        {"learning_rate": True},
        {"learning_rate": float("nan")},
        {"random_state": 2**32},
        {"random_state": True},
        {"verbose": "yes"},
        {"verbose": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [PromptClassifier, PetClassifier])
def test_numbers_of_estimators(make_template, kind, options):
    template = make_template("[MASK]{text}")
    classifier = kind(template if kind is PromptClassifier else [template], **options)
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=rf"`{name}` must be .*Received: .*{value}"):
        classifier.fit(["书", "贵"], ["正面", "负面"], *[["书"]] * (kind is PetClassifier))


@pytest.mark.parametrize("door", [folder_of, Tokenizer, lambda path: replacing(path).__enter__()])
def test_an_empty_path_is_no_folder(door):
    with pytest.raises(ValueError, match=r"must be a path\..*an empty string"):
        door("")
