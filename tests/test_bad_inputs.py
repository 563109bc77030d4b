"""Bad input at every door: an error of this library, in a few words, before anything is done.

A case is a door and what is put in. Good outcomes are an error that a line of this library raises
and that says what was received or what is wrong; for damaged files also what the undamaged one
gives. Silence, errors from inside other libraries, and pages of text are failures.
"""

import functools
import json
import pathlib
import shutil
import traceback

import keras
import numpy as np
import pandas
import pytest
import small_bert as small

import keras_ptuning
from keras_ptuning import (
    Adapter,
    LoRA,
    PetClassifier,
    PlainText,
    Prefix,
    Prompt,
    PromptClassifier,
    Template,
    Tokenizer,
    build_classifier,
    build_ptuning_model,
    build_transformer_model,
    calibrate,
    load_tuned,
    predict_to_file,
    pretraining,
)

VOCABULARY = small.vocabulary()
LABELS = {"负面": "不", "正面": "很"}
TEXTS = ["书贵", "屏幕很好", "书", "屏幕"]
ROOT = pathlib.Path(keras_ptuning.__file__).parent
KINDS = (ValueError, TypeError, OSError, FloatingPointError)
LONGEST = 1000


@functools.cache
def tokenizer():
    return Tokenizer(VOCABULARY)


@functools.cache
def template(causal=False):
    return Template("[u1][MASK]{text}", LABELS, tokenizer(), maxlen=32)


def plain():
    return PlainText(["负面", "正面"], tokenizer(), maxlen=32)


@pytest.fixture(scope="module")
def model(small_bert):
    """One for all cases: nothing may change it."""
    model = build_ptuning_model(*small_bert[:2], template())
    model.compile()
    return model


@pytest.fixture(scope="module")
def undamaged(small_bert, model, tmp_path_factory):
    """A folder with a checkpoint, and what was saved of a model on it."""
    folder = tmp_path_factory.mktemp("undamaged")
    model.save_checkpoint(folder)
    (folder / "template.json").unlink()
    model.save_tuned(folder / "model.tuned")
    model.save(folder / "model.keras")
    return folder


def check_refusal(call):
    """The call ends in an error of this library."""
    try:
        found = call()
    except KINDS as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        assert pathlib.Path(last).is_relative_to(ROOT), f"raised in {last}: {error}"
        text = str(error)
        assert 20 < len(text) < LONGEST, text[:2000]
    else:
        raise AssertionError(f"It was accepted: {found!r:.200}")


# Lists of texts and of labels.

NO_LISTS = {
    "a string": "书贵",
    "bytes": b"abc",
    "a number": 5,
    "a dictionary": {"书贵": 1},
    "a set": {"书贵", "屏幕"},
    "a table": pandas.DataFrame({"text": TEXTS}),
    "one value": np.array("书贵"),
    "numbers": [1, 2, 3, 4],
    "a missing text": ["书贵", None, "书", "屏幕"],
    "a missing number": ["书贵", float("nan"), "书", "屏幕"],
    "bytes in a list": [b"a", b"b", b"c", b"d"],
}
TEXT_DOORS = {
    "Tokenizer.token_ids": lambda texts: tokenizer().token_ids(texts),
    "Tokenizer.word_numbers": lambda texts: tokenizer().word_numbers(texts, list),
    "Template.encode": lambda texts: template().encode(texts),
    "Template.dataset": lambda texts: template().dataset(texts),
    "unlabeled": lambda texts: template().dataset(TEXTS, ["正面"] * 4, unlabeled=texts),
    "PlainText.dataset": lambda texts: plain().dataset(texts),
    "build_vocab": lambda texts: pretraining.build_vocab(texts, min_count=1),
    "PackedDataset": lambda texts: pretraining.PackedDataset(texts, tokenizer()),
    "PromptClassifier.fit": lambda texts: PromptClassifier(template(), "none").fit(
        texts, ["正面", "负面"] * 2
    ),
    "PetClassifier.fit": lambda texts: PetClassifier([template()], "none").fit(
        texts, ["正面", "负面"] * 2, TEXTS
    ),
    "PetClassifier.fit, unlabeled": lambda texts: PetClassifier([template()], "none").fit(
        TEXTS, ["正面", "负面"] * 2, texts
    ),
}


@pytest.mark.parametrize("what", NO_LISTS)
@pytest.mark.parametrize("door", TEXT_DOORS)
def test_texts(door, what):
    check_refusal(lambda: TEXT_DOORS[door](NO_LISTS[what]))


