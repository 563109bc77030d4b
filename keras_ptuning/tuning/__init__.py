"""The tuning recipes."""

from keras_ptuning.tuning.classifier import PromptClassifier
from keras_ptuning.tuning.cloze import ClozeModel
from keras_ptuning.tuning.pretraining import pretrain
from keras_ptuning.tuning.ptuning import build_ptuning_model, load_prompt
from keras_ptuning.tuning.reading import describe_prompt, plot_prompt, prompt_table

__all__ = [
    "ClozeModel",
    "PromptClassifier",
    "build_ptuning_model",
    "describe_prompt",
    "load_prompt",
    "plot_prompt",
    "pretrain",
    "prompt_table",
]
