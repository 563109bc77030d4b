"""Transformers in Keras."""

from keras_ptuning.models.bert import BERT
from keras_ptuning.models.builders import build_transformer_model, save_transformer_model
from keras_ptuning.models.config import load_config, read_config

__all__ = [
    "BERT",
    "build_transformer_model",
    "load_config",
    "read_config",
    "save_transformer_model",
]
