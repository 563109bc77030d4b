"""`PromptClassifier`: texts in, labels out, by scikit-learn's conventions."""

import os
import pickle
import shutil
import warnings
import zipfile
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import sklearn.utils.estimator_checks as checks
import small_bert as small
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score

from keras_ptuning import Prefix, Prompt, PromptClassifier, Template, build_ptuning_model
from keras_ptuning.checkpoints import find_checkpoint
from keras_ptuning.tuning.base import LabelModel

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a small random BERT that has no dropout, so that it learns soon."""
    folder = tmp_path_factory.mktemp("checkpoint")
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    small.write_small_bert(folder, {**small.CONFIG, **rates})
    return str(folder)


@pytest.fixture
def make(checkpoint, make_template):
    def make(template=None, **kwargs):
        # Little trains, so that little is compiled.
        options = {"tune": "prompt", "epochs": 1, "learning_rate": 0.05, "batch_size": 8}
        options |= {"verbose": 0, **kwargs}
        return PromptClassifier(template or make_template(), checkpoint, **options)

    return make


@pytest.fixture
def untrained(monkeypatch):
    """Epochs that only count themselves."""

    def fit(self, *args, epochs, **kwargs):
        return SimpleNamespace(history={"loss": [0.0] * epochs})

    monkeypatch.setattr(LabelModel, "fit", fit)


@pytest.mark.graph
def test_it_learns_and_repeats(make, reviews):
    texts, labels = reviews
    options = {"epochs": 40, "patience": 40, "batch_size": 4, "validation_fraction": 0.25}
    first, second = (make(**options).fit(*reviews) for _ in range(2))
    assert first.score(texts, labels) > 0.8
    np.testing.assert_array_equal(first.predict_proba(texts), second.predict_proba(texts))
    # Sorted, as scikit-learn has it; the template has them in another order.
    assert first.classes_.tolist() == ["正面", "负面"]
    p = first.predict_proba(texts)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    assert first.predict(texts).tolist() == first.classes_[p.argmax(axis=1)].tolist()
    assert {"val_loss", "val_accuracy"} <= set(first.history_)


def weights_of(classifier):
    return [keras.ops.convert_to_numpy(v) for v in classifier.model_.trainable_variables]


def test_interpolation(make, reviews):
    """Half of the way to the weights that training finds."""
    options = {"tune": "lora", "classifier": True}
    whole, half = (make(interpolation=n, **options).fit(*reviews) for n in (1, 0.5))
    start = whole._build()
    assert len(weights_of(half)) > 2
    for first, last, found in zip(
        start.trainable_variables, weights_of(whole), weights_of(half), strict=True
    ):
        first = keras.ops.convert_to_numpy(first)
        assert (first != last).any()
        np.testing.assert_allclose(found, (first + last) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("count", "tune", "share"),
    [(16, "lora", 0.5), (17, "lora", 1), (16, "[u1]", 1), (4, Prefix(2), 1)],
)
def test_few_texts_change_a_pretrained_model_less(
    make, make_template, untrained, reviews, count, tune, share
):
    """Not one that began otherwise: its prompt says nothing before it has learned."""
    texts, labels = (column[:count] for column in reviews)
    prompt, tune = (tune, "lora") if tune == "[u1]" else ("", tune)
    template = make_template(f"{prompt}[MASK]满意。{{text}}")
    classifier = make(template, tune=tune).fit(texts, labels)
    data = template.dataset(texts, labels)
    assert classifier._count_share(classifier.model_, data, None) == share
    # Held-out texts have chosen the weights.
    assert classifier._count_share(classifier.model_, data, [0]) == 1


def test_few_steps_give_a_warning(make, untrained, reviews, recwarn):
    options = {"batch_size": 24, "validation_fraction": 0}
    with pytest.warns(UserWarning, match="trains for 2 steps, which are few"):
        make(epochs=2, **options).fit(*reviews)
    recwarn.clear()
    make(epochs=50, **options).fit(*reviews)
    assert not [w for w in recwarn if "steps" in str(w.message)]


@pytest.mark.graph
def test_early_stopping_keeps_the_best_epoch(make, reviews):
    classifier = make(epochs=30, learning_rate=0.5, patience=2, validation_fraction=0.25)
    losses = classifier.fit(*reviews).history_["val_loss"]
    assert len(losses) < 30 and np.argmin(losses) == len(losses) - 3
    data = classifier.template.dataset(*reviews)
    data = data.subset(classifier._split(data.label_ids)[1])
    assert len(data.examples) == 6
    found = classifier.model_.evaluate(data, verbose=0)[0]
    np.testing.assert_allclose(found, min(losses), rtol=1e-4)


def test_nothing_is_held_out_where_labels_are_few(make):
    """A label is never held out whole, and a text without a label never is."""
    split = make(validation_fraction=0.3)._split
    assert split(np.array([0] * 9 + [1]))[1] is None
    rows, held_out = split(np.array([0, 1, -1]))
    assert rows.tolist() == [0, 1, 2] and held_out is None
    label_ids = np.array([-1] * 5 + [0] * 14 + [1] * 6)
    rows, held_out = split(label_ids)
    assert sorted([*rows, *held_out]) == list(range(25)) and set(range(5)) <= set(rows)
    assert sorted(label_ids[held_out].tolist()) == [0] * 4 + [1] * 2


def test_saving(make, reviews, tmp_path):
    texts, _ = reviews
    classifier = make(tune="lora").fit(*reviews)
    expected = classifier.predict_proba(texts)
    classifier.save(tmp_path / "a.keras")
    again = PromptClassifier.load(tmp_path / "a.keras")
    np.testing.assert_array_equal(again.predict_proba(texts), expected)
    assert again.get_params()["learning_rate"] == 0.05 and again.classes_.tolist() == [
        "正面",
        "负面",
    ]
    clone(again).fit(*reviews)
    assert keras.models.load_model(tmp_path / "a.keras").template.labels == again.template.labels
    again = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(again.predict_proba(texts), expected)


@pytest.mark.parametrize("weights", [{0: 1.0, np.int64(1): np.float32(3)}, "balanced", None])
def test_saved_class_weights(make, make_template, reviews, tmp_path, weights):
    """Integer labels stay integers."""
    texts, labels = reviews
    labels = [int(label == "正面") for label in labels]
    template = make_template(labels={0: "不", 1: "很"})
    make(template, class_weight=weights).fit(texts, labels).save(tmp_path / "a.keras")
    again = PromptClassifier.load(tmp_path / "a.keras")
    assert again.class_weight == weights
    again.fit(texts, labels)


def test_bad_files(make, make_model, reviews, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        PromptClassifier.load(tmp_path / "nowhere.keras")
    make_model().save(tmp_path / "model.keras")
    shutil.copy(tmp_path / "model.keras", tmp_path / "{0}.keras")
    (tmp_path / "cut.keras").write_bytes((tmp_path / "model.keras").read_bytes()[:999])
    for name in ("model.keras", "cut.keras", "{0}.keras"):
        with pytest.raises(ValueError, match=r"was not written by `PromptClassifier\.save`"):
            PromptClassifier.load(tmp_path / name)
    with pytest.raises(IsADirectoryError, match="Received the folder"):
        PromptClassifier.load(tmp_path)
    classifier = make(batch_size=np.int64(8), random_state=np.int64(0)).fit(*reviews)
    with pytest.raises(ValueError, match=r"ends in \.keras\. Received: .*a\.txt"):
        classifier.save(tmp_path / "a.txt")
    classifier.save(tmp_path / "a.keras")
    assert PromptClassifier.load(tmp_path / "a.keras").batch_size == 8
    for parameters in ("[1]", "null", "{}", '{"checkpoint": "x", "class_weight": [1]}'):
        shutil.copy(tmp_path / "model.keras", tmp_path / "b.keras")
        with zipfile.ZipFile(tmp_path / "b.keras", "a") as archive:
            archive.writestr("classifier.json", parameters)
        with pytest.raises(ValueError, match=r"was not written by `PromptClassifier\.save`"):
            PromptClassifier.load(tmp_path / "b.keras")
    before = (tmp_path / "a.keras").read_bytes()
    classifier.checkpoint = object()
    with pytest.raises(TypeError):
        classifier.save(tmp_path / "a.keras")
    assert (tmp_path / "a.keras").read_bytes() == before
    assert zipfile.is_zipfile(tmp_path / "a.keras")


@pytest.mark.slow
@pytest.mark.graph
def test_cross_validation(make, reviews):
    classifier = make(epochs=30, batch_size=4, validation_fraction=0)
    scores = cross_val_score(classifier, *reviews, cv=2)
    assert scores.shape == (2,) and scores.mean() > 0.8


def test_search_among_methods(make, reviews):
    grid = GridSearchCV(make(), {"tune": [Prompt(encoder="mlp")]}, cv=2).fit(*reviews)
    (method,) = grid.best_estimator_.model_.methods
    assert method.encoder == "mlp"


def test_options_reach_the_model(make, reviews, make_template):
    classifier = make(
        tune=["all", Prompt("labels", encoder="mlp")],
        normalization="labels",
        auxiliary=True,
        epochs=1,
    )
    model = classifier.fit(*reviews, unlabeled=["屏幕好"] * 8).model_
    config = model.get_config()
    for name in ("normalization", "auxiliary"):
        assert config[name] == classifier.get_params()[name]
    # More than prompts learns, so the classifier does too.
    assert config["classifier"]
    assert [method.name for method in model.methods] == ["all", "prompt"]
    assert model.methods[1] is classifier.tune[1]
    # 24 labelled texts less 5 held out, and 8 unlabelled ones.
    assert int(model.optimizer.iterations) == 4


def test_a_dense_layer_where_more_than_the_prompt_learns(make, reviews):
    for tune, expected in (("prompt", False), (Prompt("labels"), False), (Prefix(2), True)):
        model = make(tune=tune, epochs=1, batch_size=24).fit(*reviews).model_
        assert (model.classifier is not None) == expected


def test_one_label_more_than_was_seen(make, make_template, reviews):
    """Labels of the template that no text has are classes too: probabilities keep their columns."""
    template = make_template(labels={"负面": "不", "正面": "很", "一般": "差"})
    classifier = make(template).fit(*reviews)
    assert classifier.classes_.tolist() == ["一般", "正面", "负面"]
    assert classifier.predict_proba(["书"]).shape == (1, 3)


@pytest.mark.parametrize(
    ("options", "call", "error", "message"),
    [
        ({"template": "[MASK]{text}"}, {}, TypeError, "needs a `Template` with labels"),
        ({"validation_fraction": 1.0}, {}, ValueError, "`validation_fraction` must be at least 0"),
        ({"batch_size": 0}, {}, ValueError, "`batch_size` must be"),
        ({"checkpoint": "nowhere"}, {}, FileNotFoundError, "embedded checkpoint, .*'bert-mini-zh'"),
        ({"epochs": 0}, {}, ValueError, "`epochs` must be an integer, at least 1"),
        ({"patience": "3"}, {}, ValueError, "`patience` must be an integer"),
        ({"random_state": None}, {}, ValueError, "`random_state` must be an integer"),
        ({"interpolation": 0}, {}, ValueError, "`interpolation` must be a number above 0"),
        ({"interpolation": 1.5}, {}, ValueError, "`interpolation` must be at most 1.*1.5"),
        ({"validation_fraction": None}, {}, ValueError, "`validation_fraction` must be at least"),
        ({}, {"labels": [None] * 24}, ValueError, "Label 0 is None"),
        ({}, {"labels": ["正面"] * 23 + ["中"]}, ValueError, "Label 23 is '中'"),
        ({}, {"labels": ["正面"] * 23}, ValueError, "one label for each text"),
        ({}, {"texts": zip("书" * 24, "好" * 24, strict=True)}, TypeError, "Texts must be strings"),
        ({}, {"labels": np.linspace(0, 1, 24)}, ValueError, "Label 0 is 0.0 of type float"),
        ({}, {"texts": np.zeros((24, 3))}, TypeError, "Texts must be strings"),
        ({}, {"texts": "一句话"}, TypeError, "`texts` must be a list"),
        ({}, {"unlabeled": ["书"]}, ValueError, "use `auxiliary=True`"),
    ],
)
def test_bad_input(make, reviews, options, call, error, message):
    with pytest.raises(error, match=message):
        make().set_params(**options).fit(
            **{"texts": reviews[0], "labels": reviews[1], "unlabeled": None, **call}
        )


def test_labels_of_two_kinds(make, make_template, reviews):
    template = make_template(labels={0: "不", "a": "很"})
    with pytest.raises(ValueError, match="all strings or all integers"):
        make(template).fit(["书", "贵"] * 3, np.array([0, "a"] * 3, dtype=object))


def test_labels_that_can_be_read_once(make, reviews):
    classifier = make().fit(reviews[0], iter(reviews[1]))
    assert classifier.score(reviews[0], iter(reviews[1])) == classifier.score(*reviews)


def test_labels_that_change_after_fitting(make, make_template, reviews):
    classifier = make().fit(*reviews)
    with pytest.raises(ValueError, match="Label 0 is '中'"):
        classifier.score(["书"], ["中"])
    classifier.set_params(template=make_template(labels={"负面": "不", "正面": "好"}))
    with pytest.raises(ValueError, match=r"other labels than the one .* Fit it again"):
        classifier.predict(["书"])


# scikit-learn's own checks. `check_estimator` runs one of them and leaves out the others, since
# the input is text; these need no numbers, or work on texts made of them.
WITHOUT_DATA = [
    "check_do_not_raise_errors_in_init_or_set_param",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_sparse_tag",
    "check_estimator_tags_renamed",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
]
ON_TEXTS = [
    "check_dict_unchanged",
    "check_dont_overwrite_attributes",
    "check_estimators_fit_returns_self",
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_estimators_unfitted",
    "check_fit_check_is_fitted",
    "check_fit_idempotent",
    "check_methods_subset_invariance",
]
# Left out, because they are about arrays of numbers: dtypes, complex numbers, NaN and infinity,
# memory maps, memory order, sparse and one-dimensional arrays, the number of features, and the
# wording of errors about these; because the labels are those of the template: training on one
# label, or on labels made up by the check, such as numbers with fractions; because `fit` has
# `texts` and `labels`, and not `X` and `y`: check_fit_score_takes_y; and because other batches
# change the seventh digit: check_methods_sample_order_invariance, which allows none.


class OnNumbers(PromptClassifier):
    """Reads numbers as texts, so that scikit-learn's checks can make up data."""

    @staticmethod
    def texts(rows):
        return [
            "".join("书贵屏幕好"[int(10 * abs(x)) % 5] for x in row) for row in np.asarray(rows)
        ]

    def fit(self, texts, labels):
        return super().fit(self.texts(texts), labels)

    def predict_proba(self, texts):
        return super().predict_proba(self.texts(texts))