@pytest.mark.parametrize("what", NO_LISTS)
def test_texts_to_predict(model, tmp_path, what):
    texts = NO_LISTS[what]
    if what == "a string":
        texts = str(tmp_path / "there_is_none.txt")
    check_refusal(lambda: predict_to_file(model, texts, tmp_path / "out.jsonl", verbose=False))
    assert not (tmp_path / "out.jsonl").exists()


NO_LABELS = {
    **{name: value for name, value in NO_LISTS.items() if name != "a missing text"},
    "too few": ["正面"],
    "an unknown one": ["正面", "负面", "中性", "正面"],
    "truth values": [True, False, True, False],
    "soft labels that are none": np.full((4, 2), 0.9, "float32"),
    "soft labels that are missing": np.full((4, 2), np.nan, "float32"),
}
LABEL_DOORS = {
    "Template.encode": lambda labels: template().encode(TEXTS, labels),
    "Template.dataset": lambda labels: template().dataset(TEXTS, labels),
    "PlainText.dataset": lambda labels: plain().dataset(TEXTS, labels),
    "PromptClassifier.fit": lambda labels: PromptClassifier(template(), "none").fit(TEXTS, labels),
    "PetClassifier.fit": lambda labels: PetClassifier([template()], "none").fit(
        TEXTS, labels, TEXTS
    ),
}


@pytest.mark.parametrize("what", NO_LABELS)
@pytest.mark.parametrize("door", LABEL_DOORS)
def test_labels(door, what):
    check_refusal(lambda: LABEL_DOORS[door](NO_LABELS[what]))


@pytest.mark.parametrize(
    "labels",
    [
        None,
        5,
        "好坏",
        {"正"},
        ["正"],
        ["正", "正"],
        [1.5, 2.5],
        [True, False],
        {"a": 1},
        b"ab",
    ],
    ids=repr,
)
def test_names_of_labels(labels):
    check_refusal(lambda: PlainText(labels, tokenizer()))


@pytest.mark.parametrize(
    "labels",
    [
        5, "好坏", ["好", "坏"], {}, {"正": "很"}, {"正": "很", "负": "很"}, {"正": "很", "负": ""},
        {"正": 5, "负": "不"}, {"正": "很", "负": []}, {"正": "很", "负": ["不", 5]},
        {1.5: "很", 2.5: "不"}, {"正": "很", "负": "\ud800"}, {"正": "龘", "负": "不"},
        {"正": "很好", "负": "不"}, {None: "很", "负": "不"}, {True: "很", False: "不"},
        pandas.DataFrame({"正": ["很"], "负": ["不"]}), {"正": {"很"}, "负": "不"},
    ],
    ids=lambda labels: repr(labels)[:40],
)  # fmt: skip
def test_label_words(labels):
    check_refusal(lambda: Template("[MASK]{text}", labels, tokenizer()))


@pytest.mark.parametrize(
    "pattern",
    [
        None, 5, "", "{text}", "[MASK]", "[MASK][MASK]{text}", "[MASK]{text}{text}",
        "[MASK]{text_c}", "[MASK]{text:0}", "[MASK]{text:x}", "[MASK]{}", "[u0][MASK]{text}",
        "[u-1][MASK]{text}", "[MASK]{text}[PAD]", "[MASK]{text}[CLS]", "[MASK]{text}[UNK]",
        "[MASK]{text}龘", "[MASK]{text}\ud800", "[X1][MASK]{text}", "[u1][unused1][MASK]{text}",
        ["[MASK]{text}"], b"[MASK]{text}", "很" * 200 + "[MASK]{text}", "[MASK]{text",
        "[MASK]text}",
    ],
    ids=lambda pattern: repr(pattern)[:30],
)  # fmt: skip
def test_patterns(pattern):
    check_refusal(lambda: Template(pattern, LABELS, tokenizer()))


# Numbers.

NO_INTEGERS = [0, -1, 1.5, "3", None, True, float("nan"), [3]]
INTEGER_DOORS = {
    "maxlen": lambda value: Template("[MASK]{text}", LABELS, tokenizer(), maxlen=value),
    "maxlen of PlainText": lambda value: PlainText(["a", "b"], tokenizer(), maxlen=value),
    "batch_size": lambda value: template().dataset(TEXTS, batch_size=value),
    "length": Prefix,
    "rank": LoRA,
    "size": Adapter,
    "epochs": lambda value: PromptClassifier(template(), "none", epochs=value).fit(
        TEXTS, ["正面", "负面"] * 2
    ),
    "epochs of PET": lambda value: PetClassifier([template()], "none", epochs=value).fit(
        TEXTS, ["正面", "负面"] * 2, TEXTS
    ),
    "generations": lambda value: PetClassifier([template()], "none", generations=value).fit(
        TEXTS, ["正面", "负面"] * 2, TEXTS
    ),
    "length of PackedDataset": lambda value: pretraining.PackedDataset(
        TEXTS, tokenizer(), length=value
    ),
    "min_count": lambda value: pretraining.build_vocab(TEXTS, min_count=value),
}


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
@pytest.mark.parametrize("door", INTEGER_DOORS)
def test_integers(door, value):
    check_refusal(lambda: INTEGER_DOORS[door](value))


