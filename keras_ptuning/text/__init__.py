"""Text to arrays: tokenizers, templates, masking, batches."""

from keras_ptuning.text.batches import ClozeDataset
from keras_ptuning.text.templates import PlainText, Template
from keras_ptuning.text.tokenizers import Tokenizer, find_vocab

__all__ = ["ClozeDataset", "PlainText", "Template", "Tokenizer", "find_vocab"]
