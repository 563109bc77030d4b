"""Multi-head attention."""

import math

import keras
from keras import ops

from keras_ptuning.layers.dense import Dense
from keras_ptuning.layers.dropout import Dropout


@keras.saving.register_keras_serializable(package="keras_ptuning")
class MultiHeadAttention(keras.layers.Layer):
    """Multi-head self-attention, with the weights laid out as in BERT checkpoints.

    `project_query` and `project_memory` make queries, keys and values; `attend` is what follows.

    Args:
        heads: Integer. Number of heads.
        head_size: Integer. Size of each head.
        dropout: Float. Share of the attention weights dropped in training. Defaults to `0`.
        kernel_initializer: Initializer of the four projections.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(batch, length, hidden)`.
        attention_mask: Boolean tensor that broadcasts to `(batch, heads, length, length)`;
            `True` where a query (third axis) may look at a key (fourth axis).
        rotary: Optional tensor of shape `(1 or batch, length, head_size)`, what `RotaryPosition`
            makes: queries and keys are turned by their positions.
        relative: Optional tensor of shape `(1 or batch, length, length, head_size)`, what
            `RelativePosition` makes: added to keys and values, for each pair of tokens.
        prefix: Optional tensor of shape `(2, 1 or batch, heads, n, head_size)`, keys and values of
            virtual tokens: all tokens look at them too.
        prefix_mask: Optional boolean tensor of shape `(batch, n)`, false where a text has no
            virtual token.
        positions: Optional integer tensor of shape `(batch, n)`: the tokens that look; the others
            are only looked at. Defaults to all of them.
        training: Whether to drop attention weights.

    Returns:
        Tensor of shape `(batch, length, hidden)`; with `positions`, `(batch, n, hidden)`.

    Example:

    >>> import numpy as np
    >>> layer = MultiHeadAttention(heads=2, head_size=8)
    >>> x = np.random.rand(3, 5, 16).astype("float32")
    >>> tuple(layer(x, attention_mask=np.ones((3, 1, 1, 5), "bool")).shape)
    (3, 5, 16)

    Reference:
        - [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762), section 3.2.
        - [Su et al., 2021](https://arxiv.org/abs/2104.09864), section 3.2, for `rotary`.
        - [Shaw et al., 2018](https://arxiv.org/abs/1803.02155), section 3.1, for `relative`.
    """

    def __init__(
        self, heads, head_size, dropout=0.0, kernel_initializer="glorot_uniform", **kwargs
    ):
        super().__init__(**kwargs)
        self.heads = heads
        self.head_size = head_size
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        def dense(units, name, input_size):
            layer = Dense(
                units,
                kernel_initializer=self.kernel_initializer.clone(),
                dtype=self.dtype_policy,
                name=name,
            )
            layer.build((None, None, input_size))
            return layer

        hidden, size = input_shape[-1], self.heads * self.head_size
        self.query = dense(size, "query", hidden)
        self.key = dense(size, "key", hidden)
        self.value = dense(size, "value", hidden)
        self.output_dense = dense(hidden, "output", size)
        self.attention_dropout = Dropout(self.dropout, dtype=self.dtype_policy)

    def call(
        self,
        inputs,
        attention_mask,
        rotary=None,
        relative=None,
        prefix=None,
        prefix_mask=None,
        positions=None,
        training=None,
    ):
        queries, turned = inputs, rotary
        if positions is not None:
            queries = take_positions(inputs, positions)
            turned = take_positions(rotary, positions)
            relative = take_positions(relative, positions)
            if attention_mask.shape[2] != 1:
                attention_mask = take_positions(attention_mask, positions[:, None], axis=2)
        query = self.project_query(queries, turned)
        key, value = self.project_memory(inputs, rotary)
        outputs = self.attend(
            query, key, value, attention_mask, relative, prefix, prefix_mask, training
        )
        return self.output_dense(outputs)

    def project_query(self, inputs, rotary=None):
        """Queries, `(batch, heads, length, head_size)`."""
        query = self._split_heads(self.query(inputs), inputs)
        return query if rotary is None else _rotate(query, rotary)

    def project_memory(self, inputs, rotary=None):
        """Keys and values, what is looked at, each `(batch, heads, length, head_size)`."""
        key, value = (self._split_heads(f(inputs), inputs) for f in (self.key, self.value))
        return (key if rotary is None else _rotate(key, rotary)), value

    def attend(
        self,
        query,
        key,
        value,
        attention_mask,
        relative=None,
        prefix=None,
        prefix_mask=None,
        training=None,
    ):
        """What queries find at the keys, `(batch, length, heads * head_size)`."""
        # What the tokens look at has to be exact; a mixed policy has the numbers for it.
        query, key = (ops.cast(x, self.variable_dtype) for x in (query, key))
        # Scaled here, and masked by a sum: the scores are many, and each pass over them counts.
        query = query / math.sqrt(self.head_size)
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        if relative is not None:
            relative = ops.cast(relative, query.dtype)
            scores = scores + _per_query(query, ops.transpose(relative, (0, 1, 3, 2)))
        scores = self._masked(scores, attention_mask)
        if prefix is not None:
            # No distance: each token sees all of the prefix, from everywhere alike.
            prefix_key = ops.cast(prefix[0], query.dtype)
            prefix_scores = ops.matmul(query, ops.transpose(prefix_key, (0, 1, 3, 2)))
            if prefix_mask is not None:
                prefix_scores = self._masked(prefix_scores, prefix_mask[:, None, None])
            scores = ops.concatenate([prefix_scores, scores], axis=-1)
        weights = ops.cast(ops.softmax(scores), value.dtype)
        weights = self.attention_dropout(weights, training=training)
        if prefix is None:
            outputs = ops.matmul(weights, value)
        else:
            length = ops.shape(prefix)[3]
            found = ops.matmul(weights[..., :length], ops.cast(prefix[1], value.dtype))
            weights = weights[..., length:]
            outputs = found + ops.matmul(weights, value)
        if relative is not None:
            outputs = outputs + _per_query(weights, ops.cast(relative, weights.dtype))
        outputs = ops.transpose(outputs, (0, 2, 1, 3))
        batch, length = ops.shape(outputs)[:2]
        return ops.reshape(outputs, (batch, length, self.heads * self.head_size))

    def _masked(self, scores, mask):
        minus_infinity = -3e4 if self.variable_dtype == "float16" else -1e9
        return scores + minus_infinity * ops.cast(ops.logical_not(mask), scores.dtype)

    def _split_heads(self, x, inputs):
        # Not the shape of `x`: of large products, converters to ONNX leave out the axes.
        batch, length = ops.shape(inputs)[:2]
        x = ops.reshape(x, (batch, length, self.heads, self.head_size))
        return ops.transpose(x, (0, 2, 1, 3))

    def compute_output_spec(self, inputs, *args, positions=None, **kwargs):
        shape = inputs.shape if positions is None else (*positions.shape, inputs.shape[-1])
        return keras.KerasTensor(shape, self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "heads": self.heads,
            "head_size": self.head_size,
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def take_positions(x, positions, axis=1):
    """What is at some positions of an axis; `None` stays `None`."""
    if x is None:
        return None
    if axis == 1 and x.shape[0] == 1:
        # The same for all texts: not to be repeated for each.
        return ops.take(x[0], positions, axis=0)
    missing = len(x.shape) - len(positions.shape)
    return ops.take_along_axis(x, positions[(..., *[None] * missing)], axis=axis)


def _per_query(x, matrices):
    """`(batch, heads, queries, m)` by a matrix for each query, `(1 or batch, queries, m, n)`."""
    x = ops.transpose(x, (0, 2, 1, 3))
    return ops.transpose(ops.matmul(x, matrices), (0, 2, 1, 3))


def _rotate(x, waves):
    """Turns each pair of numbers of `(batch, heads, length, size)` by the angle of its position."""
    waves = ops.cast(waves, x.dtype)[:, None]
    sine, cosine = (ops.repeat(waves[..., i::2], 2, axis=-1) for i in range(2))
    pairs = ops.stack([-x[..., 1::2], x[..., ::2]], axis=-1)
    return x * cosine + ops.reshape(pairs, ops.shape(x)) * sine
