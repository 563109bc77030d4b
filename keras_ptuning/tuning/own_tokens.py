"""Tokens with vectors that each text, or each member of an ensemble, has for itself."""

from typing import NamedTuple

import numpy as np
from keras import ops

from keras_ptuning.layers import Bias

# What is added to the logit of a token that cannot be predicted.
NEVER = -1e9


class OwnTokens(NamedTuple):
    """Where the tokens of a template that learn are, in a model that shares its table.

    They have the ids behind the vocabulary, in the order of the template's `virtual_ids` and
    `label_token_ids`.

    Attributes:
        ids: Integer array of shape `(n,)`, the ids that these `n` tokens have in the template.
        rows: Integer array of shape `(n,)`, for each the row of the vocabulary whose place it
            takes; the size of the vocabulary if it takes none.
        offset: Float array of shape `(n,)`, what is added to the logit of each, besides the bias of
            its row.
        vocab_size: Integer, the size of the model's vocabulary.
    """

    ids: np.ndarray
    rows: np.ndarray
    offset: np.ndarray
    vocab_size: int

    def move(self, token_ids):
        """The ids to use, in an array of the same shape."""
        if not len(self.ids):
            return token_ids
        own = np.equal.outer(token_ids, self.ids)
        moved = np.where(own.any(axis=-1), self.vocab_size + own.argmax(axis=-1), token_ids)
        return moved.astype("int32")

    @property
    def moved_ids(self):
        """For each token id of the template the one to use."""
        return self.move(np.arange(max([self.vocab_size, *(self.ids + 1)]), dtype="int32"))


def find_own_tokens(template, vocab_size, label_bias=None, tied=True):
    """Moves the tokens of a template that learn behind the vocabulary.

    Args:
        template: A `Template`.
        vocab_size: Integer, the size of the model's vocabulary.
        label_bias: Optional array of shape `(label tokens,)`, what is added for these.
        tied: Whether the model predicts tokens by the rows of their embedding. Otherwise the
            vectors are not predicted, and take no place. Defaults to `True`.

    Returns:
        `OwnTokens`.
    """
    num_words = len(template.label_token_ids)
    ids = np.array(template.virtual_ids + template.label_token_ids, "int32")
    is_word = np.arange(len(ids)) >= len(ids) - num_words
    # Of the tokens beyond the vocabulary, only label words are predicted.
    offset = np.where((ids < vocab_size) | is_word, 0, NEVER).astype("float32")
    if label_bias is not None:
        offset[is_word] += label_bias
    rows = np.minimum(ids, vocab_size)
    if not tied:
        offset, rows = np.full_like(offset, NEVER), np.full_like(rows, vocab_size)
    return OwnTokens(ids, rows, offset, vocab_size)


def token_bias(backbone):
    """The bias that the head of a model has for each token of the vocabulary, or `None`."""
    return next((layer.bias for layer in backbone.layers if isinstance(layer, Bias)), None)


def with_own_logits(logits, own, rows, offset, bias=None):
    """The logits of the vocabulary, and after them those of the tokens that learned.

    Args:
        logits: Tensor of shape `(batch, positions, vocabulary)`.
        own: Tensor of shape `(batch, positions, n)`, of the tokens that learned, without a bias.
        rows, offset: Tensors of shape `(1 or batch, n)`, as `OwnTokens` has them.
        bias: Optional tensor of shape `(vocabulary,)`, what `logits` have in them.

    Returns:
        Tensor of shape `(batch, positions, vocabulary + n)`, float32. In a row of the vocabulary
        whose place is taken it is so low that nothing is left to predict.
    """
    logits, own = ops.cast(logits, "float32"), ops.cast(own, "float32")
    count, vocab_size = ops.shape(rows)[0], logits.shape[-1]
    texts = ops.cumsum(ops.ones_like(rows), axis=0) - 1
    places = ops.reshape(ops.stack([texts, rows], axis=-1), (-1, 2))
    # The last column is for tokens that take no place.
    taken = ops.zeros((count, vocab_size + 1))
    taken = ops.scatter_update(taken, places, ops.full((ops.shape(places)[0],), NEVER))
    logits = logits + taken[:, None, :vocab_size]
    if bias is not None:
        offset = offset + ops.take(ops.pad(ops.cast(bias, "float32"), [[0, 1]]), rows, axis=0)
    return ops.concatenate([logits, own + offset[:, None]], axis=-1)
