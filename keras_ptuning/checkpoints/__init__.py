"""Checkpoint files, and which of their tensors belong to which layer."""

from keras_ptuning.checkpoints.heads import has_head, untrained_evidence
from keras_ptuning.checkpoints.loading import (
    NamedTensors,
    check_architecture,
    check_depth,
    check_tied,
    load_weights,
)
from keras_ptuning.checkpoints.locating import (
    find_checkpoint,
    find_config,
    find_vocab,
    find_weights,
)
from keras_ptuning.checkpoints.names import LAYOUTS, architecture_of
from keras_ptuning.checkpoints.opening import open_checkpoint
from keras_ptuning.checkpoints.pytorch import PyTorchCheckpoint
from keras_ptuning.checkpoints.safetensors import SafetensorsCheckpoint
from keras_ptuning.checkpoints.saving import (
    checkpoint_tensors,
    write_safetensors,
    write_tensorflow,
)
from keras_ptuning.checkpoints.tensorflow import TensorFlowCheckpoint

__all__ = [
    "LAYOUTS",
    "NamedTensors",
    "PyTorchCheckpoint",
    "SafetensorsCheckpoint",
    "TensorFlowCheckpoint",
    "architecture_of",
    "check_architecture",
    "check_depth",
    "check_tied",
    "checkpoint_tensors",
    "find_checkpoint",
    "find_config",
    "find_vocab",
    "find_weights",
    "has_head",
    "load_weights",
    "open_checkpoint",
    "untrained_evidence",
    "write_safetensors",
    "write_tensorflow",
]