def find_check(name):
    """The check, under whichever of its names this release of scikit-learn has it."""
    names = {name, f"{name}s", name.replace("attributes", "parameters")}
    return next(getattr(checks, n) for n in sorted(names) if hasattr(checks, n))


@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_estimator_checks(make, name):
    find_check(name)("PromptClassifier", make())


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_TEXTS)
def test_estimator_checks_on_texts(checkpoint, make_template, name):
    template = make_template("[u1][MASK]{text}", {0: "不", 1: "很", 2: "满"})
    classifier = OnNumbers(template, checkpoint, epochs=1, validation_fraction=0, verbose=0)
    find_check(name)("OnNumbers", classifier)


def test_find_checkpoint(small_bert, tmp_path):
    config, weights, vocab = small_bert
    assert find_checkpoint(os.path.dirname(weights)) == (config, weights, vocab)
    assert find_checkpoint(weights) == (config, weights, vocab)
    with pytest.raises(FileNotFoundError, match=r"There is no bert_config\.json or config\.json"):
        find_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"There is no other\.ckpt"):
        find_checkpoint(os.path.join(os.path.dirname(weights), "other.ckpt"))
    template = Template("[u1][MASK]{text}", {0: "不", 1: "很"}, vocab, maxlen=64)
    assert build_ptuning_model(*find_checkpoint(weights)[:2], template).prompt.shape == (1, 32)