NO_POSITIVE_NUMBERS = [0, -1.0, float("inf"), float("nan"), "1e-2", True, [1e-2]]
NUMBER_DOORS = {
    "alpha": lambda value: LoRA(alpha=value),
    "learning_rate": lambda value: PromptClassifier(template(), "none", learning_rate=value).fit(
        TEXTS, ["正面", "负面"] * 2
    ),
    "learning_rate of PET": lambda value: PetClassifier(
        [template()], "none", learning_rate=value
    ).fit(TEXTS, ["正面", "负面"] * 2, TEXTS),
    "temperature": lambda value: PetClassifier([template()], "none", temperature=value).fit(
        TEXTS, ["正面", "负面"] * 2, TEXTS
    ),
}


@pytest.mark.parametrize("value", NO_POSITIVE_NUMBERS, ids=repr)
@pytest.mark.parametrize("door", NUMBER_DOORS)
def test_positive_numbers(door, value):
    check_refusal(lambda: NUMBER_DOORS[door](value))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2, float("nan"), "0.15", [0.15]], ids=repr)
def test_mask_rate(rate):
    check_refusal(lambda: template().dataset(TEXTS, ["正面"] * 4, mask_rate=rate))


NO_SCORES = {
    "missing": [[np.nan, np.nan]],
    "infinite": [[np.inf, 0.0]],
    "of another width": [[0.1, 0.2, 0.7]],
    "flat": [0.1, 0.9],
    "strings": [["a", "b"]],
    "none": None,
}


@pytest.mark.parametrize("what", NO_SCORES)
def test_scores(what):
    check_refusal(lambda: template().decode(NO_SCORES[what]))
    check_refusal(lambda: calibrate(NO_SCORES[what], [[-0.1, -2.0]]))
    check_refusal(lambda: calibrate([[-0.1, -2.0]], NO_SCORES[what]))


# Models and their data.

METHODS = [
    "ia3", 5, [[LoRA()]], LoRA, ["lora", "lora"], ["all", "lora"], [Prefix(2), Prefix(3)],
    Prefix(65), LoRA(layers="nowhere"), LoRA(rank=33), {"lora": 8}, ["prompt", None],
]  # fmt: skip


@pytest.mark.parametrize("tune", METHODS, ids=lambda tune: repr(tune)[:40])
def test_methods(small_bert, tune):
    check_refusal(lambda: build_ptuning_model(*small_bert[:2], template(), tune=tune))
    check_refusal(lambda: build_classifier(*small_bert[:2], plain(), tune=tune))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Prompt(encoder="gru"), lambda: Prompt(encoder=5),
        lambda: Prefix(4, reparametrize="lstm"), lambda: Prefix(4, start=5),
        lambda: Prefix(4, "mlp", start="很"), lambda: LoRA(layers=[]), lambda: LoRA(layers=5),
        lambda: LoRA(layers=[5]), lambda: Adapter(kind="parallel"), lambda: Adapter(kind=5),
    ],
)  # fmt: skip
def test_settings_of_methods(make):
    check_refusal(make)


ARGUMENTS = [
    {"template": None}, {"template": "[MASK]{text}"}, {"normalization": "words"},
    {"normalization": None}, {"name": "分类"}, {"unknown": 1}, {"with_mlm": True},
    {"dropout_rate": 2.0}, {"dropout_rate": "0.1"}, {"model": "bart"}, {"model": 5},
    {"application": "lm"}, {"application": "seq2seq"}, {"keep_tokens": [1, 2]},
    {"hierarchical_position": 2},
]  # fmt: skip


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=repr)
def test_arguments_of_models(small_bert, arguments):
    arguments = {"template": template(), **arguments}
    check_refusal(lambda: build_ptuning_model(*small_bert[:2], **arguments))


NO_DATA = {
    "texts": TEXTS,
    "a text": TEXTS[0],
    "nothing": None,
    "a table": pandas.DataFrame({"text": TEXTS}),
    "numbers": np.zeros((4, 8)),
}


@pytest.mark.parametrize("what", NO_DATA)
@pytest.mark.parametrize("call", ["fit", "evaluate", "predict"])
def test_data_of_models(model, call, what):
    check_refusal(lambda: getattr(model, call)(NO_DATA[what], verbose=0))


