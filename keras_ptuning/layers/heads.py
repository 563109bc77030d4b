"""The pieces of a cloze head: gather the positions to predict, and read label words there.

Between the two stands the checkpoint's own head (`MLM-Dense`, `MLM-Norm`, the tied projection and
`MLM-Bias`), so that it runs on a few positions and not on whole sequences.
"""

import keras
import numpy as np
from keras import ops


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
        return ops.take_along_axis(inputs, ops.expand_dims(positions, -1), axis=1)

    def compute_output_shape(self, inputs_shape, positions_shape):
        return (*positions_shape, inputs_shape[-1])


@keras.saving.register_keras_serializable(package="keras_ptuning")
class Bias(keras.layers.Layer):
    """Adds a trainable vector to the last axis.

    Call arguments:
        inputs: Tensor of shape `(..., n)`.

    Returns:
        Tensor of the same shape.

    Example:

    >>> import numpy as np
    >>> tuple(Bias()(np.ones((2, 3), "float32")).shape)
    (2, 3)
    """

    def build(self, input_shape):
        self.bias = self.add_weight(shape=(input_shape[-1],), initializer="zeros", name="bias")

    def call(self, inputs):
        return inputs + ops.cast(self.bias, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="keras_ptuning")
class Verbalizer(keras.layers.Layer):
    """Turns logits over the vocabulary, at the answer positions, into one score for each label.

    The score of a label is `log P(label)`: a word's log-probability is the sum of the
    log-probabilities of its tokens, each at its position, and the probabilities of a label's
    words add up. The probabilities of all labels need not add up to 1: the model may have wanted
    to say something else.

    Args:
        word_ids: For each label a list of words, each word a list of token ids. All words have
            as many tokens as there are answer positions.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        logits: Tensor of shape `(batch, positions, vocabulary)`.

    Returns:
        Tensor of shape `(batch, labels)`, float32.

    Raises:
        ValueError: if words differ in their number of tokens, or a label has no word.

    Example:

    >>> import numpy as np
    >>> # Two labels, the second with two words, over a vocabulary of four tokens:
    >>> verbalizer = Verbalizer([[[0]], [[1], [2]]])
    >>> logits = np.log([[[0.5, 0.1, 0.3, 0.1]]])
    >>> [round(float(p), 3) for p in np.exp(np.array(verbalizer(logits)))[0]]
    [0.5, 0.4]

    Reference:
        - [Schick and Schütze, 2020](https://arxiv.org/abs/2001.07676), section 3.
    """

    def __init__(self, word_ids, **kwargs):
        super().__init__(**kwargs)
        self.word_ids = [[[int(i) for i in word] for word in words] for words in word_ids]
        lengths = {len(word) for words in self.word_ids for word in words}
        if not all(self.word_ids) or len(lengths) != 1:
            raise ValueError(
                "Each label needs at least one word, and all words the same number of tokens. "
                f"Received: word_ids={word_ids}."
            )

    def call(self, logits):
        logits = ops.cast(logits, "float32")
        words = np.array([word for words in self.word_ids for word in words])
        # Only the columns of the words leave the vocabulary; the rest is one sum per position.
        log_probs = [
            ops.take(logits[:, position], words[:, position], axis=-1)
            - ops.logsumexp(logits[:, position], axis=-1, keepdims=True)
            for position in range(words.shape[1])
        ]
        log_probs = sum(log_probs[1:], log_probs[0])
        scores, start = [], 0
        for label_words in self.word_ids:
            end = start + len(label_words)
            scores.append(ops.logsumexp(log_probs[:, start:end], axis=-1))
            start = end
        return ops.stack(scores, axis=-1)

    def compute_output_shape(self, logits_shape):
        return (logits_shape[0], len(self.word_ids))

    def get_config(self):
        return {**super().get_config(), "word_ids": self.word_ids}
