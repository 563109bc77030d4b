"""A bank answers each text as the model of its own task does, whatever else is in the batch."""

import numpy as np
import pytest
import small_bert as small
from small_bert import write_small_bert

from keras_ptuning import (
    LoRA,
    PlainText,
    Prefix,
    Prompt,
    PromptBank,
    Template,
    build_classifier,
    build_ptuning_model,
)
from keras_ptuning.tuning import bank as bank_module

pytestmark = pytest.mark.usefixtures("eagerly")

TEXTS = ["书", "屏幕" * 30, "物流很快，服务态度好。", "房间差", "体育财经", "a b ok"]
TOPICS = {"体": ["体育", "娱乐"], "财": "财经", "科": "技"}
# The pattern, the label words and the method of each task.
TASKS = {
    "prompt": ("[u1][u2][MASK]满意。{text}", {"负": "不", "正": "很"}, None),
    "words": ("[MASK]满意。{text}", {0: "不", 1: ["很", "好"]}, None),
    "topics": ("[u1]{text}[MASK][MASK][u2]", TOPICS, None),
    "prefix": ("{text}[MASK]满意。", {"负": "不", "正": "很"}, Prefix(3)),
    "both": ("[u1][MASK]{text}[u4]", {"负": "差", "正": "好"}, [Prompt(), Prefix(5)]),
    "warp": ("[u3][MASK]{text}", {"负": "[v1]", "正": "[v2]"}, None),
    "more": ("[u1][MASK][MASK]{text}", {"负": "[v1]差", "正": ["[v30]", "好"]}, None),
    "pair": ("{text}？[MASK]，{text_b}", {"负": "不", "正": "很"}, Prefix(2)),
}
CAUSAL_TASKS = {
    "prompt": ("[u1]{text}[u2][MASK]", {"负": "不", "正": "很"}, None),
    "words": ("{text}觉[MASK][MASK][MASK]", {"a": "不好书", "b": ["不好", "满"], "c": "很"}, None),
    "prefix": ("{text}我[MASK]", {"负": "不", "正": "很"}, Prefix(3)),
    "both": ("[u1]{text}[MASK][MASK]", {"负": "不好", "正": "[v1]"}, [Prompt(), Prefix(5)]),
}


def train_a_little(model, seed):
    """Other numbers for what learns."""
    rng = np.random.default_rng(seed)
    for weights in model.tuned_weights().values():
        for variable in weights.values():
            variable.assign(rng.normal(0, 0.5, variable.shape))
    embedding = model.backbone.get_layer("Embedding-Token")
    if getattr(embedding, "label_bias", None) is not None:
        embedding.label_bias.assign(rng.normal(0, 1, embedding.label_bias.shape))


def make_bank(folder, paths, tasks, causal=False, **kwargs):
    """A bank of all tasks, and the model of each."""
    bank = PromptBank(paths[0], paths[1], paths[2], **kwargs)
    models = {}
    for seed, (name, (pattern, labels, tune)) in enumerate(tasks.items()):
        template = Template(pattern, labels, paths[2], maxlen=48, causal=causal)
        model = build_ptuning_model(*paths[:2], template, tune=tune, **kwargs)
        train_a_little(model, seed)
        models[name] = model
        if model.methods:
            model.save_tuned(folder / f"{name}.tuned")
            bank.add(name, folder / f"{name}.tuned")
        else:
            bank.add(name, template)
    return bank, models


def text_of(name, i):
    text = TEXTS[i % len(TEXTS)]
    return (text, TEXTS[i % 2]) if name == "pair" else text


def assert_equal_to_single_models(bank, models, requests, batch_size):
    found = bank.scores(requests, batch_size)
    for name, model in models.items():
        places = [i for i, request in enumerate(requests) if request[0] == name]
        data = model.template.dataset([requests[i][1] for i in places], batch_size=3)
        for i, expected in zip(places, model.predict(data, verbose=0), strict=True):
            np.testing.assert_allclose(found[i], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [32, 5])
def test_mixed_batches_equal_single_models(small_bert, tmp_path, batch_size):
    """32 texts of 8 tasks, raw scores included."""
    bank, models = make_bank(tmp_path, small_bert, TASKS)
    assert bank.tasks == list(TASKS)
    names = [name for _ in range(4) for name in TASKS]
    requests = [(name, text_of(name, i)) for i, name in enumerate(names)]
    assert_equal_to_single_models(bank, models, requests, batch_size)


