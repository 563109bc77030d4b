"""Pretraining from scratch, and continued: packed documents, the loop, vocabularies."""

from keras_ptuning.pretraining.loop import pretrain
from keras_ptuning.pretraining.packing import PackedDataset
from keras_ptuning.pretraining.spans import TextToTextDataset
from keras_ptuning.pretraining.vocabularies import build_vocab

__all__ = ["PackedDataset", "TextToTextDataset", "build_vocab", "pretrain"]
