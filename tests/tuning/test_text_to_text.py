"""P-tuning of a T5: the encoder reads prompt and text, and the decoder writes the label word."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import small_t5
from keras import ops

from keras_ptuning import (
    PlainText,
    Prefix,
    Prompt,
    PromptBank,
    PromptClassifier,
    Template,
    build_classifier,
    build_prompt_ensemble,
    build_ptuning_model,
    build_transformer_model,
    load_model,
    load_tuned,
)

pytestmark = pytest.mark.usefixtures("eagerly")

PATTERN = "[u1][u2]{text}感觉[DECODER][MASK][MASK][MASK]"
# 不 and 不好 and 不好书 share beginnings; 很 is short; one label has two words of two lengths.
LABELS = {"a": "不好书", "b": ["不好", "满"], "c": "很", "d": "不差", "e": "书房间"}
TEXTS = ["书", "屏幕" * 10, "这趟北京之旅"]


def write(path, name):
    small_t5.write_hugging_face(path, name, vocab=True)
    return str(path)


@pytest.fixture(scope="module", params=["t5", "mt5"])
def folder(request, tmp_path_factory):
    """A head that is the embedding, and one that is a table of its own."""
    return write(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def mt5(tmp_path_factory):
    return write(tmp_path_factory.mktemp("mt5"), "mt5")


def make(folder, pattern=PATTERN, labels=LABELS, tune=None, **kwargs):
    template = Template(pattern, labels, folder, maxlen=40)
    return template, build_ptuning_model(folder, template=template, tune=tune, **kwargs)


def scores(model, texts=TEXTS):
    return ops.convert_to_numpy(model(model.template.encode(texts)))


def among_labels(model):
    """Where virtual tokens have rows of a tied head, all words compete with these too."""
    found = scores(model)
    return found - found[:, :1]


def ids_of(template, *texts):
    return [i for ids in template.tokenizer.token_ids(list(texts)) for i in ids]


def word_by_word(model, read, begun, word):
    """The mean log-probability of a word's tokens: one pass for each word."""
    p = ops.convert_to_numpy(model([np.array([read]), np.array([[*begun, *word]])]))[0]
    places = np.arange(len(begun) - 1, len(begun) + len(word) - 1)
    return np.log(p[places, word]).mean()


@pytest.mark.graph
def test_many_words_in_one_pass(folder):
    """Each label's score is what one pass for each of its words gives."""
    template, model = make(folder)
    found = model.predict(template.dataset(TEXTS, batch_size=3), verbose=0)
    np.testing.assert_allclose(found, scores(model), atol=1e-5)
    plain = build_transformer_model(folder, with_mlm=True)
    tokenizer = template.tokenizer
    first = [tokenizer.start_id, *(tokenizer.token_to_id(f"[unused{i}]") for i in (1, 2))]
    for text, row in list(zip(TEXTS, found, strict=True))[:2]:
        read = [*first, *ids_of(template, text), *ids_of(template, "感觉"), tokenizer.end_id]
        for words, score in zip(template.word_ids, row, strict=True):
            means = [word_by_word(plain, read, [tokenizer.start_id], word) for word in words]
            np.testing.assert_allclose(score, np.logaddexp.reduce(3 * np.array(means)), atol=1e-4)


def test_candidates(folder):
    """With candidates of its own, a text gives what a template with these labels gives it."""
    own = [["不好", "很"], ["书", "满意", "不好"]]
    template, model = make(folder, "{text}[DECODER]感[MASK][MASK]", None)
    x, y = template.encode(["书", "屏幕" * 5], ["很", "不好"], candidates=own)
    assert y.tolist() == [1, 2] and x["decoder_token_ids"].shape == (2, 4)
    found = ops.convert_to_numpy(model(x))
    for text, names, row in zip(["书", "屏幕" * 5], own, found, strict=True):
        _, same = make(folder, template.pattern, {name: name for name in names})
        np.testing.assert_allclose(row[: len(names)], scores(same, [text])[0], atol=1e-5)


