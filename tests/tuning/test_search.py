import itertools
import shutil

import numpy as np
import pytest
from keras import ops
from small_bert import CONFIG, SPECIAL, write_small_bert

from keras_ptuning import (
    Template,
    Tokenizer,
    WeighedTemplates,
    build_ptuning_model,
    search_template,
    weigh_templates,
)
from keras_ptuning.checkpoints import find_checkpoint
from keras_ptuning.models import find_model
from keras_ptuning.tuning.search import (
    _best_weights,
    _open_template,
    _split,
    _TriggerModel,
    _Triggers,
)

pytestmark = pytest.mark.usefixtures("eagerly")

WORDS = {"负面": "不", "正面": ["很", "好"]}


@pytest.fixture
def folder(small_bert):
    return small_bert[2].rsplit("/", 1)[0]


def open_triggers(folder, pattern, words=WORDS, tokenizer=None, causal=False):
    tokenizer = tokenizer or Tokenizer(folder)
    template = _open_template(pattern, words, tokenizer, 64, causal)
    config, checkpoint = find_model(folder)
    return _Triggers(_TriggerModel(config, template, checkpoint=checkpoint, name="search"))


def test_scores_are_those_of_the_written_template(folder, make_model, make_template, reviews):
    triggers = open_triggers(folder, "[T]ok[T][MASK]。[SEP]{text}[T]")
    tokens = [triggers.template.tokenizer.token_to_id(t) for t in ("good", "书", "，")]
    pattern = triggers.spell(tokens)
    assert pattern == "good ok 书 [MASK]。[SEP]{text} ，"
    template = make_template(pattern, WORDS)
    expected = make_model(template).predict(template.dataset(reviews[0]), verbose=0)
    expected = ops.convert_to_numpy(ops.log_softmax(expected))
    x, y = triggers.encode(*reviews)
    found = triggers.scores(tokens, x, batch_size=7)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    loss = -expected[np.arange(24), y].mean()
    assert triggers.loss(tokens, x, y, 32) == pytest.approx(loss, abs=1e-5)
    vectors = ops.convert_to_tensor(triggers.table[tokens])
    assert float(triggers.loss_of_vectors(vectors, x, y)) == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("place", [0, 1])
def test_first_order_scores_are_finite_differences(folder, reviews, place):
    triggers = open_triggers(folder, "[T][MASK][T]{text}")
    x, y = triggers.encode(*reviews)
    tokens = [triggers.template.tokenizer.token_to_id(t) for t in "书，"]
    found = triggers.gains(tokens, place, x, y)
    vectors = triggers.table[tokens]
    size = 1e-2
    for k in range(0, len(triggers.ids), 9):
        step = np.zeros_like(vectors)
        step[place] = size * (triggers.table[triggers.ids[k]] - vectors[place])
        low, high = (
            float(triggers.loss_of_vectors(ops.convert_to_tensor(v), x, y))
            for v in (vectors - step, vectors + step)
        )
        assert found[k] == pytest.approx((low - high) / (2 * size), abs=1e-4, rel=2e-2)
    own = triggers.ids.tolist().index(tokens[place])
    assert found[own] == 0


@pytest.mark.graph
def test_the_held_out_loss_never_rises(folder, make_model, reviews):
    texts, labels = reviews
    held_out = ([text + "快" for text in texts[:10]], labels[:10])
    template = search_template(
        folder, "[T][MASK][T]{text}", WORDS, texts, labels, held_out, steps=12, candidates=5,
        batch_size=8, maxlen=64, verbose=0,
    )  # fmt: skip
    losses = [entry["loss"] for entry in template.history]
    assert len(losses) == 13 and (np.diff(losses) <= 0).all() and losses[-1] < losses[0]
    assert isinstance(template, Template) and not template.tuned_names
    assert template.num_masks == 1 and "[T]" not in template.pattern
    assert template.history[-1]["pattern"] == template.pattern
    # Anybody who takes the template as it is gets the same.
    own = Template(template.pattern, WORDS, folder, maxlen=64)
    x, y = own.encode(*held_out)
    scores = make_model(own).predict(x, verbose=0)
    scores = ops.convert_to_numpy(ops.log_softmax(scores))
    assert -scores[np.arange(10), y].mean() == pytest.approx(losses[-1], abs=1e-5)
    accuracy = (scores.argmax(axis=1) == y).mean()
    assert template.history[-1]["accuracy"] == pytest.approx(accuracy)