def test_few_sizes_where_each_is_compiled(small_bert, make_template, monkeypatch):
    bank = PromptBank(*small_bert[:2])
    bank.add("a", make_template("[MASK]满意。{text}"))
    requests = [("a", text) for text in TEXTS[:5]]
    expected, filled = bank.scores(requests), bank.fill(requests, top=2)
    sizes, make_batch = set(), bank_module._Requests.__getitem__

    def counted(self, index):
        batch = make_batch(self, index)
        sizes.add(len(batch[0]["token_ids"]))
        return batch

    monkeypatch.setattr(bank_module, "compiles_each_shape", lambda: True)
    monkeypatch.setattr(bank_module._Requests, "__getitem__", counted)
    for count in range(1, 6):
        found = bank.scores(requests[:count])
        np.testing.assert_allclose(found, expected[:count], atol=1e-5)
    assert sizes == {1, 2, 4, 8}
    for own, others in zip(bank.fill(requests, top=2), filled, strict=True):
        assert [token for token, _ in own[0]] == [token for token, _ in others[0]]


@pytest.mark.graph
def test_of_a_vocabulary_without_unused_tokens(tmp_path):
    """Tokens that learn are behind the vocabulary then."""
    vocab = small.vocabulary(unused=False)
    paths = write_small_bert(tmp_path)
    with open(paths[2], "w", encoding="utf-8") as file:
        file.write("\n".join(vocab))
    tasks = {name: TASKS[name] for name in ("prompt", "warp", "more", "words")}
    bank, models = make_bank(tmp_path, paths, tasks)
    requests = [(name, text) for text in TEXTS for name in tasks]
    assert_equal_to_single_models(bank, models, requests, 32)


@pytest.mark.parametrize(
    "architecture", ["bert", pytest.param("roformer", marks=pytest.mark.graph)]
)
def test_of_a_causal_model(architecture, tmp_path):
    config = {**small.CONFIG, "is_decoder": True}
    values = small.tensors(config)
    if architecture == "roformer":
        del values["bert/embeddings/position_embeddings"]
    paths = write_small_bert(tmp_path, config, values=values)
    bank, models = make_bank(tmp_path, paths, CAUSAL_TASKS, causal=True, model=architecture)
    requests = [(name, text) for text in TEXTS for name in CAUSAL_TASKS]
    assert_equal_to_single_models(bank, models, requests, 16)


@pytest.mark.parametrize("architecture", ["nezha", "roformer"])
def test_of_other_architectures(architecture, tmp_path):
    values = small.tensors()
    del values["bert/embeddings/position_embeddings"]
    paths = write_small_bert(tmp_path, values=values)
    tasks = {name: TASKS[name] for name in ("prompt", "prefix", "both")}
    bank, models = make_bank(tmp_path, paths, tasks, model=architecture)
    requests = [(name, text) for text in TEXTS for name in tasks]
    assert_equal_to_single_models(bank, models, requests, 16)


def test_candidates_of_different_lengths(small_bert, make_template, make_model):
    """The score of a word does not depend on the other words of the batch."""
    template = make_template("{text}[MASK][MASK][MASK]", None)
    bank = PromptBank(*small_bert)
    bank.add("gap", template)
    bank.add("words", make_template("[MASK]{text}"))
    own = [["好", "不"], ["不好", "很", "屏幕"], ["服务态", "书"]]
    requests = [("gap", text, words) for text, words in zip(TEXTS, own, strict=False)]
    found = bank.scores([*requests, ("words", "书")])
    model = make_model(template)
    for (_, text, words), row in zip(requests, found, strict=False):
        data = template.dataset([text], candidates=[words])
        expected = model.predict(data, verbose=0)[0]
        np.testing.assert_allclose(row, expected, atol=1e-5)
    assert [list(p) for p in bank.predict_proba(requests)] == own
    assert all(word in words for word, words in zip(bank.predict(requests), own, strict=True))