@pytest.mark.parametrize(
    "pattern, written_out",
    [
        ("[u1][u2]{text}[DECODER][MASK]", "感觉{text}[DECODER][MASK]"),
        ("{text}[DECODER][u1][u2][MASK]", "{text}[DECODER]感觉[MASK]"),
    ],
    ids=["encoder", "decoder"],
)
def test_a_prompt_of_real_tokens(folder, pattern, written_out):
    """Their vectors in place of theirs give their scores."""
    labels = {"a": "不", "b": "很"}
    _, model = make(folder, pattern, labels, Prompt(start=["感觉"]))
    _, plain = make(folder, written_out, labels)
    found = among_labels(model)
    np.testing.assert_allclose(found, among_labels(plain), atol=1e-5)
    # Which other vectors do not.
    _, other = make(folder, pattern, labels, Prompt(start=["书房"]))
    assert np.abs(found - among_labels(other)).max() > 1e-3


@pytest.mark.parametrize("start", ["labels", "vocabulary", "random"])
def test_starts(mt5, start):
    template, model = make(
        mt5, "[u1][u2][u3]{text}[DECODER][MASK]", {"a": "不", "b": "很"}, Prompt(start)
    )
    table, prompt = (
        ops.convert_to_numpy(model.embedding.embeddings),
        ops.convert_to_numpy(model.prompt),
    )
    row_of = [np.abs(table - row).max(axis=1).argmin() for row in prompt]
    taken = np.abs(table[row_of] - prompt).max() < 1e-6
    assert taken == (start != "random")
    if start == "labels":
        assert row_of[:2] == ids_of(template, "不很")


@pytest.mark.parametrize(
    "tune", ["prompt", pytest.param("prefix", marks=pytest.mark.graph), "lora", "adapter"]
)
def test_training_and_the_tuned_file(mt5, tmp_path, tune):
    """The loss falls, the rest stays frozen, and the file gives the same scores again."""
    keras.utils.set_random_seed(0)
    pattern = PATTERN if tune == "prompt" else "{text}[DECODER][MASK][MASK][MASK]"
    template, model = make(mt5, pattern, tune=tune)
    x, y = template.encode(TEXTS, ["a", "b", "c"])
    frozen = model.fingerprint()
    model.compile(keras.optimizers.Adam(0.05))
    losses = model.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 0.05
    assert model.fingerprint() == frozen
    path = str(tmp_path / "a.tuned")
    model.save_tuned(path)
    np.testing.assert_allclose(scores(load_tuned(path, mt5)), scores(model), atol=1e-5)


def test_prefix_is_in_encoder_and_decoder(mt5):
    _, model = make(mt5, "{text}[DECODER][MASK]", {"a": "不", "b": "很"}, "prefix")
    layer = model.backbone.get_layer("Prefix")
    expected, values = scores(model), ops.convert_to_numpy(layer.prefix)
    assert len(values) == 4
    for block in (0, 3):
        changed = values.copy()
        changed[block] += 1
        layer.prefix.assign(changed)
        assert np.abs(scores(model) - expected).max() > 1e-3


def test_a_prefix_may_start_as_words(mt5):
    """In the first block of a stack a token has its keys, whatever comes before it."""
    tune = Prefix(4, start=["感觉"])
    template, model = make(mt5, "{text}[DECODER][MASK]", {"a": "不", "b": "很"}, tune)
    prefix = ops.convert_to_numpy(model.backbone.get_layer("Prefix").prefix)
    for block, name in ((0, "Encoder"), (2, "Decoder")):
        half = f"{name}-Transformer-0-MultiHeadSelfAttention"
        x = model.backbone.get_layer("Embedding-Token")(np.array(ids_of(template, "感觉")))
        x = model.backbone.get_layer(f"{half}-Norm")(x)
        keys = ops.convert_to_numpy(model.backbone.get_layer(half).key(x))
        np.testing.assert_allclose(prefix[block, 0], np.tile(keys, (2, 1)), atol=1e-5)


