"""Checkpoint files, and which of their tensors belong to which layer."""

from keras_ptuning.checkpoints.loading import check_depth, load_weights, open_checkpoint
from keras_ptuning.checkpoints.locating import find_checkpoint
from keras_ptuning.checkpoints.safetensors import SafetensorsCheckpoint
from keras_ptuning.checkpoints.saving import (
    checkpoint_tensors,
    write_safetensors,
    write_tensorflow,
)
from keras_ptuning.checkpoints.tensorflow import TensorFlowCheckpoint

__all__ = [
    "SafetensorsCheckpoint",
    "TensorFlowCheckpoint",
    "check_depth",
    "checkpoint_tensors",
    "find_checkpoint",
    "load_weights",
    "open_checkpoint",
    "write_safetensors",
    "write_tensorflow",
]
