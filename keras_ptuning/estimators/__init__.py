"""Classifiers as scikit-learn has them: texts in, labels out."""

from keras_ptuning.estimators.pet_classifier import PetClassifier
from keras_ptuning.estimators.prompt_classifier import PromptClassifier

__all__ = ["PetClassifier", "PromptClassifier"]
