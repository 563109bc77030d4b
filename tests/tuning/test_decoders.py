"""Tuning methods on decoders of today: byte-level vocabulary, no `[CLS]`, id 0 is a token."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from small_decoders import write_small_decoder, write_tokenizer

from keras_ptuning import (
    LoRA,
    Prefix,
    Prompt,
    PromptBank,
    Template,
    build_prompt_ensemble,
    build_ptuning_model,
    build_transformer_model,
    load_model,
    load_tuned,
)

pytestmark = pytest.mark.usefixtures("eagerly")

LABELS = {"负面": "不", "正面": "很不!"}
PATTERN = "{text}[u1][u2][MASK][MASK][MASK]"
TEXTS = ["屏幕很好!", "书很贵，不满意！很好", "not bad", "!"]
ANSWERS = ["正面", "负面", "正面", "负面"]


@pytest.fixture(scope="module", params=["llama-untied", "qwen3"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_tokenizer(folder, "pieces" if request.param == "llama-untied" else "bytes")
    return write_small_decoder(folder, request.param)


@pytest.fixture
def template(folder):
    return Template(PATTERN, LABELS, folder, maxlen=48, causal=True)


def test_scores_are_those_of_each_word_by_itself(folder, template):
    """Words of one token and of three, one of them id 0, which padding is elsewhere."""
    assert (0 in template.word_ids[1][0]) == (template.tokenizer.start_id is None)
    zero_shot = Template(PATTERN.replace("[u1][u2]", ""), LABELS, folder, 48, causal=True)
    found = build_ptuning_model(folder, template=zero_shot).predict(
        zero_shot.dataset(TEXTS), verbose=0
    )
    model = build_transformer_model(folder, with_mlm="linear")
    tokenizer = zero_shot.tokenizer
    for text, row in zip(TEXTS, found, strict=True):
        start = [] if tokenizer.start_id is None else [tokenizer.start_id]
        text_ids = [*start, *tokenizer.token_ids([text])[0]]
        for score, (word,) in zip(row, zero_shot.word_ids, strict=True):
            ids = np.array([text_ids + word], "int32")
            log_p = ops.convert_to_numpy(ops.log_softmax(model([ids])))[0]
            own = [log_p[len(text_ids) - 1 + i, token] for i, token in enumerate(word)]
            assert score == pytest.approx(3 * np.mean(own), abs=1e-4)


def test_padding_that_texts_begin_with(tmp_path):
    """As the beginning the model sees it, and a mean vector too."""
    write_tokenizer(tmp_path, "pieces")
    write_small_decoder(tmp_path, "llama")
    found = []
    for pad in ("<|pad|>", "<|end|>"):
        config = {"pad_token": pad, "eos_token": "<|end|>"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
        template = Template(PATTERN, LABELS, tmp_path, maxlen=48, causal=True)
        assert (template.tokenizer.pad_id == template.tokenizer.start_id) == (pad == "<|end|>")
        keras.utils.set_random_seed(0)
        model = build_ptuning_model(tmp_path, template=template)
        model.save_tuned(tmp_path / "a.tuned")
        bank = PromptBank(tmp_path)
        bank.add("a", tmp_path / "a.tuned")
        scores = [
            model.predict(template.dataset(TEXTS), verbose=0),
            bank.scores([("a", text) for text in TEXTS]),
        ]
        options = {"classifier": True, "normalization": "labels", "tune": "lora"}
        plain = Template("{text}[MASK][MASK][MASK]", LABELS, tmp_path, maxlen=48, causal=True)
        model = build_ptuning_model(tmp_path, template=plain, **options)
        found.append([*scores, model.predict(plain.dataset(TEXTS), verbose=0)])
    for own, other in zip(*found, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5)


def test_padding_that_is_the_first_token(tmp_path):
    """Of a configuration alone."""
    ids = np.array([[2, 5, 6, 7]])
    found = []
    for pad in (None, 2):
        folder = write_small_decoder(tmp_path, "llama", pad_token_id=pad)
        found.append(build_transformer_model(folder, with_mlm="linear").predict([ids], verbose=0))
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize(
    "tune", [None, Prefix(3), pytest.param(LoRA(2), marks=pytest.mark.graph), "adapter", "all"]
)
def test_methods_train_and_are_saved(folder, template, tmp_path, tune):
    model = build_ptuning_model(folder, template=template, tune=tune)
    data = template.dataset(TEXTS, ANSWERS, batch_size=4)
    model.compile(keras.optimizers.Adam(0.01))
    before = model.evaluate(data, verbose=0)[0]
    model.fit(data, epochs=3, verbose=0)
    assert model.evaluate(data, verbose=0)[0] < before
    scores = model.predict(template.dataset(TEXTS), verbose=0)
    model.save_tuned(tmp_path / "a.tuned")
    again = load_tuned(tmp_path / "a.tuned", folder)
    assert np.abs(again.predict(template.dataset(TEXTS), verbose=0) - scores).max() < 1e-4
    assert again.template.decode(scores) == template.decode(scores)


def test_a_whole_model_has_its_tokenizer(folder, template, tmp_path):
    model = build_ptuning_model(folder, template=template)
    scores = model.predict(template.dataset(TEXTS), verbose=0)
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    x = again.template.dataset(TEXTS)
    assert np.abs(again.predict(x, verbose=0) - scores).max() < 1e-5


@pytest.mark.graph
def test_padding_changes_nothing(folder, template):
    model = build_ptuning_model(folder, template=template)
    together = model.predict(template.dataset(TEXTS, batch_size=4), verbose=0)
    alone = [model.predict(template.dataset([text]), verbose=0)[0] for text in TEXTS]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_words_that_learn_need_the_tied_table(folder):
    template = Template("{text}[MASK]", {"负面": "[v1]", "正面": "[v2]"}, folder, 48, causal=True)
    with pytest.raises(ValueError, match=r"\[v1\].*table of its own"):
        build_ptuning_model(folder, template=template)


def test_a_bank_mixes_prompts_and_prefixes(folder, template, tmp_path):
    bank, requests, expected = PromptBank(folder), [], []
    for name, tune in (("prompt", Prompt(start="random")), ("prefix", Prefix(3))):
        model = build_ptuning_model(folder, template=template, tune=tune)
        model.save_tuned(tmp_path / name)
        bank.add(name, tmp_path / name)
        scores = model.predict(template.dataset(TEXTS), verbose=0)
        requests += [(name, text) for text in TEXTS]
        expected += ops.convert_to_numpy(ops.softmax(scores)).tolist()
    found = bank.predict_proba(requests)
    for own, row in zip(found, expected, strict=True):
        assert list(own.values()) == pytest.approx(row, abs=1e-4)


def test_written_as_a_checkpoint(folder, template, tmp_path):
    """With the vectors in spare rows, and LoRA merged in; the files load as any other."""
    model = build_ptuning_model(folder, template=template, tune=LoRA(2))
    data = template.dataset(TEXTS, ANSWERS)
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    model.fit(data, verbose=0)
    model.save_checkpoint(tmp_path)
    x = template.encode(TEXTS)
    found = build_transformer_model(str(tmp_path), with_mlm="linear")
    read = [model.backbone.get_layer("Output-Norm").output]
    ours = keras.Model(model.backbone.inputs, read)
    last = x["mask_positions"][:, :1]
    named = {"Input-Token": x["token_ids"], "Input-Reach": x["reach"], "Input-Gather": last}
    ours = ours([named[i.name] for i in model.backbone.inputs])
    theirs = keras.Model(found.inputs, found.get_layer("Output-Norm").output)([x["token_ids"]])
    theirs = np.take_along_axis(ops.convert_to_numpy(theirs), last[..., None], axis=1)
    assert np.abs(ops.convert_to_numpy(ours) - theirs).max() < 1e-4
    # The tokenizer is there too.
    assert Template(PATTERN, LABELS, str(tmp_path), causal=True).virtual_ids == template.virtual_ids


def test_an_ensemble_learns_in_float32_on_bfloat16(tmp_path):
    write_tokenizer(tmp_path)
    folder = write_small_decoder(tmp_path, "qwen2", "bfloat16")
    template = Template("{text}[u1][MASK]", {"负面": "不", "正面": "很"}, folder, 48, causal=True)
    model = build_prompt_ensemble(folder, template=template, members=2, auxiliary=False)
    assert model.prompts.dtype == "float32"
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    data = template.dataset(TEXTS, ANSWERS, batch_size=4)
    before = model.evaluate(data, verbose=0)[0]
    model.fit(data, epochs=3, verbose=0)
    assert model.evaluate(data, verbose=0)[0] < before
