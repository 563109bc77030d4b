"""`PromptClassifier`: texts in, labels out, as scikit-learn does it."""

import math
import warnings
from collections.abc import Collection, Mapping
from typing import Literal, Self

import keras
import numpy as np
from sklearn.model_selection import train_test_split

from keras_ptuning.checkpoints import find_checkpoint
from keras_ptuning.checks import (
    GREATEST_SEED,
    ClassWeight,
    Label,
    Path,
    Texts,
    as_list,
    check_integer,
    check_positive,
    check_verbose,
)
from keras_ptuning.estimators.base import TextEstimator
from keras_ptuning.methods import Method, Prompt, read_methods
from keras_ptuning.methods.method import Tune
from keras_ptuning.text.templates import Template
from keras_ptuning.tuning.cloze import build_ptuning_model
from keras_ptuning.tuning.data import class_factors
from keras_ptuning.tuning.ensemble import build_prompt_ensemble

# The least passes over the labelled texts, and the share of the steps in which the rate rises.
LEAST_EPOCHS = 4
WARMUP = 0.1
# Of the classifier next to the cloze, which learns from nothing.
CLASSIFIER_RATE = 5e-3
# From so few texts a model may learn less than it forgets.
FEW_TEXTS = 16


class PromptClassifier(TextEstimator):
    """Classifies texts with a template and a pretrained language model; a scikit-learn estimator.

    Args:
        template: A `Template` over the vocabulary of the checkpoint, with the labels and their
            words. A grid search can change its arguments too, e.g. `template__pattern`.
        checkpoint: Path of a checkpoint's folder, or of the weights in one; or the name of an
            embedded checkpoint, `"bert-mini-zh"`, `"bert-small-zh"`, `"gpt-mini-zh"` or
            `"t5-mini-zh"`; or the name of a model of Hugging Face's hub. Defaults to
            `"bert-small-zh"`.
        tune: As in `build_ptuning_model`, but defaults to `"lora"`, together with the tokens of the
            template that learn. `"prompt"` trains these tokens alone, as the articles do. The
            template must then have some: `[u1]`, `[u2]`...
        normalization: As in `build_ptuning_model`, but defaults to `"labels"`.
        auxiliary: As in `build_ptuning_model`, but defaults to `False`.
        classifier: Whether a dense layer next to the cloze learns too, as in `build_ptuning_model`.
            Defaults to `True`. Defaults to `False` where the tokens of the template alone learn,
            with another `normalization`, or with a template that has `[DECODER]`.
        ensemble: Integer, how many prompts train and answer together, as in
            `build_prompt_ensemble`. It needs `tune="prompt"`. Defaults to `None`, one prompt.
        learning_rate: Float, of Adam, for what `tune` says. It rises in the first tenth of the
            steps and then falls to 0. Defaults to the smallest that the methods recommend, as in
            `ClozeModel.compile`. The dense layer has a rate of its own, 5e-3.
        epochs: Integer, the most passes over the labelled texts. Defaults to as many as the methods
            need, at least 4. LoRA and the whole model need 60 steps, but no more than 10 passes.
            Other methods need 250 steps, but no more than 100 passes. Of several methods the one
            with the fewest steps decides.
        batch_size: Integer. Defaults to `16`.
        interpolation: Float above 0, at most 1. After training each weight goes back to this share
            of its way, as in WiSE-FT: 1 keeps what was learned, and near 0 the model is the
            pretrained one. `history_` is of the training before that. Defaults to `0.5` with at
            most 16 labelled texts, of which none are held out, and where neither a prompt nor a
            prefix learns, since these do not begin as the pretrained model. Otherwise to `1`.
        validation_fraction: Share of the labelled texts to hold out. Training stops when their loss
            has not fallen for `patience` epochs. It keeps the weights of the best epoch. With 0 no
            text is held out. If a label has a single text, or the share is too small for one text
            of each label, no text is held out either, and there is a warning. Defaults to `0`,
            because few labels are of more use in training.
        patience: Integer. Defaults to `10`.
        class_weight: How much a text counts in the loss, by its label, as in `ClozeModel.fit`: a
            dictionary from labels to numbers, or `"balanced"`. Defaults to `None`, all the same.
        random_state: Integer below 2**32. `fit` sets the global seeds to it, so the same number
            gives the same result. Defaults to `0`.
        verbose: As in `keras.Model.fit`, for `fit`, `predict`, `predict_proba` and `score`. 0 shows
            nothing. Defaults to `"auto"`, a progress bar.

    Attributes:
        classes_: The labels, sorted: the order of the columns of `predict_proba`.
        model_: The `ClozeModel`.
        history_: Dictionary of the losses and accuracies of each epoch.

    Example:

    ```python
    template = Template("[MASK]满意。{text}", {"负面": "不", "正面": "很"}, "bert-small-zh")
    classifier = PromptClassifier(template).fit(texts, labels)
    classifier.predict(["物流很快，包装也好。"])  # array(['正面'])
    classifier.save("sentiment.keras")
    PromptClassifier.load("sentiment.keras").score(new_texts, new_labels)
    ```

    Reference:
        - [Schick and Schütze, 2020](https://arxiv.org/abs/2001.07676), section 3.1.
        - [Hu et al., 2021](https://arxiv.org/abs/2106.09685), section 4.1.
        - [Liu et al., 2021](https://arxiv.org/abs/2103.10385), section 3.
        - [Su, 2021](https://kexue.fm/archives/8295).
        - Interpolation: [Wortsman et al., 2021](https://arxiv.org/abs/2109.01903), section 3.
    """

    def __init__(
        self,
        template: Template,
        checkpoint: Path = "bert-small-zh",
        *,
        tune: Tune = "lora",
        normalization: Literal["labels", "vocabulary"] = "labels",
        auxiliary: bool = False,
        classifier: bool | None = None,
        ensemble: int | None = None,
        learning_rate: float | None = None,
        epochs: int | None = None,
        batch_size: int = 16,
        interpolation: float | None = None,
        validation_fraction: float = 0.0,
        patience: int = 10,
        class_weight: ClassWeight | None = None,
        random_state: int = 0,
        verbose: int | str = "auto",
    ) -> None:
        self.template = template
        self.checkpoint = checkpoint
        self.tune = tune
        self.normalization = normalization
        self.auxiliary = auxiliary
        self.classifier = classifier
        self.ensemble = ensemble
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.interpolation = interpolation
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.class_weight = class_weight
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        texts: Texts,
        labels: Collection[Label],
        unlabeled: Texts | None = None,
        sample_weight: Collection[float] | None = None,
    ) -> Self:
        """Trains on labelled texts.

        After an interruption (Ctrl-C) the classifier has what was learned so far, without
        `interpolation`.

        Args:
            texts: List of strings; of pairs of strings if the template has `{text_b}`.
            labels: List of labels, some of the template's.
            unlabeled: Optional list of further texts. Only the auxiliary task learns from them, so
                they need `auxiliary=True`.
            sample_weight: Optional list of numbers from 0 on, one for each of `texts`: how much its
                label counts in the loss.

        Returns:
            The classifier itself.

        Raises:
            TypeError: if the template is not a `Template` with labels, or a text not a string.
            ValueError: if a label is not one of the template's, texts and labels differ in number,
                or an argument is none of those above.
            FloatingPointError: if the loss is not finite. The weights are those of the best epoch.
        """
        template = self.template
        self._check_arguments(unlabeled)
        try:
            classes = np.array(sorted(template.label_names))
        except TypeError:
            raise ValueError(
                f"The labels must be all strings or all integers. Received: {template.label_names}."
            ) from None
        # Everything is checked before anything is built.
        data = template.dataset(
            texts,
            as_list("labels", labels),
            self.batch_size,
            seed=self.random_state,
            mask_rate=None if self.auxiliary else 0,
            unlabeled=unlabeled,
            sample_weight=sample_weight,
        )
        if self.class_weight is not None:
            class_factors(template, self.class_weight, data.label_ids)
        validation, callbacks = None, []
        rows, held_out = self._split(data.label_ids)
        if held_out is not None:
            data, validation = data.subset(rows), data.subset(held_out)
            callbacks = [
                keras.callbacks.EarlyStopping(patience=self.patience, restore_best_weights=True)
            ]
        model = self._build()
        share = self._count_share(model, data, held_out)
        weights = model.trainable_variables if share < 1 else []
        start = [keras.ops.convert_to_numpy(weight).copy() for weight in weights]
        try:
            history = self._train(
                model,
                data,
                self._count_epochs(model, data),
                warmup=WARMUP,
                head_rate=None if model.classifier is None else CLASSIFIER_RATE,
                validation_data=validation,
                class_weight=self.class_weight,
                callbacks=callbacks,
            )
        except (FloatingPointError, KeyboardInterrupt):
            # What it has learned so far is of use.
            history = getattr(model, "history", None)
            self.model_, self.classes_ = model, classes
            self.history_ = {} if history is None else history.history
            raise
        for weight, value in zip(weights, start, strict=True):
            weight.assign(value + share * (keras.ops.convert_to_numpy(weight) - value))
        self.model_, self.classes_, self.history_ = model, classes, history
        return self

    def _check_arguments(self, unlabeled):
        template = self.template
        if not getattr(template, "is_cloze", False) or template.labels is None:
            raise TypeError(
                "A PromptClassifier needs a `Template` with labels. Received: "
                f"template={template!r}."
            )
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 0)):
            if name != "epochs" or self.epochs is not None:
                check_integer(name, getattr(self, name), least)
        check_integer("random_state", self.random_state, 0, GREATEST_SEED)
        check_verbose(self.verbose)
        if self.learning_rate is not None:
            check_positive("learning_rate", self.learning_rate)
        if self.interpolation is not None:
            check_positive("interpolation", self.interpolation)
            if self.interpolation > 1:
                raise ValueError(
                    f"`interpolation` must be at most 1. Received: {self.interpolation!r}."
                )
        share = self.validation_fraction
        number = isinstance(share, int | float | np.number) and not isinstance(share, bool)
        if not number or not 0 <= share < 1:
            raise ValueError(
                f"`validation_fraction` must be at least 0 and below 1. Received: {share!r}."
            )
        if self.ensemble is not None and self.classifier:
            raise ValueError(
                "An ensemble has no dense classifier: leave one of the two out. Received: "
                f"ensemble={self.ensemble!r}, classifier={self.classifier!r}."
            )
        if unlabeled is not None and not self.auxiliary:
            raise ValueError(
                "Only the auxiliary task learns from unlabelled texts: use `auxiliary=True`. "
                f"Received: auxiliary={self.auxiliary!r}."
            )

    def _build(self):
        template, classifier = self.template, self.classifier
        if classifier is None:
            learning = read_methods(self.tune, template)
            classifier = (
                self.normalization == "labels"
                and not all(isinstance(method, Prompt) for method in learning)
                and not template.text_to_text
            )
        config, weights, _ = find_checkpoint(self.checkpoint)
        keras.utils.set_random_seed(int(self.random_state))
        arguments = {
            "tune": self.tune,
            "normalization": self.normalization,
            "auxiliary": self.auxiliary,
        }
        if self.ensemble is None:
            return build_ptuning_model(
                config, weights, template, classifier=classifier, **arguments
            )
        return build_prompt_ensemble(config, weights, template, self.ensemble, **arguments)

    def _count_epochs(self, model, data):
        """As many as the method needs, but not too many passes over few texts."""
        if self.epochs is not None:
            return self.epochs
        first = min(model.methods, key=lambda method: method.steps, default=Method)
        passes = min(first.passes, math.ceil(first.steps / len(data)))
        return max(LEAST_EPOCHS, passes)

    def _count_share(self, model, data, held_out):
        """The share of the way from the weights before training to those after it."""
        if self.interpolation is not None:
            return self.interpolation
        few = held_out is None and (data.label_ids >= 0).sum() <= FEW_TEXTS
        pretrained = all(method.starts_pretrained for method in model.methods)
        return 0.5 if few and pretrained else 1

    def _split(self, label_ids):
        """Which texts to train on, and which to hold out, or `None`."""
        labeled, unlabeled = np.flatnonzero(label_ids >= 0), np.flatnonzero(label_ids < 0)
        found, counts = np.unique(label_ids[labeled], return_counts=True)
        size = round(self.validation_fraction * len(labeled))
        # As many of each label as there are in all, or none where they are too few for that.
        if counts.min() < 2 or min(size, len(labeled) - size) < len(counts):
            if self.validation_fraction:
                names = [self.template.label_names[i] for i in found[counts < 2]]
                why = f"{len(labeled)} texts are too few to hold out some of each label"
                if names:
                    why = f"There is a single text of {' and of '.join(map(repr, names))}"
                warnings.warn(
                    f"{why}, so no text is held out: training takes all of its epochs, without "
                    "early stopping. Give more texts, or `validation_fraction=0`.",
                    stacklevel=3,
                )
            return np.arange(len(label_ids)), None
        rows, held_out = train_test_split(
            labeled, test_size=size, stratify=label_ids[labeled], random_state=self.random_state
        )
        return np.concatenate([rows, unlabeled]), held_out

    def _templates(self):
        return [self.template]

    def _parameters_to_json(self):
        weights = self.class_weight
        if isinstance(weights, Mapping):
            # Pairs, since JSON would turn integer labels into strings.
            weights = list(weights.items())
        # The model has the others.
        return {"template": None, "tune": None, "class_weight": weights}

    @staticmethod
    def _parameters_from_json(parameters, model):
        weights = parameters.get("class_weight")
        if isinstance(weights, list):
            weights = dict(weights)
        # As a plain list: Keras's own would be copied with the whole model.
        methods = list(model.methods)
        return {"template": model.template, "tune": methods, "class_weight": weights}
