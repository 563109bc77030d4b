"""Filling in: the probabilities are those of the pretrained model itself."""

import numpy as np
import pytest
import small_bert as small
from small_bert import write_small_bert

from keras_ptuning import (
    Prefix,
    PromptBank,
    Template,
    build_prompt_ensemble,
    build_ptuning_model,
    build_transformer_model,
    load_tuned,
)
from keras_ptuning.methods.method import to_numpy

pytestmark = pytest.mark.usefixtures("eagerly")

TEXTS = ["书", "屏幕" * 20, "物流很快，服务态度好。", "房间差", "体育财经", "a b ok"]
LABELS = {"负面": "不", "正面": "很"}


def as_array(filled, vocab):
    """The probability of each token of the vocabulary, `(texts, masks, vocabulary)`."""
    return np.array([[[dict(mask)[token] for token in vocab] for mask in own] for own in filled])


def assert_alike(found, expected):
    """Tokens that are as likely may change places."""
    assert len(found) == len(expected)
    for own, others in zip(found, expected, strict=True):
        assert len(own) == len(others)
        for mask, other in zip(own, others, strict=True):
            np.testing.assert_allclose(*([p for _, p in m] for m in (mask, other)), atol=1e-5)
            gaps = -np.diff([p for _, p in other])
            if (gaps > 1e-5).all():
                assert [token for token, _ in mask] == [token for token, _ in other]


@pytest.mark.graph
@pytest.mark.parametrize("labels", [{"a": "不好", "b": "很"}, None])
def test_equal_to_the_pretrained_model(small_bert, tokenizer, make_model, labels):
    template = Template("{text}[MASK][MASK]满意。", labels, tokenizer, maxlen=48)
    model = make_model(template)
    vocab = template.tokenizer.vocab
    # Two batches, in an order that is not that of their lengths.
    texts = TEXTS * 12
    found = model.fill(texts, top=len(vocab))
    backbone = build_transformer_model(*small_bert[:2], with_mlm=True)
    expected = []
    for text in TEXTS:
        x = template.encode([text], candidates=None if labels else [["不", "很"]])
        p = to_numpy(backbone([x["token_ids"], x["segment_ids"]], training=False))
        expected.append(p[0][x["mask_positions"][0]])
    np.testing.assert_allclose(as_array(found, vocab), np.tile(expected, (12, 1, 1)), atol=1e-5)
    for own in found[0]:
        p = [value for _, value in own]
        assert p == sorted(p, reverse=True) and sum(p) == pytest.approx(1, abs=1e-5)
        assert all(isinstance(value, float) for value in p)
    assert_alike(model.fill(TEXTS), [[mask[:10] for mask in own] for own in found[:6]])


@pytest.mark.parametrize("labels", [{"a": "不好", "b": "很"}, None])
def test_a_causal_model_says_what_follows(tmp_path, labels):
    config = {**small.CONFIG, "is_decoder": True}
    paths = write_small_bert(tmp_path, config, values=small.tensors(config))
    template = Template("{text}我[MASK][MASK]", labels, paths[2], maxlen=48, causal=True)
    model = build_ptuning_model(*paths[:2], template)
    vocab = template.tokenizer.vocab
    found = model.fill(TEXTS, top=len(vocab))
    backbone = build_transformer_model(*paths[:2], with_mlm=True)
    for text, own in zip(TEXTS, as_array(found, vocab), strict=True):
        ids = template.encode([text], candidates=None if labels else [["不", "很"]])["token_ids"]
        end = len(template.tokenizer.token_ids([text])[0]) + 2
        p = to_numpy(backbone([ids[:, :end], np.zeros_like(ids[:, :end])], training=False))
        np.testing.assert_allclose(own, p[0, -1:], atol=1e-5)
    bank = PromptBank(*paths)
    bank.add("task", template)
    assert_alike(
        bank.fill([("task", text) for text in TEXTS]), [[m[:10] for m in own] for own in found]
    )


