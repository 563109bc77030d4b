"""The checkpoints that come with the library."""

import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import keras_ptuning
from keras_ptuning import (
    Template,
    TextToTextDataset,
    Tokenizer,
    build_ptuning_model,
    build_transformer_model,
)
from keras_ptuning.assets import FOLDER, NAMES
from keras_ptuning.tuning import load_tuned

REVIEWS = {
    "很": [
        "质量很好，物流也快，下次还会来买。",
        "房间干净，服务热情，值得推荐。",
        "非常喜欢，和描述的一样，给五星好评！",
    ],
    "不": [
        "质量太差了，用了两天就坏了。",
        "房间又脏又吵，服务态度恶劣，再也不会来了。",
        "垃圾，和图片完全不一样，要求退货！",
    ],
}


def files(name):
    """Those of the model, under the usual names of its kind."""
    start = "" if name.startswith("t5") else "bert_"
    return start + "config.json", start + "model.safetensors"


def sentences():
    return [review for reviews in REVIEWS.values() for review in reviews]


def test_they_are_small_and_complete():
    folder = pathlib.Path(FOLDER)
    assert {p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != "_"} == set(NAMES)
    for name in NAMES:
        assert {"README.md", "vocab.txt", *files(name)} <= {
            p.name for p in (folder / name).iterdir()
        }
    assert sum(p.stat().st_size for p in folder.rglob("*")) < 80e6


def test_a_name_is_enough_to_classify(tmp_path):
    """Plain words as a template, without any training: obvious reviews come out right."""
    template = Template("[MASK]满意。{text}", {w: w for w in REVIEWS}, "bert-mini-zh")
    model = build_ptuning_model("bert-mini-zh", template=template)
    scores = model.predict(template.dataset(sentences()), verbose=0)
    margins = (scores[:, 0] - scores[:, 1]).reshape(2, 3)
    assert margins[0].min() > margins[1].max()


def test_the_larger_one_needs_no_threshold():
    template = Template("[MASK]满意。{text}", {w: w for w in REVIEWS}, "bert-small-zh")
    model = build_ptuning_model("bert-small-zh", template=template)
    scores = model.predict(template.dataset(sentences()), verbose=0)
    margins = (scores[:, 0] - scores[:, 1]).reshape(2, 3)
    assert margins[0].min() > 0.5 and margins[1].max() < -0.5


def test_a_prompt_finds_its_checkpoint_by_name(tmp_path):
    template = Template("[u1][MASK]{text}", {w: w for w in REVIEWS}, "bert-mini-zh")
    model = build_ptuning_model("bert-mini-zh", template=template)
    model.save_tuned(tmp_path / "my.tuned")
    expected = model.predict(template.dataset(sentences()), verbose=0)
    again = load_tuned(tmp_path / "my.tuned", "bert-mini-zh")
    found = again.predict(again.template.dataset(sentences()), verbose=0)
    np.testing.assert_array_equal(found, expected)


def test_the_gpt_expects_what_comes_next():
    tokenizer = Tokenizer("gpt-mini-zh")
    model = build_transformer_model("gpt-mini-zh", with_mlm="linear")

    def loss(text):
        ids = np.array([tokenizer.encode(text)[0]])
        logits = model.predict([ids, np.zeros_like(ids)], verbose=0)[:, :-1]
        losses = keras.losses.sparse_categorical_crossentropy(ids[:, 1:], logits, True)
        return float(keras.ops.mean(losses))

    for text in sentences():
        shuffled = "".join(np.random.default_rng(0).permutation(list(text)))
        assert loss(text) < loss(shuffled) - 1
    # Chance is the logarithm of the vocabulary's size, 8.4.
    assert np.mean([loss(text) for text in sentences()]) < 5


def test_the_t5_writes_what_is_left_out():
    """It expects what is in a text more than its characters in another order."""
    tokenizer = Tokenizer("t5-mini-zh")
    model = build_transformer_model("t5-mini-zh", with_mlm="linear")

    def loss(texts):
        data = TextToTextDataset(texts, tokenizer, length=64, batch_size=2)
        (read, written), targets = data[0]
        logits = model.predict([read, written], verbose=0)[targets >= 0]
        wanted = targets[targets >= 0]
        losses = keras.losses.sparse_categorical_crossentropy(wanted, logits, from_logits=True)
        return float(keras.ops.mean(losses))

    shuffled = ["".join(np.random.default_rng(0).permutation(list(t))) for t in sentences()]
    assert loss(sentences()) < loss(shuffled) - 1


def test_a_gpt_needs_a_causal_template():
    template = Template("[MASK]满意。{text}", {0: "不", 1: "很"}, "gpt-mini-zh")
    with pytest.raises(ValueError, match=r"needs a causal template, whose \[MASK\] comes last"):
        build_ptuning_model("gpt-mini-zh", template=template)
    template = Template("{text}我[MASK]", {0: "不", 1: "很"}, "gpt-mini-zh", causal=True)
    model = build_ptuning_model("gpt-mini-zh", template=template)
    # Even a small one knows which continues better.
    scores = model.predict(template.dataset(["这个菜不好吃，我不喜欢，"]), verbose=0)
    assert scores.shape == (1, 2) and (scores < 0).all() and (scores > -12).all()


def test_a_cloze_is_not_made_causal_by_an_argument():
    template = Template("[MASK]满意。{text}", {0: "不", 1: "很"}, "bert-mini-zh")
    for option in ({"branching": True}, {"document_start_id": 2}):
        with pytest.raises(ValueError, match=r"sets .* itself"):
            build_ptuning_model("bert-mini-zh", template=template, **option)
    with pytest.raises(ValueError, match="needs a causal template"):
        build_ptuning_model("bert-mini-zh", template=template, application="lm")


def test_a_prompt_of_another_checkpoint_needs_its_vocabulary(tmp_path):
    template = Template("[u1][MASK]{text}", {w: w for w in REVIEWS}, "bert-mini-zh")
    build_ptuning_model("bert-mini-zh", template=template).save_tuned(tmp_path / "my.tuned")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"no vocab\.txt, tokenizer\.json or spiece\.model"):
        load_tuned(tmp_path / "my.tuned", tmp_path / "config.json", "bert_model.ckpt")
    with pytest.raises(ValueError, match="give `vocab`"):
        load_tuned(tmp_path / "my.tuned", {}, "bert_model.ckpt")


def test_a_name_that_does_not_exist_names_those_that_do():
    with pytest.raises(
        FileNotFoundError, match=r"bert-mini-zh', 'bert-small-zh', 'gpt-mini-zh.*'bert-mini'"
    ):
        build_transformer_model("bert-mini")
    with pytest.raises(
        FileNotFoundError, match=r"'bert-mini'.*bert-mini-zh, bert-small-zh, gpt-mini-zh"
    ):
        Tokenizer("bert-mini")


def test_a_template_in_the_wrong_place_is_named():
    template = Template("[MASK]满意。{text}", {0: "不", 1: "很"}, "bert-mini-zh")
    with pytest.raises(TypeError, match="template=template"):
        build_ptuning_model("bert-mini-zh", template)


@pytest.mark.slow
def test_the_wheel_carries_them(tmp_path):
    root = pathlib.Path(keras_ptuning.__file__).parents[1]
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, root]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f"keras_ptuning/assets/{n}/{f}" for n in NAMES for f in files(n)} <= inside
    assert wheel.stat().st_size < 74e6