def test_prompts_come_and_go(small_bert, tmp_path):
    bank, models = make_bank(tmp_path, small_bert, TASKS)
    request = [("prompt", "书"), ("prefix", "书")]
    before = bank.scores(request)
    bank.remove("topics")
    bank.replace("prefix", models["words"].template)
    bank.add("again", tmp_path / "topics.tuned")
    after = bank.scores(request)
    np.testing.assert_allclose(after[0], before[0], atol=1e-5)
    assert not np.allclose(after[1], before[1])
    assert bank.tasks == [*(name for name in TASKS if name != "topics"), "again"]
    p = bank.predict_proba([("again", "体育")])[0]
    assert list(p) == ["体", "财", "科"]
    assert sum(p.values()) == pytest.approx(1)
    assert bank.predict([("again", "体育")]) == [max(p, key=p.get)]


def test_what_a_bank_refuses(small_bert, make_template, make_model, tmp_path):
    bank, _ = make_bank(tmp_path, small_bert, {"prompt": TASKS["prompt"]})

    def refused(message, prompt, name="new", error=ValueError):
        with pytest.raises(error, match=message):
            bank.add(name, prompt)
        assert bank.tasks == ["prompt"]

    refused(r"a task 'prompt' already. Remove it", tmp_path / "prompt.tuned", "prompt")
    refused(r"There is no tuned file", tmp_path / "none.tuned", error=FileNotFoundError)
    refused(r"the path of a tuned file, or a `Template`. Received: 7", 7, error=TypeError)
    refused(r"tokens that learn, \['\[u1\]'", make_template("[u1][MASK]{text}"))
    for tune, message in ((LoRA(), r"LoRA\(.*changes the model itself"), ("all", "All")):
        make_model(make_template("[MASK]{text}"), tune=tune).save_tuned(tmp_path / "other.tuned")
        refused(message, tmp_path / "other.tuned")
    plain = PlainText(["a", "b"], small_bert[2], maxlen=48)
    build_classifier(*small_bert[:2], plain, tune=Prefix(2)).save_tuned(tmp_path / "cls.tuned")
    refused("dense classifier", tmp_path / "cls.tuned")
    model = make_model(tune=Prefix(2), normalization="labels", classifier=True)
    model.save_tuned(tmp_path / "both.tuned")
    refused("dense classifier", tmp_path / "both.tuned")
    refused("no cloze", plain)
    refused("has 64 positions", make_template("[MASK]{text}", maxlen=65))
    causal = Template("{text}[MASK]", {"a": "不", "b": "很"}, small_bert[2], 48, causal=True)
    refused("needs a causal language model, and the bank has a masked one", causal)
    written = Template("{text}[DECODER][MASK]", {"a": "不", "b": "很"}, small_bert[2], 48)
    refused(r"has a \[DECODER\], and the bank's model has none", written)
    other = tmp_path / "other"
    other.mkdir()
    paths = write_small_bert(other, values=small.tensors(seed=1))
    make_bank(other, paths, {"prompt": TASKS["prompt"]})
    refused("belongs to another checkpoint", other / "prompt.tuned")
    (tmp_path / "broken.tuned").write_bytes((tmp_path / "prompt.tuned").read_bytes()[:-9])
    refused("is damaged", tmp_path / "broken.tuned")
    with pytest.raises(ValueError, match=r"no task 'x'. The bank has: \['prompt'\]"):
        bank.remove("x")
    with pytest.raises(ValueError, match=r"sets \['with_mlm'\] itself"):
        PromptBank(*small_bert, with_mlm=True)


@pytest.mark.parametrize(
    ("requests", "error", "message"),
    [
        ([("prompt", "书"), ("x", "书")], ValueError, r"no task 'x'"),
        ([("prompt", ("书", "书"))], TypeError, r"task 'prompt'.*text 0"),
        ([("pair", "书")], TypeError, r"task 'pair': .*must be pairs"),
        (["书"], TypeError, r"request 0 is '书'"),
        ([], ValueError, "`requests` must not be empty"),
        ([("prompt", "书", ["很", "不"])], ValueError, r"has its own labels"),
    ],
)
def test_bad_requests(small_bert, make_template, requests, error, message):
    bank = PromptBank(*small_bert)
    bank.add("prompt", make_template("[MASK]{text}"))
    bank.add("pair", make_template("{text}[MASK]{text_b}"))
    with pytest.raises(error, match=message):
        bank.predict(requests)
