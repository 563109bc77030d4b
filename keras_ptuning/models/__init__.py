"""Transformers in Keras: one base, and one file for each architecture."""

from keras_ptuning.models.albert import ALBERT
from keras_ptuning.models.bert import BERT
from keras_ptuning.models.build import (
    build_transformer_model,
    find_application,
    find_model,
    max_length,
    save_transformer_model,
)
from keras_ptuning.models.config import load_config, new_config, override, read_config
from keras_ptuning.models.electra import ELECTRA
from keras_ptuning.models.ernie import ERNIE
from keras_ptuning.models.gpt2 import GPT2
from keras_ptuning.models.inspecting import inspect_checkpoint
from keras_ptuning.models.llama import LLaMA, Qwen2, Qwen3
from keras_ptuning.models.megatron_bert import MegatronBERT
from keras_ptuning.models.nezha import NEZHA
from keras_ptuning.models.roformer import RoFormer
from keras_ptuning.models.t5 import T5
from keras_ptuning.models.transformer import Transformer
from keras_ptuning.models.weights import (
    NamedTensors,
    fingerprint,
    pretrained_weights,
    token_vectors,
)

__all__ = [
    "ALBERT",
    "BERT",
    "ELECTRA",
    "ERNIE",
    "GPT2",
    "NEZHA",
    "T5",
    "LLaMA",
    "MegatronBERT",
    "NamedTensors",
    "Qwen2",
    "Qwen3",
    "RoFormer",
    "Transformer",
    "build_transformer_model",
    "find_application",
    "find_model",
    "fingerprint",
    "inspect_checkpoint",
    "load_config",
    "max_length",
    "new_config",
    "override",
    "pretrained_weights",
    "read_config",
    "save_transformer_model",
    "token_vectors",
]