@pytest.mark.graph
def test_it_repeats(folder, reviews):
    first, second = (
        search_template(
            folder,
            "[T][MASK]{text}",
            WORDS,
            *reviews,
            steps=3,
            candidates=3,
            batch_size=5,
            maxlen=64,
            verbose=0,
        )
        for _ in range(2)
    )
    assert first.pattern == second.pattern and first.history == second.history


def test_half_of_each_label_is_held_out():
    texts, labels = list("abcdefgh"), [1, 2, 2, 2, 2, 1, 2, 1]
    (held_out, held_out_labels), (train, train_labels) = _split(
        texts, labels, np.random.default_rng(0)
    )
    assert sorted(held_out + train) == texts
    pairs = dict(zip(texts, labels, strict=True))
    assert [pairs[t] for t in held_out + train] == held_out_labels + train_labels
    assert sorted(held_out_labels) == [1, 2, 2] and sorted(train_labels) == [1, 1, 2, 2, 2]


TEN = "书贵屏幕快慢物流房间"


@pytest.mark.graph
@pytest.mark.parametrize(
    ("pattern", "seed"),
    [
        ("[T][MASK]{text}", 0),
        ("[T]{text}[MASK]", 1),
        ("[T][MASK][T]{text}", 0),
        ("[T][T][MASK]{text}", 2),
    ],
)
def test_ten_words_by_brute_force(tmp_path, reviews, pattern, seed):
    vocab = [*SPECIAL, *TEN, "不", "很"]
    config = {**CONFIG, "vocab_size": len(vocab)}
    write_small_bert(tmp_path, config, seed, vocab)
    words = {"负面": "不", "正面": "很"}
    template = search_template(
        tmp_path, pattern, words, *reviews, reviews, candidates=10, maxlen=64, verbose=0
    )
    triggers = open_triggers(tmp_path, pattern, words)
    assert {triggers.template.tokenizer.id_to_token(i) for i in triggers.ids} == set(TEN)
    x, y = triggers.encode(*reviews)
    losses = {
        triggers.spell(tokens): triggers.loss(tokens, x, y, 32)
        for tokens in itertools.product(triggers.ids.tolist(), repeat=triggers.count)
    }
    assert len(losses) == 10**triggers.count
    best = min(losses, key=losses.get)
    assert template.pattern == best
    assert template.history[-1]["loss"] == pytest.approx(losses[best], abs=1e-5)


def test_words_are_read_as_the_same_tokens(folder):
    triggers = open_triggers(folder, "满ok[T][T]很[MASK][T]{text}")
    tokenizer = triggers.template.tokenizer

    def spell(words):
        return triggers.spell([tokenizer.token_to_id(word) for word in words])

    assert spell(["书", "贵", "快"]) == "满ok书贵很[MASK]快{text}"
    # Written together these would be one word, which the vocabulary lacks.
    assert spell(["good", "a", "b"]) == "满ok good a 很[MASK] b {text}"
    # A place that is open stays so.
    assert spell(["书", "[MASK]", "快"]) == "满ok书[u2]很[MASK]快{text}"
    usable = {tokenizer.id_to_token(i) for i in triggers.ids}
    assert {"书", "，", "good", "1"} <= usable
    # Pieces, special tokens and label words.
    assert not usable & {"##ay", "##2", "[unused1]", "[MASK]", "[SEP]", "不", "很", "好"}


def merged(text):
    """Words as a tokenizer of words finds them."""
    return text.replace("书贵", "|书贵|").replace(" ", "|").split("|")


