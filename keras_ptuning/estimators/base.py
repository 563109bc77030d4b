"""What the scikit-learn estimators share: a fitted model that scores texts, and its file."""

import json
import math
import os
import warnings
import zipfile
from collections.abc import Collection
from typing import Any, Self

import keras
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from keras_ptuning.checks import Label, Path, Texts, as_list
from keras_ptuning.files import check_archive, check_file, parse_json, replacing
from keras_ptuning.text.templates import Template
from keras_ptuning.tuning.loading import load_model

# Next to Keras's own files in the archive that `model.save` writes.
PARAMETERS = "classifier.json"
# Fewer steps than these hardly change a model.
FEW_STEPS = 50


class TextEstimator(ClassifierMixin, BaseEstimator):
    """Predicts with `model_`, which `fit` of a subclass makes, together with `classes_`.

    Subclasses say which of their parameters are templates, `_templates`, and what a file has in
    place of parameters that are not JSON: `_parameters_to_json`, `_parameters_from_json`.
    """

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def _train(self, model, data, epochs, warmup=0, head_rate=None, argument="epochs", **kwargs):
        """Trains a model; returns its history.

        The learning rate rises in the share `warmup` of the steps, and then falls to 0. A head may
        have a rate of its own, `head_rate`. `argument` is the one that says the epochs.
        """
        steps = len(data) * epochs
        # By default it is as long as is good for so few texts.
        if steps < FEW_STEPS and getattr(self, argument) is not None:
            warnings.warn(
                f"{type(self).__name__} trains for {steps} steps, which are few: the model will "
                f"hardly change. Give a greater `{argument}`, for {FEW_STEPS} steps at least. "
                f"Received: {argument}={getattr(self, argument)!r}.",
                stacklevel=3,
            )
        rate = model.default_learning_rate if self.learning_rate is None else self.learning_rate
        rising = math.ceil(warmup * steps)

        def adam(rate):
            schedule = keras.optimizers.schedules.CosineDecay(
                # Not from 0: a step at 0 trains nothing.
                rate / (rising + 1),
                max(steps - rising, 1),
                warmup_target=rate if rising else None,
                warmup_steps=rising,
            )
            return keras.optimizers.Adam(schedule)

        optimizer = adam(rate)
        if head_rate is not None:
            names = [name for name, variables in model.tuned_weights().items() if variables]
            optimizer = {**{name: adam(rate) for name in names}, "head": adam(head_rate)}
        model.compile(optimizer)
        return model.fit(data, epochs=epochs, verbose=self.verbose, **kwargs).history

    def predict_proba(self, texts: Texts) -> np.ndarray:
        """The probability of each label, among the labels.

        Args:
            texts: List of texts, as `fit` takes them.

        Returns:
            An array of shape `(len(texts), len(classes_))`, in the order of `classes_`.

        Raises:
            NotFittedError: before `fit`.
            ValueError: if the labels of a template have changed since.
        """
        check_is_fitted(self)
        return self._probabilities(self._scores(self.model_, texts))

    def _scores(self, model, texts):
        return model.predict(model.template.dataset(texts, batch_size=64), verbose=self.verbose)

    def _probabilities(self, scores):
        fitted = self.model_.template
        names = fitted.label_names
        for template in self._templates():
            known = isinstance(template, Template)
            # A classifier without a cloze knows no words.
            if known and (
                template.label_names != names
                or (fitted.is_cloze and template.labels != fitted.labels)
            ):
                raise ValueError(
                    "The template has other labels than the one this classifier was fitted with: "
                    f"{template.label_names}, and there {names}. Fit it again."
                )
        columns = [names.index(label) for label in self.classes_.tolist()]
        return keras.ops.convert_to_numpy(keras.ops.softmax(scores[:, columns]))

    def predict(self, texts: Texts) -> np.ndarray:
        """The most probable label of each text.

        Args:
            texts: List of texts, as `fit` takes them.

        Returns:
            An array of `len(texts)` labels.
        """
        probabilities = self.predict_proba(texts)
        return self.classes_[probabilities.argmax(axis=1)]

    def score(
        self,
        texts: Texts,
        labels: Collection[Label],
        sample_weight: Collection[float] | None = None,
    ) -> float:
        """The accuracy.

        Args:
            texts: List of texts.
            labels: List of their labels.
            sample_weight: Optional weights of the texts.

        Returns:
            A float.

        Raises:
            ValueError: if one of the labels is none of those that were fitted.
        """
        check_is_fitted(self)
        labels = as_list("labels", labels)
        self.model_.template.label_ids(labels)
        return super().score(texts, labels, sample_weight)

    def save(self, filepath: Path) -> None:
        """Saves the classifier in one file, its model included.

        `keras_ptuning.load_model` loads the same file, as the model alone.

        Args:
            filepath: Path of the file to write, e.g. `"sentiment.keras"`.

        Raises:
            ValueError: if the name ends otherwise.
        """
        check_is_fitted(self)
        if not os.fspath(filepath).endswith(".keras"):
            raise ValueError(f"Expected a name that ends in .keras. Received: {filepath!r}.")
        parameters = self.get_params(deep=False)
        parameters |= {"checkpoint": os.fspath(self.checkpoint), **self._parameters_to_json()}
        with replacing(filepath) as temporary:
            self.model_.save(temporary)
            with zipfile.ZipFile(temporary, "a") as archive:
                archive.writestr(PARAMETERS, json.dumps(parameters, default=lambda v: v.item()))

    def export(self, filepath: Path, *args: Any, **kwargs: Any) -> None:
        """Exports the model for other programs, as `ClozeModel.export` does.

        Its scores are in the order of the template's labels, which `classes_` may not be.

        Args:
            filepath: Path of what to write.
            *args, **kwargs: As in `ClozeModel.export`.

        Raises:
            NotFittedError: before `fit`.
        """
        check_is_fitted(self)
        self.model_.export(filepath, *args, **kwargs)

    @classmethod
    def load(cls, filepath: Path) -> Self:
        """Loads what `save` wrote; the checkpoint itself is not needed for it.

        Args:
            filepath: Path of the file.

        Returns:
            A fitted classifier.

        Raises:
            FileNotFoundError: if there is no such file.
            OSError: if it cannot be read, or is no file.
            ValueError: if it is not a file that `save` wrote.
        """
        check_file(filepath, f"There is no file {str(filepath)!r}.")

        def damaged(error):
            return ValueError(
                f"The file {str(filepath)!r} is damaged, or was not written by "
                f"`{cls.__name__}.save` ({error}). Load what `model.save` wrote with `load_model`, "
                "and what `model.save_tuned` wrote with `load_tuned`."
            )

        try:
            with zipfile.ZipFile(filepath) as archive:
                check_archive(archive, os.path.getsize(filepath))
                parameters = dict(parse_json(archive.read(PARAMETERS)))
            for name in ("trainable", "prompt_encoder", "prompt_start"):
                # Of version 0.1.0; the model has them as its methods.
                parameters.pop(name, None)
            unknown = set(parameters) - set(cls._get_param_names())
            if unknown:
                raise ValueError(f"it has {sorted(unknown)}")
            if "checkpoint" not in parameters:
                raise ValueError("it has no checkpoint")
        except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
            raise damaged(error) from None
        model = load_model(filepath)
        try:
            own = cls._parameters_from_json(parameters, model)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(f"{type(error).__name__}: {error}") from None
        classifier = cls(**{**parameters, **own})
        classifier.model_ = model
        classifier.classes_ = np.array(sorted(model.template.label_names))
        return classifier
