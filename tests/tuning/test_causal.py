"""P-tuning of a GPT: the answer is generated last, words of several tokens in one pass."""

import functools

import keras
import numpy as np
import pytest
import small_bert
import small_gpt2

from keras_ptuning import Template, build_ptuning_model, build_transformer_model
from keras_ptuning.text.templates import lay_out_continuations

pytestmark = pytest.mark.usefixtures("eagerly")

CONFIG = {**small_bert.CONFIG, "is_decoder": True, "hidden_dropout_prob": 0.0}
CONFIG["attention_probs_dropout_prob"] = 0.0
PATTERN = "[u1][u2]{text}[u3]觉[MASK][MASK][MASK]"
# 不 and 不好 and 不好书 share beginnings; 很 is short; one label has two words of two lengths.
LABELS = {"a": "不好书", "b": ["不好", "满"], "c": "很", "d": "不差", "e": "书房间"}


@pytest.fixture(scope="module")
def causal_bert(tmp_path_factory):
    return small_bert.write_small_bert(tmp_path_factory.mktemp("causal"), CONFIG)


def make_template(vocab, pattern=PATTERN, labels=LABELS, maxlen=40):
    return Template(pattern, labels, vocab, maxlen=maxlen, causal=True)


@functools.cache
def language_model(config, checkpoint, **kwargs):
    return build_transformer_model(config, checkpoint, with_mlm=True, **kwargs)


def log_probs(causal_bert, token_ids, **kwargs):
    """Of each token, after the ones before it, by a plain language model."""
    model = language_model(*causal_bert[:2], **kwargs)
    ids = np.array([token_ids])
    p = model.predict([ids, np.zeros_like(ids)], verbose=0)[0]
    return np.log(p[np.arange(len(token_ids) - 1), token_ids[1:]])


def word_by_word(causal_bert, context, word, **kwargs):
    """The mean log-probability of a word's tokens: one sequence for each word."""
    return log_probs(causal_bert, [*context, *word], **kwargs)[len(context) - 1 :].mean()


@pytest.mark.parametrize("architecture", ["bert", "nezha", "roformer"])
def test_words_of_several_tokens_in_one_pass(causal_bert, architecture, tmp_path):
    """Each label's score is what one sequence for each of its words gives."""
    if architecture != "bert":
        values = small_bert.tensors(CONFIG)
        del values["bert/embeddings/position_embeddings"]
        causal_bert = small_bert.write_small_bert(tmp_path, CONFIG, values=values)
    template = make_template(causal_bert[2])
    kwargs = {"model": architecture}
    model = build_ptuning_model(*causal_bert[:2], template, **kwargs)
    texts = ["书", "屏幕" * 30]
    found = model.predict(template.dataset(texts, batch_size=2), verbose=0)
    tokenizer = template.tokenizer
    for text, row in zip(texts, found, strict=True):
        context = [tokenizer.token_to_id(t) for t in ("[CLS]", "[unused1]", "[unused2]")]
        # Room: 40 less [CLS], u1 to u3, 觉, and three masks.
        context += tokenizer.token_ids([text])[0][:32]
        context += [tokenizer.token_to_id(t) for t in ("[unused3]", "觉")]
        for words, score in zip(template.word_ids, row, strict=True):
            means = [word_by_word(causal_bert, context, word, **kwargs) for word in words]
            np.testing.assert_allclose(score, np.logaddexp.reduce(3 * np.array(means)), atol=1e-4)


def test_continuations():
    """Beginnings come once, right before what continues them."""
    words = [[7, 1], [5, 6, 2], [5, 8, 9], [5], [4]]
    tokens, reach, slots = lay_out_continuations(words)
    assert (tokens, reach) == ([5, 6, 8, 7], [2, 1, 2, 3])
    assert slots == [[0, 4], [0, 1, 2], [0, 1, 3], [0], [0]]


def test_candidates(causal_bert):
    """With candidates of its own, a text gives what a template with these labels gives it."""
    own = [["不好", "很"], ["书", "满意", "不好"]]
    template = make_template(causal_bert[2], "{text}[u1][MASK][MASK]", None)
    model = build_ptuning_model(*causal_bert[:2], template)
    x, y = template.encode(["书", "屏幕" * 5], ["很", "不好"], candidates=own)
    assert y.tolist() == [1, 2]
    found = model.predict(x, verbose=0)
    for text, names, row in zip(["书", "屏幕" * 5], own, found, strict=True):
        fixed = make_template(causal_bert[2], template.pattern, {n: n for n in names})
        scores = build_ptuning_model(*causal_bert[:2], fixed).predict(
            fixed.encode([text]), verbose=0
        )
        np.testing.assert_allclose(row[: len(names)], scores[0], atol=1e-4)
    assert found[0, 2] < -1e8