def test_words_that_would_be_one(folder):
    vocab = [*Tokenizer(folder).vocab[:-1], "书贵"]
    tokenizer = Tokenizer(vocab, pre_tokenize=merged)
    triggers = open_triggers(folder, "[T][T][MASK]{text}", tokenizer=tokenizer)
    tokens = [tokenizer.token_to_id(word) for word in "书贵"]
    assert triggers.spell(tokens) == "书 贵 [MASK]{text}"
    template = Template(triggers.spell(tokens), WORDS, tokenizer, 64)
    assert template.encode([""])["token_ids"][0, 1:3].tolist() == tokens


def test_pairs_and_causal_models(folder, reviews):
    texts, labels = reviews
    pairs = list(zip(texts, reversed(texts), strict=True))
    template = search_template(
        folder, "{text}[T][MASK][SEP]{text_b}", WORDS, pairs, labels, steps=1, candidates=2,
        maxlen=64, verbose=0,
    )  # fmt: skip
    assert template.slots == ["text", "text_b"] and template.num_masks == 1
    words = {"负面": "不好", "正面": ["不错", "好"]}
    template = search_template(
        "gpt-mini-zh", "[T]{text}[T][MASK][MASK]", words, texts, labels, steps=1, candidates=2,
        maxlen=48, verbose=0,
    )  # fmt: skip
    assert template.causal and not template.tuned_names
    model = build_ptuning_model("gpt-mini-zh", template=template)
    assert model.predict(template.dataset(texts), verbose=0).shape == (24, 2)


def test_a_word_for_the_decoder(reviews):
    """Its loss is that of the template as anybody builds it, and its place has a slope."""
    words = {"负面": "不", "正面": "很"}
    pattern = "[T]{text}[DECODER][T][MASK]"
    template = search_template(
        "t5-mini-zh", pattern, words, *reviews, reviews, steps=1, candidates=2, maxlen=48, verbose=0
    )
    x, y = template.encode(*reviews)
    scores = build_ptuning_model("t5-mini-zh", template=template).predict(x, verbose=0)
    loss = -ops.convert_to_numpy(ops.log_softmax(scores))[np.arange(24), y].mean()
    assert template.history[-1]["loss"] == pytest.approx(loss, abs=1e-5)
    triggers = open_triggers("t5-mini-zh", pattern, words, causal=True)
    x, y = triggers.encode(*reviews)
    for place in (0, 1):
        assert np.abs(triggers.gains([9, 9], place, x, y)).max() > 1e-4


def test_a_vocabulary_without_a_mask(tmp_path, reviews):
    """The open places start as the mean of all words, and not as the last of them."""
    path = shutil.copytree(find_checkpoint("gpt-mini-zh")[0].rsplit("/", 1)[0], tmp_path / "gpt")
    vocab = (path / "vocab.txt").read_text("utf-8")
    (path / "vocab.txt").write_text(vocab.replace("[MASK]\n", "[other]\n"), "utf-8")
    triggers = open_triggers(str(path), "[T]{text}[MASK]", causal=True)
    template = triggers.template
    assert template.mask_id == -1
    mean = triggers.table[template.ordinary_ids].mean(axis=0)
    found = triggers.vectors([-1, 7])
    np.testing.assert_allclose(found, [mean, triggers.table[7]], atol=1e-6)
    gains = triggers.gains([-1], 0, *triggers.encode(*reviews))
    assert np.isfinite(gains).all() and np.abs(gains).max() > 1e-4


