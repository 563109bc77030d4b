"""The tuning recipes."""

from keras_ptuning.tuning.calibration import calibrate
from keras_ptuning.tuning.classifier import PromptClassifier
from keras_ptuning.tuning.cloze import ClozeModel
from keras_ptuning.tuning.finetuning import TextClassifier, build_classifier
from keras_ptuning.tuning.pet import PetClassifier
from keras_ptuning.tuning.predicting import predict_to_file
from keras_ptuning.tuning.pretraining import pretrain
from keras_ptuning.tuning.ptuning import build_ptuning_model, load_prompt
from keras_ptuning.tuning.reading import describe_prompt, plot_prompt, prompt_table
from keras_ptuning.tuning.vat import VATClassifier, build_vat_classifier

__all__ = [
    "ClozeModel",
    "PetClassifier",
    "PromptClassifier",
    "TextClassifier",
    "VATClassifier",
    "build_classifier",
    "build_ptuning_model",
    "build_vat_classifier",
    "calibrate",
    "describe_prompt",
    "load_prompt",
    "plot_prompt",
    "predict_to_file",
    "pretrain",
    "prompt_table",
]
