"""Keras models that classify: by a cloze, by `[CLS]`, with VAT; and what belongs to them."""

from keras_ptuning.tuning.bank import PromptBank
from keras_ptuning.tuning.calibration import calibrate
from keras_ptuning.tuning.classifier import TextClassifier, build_classifier
from keras_ptuning.tuning.cloze import ClozeModel, build_ptuning_model
from keras_ptuning.tuning.ensemble import PromptEnsemble, build_prompt_ensemble
from keras_ptuning.tuning.label_words import LabelWords, search_label_words
from keras_ptuning.tuning.loading import load_model, load_tuned
from keras_ptuning.tuning.mining import mine_templates
from keras_ptuning.tuning.predicting import predict_to_file
from keras_ptuning.tuning.probing import probe
from keras_ptuning.tuning.reading import describe_prompt, plot_prompt, prompt_table
from keras_ptuning.tuning.search import WeighedTemplates, search_template, weigh_templates
from keras_ptuning.tuning.tagger import Tagger, build_tagger
from keras_ptuning.tuning.text_predictor import TextPredictor
from keras_ptuning.tuning.vat import VATClassifier, build_vat_classifier

__all__ = [
    "ClozeModel",
    "LabelWords",
    "PromptBank",
    "PromptEnsemble",
    "Tagger",
    "TextClassifier",
    "TextPredictor",
    "VATClassifier",
    "WeighedTemplates",
    "build_classifier",
    "build_prompt_ensemble",
    "build_ptuning_model",
    "build_tagger",
    "build_vat_classifier",
    "calibrate",
    "describe_prompt",
    "load_model",
    "load_tuned",
    "mine_templates",
    "plot_prompt",
    "predict_to_file",
    "probe",
    "prompt_table",
    "search_label_words",
    "search_template",
    "weigh_templates",
]