@pytest.mark.parametrize(
    "y", [["正面"] * 4, [0.5] * 4, [0, 1, 2, 0], [0, 1], [[0, 1]] * 4], ids=repr
)
@pytest.mark.parametrize("call", ["fit", "evaluate"])
def test_labels_of_models(model, call, y):
    x = template().encode(TEXTS)
    check_refusal(lambda: getattr(model, call)(x, np.array(y), verbose=0))


@pytest.mark.parametrize(
    "arguments",
    [{"loss": "mse"}, {"optimizer": {}}, {"optimizer": {"lora": "adam"}}],
    ids=repr,
)
def test_compiling(small_bert, arguments):
    model = build_ptuning_model(*small_bert[:2], template())
    check_refusal(lambda: model.compile(**arguments))


@pytest.mark.parametrize("name", ["save", "save_tuned", "save_checkpoint"])
@pytest.mark.parametrize("path", [None, 5, "", "nowhere/there/a"], ids=repr)
def test_paths_to_write(model, name, path):
    if name == "save_checkpoint" and path == "nowhere/there/a":
        pytest.skip("it makes the folder")
    check_refusal(lambda: getattr(model, name)(path))


# Files.

CONFIGS = {
    "nothing": "",
    "no object": "[1, 2]",
    "cut": json.dumps(small.CONFIG)[:80],
    "deep": "[" * 100_000,
    "binary": "\x00\x01\x02",
    "a gigantic vocabulary": json.dumps({**small.CONFIG, "vocab_size": 10**12}),
    "endless layers": json.dumps({**small.CONFIG, "num_hidden_layers": 10**9}),
    "a type that is no name": json.dumps({**small.CONFIG, "model_type": 5}),
}
for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
    CONFIGS[f"without {key}"] = json.dumps({k: v for k, v in small.CONFIG.items() if k != key})
    for value in (0, -1, 1.5, "12", None, [12]):
        CONFIGS[f"{key} = {value!r}"] = json.dumps({**small.CONFIG, key: value})
CONFIGS["heads that do not divide"] = json.dumps({**small.CONFIG, "num_attention_heads": 5})


@pytest.mark.parametrize("what", CONFIGS)
def test_configurations(tmp_path, what):
    path = tmp_path / "bert_config.json"
    path.write_text(CONFIGS[what], "utf-8")
    check_refusal(lambda: build_transformer_model(path))


VOCABULARIES = {
    "empty": b"",
    "binary": b"\xff\xfe\x00",
    "lacking [CLS]": "\n".join(t for t in VOCABULARY if t != "[CLS]").encode(),
    "lacking [PAD]": "\n".join(VOCABULARY[1:]).encode(),
    "in another order": "\n".join([VOCABULARY[0], *reversed(VOCABULARY[1:])]).encode(),
    "too long": "\n".join([*VOCABULARY, "more"]).encode(),
}


@pytest.mark.parametrize("what", VOCABULARIES)
def test_vocabularies(undamaged, tmp_path, what):
    """Where the checkpoint has one of its own."""
    path = tmp_path / "vocab.txt"
    path.write_bytes(VOCABULARIES[what])

    def build():
        other = Template("[MASK]{text}", LABELS, str(path), maxlen=32)
        return build_ptuning_model(undamaged, template=other)

    check_refusal(build)


def damages(content):
    """The content of a file cut off, and with bytes turned over, at places all over it."""
    for i in range(8):
        place = i * len(content) // 8
        yield f"cut at {i}/8", content[:place]
        turned = bytearray(content)
        turned[place + 3] ^= 0xFF
        yield f"turned at {i}/8", bytes(turned)


@pytest.mark.parametrize("name", ["model.tuned", "model.keras", "model.safetensors"])
def test_damaged_files(undamaged, model, tmp_path, name):
    """An error, or the undamaged file's predictions."""
    expected = keras.ops.convert_to_numpy(model(template().encode(TEXTS)))
    folder = tmp_path / "damaged"
    shutil.copytree(undamaged, folder)
    for other in folder.glob("bert_model.ckpt*"):
        other.unlink()
    load = {
        "model.tuned": lambda: load_tuned(folder / name, folder),
        "model.keras": lambda: keras_ptuning.load_model(folder / name),
        "model.safetensors": lambda: build_ptuning_model(folder, template=template()),
    }[name]
    for what, content in damages((undamaged / name).read_bytes()):
        if name == "model.safetensors" and "turned" in what:
            # The format has no checksum.
            continue
        (folder / name).write_bytes(content)
        try:
            found = load()
        except KINDS as error:
            assert 20 < len(str(error)) < LONGEST, what
        else:
            assert "turned" in what
            found = keras.ops.convert_to_numpy(found(template().encode(TEXTS)))
            np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=what)
