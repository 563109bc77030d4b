"""Prompt-based few-shot learning with pretrained Chinese BERT checkpoints, in Keras."""

from keras_ptuning import datasets, layers
from keras_ptuning.data import PackedDataset
from keras_ptuning.layers import PtuningEmbedding
from keras_ptuning.models import build_transformer_model, save_transformer_model
from keras_ptuning.templates import Template
from keras_ptuning.tokenizers import Tokenizer, build_vocab
from keras_ptuning.tuning import ClozeModel, build_ptuning_model, load_prompt, pretrain

__version__ = "0.1.0"

__all__ = [
    "ClozeModel",
    "PackedDataset",
    "PtuningEmbedding",
    "Template",
    "Tokenizer",
    "build_ptuning_model",
    "build_transformer_model",
    "build_vocab",
    "datasets",
    "layers",
    "load_prompt",
    "pretrain",
    "save_transformer_model",
]