@pytest.mark.parametrize("auxiliary", [True, False])
def test_objective(causal_bert, auxiliary):
    """The label word, and all words of text and template after the first."""
    template = make_template(causal_bert[2])
    model = build_ptuning_model(*causal_bert[:2], template, auxiliary=auxiliary)
    texts, labels = ["书房", "物流很快"], ["c", "e"]
    x, y = template.dataset(texts, labels, shuffle=False)[0]
    expected, count = 0, 0
    for i, (text, label) in enumerate(zip(texts, labels, strict=True)):
        context = x["token_ids"][i][: x["mask_positions"][i][0] + 1].tolist()
        word = template.word_ids[template.label_names.index(label)][0]
        expected -= 3 * word_by_word(causal_bert, context, word)
        count += 3
        if auxiliary:
            # [CLS] u1 u2, the text, u3, 觉: virtual tokens are no words.
            losses = -log_probs(causal_bert, context)
            expected += losses[2 : 2 + len(text)].sum() + losses[-1]
            count += len(text) + 1
    model.compile(keras.optimizers.SGD(0.0))
    np.testing.assert_allclose(model.train_on_batch(x, y)[0], expected / count, rtol=1e-4)


def test_a_share_of_the_text(causal_bert):
    template = make_template(causal_bert[2])
    x, _ = template.dataset(["书" * 19], ["a"], mask_rate=0.5)[0]
    assert (x["auxiliary_ids"] >= 0).sum() == 10


@pytest.mark.graph
def test_it_learns(causal_bert, reviews):
    template = make_template(
        causal_bert[2], "[u1][u2]{text}[u3][u4][MASK]", {"负面": "不", "正面": "很"}
    )
    model = build_ptuning_model(*causal_bert[:2], template, auxiliary=False)
    model.compile(keras.optimizers.Adam(0.05))
    data = template.dataset(*reviews, batch_size=8)
    history = model.fit(data, epochs=25, verbose=0).history
    assert history["loss"][-1] < 0.4 * history["loss"][0]
    assert max(history["accuracy"]) > 0.85
    assert [tuple(v.shape) for v in model.trainable_variables] == [(4, 32)]


def test_saving(causal_bert, tmp_path):
    template = make_template(causal_bert[2])
    model = build_ptuning_model(*causal_bert[:2], template)
    model.prompt.assign(np.ones(model.prompt.shape))
    x = template.encode(["物流很快"])
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "gpt.keras")
    again = keras.models.load_model(tmp_path / "gpt.keras")
    assert again.template.causal
    np.testing.assert_array_equal(again.predict(x, verbose=0), expected)


@pytest.mark.parametrize(
    "pattern", ["[MASK]{text}", "{text}[MASK]觉", "{text}[MASK][u1]", "{text}[MASK]觉[MASK]"]
)
def test_the_mask_comes_last(causal_bert, pattern):
    with pytest.raises(ValueError, match=r"\[MASK\] must come last"):
        make_template(causal_bert[2], pattern, {"a": "很", "b": "不"})


def test_template_and_model_belong_together(causal_bert, small_bert):
    labels = {"a": "很", "b": "不"}
    causal = make_template(causal_bert[2], "{text}[MASK]", labels)
    plain = Template("{text}[MASK]", labels, causal_bert[2], maxlen=40)
    with pytest.raises(ValueError, match=r"needs a causal template.*causal=True"):
        build_ptuning_model(*causal_bert[:2], plain)
    with pytest.raises(ValueError, match="needs a causal language model, such as 'gpt-mini-zh'"):
        build_ptuning_model(*small_bert[:2], causal)
    # A BERT trained as a language model does not always say so.
    model = build_ptuning_model(*small_bert[:2], causal, application="lm", dropout_rate=0.0)
    expected = build_ptuning_model(*causal_bert[:2], causal).predict(
        causal.encode(["书"]), verbose=0
    )
    np.testing.assert_allclose(model.predict(causal.encode(["书"]), verbose=0), expected, atol=1e-5)


@pytest.mark.graph
def test_gpt2(tmp_path):
    """The other kind of GPT: one sequence for each word gives the same, and the prompt learns."""
    config = small_gpt2.CONFIG
    vocab = small_bert.vocabulary(config["vocab_size"])
    paths = small_gpt2.write_small_gpt2(tmp_path)
    template = make_template(vocab, "[u1]{text}[u2][MASK][MASK]", {"a": "不好", "b": "很"}, 24)
    model = build_ptuning_model(*paths, template, dropout_rate=0.0, attention_dropout_rate=0.0)
    x, y = template.encode(["书贵", "屏幕" * 9], ["a", "b"])
    found = model.predict(x, verbose=0)
    plain = build_transformer_model(*paths, with_mlm=True)
    for ids, places, row in zip(x["token_ids"], x["mask_positions"], found, strict=True):
        context = ids[: places[0] + 1].tolist()
        for words, score in zip(template.word_ids, row, strict=True):
            sequence = np.array([[*context, *words[0]]])
            p = plain.predict(sequence, verbose=0)[0, len(context) - 1 : -1]
            expected = 2 * np.log(p[np.arange(len(words[0])), words[0]]).mean()
            np.testing.assert_allclose(score, expected, atol=1e-4)
    model.compile(keras.optimizers.Adam(0.01))
    before = model.evaluate(x, y, verbose=0)[0]
    model.fit(x, y, epochs=5, verbose=0)
    assert model.evaluate(x, y, verbose=0)[0] < before
