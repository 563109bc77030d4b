"""The tuning recipes."""

from keras_ptuning.tuning.cloze import ClozeModel
from keras_ptuning.tuning.pretraining import pretrain
from keras_ptuning.tuning.ptuning import build_ptuning_model, load_prompt

__all__ = ["ClozeModel", "build_ptuning_model", "load_prompt", "pretrain"]
