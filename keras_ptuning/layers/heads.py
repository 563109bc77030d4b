"""The pieces of a cloze head: gather the positions to predict, and read label words there.

Between the two is the checkpoint's own head (`MLM-Dense`, `MLM-Norm`, the tied projection and
`MLM-Bias`), so that it runs on a few positions and not on whole sequences.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ptuning.layers.attention import take_positions
from keras_ptuning.text.masking import NONE


@keras.saving.register_keras_serializable(package="keras_ptuning")
class GatherPositions(keras.layers.Layer):
    """Picks some positions out of each sequence.

    Call arguments:
        inputs: Tensor of shape `(batch, length, hidden)`.
        positions: Integer tensor of shape `(batch, n)`.

    Returns:
        Tensor of shape `(batch, n, hidden)`.

    Example:

    >>> import numpy as np
    >>> x = np.arange(6.0).reshape(1, 3, 2)
    >>> np.array(GatherPositions()(x, np.array([[2, 0]]))).tolist()
    [[[4.0, 5.0], [0.0, 1.0]]]
    """

    def call(self, inputs, positions):
        return take_positions(inputs, positions)

    def compute_output_shape(self, inputs_shape, positions_shape):
        return (*positions_shape, inputs_shape[-1])


@keras.saving.register_keras_serializable(package="keras_ptuning")
class MeanVector(keras.layers.Layer):
    """The mean of the vectors of a text's tokens.

    Call arguments:
        inputs: Tensor of shape `(batch, length, hidden)`.
        is_token: Boolean tensor of shape `(batch, length)`, false at padding.

    Returns:
        Tensor of shape `(batch, hidden)`.

    Example:

    >>> import numpy as np
    >>> x = np.array([[[1.0, 0.0], [3.0, 2.0], [9.0, 9.0]]])
    >>> np.array(MeanVector()(x, np.array([[True, True, False]]))).tolist()
    [[2.0, 1.0]]
    """

    def call(self, inputs, is_token):
        weights = ops.cast(is_token, inputs.dtype)[:, None]
        total = ops.matmul(weights, inputs)[:, 0]
        return total / ops.maximum(ops.sum(weights, axis=-1), 1.0)

    def compute_output_shape(self, inputs_shape, is_token_shape):
        return (inputs_shape[0], inputs_shape[-1])


@keras.saving.register_keras_serializable(package="keras_ptuning")
class Bias(keras.layers.Layer):
    """Adds a trainable vector to the last axis.

    Args:
        size: Optional integer, how many of the inputs get a bias, the first ones. Defaults to all.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(..., n)`.

    Returns:
        Tensor of the same shape.

    Example:

    >>> import numpy as np
    >>> tuple(Bias()(np.ones((2, 3), "float32")).shape)
    (2, 3)
    """

    def __init__(self, size: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def build(self, input_shape):
        shape = (self.size or input_shape[-1],)
        self.bias = self.add_weight(shape=shape, initializer="zeros", name="bias")

    def call(self, inputs):
        bias = ops.cast(self.bias, inputs.dtype)
        rest = inputs.shape[-1] - self.bias.shape[0]
        return inputs + (ops.pad(bias, [[0, rest]]) if rest else bias)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable(package="keras_ptuning")
class Verbalizer(keras.layers.Layer):
    """Turns logits over the vocabulary, at the answer positions, into one score for each label.

    A word's log-probability is the sum of the log-probabilities of its tokens, each at its
    position. Fewer tokens would be more probable by their number alone: so the mean over a word's
    tokens counts, times the number of tokens of the longest word. Where all words are of that
    length, this is their log-probability, and a model that finds every token equally likely finds
    all words equally likely, short or long.

    The score of a label is the logarithm of the sum over its words. The probabilities of all labels
    need not add up to 1: the model may have wanted to say something else.

    Args:
        word_ids: For each label a list of words, each a list of token ids. `None` where each text
            has candidates of its own.
        word_slots: In the same layout, for each token the answer position it is read at. Defaults
            to its place in the word.
        length: Integer, the number of tokens that words are compared at. Defaults to that of the
            longest of `word_ids`; without these, to that of the longest candidate of a batch.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        logits: Tensor of shape `(batch, positions, vocabulary)`.
        candidate_ids: Optional integer tensor of shape `(batch, candidates, tokens)`, words in
            place of `word_ids`; or `(batch, labels, words, tokens)`. Where it is negative, no
            token counts.
        candidate_slots: Optional integer tensor of the same shape, in place of `word_slots`.
        length: Optional tensor of shape `(batch,)`, in place of the argument.

    Returns:
        Tensor of shape `(batch, labels)`, float32; `-1e9` for candidates that are not there.

    Raises:
        ValueError: if a label has no word.

    Example:

    >>> import numpy as np
    >>> # Two labels, the second with two words, over a vocabulary of four tokens:
    >>> verbalizer = Verbalizer([[[1]], [[2], [3]]])
    >>> logits = np.log([[[0.1, 0.5, 0.3, 0.1]]])
    >>> [round(float(p), 3) for p in np.exp(np.array(verbalizer(logits)))[0]]
    [0.5, 0.4]

    Reference:
        - [Schick and Schütze, 2020](https://arxiv.org/abs/2001.07676), section 3.
        - Words of several tokens, which leave the last masks alone if they are short:
          [Schick and Schütze, 2020](https://arxiv.org/abs/2009.07118), section 3.1.
    """

    def __init__(
        self,
        word_ids: Sequence[Sequence[Sequence[int]]] | None = None,
        word_slots: Sequence[Sequence[Sequence[int]]] | None = None,
        length: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if word_ids is not None and not all(words and all(words) for words in word_ids):
            raise ValueError(
                "Each label needs at least one word, and each word a token. Received: "
                f"word_ids={word_ids}."
            )
        if word_ids is not None and word_slots is None:
            word_slots = [[range(len(word)) for word in words] for words in word_ids]
        self.word_ids = _as_lists(word_ids)
        self.word_slots = _as_lists(word_slots)
        self.length = length
        if word_ids is not None:
            self._tokens = word_array(self.word_ids, NONE)
            self._slots = word_array(self.word_slots)
            self.length = length or self._tokens.shape[-1]

    def call(self, logits, candidate_ids=None, candidate_slots=None, length=None):
        logits = ops.cast(logits, "float32")
        batch, vocab_size = ops.shape(logits)[0], ops.shape(logits)[-1]
        if candidate_ids is None:
            shape = (batch, *self._tokens.shape)
            tokens, slots = (ops.broadcast_to(a[None], shape) for a in (self._tokens, self._slots))
        else:
            tokens, slots = candidate_ids, candidate_slots
            if len(tokens.shape) == 3:
                tokens, slots = tokens[:, :, None], slots[:, :, None]
        # Only the columns of the words leave the vocabulary; the rest is one sum per position.
        flat_slots = ops.reshape(slots, (batch, -1))
        columns = flat_slots * vocab_size + ops.reshape(ops.maximum(tokens, 0), (batch, -1))
        log_probs = ops.take_along_axis(ops.reshape(logits, (batch, -1)), columns, axis=1)
        totals = ops.logsumexp(logits, axis=-1)
        log_probs = log_probs - ops.take_along_axis(totals, flat_slots, axis=1)
        log_probs = ops.reshape(log_probs, ops.shape(tokens))
        real = ops.cast(tokens >= 0, "float32")
        count = ops.sum(real, axis=-1)
        means = ops.sum(log_probs * real, axis=-1) / ops.maximum(count, 1.0)
        longest = self.length or ops.shape(tokens)[-1]
        length = longest if length is None else length[:, None, None]
        words = means * ops.cast(length, "float32")
        return ops.logsumexp(ops.where(count > 0, words, -1e9), axis=-1)

    def compute_output_shape(
        self,
        logits_shape,
        candidate_ids_shape=None,
        candidate_slots_shape=None,
        length_shape=None,
    ):
        labels = len(self.word_ids) if candidate_ids_shape is None else candidate_ids_shape[1]
        return (logits_shape[0], labels)

    def get_config(self):
        names = ("word_ids", "word_slots", "length")
        config = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **config}


def _as_lists(labels):
    """Nested lists of plain integers, as they can be saved."""
    return labels and [[[int(i) for i in word] for word in words] for words in labels]


def word_array(labels, fill=0):
    """The same as an array of shape `(labels, words, tokens)`, filled up at the ends."""
    words = max(len(words) for words in labels)
    tokens = max(len(word) for words in labels for word in words)
    array = np.full((len(labels), words, tokens), fill, "int32")
    for row, words in zip(array, labels, strict=True):
        for cells, word in zip(row, words, strict=False):
            cells[: len(word)] = word
    return array