def test_a_single_text_of_a_label_gives_one_warning(make, reviews):
    """Without it, nothing would say that there is no validation and no early stopping."""
    texts, labels = reviews
    labels = ["负面"] * 23 + ["正面"]
    with pytest.warns(UserWarning, match="single text of '正面'.*all of its epochs") as caught:
        classifier = make(validation_fraction=0.2).fit(texts, labels)
    (warning,) = [w for w in caught if "single text" in str(w.message)]
    assert warning.filename == __file__
    assert "val_loss" not in classifier.history_
    with pytest.warns(UserWarning, match="4 texts are too few"):
        make(validation_fraction=0.2).fit(texts[:4], ["正面", "负面"] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", ".* steps, which are few")
        make(validation_fraction=0).fit(texts, labels)
        assert "val_loss" in make(validation_fraction=0.2).fit(*reviews).history_


def test_search_among_patterns(make, make_template, reviews):
    patterns = ["[u1][MASK]满意。{text}", "[u1][u2][MASK]{text}"]
    template = make_template(patterns[1])
    halves = [(np.arange(12), np.arange(12, 24))]
    search = GridSearchCV(make(template), {"template__pattern": patterns}, cv=halves)
    search.fit(*reviews)
    assert [p["template__pattern"] for p in search.cv_results_["params"]] == patterns
    best = search.best_params_["template__pattern"]
    assert search.best_estimator_.model_.template.pattern == best
    # The template that was given stays, and so does that of a fitted model.
    assert template.pattern == patterns[1]
    fitted = search.best_estimator_
    expected = fitted.predict_proba(reviews[0])
    fitted.set_params(template__pattern=patterns[best == patterns[0]])
    assert fitted.template.pattern != best
    np.testing.assert_array_equal(fitted.predict_proba(reviews[0]), expected)
    assert " object at 0x" not in repr(fitted)


def test_verbose_reaches_predictions(make, reviews, capsys):
    classifier = make(verbose=0).fit(*reviews)
    classifier.score(*reviews)
    assert capsys.readouterr().out == ""
    classifier.set_params(verbose=2)
    for call in (
        lambda: classifier.predict(reviews[0]),
        lambda: classifier.predict_proba(reviews[0]),
        lambda: classifier.score(*reviews),
    ):
        call()
        assert "1/1" in capsys.readouterr().out
    classifier.set_params(verbose="auto").predict(reviews[0])
    assert "1/1" in capsys.readouterr().out


def test_class_weights(make, reviews):
    texts, labels = reviews
    options = {"validation_fraction": 0, "learning_rate": 1e-9, "batch_size": 24, "epochs": 1}

    def loss(**kwargs):
        return make(**options, **kwargs).fit(texts, labels).history_["loss"][0]

    both = loss()
    halves = [loss(class_weight={"负面": a, "正面": 1 - a}) for a in (0.0, 1.0)]
    np.testing.assert_allclose(sum(halves), both, rtol=1e-4)
    np.testing.assert_allclose(loss(class_weight="balanced"), both, rtol=1e-4)
    weights = [0.0 if label == "负面" else 1.0 for label in labels]
    found = make(**options).fit(texts, labels, sample_weight=weights).history_["loss"][0]
    np.testing.assert_allclose(found, halves[0], rtol=1e-4)
    with pytest.raises(ValueError, match="labels of the template"):
        loss(class_weight={0: 1.0})


def test_a_refused_fit_changes_nothing(make, make_template, reviews):
    """Neither where the weights are wrong, nor where the model itself refuses to train."""
    classifier = make().fit(*reviews)
    expected = classifier.predict_proba(reviews[0])
    for wrong in (
        {"class_weight": {0: 2.0}},
        {"class_weight": None, "tune": [], "template": make_template("[MASK]满意。{text}")},
    ):
        with pytest.raises(ValueError, match=r"labels of the template|Nothing would be trained"):
            classifier.set_params(**wrong).fit(*reviews)
        np.testing.assert_array_equal(classifier.predict_proba(reviews[0]), expected)
        unfitted = clone(classifier)
        with pytest.raises(ValueError):
            unfitted.fit(*reviews)
        assert not hasattr(unfitted, "classes_")


@pytest.mark.parametrize("error", [FloatingPointError, KeyboardInterrupt])
def test_what_a_stopped_fit_learned_stays(make, reviews, monkeypatch, error):
    def fit(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(LabelModel, "fit", fit)
    classifier = make()
    classifier.history_ = {"loss": [1.0]}
    with pytest.raises(error):
        classifier.fit(*reviews)
    assert classifier.predict(reviews[0]).shape == (24,)
    # Not that of a fit before.
    assert classifier.history_ == {}


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("tune", "batch_size", "epochs"),
    [("lora", 4, 10), ("prompt", 4, 42), (["all", "prompt"], 4, 10), ("lora", 1, 4)],
)
def test_steps_depend_on_the_methods(make, reviews, tune, batch_size, epochs):
    """Of 24 texts: 60 steps for LoRA and the whole model, 250 for a prompt, 4 epochs at least."""
    classifier = make(tune=tune, epochs=None, batch_size=batch_size).fit(*reviews)
    assert len(classifier.history_["loss"]) == epochs


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(("count", "epochs"), [(8, 10), (24, 10)])
def test_few_texts_are_not_read_too_often(make, reviews, count, epochs):
    """LoRA takes 60 steps, but reads no text more than ten times."""
    texts, labels = (column[:count] for column in reviews)
    classifier = make(tune="lora", epochs=None, batch_size=8).fit(texts, labels)
    assert len(classifier.history_["loss"]) == epochs


def test_an_ensemble_of_prompts(make, reviews, tmp_path):
    classifier = make(ensemble=3, epochs=2).fit(*reviews)
    assert classifier.model_.prompts.shape[0] == 3
    p = classifier.predict_proba(reviews[0])
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    classifier.save(tmp_path / "ensemble.keras")
    loaded = PromptClassifier.load(tmp_path / "ensemble.keras")
    np.testing.assert_allclose(loaded.predict_proba(reviews[0]), p, atol=1e-6)
    with pytest.raises(ValueError, match=r"prompts of an ensemble have no encoder"):
        make(ensemble=3, tune="lora").fit(*reviews)
    with pytest.raises(ValueError, match=r"no dense classifier"):
        make(ensemble=3, classifier=True).fit(*reviews)
