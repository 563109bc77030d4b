"""The layers that transformers and tuning methods are made of."""

from keras_ptuning.layers.attention import MultiHeadAttention
from keras_ptuning.layers.bottleneck import Bottleneck
from keras_ptuning.layers.dense import Dense
from keras_ptuning.layers.dropout import Dropout
from keras_ptuning.layers.embeddings import (
    Embedding,
    OwnVectors,
    PositionEmbedding,
    PtuningEmbedding,
    RelativePosition,
    RotaryPosition,
)
from keras_ptuning.layers.feed_forward import FeedForward, GatedFeedForward
from keras_ptuning.layers.heads import Bias, GatherPositions, MeanVector, Verbalizer
from keras_ptuning.layers.normalization import LayerNormalization, RMSNormalization
from keras_ptuning.layers.prefix import KeyValuePrefix
from keras_ptuning.layers.prompt_encoder import PromptEncoder
from keras_ptuning.layers.relative import RelativeBias

__all__ = [
    "Bias",
    "Bottleneck",
    "Dense",
    "Dropout",
    "Embedding",
    "FeedForward",
    "GatedFeedForward",
    "GatherPositions",
    "KeyValuePrefix",
    "LayerNormalization",
    "MeanVector",
    "MultiHeadAttention",
    "OwnVectors",
    "PositionEmbedding",
    "PromptEncoder",
    "PtuningEmbedding",
    "RMSNormalization",
    "RelativeBias",
    "RelativePosition",
    "RotaryPosition",
    "Verbalizer",
]
