"""Checkpoint files: finding, reading and writing them."""

from keras_ptuning.checkpoints.locating import (
    find_checkpoint,
    find_config,
    find_vocab,
    find_weights,
)
from keras_ptuning.checkpoints.opening import open_checkpoint
from keras_ptuning.checkpoints.pytorch import PyTorchCheckpoint
from keras_ptuning.checkpoints.safetensors import SafetensorsCheckpoint
from keras_ptuning.checkpoints.tensorflow import TensorFlowCheckpoint
from keras_ptuning.checkpoints.writing import write_safetensors, write_tensorflow

__all__ = [
    "PyTorchCheckpoint",
    "SafetensorsCheckpoint",
    "TensorFlowCheckpoint",
    "find_checkpoint",
    "find_config",
    "find_vocab",
    "find_weights",
    "open_checkpoint",
    "write_safetensors",
    "write_tensorflow",
]