def test_bad_searches(folder, reviews, monkeypatch):
    texts, labels = reviews

    def search(pattern="[T][MASK]{text}", words=WORDS, texts=texts, labels=labels, **kwargs):
        return search_template(
            folder, pattern, words, texts, labels, steps=1, verbose=0, maxlen=64, **kwargs
        )

    for name in ("tune", "classifier", "normalization", "auxiliary", "template", "data_parallel"):
        with pytest.raises(ValueError, match=rf"leave out \['{name}'\]. Received: .*'any'"):
            search(**{name: "any"})
    with pytest.raises(ValueError, match=r"needs \[T\] at each place.*'\[MASK\]\{text\}'"):
        search("[MASK]{text}")
    with pytest.raises(ValueError, match="no virtual tokens"):
        search("[u1][T][MASK]{text}")
    with pytest.raises(TypeError, match="pattern"):
        search(None)
    with pytest.raises(ValueError, match=r"at least one \[MASK\]"):
        search("[T]{text}")
    with pytest.raises(ValueError, match="needs `words`"):
        search(words=None)
    with pytest.raises(ValueError, match=r"鱼.*is not in the vocabulary"):
        search(words={"负面": "鱼", "正面": "很"})
    with pytest.raises(ValueError, match="must be words of the vocabulary"):
        search(words={"负面": "[v1]", "正面": "很"})
    with pytest.raises(ValueError, match="at least two labels and their words"):
        search(words={"正面": "很"})
    with pytest.raises(ValueError, match="at least two labels"):
        search(labels=["正面"] * 24)
    with pytest.raises(ValueError, match="24 texts and 3 labels"):
        search(labels=labels[:3])
    with pytest.raises(ValueError, match="'负面' has one text"):
        search(texts=texts[:2], labels=labels[:2])
    with pytest.raises(ValueError, match="Label 0 is '中'"):
        search(labels=["中", *labels[1:23], "中"])
    with pytest.raises(ValueError, match="`candidates` must be an integer"):
        search(candidates=0)
    for held_out in (texts, texts[:2], (texts, labels, labels), 3):
        with pytest.raises(TypeError, match="must be"):
            search(validation_data=held_out)
    with pytest.raises(ValueError, match="Labels must be strings or integers"):
        search(validation_data=(texts, np.eye(2)[[0, 1] * 12]))
    with pytest.raises(ValueError, match=r"`validation_data\[0\]` must not be empty"):
        search(validation_data=([], []))
    with pytest.raises(ValueError, match="one label for each text"):
        search(validation_data=(texts, labels[:3]))
    # A tokenizer that leaves no word as it is.
    monkeypatch.setattr(_Triggers, "spell", lambda self, tokens: None)
    with pytest.raises(ValueError, match=r"can take the place 1 of \[T\].*other tokens"):
        search()


@pytest.fixture
def templates(make_template):
    patterns = ["[MASK]满意。{text}", "很[MASK]。{text}", "{text}服务[MASK]"]
    labels = [WORDS, dict(reversed(WORDS.items())), {"负面": "差", "正面": "想"}]
    return [make_template(p, words) for p, words in zip(patterns, labels, strict=True)]


def predicted(make_model, template, texts):
    """The log-probabilities among the labels, in the order of `WORDS`."""
    scores = make_model(template).predict(template.dataset(texts), verbose=0)
    scores = ops.convert_to_numpy(ops.log_softmax(scores))
    return scores[:, [template.label_names.index(label) for label in WORDS]]


def test_one_weight_of_one_is_that_template(make_model, templates, reviews):
    model = make_model(templates[0])
    for k, template in enumerate(templates):
        found = WeighedTemplates(model, templates, np.eye(3)[k]).predict(reviews[0], batch_size=7)
        expected = predicted(make_model, template, reviews[0])
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_weights_are_learned(make_model, templates, reviews):
    found = weigh_templates(make_model(templates[0]), templates, *reviews, verbose=0)
    assert (found.weights >= 0).all() and found.weights.sum() == pytest.approx(1)
    y = templates[0].label_ids(reviews[1])
    single = np.stack([predicted(make_model, t, reviews[0]) for t in templates])
    likelihoods = single[:, np.arange(24), y].mean(axis=1)
    scores = found.predict(reviews[0])
    mixture = np.einsum("k,knl->nl", found.weights, np.exp(single))
    np.testing.assert_allclose(np.exp(scores), mixture, atol=1e-5)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1)
    assert scores[np.arange(24), y].mean() > likelihoods.max() - 1e-5
    names = templates[0].label_names
    assert found.decode(scores) == [names[i] for i in scores.argmax(axis=1)]
    lines = str(found).split("\n")
    assert len(lines) == 4 and lines[1].endswith("[MASK]满意。{text}")


