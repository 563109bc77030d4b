"""PET: several templates teach one ordinary classifier, by way of unlabelled texts."""

import math
from collections.abc import Collection, Sequence
from typing import Literal, Self

import keras
import numpy as np
from sklearn.utils.validation import check_is_fitted

from keras_ptuning.checkpoints import find_checkpoint
from keras_ptuning.checks import (
    GREATEST_SEED,
    Label,
    Path,
    Texts,
    as_list,
    check_integer,
    check_positive,
    check_verbose,
)
from keras_ptuning.estimators.base import TextEstimator
from keras_ptuning.text.templates import PlainText, Template
from keras_ptuning.tuning.classifier import build_classifier
from keras_ptuning.tuning.cloze import build_ptuning_model

# The share of the other models that label texts for the next generation of one (the paper's λ).
SHARE = 0.25
# The least passes over the labelled texts, and the least steps in all of them.
LEAST_EPOCHS, LEAST_STEPS = 10, 60


class PetClassifier(TextEstimator):
    """Pattern-exploiting training (PET, iPET): a scikit-learn estimator for few labels, many texts.

    For each template, a language model is trained on the labelled texts, with all its weights.
    Together these models give the unlabelled texts soft labels. An ordinary classifier learns from
    the soft labels, and this classifier predicts.

    Args:
        templates: List of `Template`, with the same labels in the same order, over the vocabulary
            of the checkpoint. Their words may differ.
        checkpoint: As in `PromptClassifier`, of a masked language model. Defaults to
            `"bert-mini-zh"`.
        weighting: How much each template counts. `"uniform"`: all count the same. `"zero-shot"`: a
            template counts as much as its accuracy on the labelled texts before training. Defaults
            to `"uniform"`.
        temperature: Float. The scores of the ensemble are divided by it to make the soft labels. A
            greater one makes them softer. Defaults to `2.0`.
        generations: Integer, how often the models of the templates are trained. 1 is PET. The
            paper's iPET with `k` further generations is `k + 1`. Each generation starts from the
            checkpoint again. From the second on, a model also learns from unlabelled texts, with
            labels that some of the other models gave them. Defaults to `1`.
        growth: Integer. Each generation has `growth` times as many texts as the one before. If
            there are too few texts of a label, all of them are taken. Defaults to `5`.
        auxiliary: Whether the models of the templates also predict other words of their texts,
            masked at random, as in `build_ptuning_model`. The loss is over the whole vocabulary,
            and a word counts as much as an answer. (In the paper the loss of an answer is over the
            label words, and words of unlabelled texts count a ten-thousandth.) Defaults to `True`.
        learning_rate: Float, of Adam, falling to 0. Defaults to that of `ClozeModel.compile` with
            all weights, which depends on the size of the model.
        epochs: Integer, passes over the labelled texts. Further generations, with more texts, take
            about as many steps. Defaults to 10, or more if these are fewer than 60 steps.
        distill_epochs: Integer, passes over the unlabelled texts. Defaults to `3`.
        batch_size: Integer. Defaults to `32`.
        random_state: Integer below 2**32. `fit` sets the global seeds by it, so the same number
            gives the same result. Defaults to `0`.
        verbose: As in `keras.Model.fit`, for `fit`, `predict`, `predict_proba` and `score`; 0 for
            silence. Defaults to `"auto"`, progress bars.

    Attributes:
        classes_: The labels, sorted: the order of the columns of `predict_proba`.
        model_: The `TextClassifier`.
        history_: Dictionary of its losses and accuracies (how often it agrees with the ensemble).
        models_: List of the `ClozeModel` of each template, of the last generation.
        weights_: Array of how much each of them counts.

    Example:

    ```python
    patterns = ["[MASK]满意。{text}", "{text}总之很[MASK]。"]
    words = [{"负面": "不", "正面": "很"}, {"负面": "差", "正面": "好"}]
    templates = [Template(p, w, "bert-mini-zh") for p, w in zip(patterns, words)]
    classifier = PetClassifier(templates, "bert-mini-zh").fit(texts, labels, unlabeled_texts)
    classifier.predict(["物流很快，包装也好。"])  # array(['正面'])
    classifier.save("sentiment.keras")
    ```

    Reference:
        - [Schick and Schütze, 2020](https://arxiv.org/abs/2001.07676): sections 3.1 and 3.2 the
          models, 3.3 the ensemble and its classifier, 3.4 the generations (iPET).
    """

    def __init__(
        self,
        templates: Sequence[Template],
        checkpoint: Path = "bert-mini-zh",
        *,
        weighting: Literal["uniform", "zero-shot"] = "uniform",
        temperature: float = 2.0,
        generations: int = 1,
        growth: int = 5,
        auxiliary: bool = True,
        learning_rate: float | None = None,
        epochs: int | None = None,
        distill_epochs: int = 3,
        batch_size: int = 32,
        random_state: int = 0,
        verbose: int | str = "auto",
    ) -> None:
        self.templates = templates
        self.checkpoint = checkpoint
        self.weighting = weighting
        self.temperature = temperature
        self.generations = generations
        self.growth = growth
        self.auxiliary = auxiliary
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.distill_epochs = distill_epochs
        self.batch_size = batch_size
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, texts: Texts, labels: Collection[Label], unlabeled: Texts) -> Self:
        """Trains on labelled and unlabelled texts.

        Args:
            texts: List of strings; of pairs of strings if the templates have `{text_b}`.
            labels: List of labels, some of the templates'.
            unlabeled: List of further texts, the more the better.

        Returns:
            The classifier itself.

        Raises:
            TypeError: if `templates` is not a list of `Template` with labels, or a text not a
                string.
            ValueError: if the templates do not go together, or are causal; if a label is not one of
                theirs, texts and labels differ in number, there are no unlabelled texts, or an
                argument is out of range.
            FloatingPointError: if a loss is not finite.
        """
        self._check_arguments()
        templates = self._checked_templates()
        texts, labels = as_list("texts", texts), as_list("labels", labels)
        unlabeled = as_list("unlabeled", unlabeled)
        first = templates[0]
        plain = PlainText(
            first.label_names,
            first.tokenizer,
            max(template.maxlen for template in templates),
            "text_b" in first.slots,
        )
        # Everything is checked before anything is built.
        label_ids = plain.dataset(texts, labels, self.batch_size, seed=self.random_state).label_ids
        plain.dataset(unlabeled)
        config, checkpoint, _ = find_checkpoint(self.checkpoint)
        models, weights, scores = self._train_templates(
            templates, (config, checkpoint), texts, label_ids, unlabeled
        )
        soft_labels = _softmax(_ensemble(scores, weights) / self.temperature)
        keras.utils.set_random_seed(_seed(self._rng(self.generations, 0)))
        self._announce(f"The classifier: {len(unlabeled)} texts")
        model = build_classifier(config, checkpoint, plain)
        data = plain.dataset(
            unlabeled, soft_labels.astype("float32"), self.batch_size, seed=self.random_state
        )
        history = self._train(model, data, self.distill_epochs, argument="distill_epochs")
        self.models_, self.weights_ = models, weights
        self.model_, self.history_ = model, history
        self.classes_ = np.array(sorted(plain.label_names))
        return self

    def _train_templates(self, templates, checkpoint, texts, label_ids, unlabeled):
        """Trains all generations of models.

        Returns:
            `(models, weights, scores)`: the models of the last one, how much each counts, and
            their scores of the unlabelled texts, of shape `(models, texts, labels)`.
        """
        counts = np.bincount(label_ids, minlength=templates[0].num_labels)
        weights, scores = np.ones(len(templates)), None
        for generation in range(self.generations):
            rngs = [self._rng(generation, i) for i in range(len(templates))]
            wanted = counts * (self.growth**generation - 1)
            # The last ones go first: their scores are all that counts. And all are built before
            # one is trained, so that what is wrong with one shows at once.
            models = []
            for template, rng in zip(templates, rngs, strict=True):
                keras.utils.set_random_seed(_seed(rng))
                models.append(
                    build_ptuning_model(*checkpoint, template, tune="all", auxiliary=self.auxiliary)
                )
            if not generation and self.weighting == "zero-shot":
                guesses = self._all_scores(models, texts).argmax(axis=-1)
                weights = (guesses == label_ids).mean(axis=1)
            for i, (model, rng) in enumerate(zip(models, rngs, strict=True)):
                rows, guesses = [], []
                if generation:
                    others = _others(i, len(models), rng)
                    rows, guesses = _draw(_ensemble(scores[others], weights[others]), wanted, rng)
                names = model.template.label_names
                data = model.template.dataset(
                    texts + [unlabeled[row] for row in rows],
                    [names[label] for label in [*label_ids, *guesses]],
                    self.batch_size,
                    seed=_seed(rng),
                    mask_rate=None if self.auxiliary else 0,
                )
                self._announce(
                    f"Generation {generation + 1} of {self.generations}, template {i + 1} of "
                    f"{len(models)}: {len(data.examples)} texts, {model.template.pattern!r}"
                )
                steps = math.ceil(len(texts) / self.batch_size)
                epochs = self.epochs or max(LEAST_EPOCHS, math.ceil(LEAST_STEPS / steps))
                # As many steps as with the labelled texts alone, as in the paper.
                epochs = max(1, round(epochs * len(texts) / len(data.examples)))
                self._train(model, data, epochs)
                # Adam's moments are twice as large as the model, and of no use any more.
                model.compile(keras.optimizers.SGD())
            scores = self._all_scores(models, unlabeled)
        return models, weights, scores

    def _all_scores(self, models, texts):
        return np.stack([self._scores(model, texts) for model in models])

    def _rng(self, generation, i):
        return np.random.default_rng([self.random_state, generation, i])

    def _announce(self, line):
        if self.verbose:
            print(line, flush=True)

    def _checked_templates(self):
        templates = self.templates
        known = isinstance(templates, list | tuple) and templates
        if not known or not all(
            isinstance(t, Template) and t.is_cloze and t.labels is not None for t in templates
        ):
            raise TypeError(
                "A PetClassifier needs a list of `Template` with labels, at least one. Received: "
                f"templates={templates!r}."
            )
        first = templates[0]
        for i, template in enumerate(templates):
            received = f"Received: template {i}, {template.pattern!r}"
            if template.causal:
                raise ValueError(
                    "PET needs templates of a masked language model, whose classifier learns from "
                    f"them. {received}, which is causal."
                )
            if template.label_names != first.label_names:
                raise ValueError(
                    "All templates must have the same labels, in the same order. "
                    f"{received}, with {template.label_names}; the first has {first.label_names}."
                )
            if set(template.slots) != set(first.slots):
                raise ValueError(
                    f"All templates must be for pairs of texts, or none. {received}, unlike "
                    f"{first.pattern!r}."
                )
            if any(
                getattr(template.tokenizer, name) != getattr(first.tokenizer, name)
                for name in ("vocab", "do_lower_case", "pre_tokenize")
            ):
                raise ValueError(
                    "All templates must have the same vocabulary, and settings of the tokenizer. "
                    f"{received}, with others than the first."
                )
        try:
            sorted(first.label_names)
        except TypeError:
            raise ValueError(
                f"The labels must be all strings or all integers. Received: {first.label_names}."
            ) from None
        if len(templates) == 1 and self.generations != 1:
            raise ValueError(
                "With one template there is no other to learn from: use `generations=1`, or more "
                f"templates. Received: generations={self.generations!r}."
            )
        return templates

    def _check_arguments(self):
        for name, least in (
            ("generations", 1),
            ("growth", 2),
            ("epochs", 1),
            ("distill_epochs", 1),
            ("batch_size", 1),
        ):
            if name != "epochs" or self.epochs is not None:
                check_integer(name, getattr(self, name), least)
        check_integer("random_state", self.random_state, 0, GREATEST_SEED)
        check_verbose(self.verbose)
        check_positive("temperature", self.temperature)
        if self.learning_rate is not None:
            check_positive("learning_rate", self.learning_rate)
        if self.weighting not in ("uniform", "zero-shot"):
            raise ValueError(
                "`weighting` must be one of ('uniform', 'zero-shot'). Received: "
                f"weighting={self.weighting!r}."
            )

    def ensemble_proba(self, texts: Texts) -> np.ndarray:
        """The probability of each label, as the models of the templates see it together; slower.

        Args:
            texts: List of texts, as `fit` takes them.

        Returns:
            An array of shape `(len(texts), len(classes_))`, in the order of `classes_`.

        Raises:
            NotFittedError: before `fit`, and where the classifier was loaded: a file has no
                ensemble.
            ValueError: if the templates have been given other labels since.
        """
        check_is_fitted(self)
        check_is_fitted(
            self, "models_", msg="A saved %(name)s is without its ensemble: fit it again."
        )
        return self._probabilities(_ensemble(self._all_scores(self.models_, texts), self.weights_))

    def _templates(self):
        return self.templates

    def _parameters_to_json(self):
        # The model has the vocabulary.
        return {"templates": [{**t.get_config(), "tokenizer": None} for t in self.templates]}

    @staticmethod
    def _parameters_from_json(parameters, model):
        configs = [{**c, "tokenizer": model.template.tokenizer} for c in parameters["templates"]]
        return {"templates": [Template.from_config(config) for config in configs]}