def test_the_whole_model_is_saved(mt5, tmp_path):
    _, model = make(mt5)
    path = str(tmp_path / "model.keras")
    model.save(path)
    np.testing.assert_allclose(scores(load_model(path)), scores(model), atol=1e-6)


def test_fill(mt5):
    """What the decoder would write first."""
    template, model = make(mt5)
    (filled,), *_ = model.fill(TEXTS, top=3)
    tokenizer = template.tokenizer
    read, begun = template.encode(TEXTS[:1])["token_ids"], np.array([[tokenizer.start_id]])
    p = ops.convert_to_numpy(build_transformer_model(mt5, with_mlm=True)([read, begun]))[0, 0]
    assert [t for t, _ in filled] == [tokenizer.id_to_token(i) for i in np.argsort(-p)[:3]]


def test_bad_input(mt5):
    labels = {"a": "不", "b": "很"}
    for pattern in (
        "{text}[DECODER][MASK]满意",
        "[MASK]{text}[DECODER]很",
        "[MASK][DECODER]{text}",
    ):
        with pytest.raises(ValueError, match=r"\[MASK\] must come last"):
            Template(pattern, labels, mt5)
    with pytest.raises(ValueError, match=r"needs a template that says what it writes"):
        make(mt5, "[MASK]{text}", labels)
    template = Template("{text}[DECODER][MASK]", labels, "bert-mini-zh")
    with pytest.raises(ValueError, match=r"\[DECODER\] needs a model that reads"):
        build_ptuning_model("bert-mini-zh", template=template)
    template, model = make(mt5, "{text}[DECODER][MASK]", labels)
    with pytest.raises(ValueError, match="no auxiliary task"):
        template.dataset(TEXTS, ["a", "b", "a"], mask_rate=0.15)
    x = template.encode(TEXTS)
    del x["decoder_token_ids"]
    with pytest.raises(TypeError, match="takes what the template makes"):
        model.predict(x)
    with pytest.raises(ValueError, match="leave out `classifier`"):
        make(mt5, classifier=True, normalization="labels")


def test_the_decoder_begins_as_the_checkpoint_says(tmp_path):
    """With a token that the pattern names, such as [BOS] in some vocabularies of BERT's kind."""
    small_t5.write_hugging_face(tmp_path, "t5", vocab=True, decoder_start_token_id=7)
    with pytest.raises(ValueError, match="begins its text with the token 7, and the template with"):
        make(str(tmp_path))
    template, _ = make(str(tmp_path), "{text}[DECODER][unused7][u1][MASK]", {"a": "很", "b": "不"})
    assert template.encode(["书"])["decoder_token_ids"].tolist() == [[7, 1]]


def test_the_decoder_begins_with_padding(tmp_path):
    """As transformers trains a T5 over a vocabulary of BERT's kind, if nothing else is said."""
    small_t5.write_hugging_face(tmp_path, "t5", vocab=True, decoder_start_token_id=0)
    with pytest.raises(ValueError, match=r"begins its text with the token 0"):
        make(str(tmp_path))
    labels = {"a": "很", "b": "不"}
    template, model = make(str(tmp_path), "{text}[DECODER][PAD][MASK]", labels)
    x = template.encode(["书"])
    assert x["decoder_token_ids"].tolist() == [[0]]
    assert np.isfinite(model.predict(x, verbose=0)).all()
    with pytest.raises(ValueError, match=r"Unknown '\[PAD\]'"):
        Template("{text}[PAD][DECODER][PAD][MASK]", labels, template.tokenizer)


def test_label_words_that_learn_need_a_tied_head(folder):
    labels, pattern = {"a": "[v1]", "b": "[v2]"}, "{text}[DECODER][MASK]"
    if "mt5" in folder:
        with pytest.raises(ValueError, match="predicts tokens with a table of its own"):
            make(folder, pattern, labels)
    else:
        assert scores(make(folder, pattern, labels)[1]).shape == (3, 2)


