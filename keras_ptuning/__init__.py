"""Prompt-based few-shot learning with pretrained Chinese BERT checkpoints, in Keras."""

from keras_ptuning import datasets, layers
from keras_ptuning.layers import PtuningEmbedding
from keras_ptuning.models import build_transformer_model
from keras_ptuning.templates import Template
from keras_ptuning.tokenizers import Tokenizer
from keras_ptuning.tuning import ClozeModel, build_ptuning_model, load_prompt

__version__ = "0.1.0"

__all__ = [
    "ClozeModel",
    "PtuningEmbedding",
    "Template",
    "Tokenizer",
    "build_ptuning_model",
    "build_transformer_model",
    "datasets",
    "layers",
    "load_prompt",
]
