"""Checkpoint files, and which of their tensors belong to which layer."""

from keras_ptuning.checkpoints.loading import load_weights
from keras_ptuning.checkpoints.tensorflow import TensorFlowCheckpoint

__all__ = ["TensorFlowCheckpoint", "load_weights"]
