"""Checkpoint files, and which of their tensors belong to which layer."""

from keras_ptuning.checkpoints.loading import check_depth, load_weights
from keras_ptuning.checkpoints.tensorflow import TensorFlowCheckpoint

__all__ = ["TensorFlowCheckpoint", "check_depth", "load_weights"]
