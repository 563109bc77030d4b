"""`PetClassifier`: an ensemble of templates, and the classifier that learns from it."""

import pickle
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import small_bert as small
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from keras_ptuning import PlainText, PromptClassifier, Template, Tokenizer, build_ptuning_model
from keras_ptuning.checkpoints import find_checkpoint
from keras_ptuning.estimators import pet_classifier as pet
from keras_ptuning.estimators.pet_classifier import PetClassifier
from keras_ptuning.tuning.base import LabelModel
from keras_ptuning.tuning.cloze import ClozeModel

WORDS = {"负面": "不", "正面": "很"}
PATTERNS = ["[MASK]满意。{text}", "{text}我[MASK]喜欢", "[u1][MASK]{text}", "{text}，[MASK]好"]
NAMES = list(WORDS)
TEXTS = [("书贵" if i % 3 else "屏幕") * (1 + i % 7) for i in range(24)]
LABELS = ["正面" if i % 3 else "负面" for i in range(24)]
# All different, and about a book or a screen like the labelled ones.
UNLABELED = [
    ("书贵" if i % 2 else "屏幕") * (1 + i % 3) + a + b
    for i in range(4)
    for a in "的了是在有这趟"
    for b in "体育财经科技旅"
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a small random BERT that has no dropout, so that it learns soon."""
    folder = tmp_path_factory.mktemp("checkpoint")
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    small.write_small_bert(folder, {**small.CONFIG, **rates})
    return str(folder)


@pytest.fixture(scope="module")
def templates(tokenizer):
    # Words may differ from template to template.
    words = [WORDS, {"负面": "差", "正面": "很"}, WORDS, WORDS]
    return [Template(p, w, tokenizer, maxlen=32) for p, w in zip(PATTERNS, words, strict=True)]


@pytest.fixture(scope="module")
def make(checkpoint, templates):
    def make(**kwargs):
        options = {"learning_rate": 5e-3, "epochs": 10, "distill_epochs": 8, "batch_size": 8}
        options |= {"templates": templates[:2], "checkpoint": checkpoint, "verbose": 0, **kwargs}
        return PetClassifier(**options)

    return make


@pytest.fixture(scope="module")
def fitted(make):
    keras.utils.set_random_seed(1)
    return make(weighting="zero-shot").fit(TEXTS, LABELS, UNLABELED[::2])


@pytest.fixture
def trainings(monkeypatch):
    """Records what each model is trained on, from which weights, and with what; trains none.

    A template's scores of a text are random numbers, others in each generation.
    """
    calls, make_dataset = [], Template.dataset

    def dataset(self, texts=None, labels=None, *args, **kwargs):
        data = make_dataset(self, texts, labels, *args, **kwargs)
        data.given = texts, labels
        return data

    def fit(self, x, epochs, verbose):
        weights = self.get_weights()
        rate = float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))
        seeds = [str(keras.ops.convert_to_numpy(v)) for v in self.variables if "seed" in v.path]
        calls.append(
            SimpleNamespace(
                model=self, data=x, epochs=epochs, weights=weights, rate=rate, seeds=seeds
            )
        )
        # So that continuing from here would show.
        self.set_weights([w + 1 for w in weights])
        return SimpleNamespace(history={"loss": [0.0]})

    def predict(self, data, verbose):
        assert not data.has_unlabeled and data.label_ids is None
        trained = sum(call.model.template.pattern == self.template.pattern for call in calls)
        scores = [
            np.random.default_rng([trained, *e.token_ids]).normal(size=2) for e in data.examples
        ]
        return np.array(scores, "float32")

    monkeypatch.setattr(Template, "dataset", dataset)
    monkeypatch.setattr(LabelModel, "fit", fit)
    monkeypatch.setattr(ClozeModel, "predict", predict)
    return calls


def raw_scores(template, texts, trained):
    """The scores that `trainings` makes up, after as many trainings with that template."""
    return np.array(
        [
            np.random.default_rng([trained, *e.token_ids]).normal(size=2).astype("float32")
            for e in template._examples(texts)
        ]
    )


def softmax(scores):
    return np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)


def test_it_learns_and_agrees_with_its_ensemble(fitted):
    assert fitted.score(TEXTS, LABELS) > 0.9
    assert isinstance(fitted.model_.template, PlainText)
    # Sorted, as scikit-learn has it; the templates have them in another order.
    assert fitted.classes_.tolist() == ["正面", "负面"]
    ours, theirs = fitted.predict_proba(UNLABELED), fitted.ensemble_proba(UNLABELED)
    for p in (ours, theirs):
        assert p.shape == (len(UNLABELED), 2)
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() > 0.9
    right = ["正面" if text[0] == "书" else "负面" for text in UNLABELED]
    assert (fitted.classes_[theirs.argmax(axis=1)] == right).mean() > 0.9
    assert fitted.predict(UNLABELED).tolist() == fitted.classes_[ours.argmax(axis=1)].tolist()
    assert len(fitted.history_["loss"]) == 8
    # One copy of each model is all that is kept: no optimizer with moments.
    for model in fitted.models_:
        assert sum(np.prod(v.shape) for v in model.optimizer.variables) < 5


def test_ensemble_by_hand(fitted, checkpoint):
    """The weights are the accuracies before training, those of the checkpoint."""
    answers = [NAMES.index(label) for label in LABELS]
    accuracies, scores = [], []
    for model in fitted.models_:
        template = model.template
        untrained = build_ptuning_model(*find_checkpoint(checkpoint)[:2], template)
        guesses = untrained.predict(template.dataset(TEXTS), verbose=0).argmax(axis=1)
        accuracies.append((guesses == answers).mean())
        scores.append(model.predict(template.dataset(UNLABELED), verbose=0))
    assert accuracies[0] != accuracies[1]
    np.testing.assert_allclose(fitted.weights_, accuracies)
    a, b = accuracies
    expected = softmax((a * scores[0] + b * scores[1]) / (a + b))[:, ::-1]
    np.testing.assert_allclose(fitted.ensemble_proba(UNLABELED), expected, atol=1e-5)
    assert np.abs(softmax((scores[0] + scores[1]) / 2)[:, ::-1] - expected).max() > 1e-3


@pytest.mark.parametrize("weighting", ["uniform", "zero-shot"])
def test_what_the_classifier_learns_from(make, templates, trainings, weighting):
    classifier = make(weighting=weighting, temperature=4.0).fit(TEXTS, LABELS, UNLABELED)
    answers = [NAMES.index(label) for label in LABELS]
    weights = [1, 1]
    if weighting == "zero-shot":
        weights = [
            (raw_scores(t, TEXTS, 0).argmax(axis=1) == answers).mean() for t in templates[:2]
        ]
        assert weights[0] != weights[1]
    np.testing.assert_allclose(classifier.weights_, weights)
    first, second = (raw_scores(t, UNLABELED, 1) for t in templates[:2])
    scores = (weights[0] * first + weights[1] * second) / sum(weights)
    *clozes, last = trainings
    assert len(clozes) == 2 and last.model is classifier.model_
    assert last.data.given[0] == UNLABELED
    np.testing.assert_allclose(last.data.label_ids, softmax(scores / 4), rtol=1e-4)
    assert last.epochs == 8 and last.data.batch_size == 8 and last.data.mask_rate == 0
    expected = softmax(scores)[:, ::-1]
    np.testing.assert_allclose(classifier.ensemble_proba(UNLABELED), expected, rtol=1e-4)


def test_a_template_that_was_never_right(make, templates, trainings):
    wrong = [NAMES[1 - i] for i in raw_scores(templates[0], TEXTS, 0).argmax(axis=1)]
    classifier = make(templates=templates[:1], weighting="zero-shot").fit(TEXTS, wrong, UNLABELED)
    assert classifier.weights_.tolist() == [0]
    expected = softmax(raw_scores(templates[0], UNLABELED, 1))[:, ::-1]
    np.testing.assert_allclose(classifier.ensemble_proba(UNLABELED), expected, rtol=1e-4)


@pytest.mark.parametrize("auxiliary", [True, False])
def test_how_the_templates_are_trained(make, templates, trainings, auxiliary):
    make(templates=templates[:3], auxiliary=auxiliary).fit(TEXTS, LABELS, UNLABELED)
    *clozes, last = trainings
    patterns = [call.model.template.pattern for call in clozes]
    assert patterns == [template.pattern for template in templates[:3]]
    for call in clozes:
        assert call.data.given == (TEXTS, LABELS) and call.epochs == 10
        assert call.data.mask_rate == (0.15 if auxiliary else 0)
        assert call.model.methods[0].name == "all" and call.model.auxiliary == auxiliary
    assert [round(call.rate, 6) for call in trainings] == [0.005] * 4
    # The batches and masks of one say nothing about those of another.
    assert len({call.data.seed for call in clozes}) == 3
    assert last.model.template.maxlen == 32


def test_generations(make, templates, trainings):
    """Each set is the labelled texts and some others, with the labels another model gave them."""
    options = {"templates": templates, "generations": 3, "growth": 2}
    classifier = make(**options).fit(TEXTS, LABELS, UNLABELED)
    assert len(trainings) == 3 * 4 + 1
    assert [call.model for call in trainings[8:12]] == classifier.models_
    guesses = {
        (generation, i): raw_scores(template, UNLABELED, generation + 1).argmax(axis=1)
        for generation in range(2)
        for i, template in enumerate(templates)
    }
    sources = set()
    for number, call in enumerate(trainings[:12]):
        generation, i = divmod(number, 4)
        texts, labels = call.data.given
        assert call.model.template.pattern == templates[i].pattern
        assert (texts[:24], labels[:24]) == (TEXTS, LABELS)
        # 8 and 16 labelled texts, then twice as many, then four times.
        assert labels.count("负面") == 8 * 2**generation
        assert labels.count("正面") == 16 * 2**generation
        # As many steps in all.
        assert call.epochs == [10, 5, 2][generation]
        rows = [UNLABELED.index(text) for text in texts[24:]]
        assert len(set(rows)) == len(rows)
        if generation:
            found = [NAMES.index(label) for label in labels[24:]]
            labelers = [j for j in range(4) if guesses[generation - 1, j][rows].tolist() == found]
            assert len(labelers) == 1 and labelers != [i]
            sources.add((i, labelers[0]))
    # Not always the same one.
    assert len({j - i for i, j in sources}) > 1


def test_few_texts_are_read_more_often(make, trainings):
    """There are 60 steps at least, unless the user says how many passes."""
    with pytest.warns(UserWarning, match="Give a greater `distill_epochs`") as found:
        make(epochs=None, distill_epochs=1).fit(TEXTS, LABELS, UNLABELED)
    assert [call.epochs for call in trainings] == [20, 20, 1]
    assert len([w for w in found if "steps" in str(w.message)]) == 1


def test_generations_start_from_the_checkpoint(make, templates, trainings, checkpoint):
    make(generations=2).fit(TEXTS, LABELS, UNLABELED)
    for call in trainings[:4]:
        fresh = build_ptuning_model(*find_checkpoint(checkpoint)[:2], call.model.template)
        for found, expected in zip(call.weights, fresh.get_weights(), strict=True):
            np.testing.assert_array_equal(found, expected)
    # The classifier's backbone too, which has no MLM head.
    table = next(w for w in trainings[4].weights if w.shape == (120, 32))
    assert any(np.array_equal(table, w) for w in fresh.get_weights())


def test_few_unlabeled_texts(make, trainings):
    """Where a label is not given so often, all texts that have it are taken."""
    make(generations=2, growth=9).fit(TEXTS, LABELS, UNLABELED[:50])
    for call in trainings[2:4]:
        assert sorted(call.data.given[0][24:]) == sorted(UNLABELED[:50])


def test_labelers():
    rng = np.random.default_rng(0)
    for count, size in ((2, 1), (3, 1), (5, 1), (9, 2)):
        draws = [pet._others(1, count, rng).tolist() for _ in range(200)]
        assert all(len(set(draw)) == len(draw) == size for draw in draws)
        assert {i for draw in draws for i in draw} == set(range(count)) - {1}


def test_sure_labels_are_drawn_more_often():
    """In proportion to the probability of the label, and each text once."""
    rng = np.random.default_rng(0)
    p = np.concatenate([np.full(5000, 0.9), np.full(5000, 0.6), np.full(5000, 0.2)])
    # Scores are no probabilities: what all labels of a text have in common says nothing.
    scores = np.log(np.stack([p, 1 - p], axis=1)) - np.repeat([[4.0], [0.0], [2.0]], 5000, axis=0)
    rows, guesses = pet._draw(scores, [1000, 300], rng)
    assert len(set(rows)) == 1300 and guesses == [0] * 1000 + [1] * 300
    rows = np.array(rows)
    assert (rows[:1000] < 10000).all() and (rows[1000:] >= 10000).all()
    sure = (rows[:1000] < 5000).sum()
    # 1.5 times as many: 600, with a standard deviation of 15.
    assert 550 < sure < 650


def test_draws_without_a_label():
    scores = np.log([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    rng = np.random.default_rng(0)
    rows, guesses = pet._draw(scores, [0, 5], rng)
    assert rows == [] and guesses == []
    rows, guesses = pet._draw(scores, [5, 5], rng)
    assert sorted(rows) == [0, 1, 2] and guesses == [0] * 3


def test_same_seed_same_training(make, templates, trainings, small_bert):
    """What is drawn, in which batches, where new weights start, and what dropout leaves out."""

    def run(random_state, count=2):
        trainings.clear()
        # Whatever the state before.
        keras.utils.set_random_seed(int(np.random.default_rng().integers(2**31)))
        make(
            templates=templates[:count],
            checkpoint=small_bert[1],
            generations=2,
            growth=2,
            random_state=random_state,
        ).fit(TEXTS, LABELS, UNLABELED)
        kernel = keras.ops.convert_to_numpy(trainings[-1].model.classifier.kernel) - 1
        return (
            [call.data.given[0] for call in trainings],
            [[batch.tolist() for batch in call.data.batches] for call in trainings],
            [call.seeds for call in trainings],
            kernel.round(5).tolist(),
        )

    first, second, third = run(0), run(0), run(1)
    assert first == second
    assert all(a != b for a, b in zip(first, third, strict=True))
    # The start of the classifier does not depend on what was trained before.
    assert run(0, count=3)[-1] == first[-1]


@pytest.mark.slow
def test_same_seed_same_result(make, small_bert):
    """With the dropout that this checkpoint has, real training, and generations."""
    options = {"checkpoint": small_bert[1], "generations": 2, "growth": 2, "epochs": 2}
    options |= {"distill_epochs": 1}
    first, second, third = (
        make(**options, random_state=seed).fit(TEXTS, LABELS, UNLABELED[::5]).predict_proba(TEXTS)
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - third).max() > 1e-4


@pytest.mark.slow
def test_ipet_learns(make):
    """From twelve labelled texts, with templates that learn from each other."""
    classifier = make(generations=2, growth=4, epochs=60)
    classifier.fit(TEXTS[:12], LABELS[:12], UNLABELED[::2])
    assert classifier.score(TEXTS, LABELS) > 0.9


@pytest.mark.slow
def test_a_loss_that_is_not_finite(make, templates):
    classifier = make(templates=templates[:1], learning_rate=1e30)
    with pytest.raises(FloatingPointError):
        classifier.fit(TEXTS, LABELS, UNLABELED)


def test_pairs_and_numbers_as_labels(make, tokenizer, trainings):
    words = {1: "很", 0: "不"}
    patterns = ["{text}[MASK]{text_b}", "[MASK]，{text_b}[SEP]{text:9}"]
    templates = [Template(p, words, tokenizer, maxlen=32 + i) for i, p in enumerate(patterns)]
    pairs = [(text, "好") for text in TEXTS]
    classifier = make(templates=templates, generations=2, growth=2).fit(
        zip(TEXTS, "好" * 24, strict=True), np.array([1, 0] * 12), pairs[:8]
    )
    assert trainings[0].data.given == (pairs, [1, 0] * 12)
    assert classifier.classes_.tolist() == [0, 1]
    plain = classifier.model_.template
    assert plain.slots == ["text", "text_b"] and plain.maxlen == 33


def test_it_says_what_it_does(make, trainings, capsys):
    make(generations=2, growth=2, verbose=2).fit(TEXTS, LABELS, UNLABELED)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Generation 1 of 2, template 1 of 2: 24 texts, '[MASK]满意。{text}'"
    assert lines[3] == "Generation 2 of 2, template 2 of 2: 48 texts, '{text}我[MASK]喜欢'"
    assert lines[4:] == [f"The classifier: {len(UNLABELED)} texts"]
    make().fit(TEXTS, LABELS, UNLABELED)
    assert capsys.readouterr().out == ""


def test_parameters(make, fitted, trainings):
    options = {"weighting": "zero-shot", "temperature": 3.0, "generations": 2, "growth": 4}
    copy = clone(make(**options))
    assert {name: copy.get_params()[name] for name in options} == options
    assert [t.pattern for t in copy.templates] == PATTERNS[:2]
    with pytest.raises(NotFittedError):
        copy.predict(TEXTS)
    with pytest.raises(NotFittedError):
        copy.ensemble_proba(TEXTS)
    # The default learning rate is that of the models.
    make(learning_rate=None).fit(TEXTS, LABELS, UNLABELED)
    assert {round(call.rate, 9) for call in trainings} == {4.8e-4}


def test_saving(fitted, trainings, tmp_path):
    expected = fitted.predict_proba(UNLABELED)
    fitted.save(tmp_path / "a.keras")
    again = PetClassifier.load(tmp_path / "a.keras")
    np.testing.assert_array_equal(again.predict_proba(UNLABELED), expected)
    assert again.score(TEXTS, LABELS) > 0.9
    for name, value in fitted.get_params().items():
        if name != "templates":
            assert again.get_params()[name] == value
    assert [t.get_config() for t in again.templates] == [t.get_config() for t in fitted.templates]
    with pytest.raises(NotFittedError, match="without its ensemble: fit it again"):
        again.ensemble_proba(TEXTS)
    clone(again).fit(TEXTS, LABELS, UNLABELED)
    assert len(trainings) == 3
    model = keras.models.load_model(tmp_path / "a.keras")
    assert model.template.label_names == NAMES


def test_pickle(fitted):
    again = pickle.loads(pickle.dumps(fitted))
    for method in ("predict_proba", "ensemble_proba"):
        np.testing.assert_array_equal(getattr(again, method)(TEXTS), getattr(fitted, method)(TEXTS))


def test_bad_files(fitted, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        PetClassifier.load(tmp_path / "nowhere.keras")
    # A file of Keras alone, and one of the other estimator.
    fitted.model_.save(tmp_path / "model.keras")
    other = PromptClassifier(fitted.templates[0], fitted.checkpoint)
    other.model_, other.classes_ = fitted.models_[0], fitted.classes_
    other.save(tmp_path / "other.keras")
    for name in ("model.keras", "other.keras"):
        with pytest.raises(ValueError, match=r"was not written by `PetClassifier\.save`"):
            PetClassifier.load(tmp_path / name)
    with pytest.raises(ValueError, match=r"ends in \.keras\. Received: .*a\.txt"):
        fitted.save(tmp_path / "a.txt")


def test_labels_that_change_after_fitting(fitted, tokenizer):
    with pytest.raises(ValueError, match="Label 0 is '中'"):
        fitted.score(["书"], ["中"])
    changed = clone(fitted)
    changed.__dict__.update(
        {name: value for name, value in vars(fitted).items() if name.endswith("_")}
    )
    changed.set_params(templates=[Template("[MASK]{text}", {0: "不", 1: "很"}, tokenizer)])
    for method in (changed.predict, changed.ensemble_proba):
        with pytest.raises(ValueError, match=r"other labels than the one .* Fit it again"):
            method(["书"])


def template(pattern=PATTERNS[0], labels=WORDS, lower=True, **kwargs):
    tokenizer = Tokenizer(small.vocabulary(), do_lower_case=lower)
    return Template(pattern, labels, tokenizer, maxlen=32, **kwargs)


@pytest.mark.parametrize(
    ("options", "call", "error", "message"),
    [
        ({"templates": []}, {}, TypeError, "a list of `Template` with labels.*Received"),
        ({"templates": template()}, {}, TypeError, "a list of `Template`"),
        ({"templates": ["[MASK]{text}"]}, {}, TypeError, "a list of `Template`"),
        (
            {"templates": [template(), PlainText(NAMES, small.vocabulary())]},
            {},
            TypeError,
            "a list of `Template`",
        ),
        ({"templates": [template(labels=None)]}, {}, TypeError, "`Template` with labels"),
        (
            {"templates": [template(), template("{text}[MASK]", causal=True)]},
            {},
            ValueError,
            r"masked language model.*Received: template 1, '\{text\}\[MASK\]'",
        ),
        (
            {"templates": [template(), template(PATTERNS[1], dict(reversed(WORDS.items())))]},
            {},
            ValueError,
            r"same labels, in the same order\. Received: template 1, .*喜欢', with \['正面', '负面",
        ),
        (
            {"templates": [template(), template(PATTERNS[1], lower=False)]},
            {},
            ValueError,
            "same vocabulary.*Received: template 1, .*喜欢'",
        ),
        (
            {"templates": [template(), template("{text}[MASK]{text_b}")]},
            {},
            ValueError,
            "pairs of texts, or none. Received: template 1",
        ),
        (
            {"templates": [template(labels={0: "不", "a": "很"})]},
            {},
            ValueError,
            "all strings or all integers",
        ),
        ({"templates": [template()], "generations": 2}, {}, ValueError, "`generations=1`, or more"),
        ({"generations": 0}, {}, ValueError, "`generations` must be an integer, at least 1"),
        ({"growth": 1}, {}, ValueError, "`growth` must be an integer, at least 2"),
        ({"epochs": 0}, {}, ValueError, "`epochs` must be an integer"),
        ({"distill_epochs": 0}, {}, ValueError, "`distill_epochs` must be an integer"),
        ({"batch_size": 0}, {}, ValueError, "`batch_size` must be an integer"),
        ({"random_state": None}, {}, ValueError, "`random_state` must be an integer"),
        ({"weighting": "other"}, {}, ValueError, "`weighting` must be one of.*'other'"),
        ({"temperature": 0}, {}, ValueError, "`temperature` must be a number above 0.*0"),
        ({"temperature": float("nan")}, {}, ValueError, "`temperature` must be a number"),
        ({"temperature": "2"}, {}, ValueError, "`temperature` must be a number"),
        ({"checkpoint": "nowhere"}, {}, FileNotFoundError, "embedded checkpoint, .*'bert-mini-zh'"),
        ({}, {"unlabeled": []}, ValueError, "`unlabeled` must not be empty"),
        ({}, {"unlabeled": None}, TypeError, "`unlabeled` must be a list.*None"),
        ({}, {"unlabeled": "一句话"}, TypeError, "`unlabeled` must be a list.*一句话"),
        ({}, {"unlabeled": {"text": ["书"]}}, TypeError, "`unlabeled` must be a list"),
        ({}, {"unlabeled": ["书", None]}, TypeError, "Texts must be strings"),
        ({}, {"texts": "一句话"}, TypeError, "`texts` must be a list"),
        ({}, {"texts": np.zeros((24, 3))}, TypeError, "Texts must be strings"),
        ({}, {"texts": []}, ValueError, "`texts` must not be empty"),
        ({}, {"labels": None}, TypeError, "`labels` must be a list"),
        ({}, {"labels": ["正面"] * 23}, ValueError, "one label for each text"),
        ({}, {"labels": ["正面"] * 23 + ["中"]}, ValueError, "Label 23 is '中'"),
        ({}, {"labels": np.full((24, 2), 0.5)}, ValueError, "Label 0 is array"),
    ],
)
def test_bad_input(make, monkeypatch, options, call, error, message):
    monkeypatch.setattr(pet, "build_ptuning_model", lambda *a, **k: pytest.fail("It was built"))
    with pytest.raises(error, match=message):
        make(**options).fit(**{"texts": TEXTS, "labels": LABELS, "unlabeled": UNLABELED, **call})


def test_a_template_that_the_checkpoint_cannot_have(make, templates, tokenizer, trainings):
    """Shows before any model is trained, also where it is not the first."""
    long = Template("{text}[MASK]", WORDS, tokenizer, maxlen=99)
    with pytest.raises(ValueError, match="up to 99 tokens"):
        make(templates=[templates[0], long]).fit(TEXTS, LABELS, UNLABELED)
    assert not trainings


def test_unlabeled_texts_are_required(make):
    with pytest.raises(TypeError, match="unlabeled"):
        make().fit(TEXTS, LABELS)