def test_where_a_t5_does_not_fit(folder):
    with pytest.raises(ValueError, match=r"A T5 has no \[CLS\]"):
        build_classifier(folder, template=PlainText(["a", "b"], folder))
    with pytest.raises(ValueError, match="A bank needs a masked or causal language model"):
        PromptBank(folder)


def test_prompt_classifier(mt5):
    """By default without the dense layer that others have next to the cloze."""
    template = Template("{text}[DECODER][MASK]", {"a": "不", "b": "很"}, mt5, maxlen=40)
    classifier = PromptClassifier(template, mt5, epochs=1, verbose=0)
    with pytest.warns(match="trains for 1 steps"):
        classifier.fit(TEXTS * 2, ["a", "b", "a"] * 2)
    assert classifier.model_.classifier is None


def test_checkpoint_with_the_prompt_merged_in(mt5, tmp_path):
    """Written out as tokens it gives the same scores."""
    labels = {"a": "不", "b": "很"}
    _, model = make(mt5, "[u1][u2]{text}[DECODER][MASK]", labels, Prompt(start=["感觉"]))
    saved = str(tmp_path / "saved")
    model.save_checkpoint(saved)
    _, merged = make(saved, "[unused1][unused2]{text}[DECODER][MASK]", labels)
    np.testing.assert_allclose(scores(merged), scores(model), atol=1e-6)


def test_ensemble(folder, tmp_path):
    """Each prompt, in encoder and decoder, gives what it gives alone."""
    labels = {"a": "不", "b": ["很", "好"]}
    template = Template("[u1]{text}[DECODER][u2][MASK]", labels, folder, maxlen=40)
    model = build_prompt_ensemble(folder, template=template, members=2)
    model.compile(keras.optimizers.Adam(0.1), run_eagerly=True)
    x, y = template.encode(TEXTS, ["a", "b", "a"])
    model.fit(x, y, epochs=2, verbose=0)
    found = model.predict_members(template.dataset(TEXTS), verbose=0)
    model.save_tuned(str(tmp_path / "prompts"))
    for i, expected in enumerate(found, 1):
        alone = load_tuned(str(tmp_path / "prompts" / f"{i}.tuned"), folder)
        np.testing.assert_allclose(scores(alone), expected, atol=1e-5)
    with pytest.raises(ValueError, match="scores labels only"):
        model.generate(TEXTS)


SHORT = {"a": "很", "b": ["不好", "不"]}
SCRIPT = """
import sys
import keras
from keras_ptuning import Template, build_ptuning_model
folder, pattern, *texts = sys.argv[1:]
template = Template(pattern, {"a": "很", "b": ["不好", "不"]}, folder, maxlen=40)
model = build_ptuning_model(folder, template=template)
print(*keras.ops.convert_to_numpy(model(template.encode(texts))).ravel())
print(*model.generate(texts, max_tokens=3), sep="/")
"""


def test_other_backends(mt5):
    """The scores, and what is generated."""
    template = Template("[u1]{text}[DECODER]感[MASK][MASK]", SHORT, mt5, maxlen=40)
    model = build_ptuning_model(mt5, template=template)
    for backend in ("jax", "torch"):
        if importlib.util.find_spec(backend) is None:
            continue
        arguments = [sys.executable, "-c", SCRIPT, mt5, template.pattern, *TEXTS]
        env = {**os.environ, "KERAS_BACKEND": backend}
        done = subprocess.run(arguments, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        numbers, answers = done.stdout.splitlines()
        found = np.array(numbers.split(), "float32").reshape(3, 2)
        np.testing.assert_allclose(found, scores(model), atol=1e-4)
        assert answers == "/".join(model.generate(TEXTS, max_tokens=3))