def test_tokens_that_learn_have_their_names(small_bert, make_template, make_model, tmp_path):
    """In a model, and in a bank, where tasks are mixed."""
    templates = {
        "words": make_template("[MASK]{text}"),
        "warp": make_template("[u1][MASK]{text}", {"a": "[v1]", "b": "[v2]"}),
        "prefix": make_template("{text}[MASK][MASK]", {"a": "不好", "b": "很"}),
        "gap": make_template("{text}[MASK]", None),
    }
    bank, expected = PromptBank(*small_bert), {}
    for name, template in templates.items():
        tune = Prefix(3) if name == "prefix" else None
        model = make_model(template, tune=tune)
        for weights in model.tuned_weights().values():
            for variable in weights.values():
                variable.assign(np.random.normal(0, 0.5, variable.shape))
        if model.methods:
            model.save_tuned(tmp_path / f"{name}.tuned")
        bank.add(name, tmp_path / f"{name}.tuned" if model.methods else template)
        expected |= {(name, text): model.fill([text], top=120)[0] for text in TEXTS}
    requests = [(name, text) for text in TEXTS for name in templates]
    found = bank.fill(requests, top=120, batch_size=5)
    assert_alike(found, [expected[request] for request in requests])
    for request, own in zip(requests, found, strict=True):
        learned = {"[u1]", "[v1]", "[v2]"} if request[0] == "warp" else set()
        assert {token for token, _ in own[0]} >= learned
    assert_alike(bank.fill([("gap", "书", ["好", "不"])]), [[expected["gap", "书"][0][:10]]])


def test_a_vocabulary_without_rows_to_spare(tmp_path):
    """Label words that learn are behind the vocabulary; virtual tokens are never the answer."""
    paths = write_small_bert(tmp_path)
    vocab = small.vocabulary(unused=False)
    with open(paths[2], "w", encoding="utf-8") as file:
        file.write("\n".join(vocab))
    template = Template("[u1][MASK]{text}", {"a": "[v1]", "b": "[v2]"}, paths[2], maxlen=48)
    model = build_ptuning_model(*paths[:2], template)
    model.embedding.label_bias.assign([5, 50])
    assert model.fill(["书"], top=1) == [[[("[v2]", pytest.approx(1, abs=1e-3))]]]
    model.save_tuned(tmp_path / "warp.tuned")
    bank = PromptBank(*paths)
    bank.add("warp", tmp_path / "warp.tuned")
    found = bank.fill([("warp", "书")], top=120)
    assert_alike(found, model.fill(["书"], top=120))
    assert found[0][0][0][0] == "[v2]" and "[u1]" not in dict(found[0][0])


def test_a_model_with_a_classifier(make_model, make_template):
    template = make_template("[MASK]{text}")
    expected = make_model(template).fill(TEXTS)
    model = make_model(template, tune="all", normalization="labels", classifier=True)
    assert_alike(model.fill(TEXTS), expected)


def test_an_ensemble_says_the_mean(small_bert, tmp_path):
    template = Template("[u1][MASK]{text}", {"a": "[v1]", "b": "很"}, small_bert[2], maxlen=48)
    ensemble = build_prompt_ensemble(*small_bert[:2], template, members=2)
    ensemble.save_tuned(tmp_path / "prompts")
    paths = [tmp_path / "prompts" / f"{i}.tuned" for i in (1, 2)]
    members = [load_tuned(path, *small_bert) for path in paths]
    names = [token for token, _ in members[0].fill(["书"], top=120)[0][0]]
    expected = np.mean([as_array(m.fill(TEXTS, top=120), names) for m in members], axis=0)
    found = as_array(ensemble.fill(TEXTS, top=120), names)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_bad_arguments(small_bert, make_model, make_template):
    template = make_template("[MASK]{text}")
    model, bank = make_model(template), PromptBank(*small_bert)
    bank.add("task", template)
    for fill, texts in ((model.fill, ["书"]), (bank.fill, [("task", "书")])):
        for top in (0, 121, 2.5):
            with pytest.raises(ValueError, match=f"`top` .* from 1 to 120. Received: {top}"):
                fill(texts, top=top)
        with pytest.raises(ValueError, match="must not be empty"):
            fill([])
    with pytest.raises(TypeError, match="text 0"):
        model.fill([7])
    with pytest.raises(ValueError, match="no task 'x'"):
        bank.fill([("x", "书")])
