"""What a T5 writes: step by step the same as in one pass, and the best that there is."""

import itertools

import numpy as np
import pytest
import small_t5
from keras import ops

from keras_ptuning import Prefix, Template, build_ptuning_model
from keras_ptuning.tuning.generating import search_beams

TEXTS = ["书", "屏幕" * 10, "这趟北京之旅"]


@pytest.fixture(scope="module", params=["mt5", "pegasus"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("t5")
    if request.param == "mt5":
        small_t5.write_hugging_face(path, "mt5", vocab=True)
    else:
        small_t5.write_bert4keras(path, "mt5.1.1", vocab=True)
    return str(path)


def make(folder, pattern="{text}[DECODER]感觉[MASK]", tune=None):
    template = Template(pattern, None, folder, maxlen=40)
    return build_ptuning_model(folder, template=template, tune=tune)


def log_probs(model, x, written):
    """Of the next token, by a pass over all that is written."""
    plain = model.backbone
    inputs = {
        "Input-Token": x["token_ids"],
        "Decoder-Input-Token": written,
        "Input-Reach": np.full_like(written, 99),
        "Input-Gather": np.full((len(written), 1), written.shape[1] - 1),
    }
    logits = ops.convert_to_numpy(plain([inputs[i.name] for i in plain.inputs]))[:, 0]
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("tune", [None, Prefix(3)])
def test_cached_equals_the_full_pass(folder, tune):
    model = make(folder, tune=tune)
    x = model.template.encode(TEXTS, candidates=[["很", "不"]] * 3)
    transformer = model.backbone.transformer
    prefixes, _ = transformer.prefixes({"Input-Token": x["token_ids"]})
    memory, cache = transformer.encode(x["token_ids"], prefixes), {}
    written = np.concatenate([x["decoder_token_ids"], [[40, 30], [50, 31], [60, 32]]], axis=1)
    begun = 0
    for end in (3, 4, 5):
        found = transformer.next_logits(written[:, begun:end], begun, memory, cache)
        found = ops.convert_to_numpy(found)
        begun = end
        expected = log_probs(model, x, written[:, :end])
        found = found - np.log(np.exp(found).sum(axis=-1, keepdims=True))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_greedy(folder):
    """Each time the likeliest token, by a pass over all that is written."""
    model = make(folder)
    tokenizer, expected = model.template.tokenizer, []
    for text in TEXTS:
        x = model.template.encode([text], candidates=[["很", "不"]])
        written = x["decoder_token_ids"]
        while written.shape[1] < 3 + 5 and written[0, -1] != tokenizer.end_id:
            token = log_probs(model, x, written).argmax(axis=-1)
            written = np.concatenate([written, token[:, None]], axis=1)
        expected.append(tokenizer.decode(written[0, 3:]))
    kept = len(model.backbone.transformer.attended)
    assert model.generate(TEXTS, max_tokens=5, batch_size=2) == expected
    # Nothing stays of the texts.
    assert len(model.backbone.transformer.attended) == kept


def test_a_wide_beam_finds_the_best():
    """Among all texts of up to three tokens, of three that there are."""
    rng = np.random.default_rng(0)
    tables = {
        (text, *begun): np.log(rng.dirichlet(np.ones(3)))
        for text in range(2)
        for n in range(3)
        for begun in itertools.product(range(3), repeat=n)
    }
    state = {}

    def next_log_probs(last_ids, rows):
        if last_ids is None:
            state["written"] = [(0,), (1,)]
        else:
            pairs = zip(rows, last_ids, strict=True)
            state["written"] = [(*state["written"][r], int(token)) for r, token in pairs]
        return np.array([tables[begun] for begun in state["written"]])

    def mean(text, ids):
        return np.mean([tables[(text, *ids[:i])][token] for i, token in enumerate(ids)])

    expected = []
    for text in range(2):
        whole = [ids for n in range(1, 4) for ids in itertools.product(range(3), repeat=n)]
        whole = [i for i in whole if 2 not in i[:-1] and (i[-1] == 2 or len(i) == 3)]
        best = max(whole, key=lambda ids: mean(text, ids))
        expected.append([i for i in best if i != 2])
    assert search_beams(next_log_probs, 2, end_id=2, beams=27, max_tokens=3) == expected


def test_beams_of_a_model(folder):
    """The same as a search by passes over all that is written: the caches follow the beams."""
    model = make(folder)
    template, expected = model.template, []
    for text in TEXTS:
        x = template.encode([text], candidates=[["很", "不"]])
        state = {"written": x["decoder_token_ids"]}

        def next_log_probs(last_ids, rows, x=x, state=state):
            if last_ids is not None:
                pair = [state["written"][rows], last_ids[:, None]]
                state["written"] = np.concatenate(pair, axis=1)
            read = np.repeat(x["token_ids"], len(state["written"]), axis=0)
            return log_probs(model, {"token_ids": read}, state["written"])

        (ids,) = search_beams(next_log_probs, 1, template.tokenizer.end_id, 3, 4)
        expected.append(template.tokenizer.decode(ids))
    assert model.generate(TEXTS, max_tokens=4, beams=3, batch_size=2) == expected


def test_damaged_weights(folder):
    model = make(folder)
    table = model.backbone.get_layer("Embedding-Token").weights[0]
    table.assign(np.full(table.shape, np.nan))
    for beams in (1, 3):
        with pytest.raises(ValueError, match="not finite"):
            model.generate(TEXTS, max_tokens=2, beams=beams)


def test_bad_input(folder):
    template = Template("[MASK]{text}", {"a": "很", "b": "不"}, "bert-mini-zh")
    model = build_ptuning_model("bert-mini-zh", template=template)
    with pytest.raises(ValueError, match="Only a model that reads a text and writes another"):
        model.generate(TEXTS)
    model = make(folder, "{text}[DECODER]{text_b}[MASK]")
    with pytest.raises(ValueError, match="Answers begin alike"):
        model.generate([("书", "书"), ("书", "很好")])
    with pytest.raises(ValueError, match="beams"):
        make(folder).generate(TEXTS, beams=0)
    with pytest.raises(TypeError, match="texts"):
        make(folder).generate("书")