def test_the_best_weights_there_are():
    """Against all weights of a grid."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        log_p = np.log(rng.uniform(0.05, 0.95, size=(3, 20)))
        weights = _best_weights(log_p)
        grid = [
            (a, b, 1 - a - b)
            for a in np.linspace(0, 1, 51)
            for b in np.linspace(0, 1, 51)
            if a + b <= 1
        ]
        likelihoods = np.log(np.maximum(grid @ np.exp(log_p), 1e-9)).mean(axis=1)
        found = np.log(weights @ np.exp(log_p)).mean()
        assert found > likelihoods.max() - 1e-6
        assert found >= log_p.mean(axis=1).max() - 1e-6
    # One template that is always better gets all of the weight.
    np.testing.assert_allclose(_best_weights(np.log([[0.6] * 9, [0.3] * 9])), [1, 0], atol=1e-5)


def test_a_checkpoint_and_a_causal_model(reviews):
    words = {"负面": "不好", "正面": ["不错", "好"]}
    templates = [
        Template(pattern, words, "gpt-mini-zh", maxlen=48, causal=True)
        for pattern in ("{text}[MASK][MASK]", "{text}总之[MASK][MASK]")
    ]
    found = weigh_templates("gpt-mini-zh", templates, *reviews, verbose=0)
    one = WeighedTemplates(found.model, templates, [0, 1]).predict(reviews[0])
    model = build_ptuning_model("gpt-mini-zh", template=templates[1])
    expected = model.predict(templates[1].dataset(reviews[0]), verbose=0)
    np.testing.assert_allclose(one, ops.convert_to_numpy(ops.log_softmax(expected)), atol=1e-4)


def test_bad_templates(make_model, make_template, templates, reviews, tokenizer):
    model = make_model(templates[0])

    def weigh(templates=templates, texts=reviews[0], labels=reviews[1]):
        return weigh_templates(model, templates, texts, labels, verbose=0)

    with pytest.raises(ValueError, match="at least two templates"):
        weigh(templates[:1])
    with pytest.raises(TypeError, match="list of `Template`"):
        weigh([templates[0], "[MASK]{text}"])
    with pytest.raises(ValueError, match="the same labels"):
        weigh([templates[0], make_template("[MASK]{text}", {"负面": "不", "中": "很"})])
    with pytest.raises(ValueError, match="no tokens that learn"):
        weigh([templates[0], make_template("[u1][MASK]{text}", WORDS)])
    with pytest.raises(ValueError, match="the same slots"):
        weigh([templates[0], make_template("[MASK]{text}{text_b}", WORDS)])
    with pytest.raises(ValueError, match="24 texts and 2 labels"):
        weigh(labels=["正面", "负面"])
    with pytest.raises(ValueError, match="at least two labels"):
        weigh(labels=["正面"] * 24)
    moved = Tokenizer([*tokenizer.vocab[:60], *reversed(tokenizer.vocab[60:])])
    for changes, message in (
        ({"tokenizer": moved}, "another vocabulary than the model"),
        ({"maxlen": 65}, r"up to 65 tokens, and the model has 64 positions.*`maxlen=64`"),
        ({"causal": True, "pattern": "{text}[MASK]"}, "A causal template needs a causal"),
    ):
        others = [Template(**t.get_params() | changes) for t in templates[:2]]
        with pytest.raises(ValueError, match=message):
            weigh(others)
    for weights in ([0.5, 0.5], [0.5, 0.6, 0.2], [1.5, -0.5, 0]):
        with pytest.raises(ValueError, match="3 numbers from 0 on that add up to 1"):
            WeighedTemplates(model, templates, weights)
