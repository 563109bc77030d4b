"""Transformers in Keras."""

from keras_ptuning.models.bert import BERT
from keras_ptuning.models.bert_family import ALBERT, ELECTRA, ERNIE, NEZHA, RoFormer
from keras_ptuning.models.builders import (
    build_transformer_model,
    find_application,
    find_model,
    max_length,
    save_transformer_model,
)
from keras_ptuning.models.config import load_config, override, read_config
from keras_ptuning.models.gpt2 import GPT2
from keras_ptuning.models.inspecting import inspect_checkpoint

__all__ = [
    "ALBERT",
    "BERT",
    "ELECTRA",
    "ERNIE",
    "GPT2",
    "NEZHA",
    "RoFormer",
    "build_transformer_model",
    "find_application",
    "find_model",
    "inspect_checkpoint",
    "load_config",
    "max_length",
    "override",
    "read_config",
    "save_transformer_model",
]
