"""Multi-head attention."""

import math
from typing import Any

import keras
from keras import ops

from keras_ptuning.layers.dense import Dense
from keras_ptuning.layers.dropout import Dropout
from keras_ptuning.layers.normalization import RMSNormalization


@keras.saving.register_keras_serializable(package="keras_ptuning")
class MultiHeadAttention(keras.layers.Layer):
    """Multi-head attention, of a sequence to itself or to another one.

    `project_query` and `project_memory` make queries, keys and values; `attend` is what follows.

    Args:
        heads: Integer. Number of heads.
        head_size: Integer. Size of each head.
        dropout: Float. Share of the attention weights dropped in training. Defaults to `0`.
        kernel_initializer: Initializer of the four projections.
        key_heads: Integer. Number of heads of keys and values, each for several heads of queries.
            Defaults to `heads`.
        use_bias: Whether queries, keys and values have a bias. Defaults to `True`.
        output_bias: Whether the output has one. Defaults to `use_bias`.
        norm_epsilon: With a number, an RMS norm of this epsilon is applied to each head of queries
            and keys. Defaults to `None`.
        rotate_halves: Whether `rotary` turns number `i` of a head together with number
            `i + head_size / 2`, as in LLaMA; not with its neighbour. Defaults to `False`.
        scaled: Whether scores are divided by the square root of `head_size`. T5's are not.
            Defaults to `True`.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(batch, length, hidden)`.
        attention_mask: Boolean tensor that broadcasts to `(batch, heads, length, length)`;
            `True` where a query (third axis) may look at a key (fourth axis).
        rotary: Optional tensor of shape `(1 or batch, length, head_size)`, what `RotaryPosition`
            makes: queries and keys are turned by their positions.
        relative: Optional tensor of shape `(1 or batch, length, length, head_size)`, what
            `RelativePosition` makes: added to keys and values, for each pair of tokens.
        prefix: Optional tensor of shape `(2, 1 or batch, key_heads, n, head_size)`, keys and
            values of virtual tokens: all tokens look at them too.
        prefix_mask: Optional boolean tensor of shape `(batch, n)`, false where a text has no
            virtual token.
        memory: Optional tensor of shape `(batch, m, hidden)`, another sequence to look at, as a
            decoder looks at what its encoder read; or of shape `(2, batch, key_heads, m,
            head_size)`, keys and values as `project_memory` makes them. The mask's last axis is
            `m` then.
        bias: Optional tensor of shape `(1 or batch, heads, length, length or m)`, what
            `RelativeBias` makes: added to the scores.
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
        - [Ainslie et al., 2023](https://arxiv.org/abs/2305.13245), section 2.2, for `key_heads`.
        - [Raffel et al., 2019](https://arxiv.org/abs/1910.10683), section 2.1, for `bias`.
    """

    def __init__(
        self,
        heads: int,
        head_size: int,
        dropout: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        key_heads: int | None = None,
        use_bias: bool = True,
        output_bias: bool | None = None,
        norm_epsilon: float | None = None,
        rotate_halves: bool = False,
        scaled: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.head_size = head_size
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.key_heads = heads if key_heads is None else key_heads
        self.use_bias = use_bias
        self.output_bias = use_bias if output_bias is None else output_bias
        self.norm_epsilon = norm_epsilon
        self.rotate_halves = rotate_halves
        self.scaled = scaled
        if heads % self.key_heads:
            raise ValueError(
                "`heads` must be a multiple of `key_heads`. Received: "
                f"heads={heads}, key_heads={key_heads}."
            )

    def build(self, input_shape):
        def dense(units, name, input_size, use_bias=self.use_bias):
            layer = Dense(
                units,
                use_bias=use_bias,
                kernel_initializer=self.kernel_initializer.clone(),
                dtype=self.dtype_policy,
                name=name,
            )
            layer.build((None, None, input_size))
            return layer

        def norm(name):
            layer = RMSNormalization(self.norm_epsilon, dtype=self.dtype_policy, name=name)
            layer.build((None, None, None, self.head_size))
            return layer

        hidden, size = input_shape[-1], self.heads * self.head_size
        key_size = self.key_heads * self.head_size
        self.query = dense(size, "query", hidden)
        self.key = dense(key_size, "key", hidden)
        self.value = dense(key_size, "value", hidden)
        self.output_dense = dense(hidden, "output", size, self.output_bias)
        if self.norm_epsilon is not None:
            self.query_norm, self.key_norm = norm("query_norm"), norm("key_norm")
        self.attention_dropout = Dropout(self.dropout, dtype=self.dtype_policy)

    def call(
        self,
        inputs,
        attention_mask,
        rotary=None,
        relative=None,
        prefix=None,
        prefix_mask=None,
        memory=None,
        bias=None,
        positions=None,
        training=None,
    ):
        queries, turned = inputs, rotary
        if positions is not None:
            queries = take_positions(inputs, positions)
            turned = take_positions(rotary, positions)
            relative = take_positions(relative, positions)
            bias = take_queries(bias, positions)
            for _ in range(4 - len(attention_mask.shape)):
                attention_mask = attention_mask[None]
            if attention_mask.shape[2] != 1:
                attention_mask = take_positions(attention_mask, positions[:, None], axis=2)
        query = self.project_query(queries, turned)
        if memory is None:
            memory = self.project_memory(inputs, rotary)
        elif len(memory.shape) == 3:
            memory = self.project_memory(memory)
        key, value = memory[0], memory[1]
        outputs = self.attend(
            query, key, value, attention_mask, relative, prefix, prefix_mask, bias, training
        )
        return self.output_dense(outputs)

    def project_query(self, inputs, rotary=None):
        """Queries, `(batch, heads, length, head_size)`."""
        query = self._split_heads(self.query(inputs), inputs, self.heads)
        query = query if self.norm_epsilon is None else self.query_norm(query)
        return query if rotary is None else self._rotate(query, rotary)

    def project_memory(self, inputs, rotary=None):
        """Keys and values, what is looked at, each `(batch, key_heads, length, head_size)`."""
        key, value = (
            self._split_heads(project(inputs), inputs, self.key_heads)
            for project in (self.key, self.value)
        )
        key = key if self.norm_epsilon is None else self.key_norm(key)
        return (key if rotary is None else self._rotate(key, rotary)), value

    def attend(
        self,
        query,
        key,
        value,
        attention_mask,
        relative=None,
        prefix=None,
        prefix_mask=None,
        bias=None,
        training=None,
    ):
        """What queries find at the keys, `(batch, length, heads * head_size)`."""
        # What the tokens look at has to be exact; a mixed policy has the numbers for it.
        query, key = (ops.cast(x, self.variable_dtype) for x in (query, key))
        # Scaled here, and masked by a sum: the scores are many, and each pass over them counts.
        if self.scaled:
            query = query / math.sqrt(self.head_size)
        scores = self._scores(query, key)
        if relative is not None:
            relative = ops.cast(relative, query.dtype)
            distances = _per_query(query, ops.transpose(relative, (0, 1, 3, 2)))
            scores = scores + ops.cast(distances, scores.dtype)
        if bias is not None:
            scores = scores + ops.cast(bias, scores.dtype)
        scores = self._masked(scores, attention_mask)
        if prefix is not None:
            # No distance: each token sees all of the prefix, from everywhere alike.
            prefix_key = ops.cast(prefix[0], query.dtype)
            prefix_scores = self._scores(query, prefix_key)
            if prefix_mask is not None:
                prefix_scores = self._masked(prefix_scores, prefix_mask[:, None, None])
            scores = ops.concatenate([prefix_scores, scores], axis=-1)
        # A decoder often has only one token to look at, of which Keras's softmax warns.
        single = scores.shape[-1] == 1
        weights = ops.exp(scores - scores) if single else ops.softmax(scores)
        weights = ops.cast(weights, value.dtype)
        weights = self.attention_dropout(weights, training=training)
        if prefix is None:
            outputs = self._matmul(weights, value)
        else:
            length = ops.shape(prefix)[3]
            found = self._matmul(weights[..., :length], ops.cast(prefix[1], value.dtype))
            weights = weights[..., length:]
            outputs = found + self._matmul(weights, value)
        if relative is not None:
            outputs = outputs + _per_query(weights, ops.cast(relative, weights.dtype))
        outputs = ops.transpose(outputs, (0, 2, 1, 3))
        batch, length = ops.shape(outputs)[:2]
        return ops.reshape(outputs, (batch, length, self.heads * self.head_size))

    def _scores(self, query, key):
        scores = self._matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        # The sums of a softmax need more places than half precision has.
        return ops.cast(scores, keras.backend.result_type(scores.dtype, "float32"))

    def _masked(self, scores, mask):
        return scores - 1e9 * ops.cast(ops.logical_not(mask), scores.dtype)

    def _matmul(self, x, y):
        """`(batch, heads, n, k)` by `(1 or batch, key_heads, k, m)`."""
        if self.heads == self.key_heads:
            return ops.matmul(x, y)
        # The heads that share keys in one product, so that no key is repeated.
        batch, _, n, k = ops.shape(x)
        # No -1, since there may be no prefix: `m`, or `k`, is 0 then.
        x = ops.reshape(x, (batch, self.key_heads, self.heads // self.key_heads * n, k))
        return ops.reshape(ops.matmul(x, y), (batch, self.heads, n, ops.shape(y)[3]))

    def _rotate(self, x, waves):
        """Turns pairs of numbers of `(batch, heads, length, size)` by the angle of the position."""
        waves = ops.cast(waves, x.dtype)[:, None]
        sine, cosine = waves[..., ::2], waves[..., 1::2]
        if self.rotate_halves:
            first, second = ops.split(x, 2, axis=-1)
            turned = [first * cosine - second * sine, second * cosine + first * sine]
            return ops.concatenate(turned, axis=-1)
        sine, cosine = (ops.repeat(wave, 2, axis=-1) for wave in (sine, cosine))
        pairs = ops.stack([-x[..., 1::2], x[..., ::2]], axis=-1)
        return x * cosine + ops.reshape(pairs, ops.shape(x)) * sine

    def _split_heads(self, x, inputs, heads):
        # Not the shape of `x`: of large products, converters to ONNX leave out the axes.
        batch, length = ops.shape(inputs)[:2]
        x = ops.reshape(x, (batch, length, heads, self.head_size))
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
            "key_heads": self.key_heads,
            "use_bias": self.use_bias,
            "output_bias": self.output_bias,
            "norm_epsilon": self.norm_epsilon,
            "rotate_halves": self.rotate_halves,
            "scaled": self.scaled,
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


def take_queries(bias, positions):
    """What is at some positions of the third axis; `None` stays `None`."""
    if bias is None:
        return None
    if bias.shape[0] == 1:
        return ops.transpose(ops.take(bias[0], positions, axis=1), (1, 0, 2, 3))
    return ops.take_along_axis(bias, positions[:, None, :, None], axis=2)


def _per_query(x, matrices):
    """`(batch, heads, queries, m)` by a matrix for each query, `(1 or batch, queries, m, n)`."""
    x = ops.transpose(x, (0, 2, 1, 3))
    return ops.transpose(ops.matmul(x, matrices), (0, 2, 1, 3))
