"""Text to arrays: tokenizers, templates, masking, batches."""

from keras_ptuning.text.batches import ClozeDataset
from keras_ptuning.text.piece_tokenizer import PieceTokenizer, as_tokenizer
from keras_ptuning.text.templates import PlainText, Template
from keras_ptuning.text.tokenizers import Tokenizer, find_vocab

__all__ = [
    "ClozeDataset",
    "PieceTokenizer",
    "PlainText",
    "Template",
    "Tokenizer",
    "as_tokenizer",
    "find_vocab",
]
