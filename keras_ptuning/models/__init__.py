"""Transformers in Keras."""

from keras_ptuning.models.bert import BERT
from keras_ptuning.models.builders import (
    build_transformer_model,
    is_causal,
    save_transformer_model,
)
from keras_ptuning.models.config import load_config, read_config
from keras_ptuning.models.gpt2 import GPT2

__all__ = [
    "BERT",
    "GPT2",
    "build_transformer_model",
    "is_causal",
    "load_config",
    "read_config",
    "save_transformer_model",
]