def _seed(rng):
    return int(rng.integers(2**31))


def _softmax(scores):
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True), dtype="float64")
    return scores / scores.sum(axis=-1, keepdims=True)


def _ensemble(scores, weights):
    """The weighted mean of the models' scores, `(models, texts, labels)`.

    The paper's scores are logits, and these log-probabilities: less by what is the same for all
    labels of a text, where their words have as many tokens. The softmax takes it out.
    """
    # Models that were right about nothing know equally little.
    weights = weights if weights.any() else np.ones(len(weights))
    return np.average(scores, axis=0, weights=weights)


def _others(i, count, rng):
    """The models that label texts for the next one of model `i`: some of the others."""
    others = np.delete(np.arange(count), i)
    return rng.choice(others, max(1, round(SHARE * len(others))), replace=False)


def _draw(scores, wanted, rng):
    """Draws texts of each label, those that the ensemble is sure of more often.

    Args:
        scores: Array of shape `(texts, labels)`, the ensemble's.
        wanted: Integer array of shape `(labels,)`, how many texts of each label to draw. Where
            fewer have a label, they are all there is.
        rng: A `numpy.random.Generator`.

    Returns:
        `(rows, label_ids)`: which texts, each once, and the labels they were given.
    """
    # As in the authors' program, the probability is taken for the score, which may be negative.
    probabilities = _softmax(scores)
    guesses = probabilities.argmax(axis=1)
    rows = []
    for label, count in enumerate(wanted):
        own = np.flatnonzero(guesses == label)
        if len(own) and count:
            p = probabilities[own, label]
            rows += rng.choice(own, min(count, len(own)), replace=False, p=p / p.sum()).tolist()
    return rows, guesses[rows].tolist()
