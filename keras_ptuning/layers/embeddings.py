"""Embeddings: of positions, and of tokens of which only chosen ones learn."""

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from keras_ptuning.backend import for_dense_gradient
from keras_ptuning.layers.prompt_encoder import PromptEncoder

# A logit that leaves no probability to a token.
NEVER = -1e4


@keras.saving.register_keras_serializable(package="keras_ptuning")
class Embedding(keras.layers.ReversibleEmbedding):
    """Keras's embedding, with a dense gradient.

    On TensorFlow the gradient of a lookup is a list of rows, in which a row is as often as it
    was looked up. Keras's Adam squares these each by itself, and so takes too long steps: with the
    segments of a BERT several times too long.

    Args:
        input_dim: Integer. Number of rows.
        output_dim: Integer. Size of a row.
        **kwargs: Other arguments of `keras.layers.ReversibleEmbedding`.

    Call arguments:
        inputs: Integer tensor of any shape. With `reverse=True`, a tensor of shape
            `(..., output_dim)`.
        reverse: Whether to project back to the rows. Defaults to `False`.

    Returns:
        Tensor of shape `(..., output_dim)`; with `reverse=True`, `(..., input_dim)`.

    Example:

    >>> import numpy as np
    >>> tuple(Embedding(100, 16)(np.array([[1, 2, 50]])).shape)
    (1, 3, 16)
    """

    def call(self, inputs, reverse=False):
        if reverse:
            return super().call(inputs, reverse=True)
        return ops.cast(_look_up(self.embeddings, inputs), self.compute_dtype)


def _look_up(table, rows):
    """Rows of a variable, with a dense gradient."""
    return ops.take(for_dense_gradient(table), ops.cast(rows, "int32"), axis=0)


@keras.saving.register_keras_serializable(package="keras_ptuning")
class OwnVectors(keras.layers.Layer):
    """Puts a text's own vectors in the places of the tokens that mean them.

    Args:
        first_id: Integer. The id `first_id + i` means the text's vector `i`.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(batch, length, size)`, the vectors of a table.
        token_ids: Integer tensor of shape `(batch, length)`.
        vectors: Tensor of shape `(batch, n, size)`, those of each text.

    Returns:
        Tensor of the same shape as `inputs`.

    Example:

    >>> import numpy as np
    >>> x, vectors = np.zeros((1, 3, 2), "float32"), np.ones((1, 1, 2), "float32")
    >>> np.array(OwnVectors(first_id=50)(x, np.array([[7, 50, 8]]), vectors)).tolist()
    [[[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]]
    """

    def __init__(self, first_id: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first_id = first_id

    def call(self, inputs, token_ids, vectors):
        places = ops.expand_dims(token_ids - self.first_id, -1)
        # There may be none, and something is always read.
        vectors = ops.pad(vectors, [[0, 0], [0, 1], [0, 0]])
        own = ops.take_along_axis(vectors, ops.maximum(places, 0), axis=1)
        return ops.where(places >= 0, ops.cast(own, inputs.dtype), inputs)

    def compute_output_shape(self, inputs_shape, token_ids_shape=None, vectors_shape=None):
        return inputs_shape

    def get_config(self):
        return {**super().get_config(), "first_id": self.first_id}


@keras.saving.register_keras_serializable(package="keras_ptuning")
class PositionEmbedding(keras.layers.Layer):
    """Adds a trainable vector for each position.

    Args:
        input_dim: Integer. The number of positions.
        embeddings_initializer: Initializer of the vectors.
        hierarchical: Weight of the first of two vectors that make one of `input_dim ** 2`
            positions: position `i * input_dim + j` out of those of `i` and `j`. The first
            `input_dim` positions stay what they are. `True` for `0.4`. Defaults to `None`: there
            are `input_dim` positions.
        **kwargs: Other arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch, length, hidden)`.
        positions: Optional integer tensor of shape `(batch, length)`. Defaults to 0, 1, 2...

    Returns:
        Tensor of the same shape.

    Raises:
        ValueError: if there are no `positions`, and `length` is known and greater than the number
            of positions; if `hierarchical` is not between 0 and 1.

    Example:

    >>> import numpy as np
    >>> layer = PositionEmbedding(input_dim=512)
    >>> tuple(layer(np.zeros((2, 7, 16), "float32")).shape)
    (2, 7, 16)

    Reference:
        - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805), section 3.
        - [Su, 2020](https://kexue.fm/archives/7947), on hierarchical positions.
    """

    def __init__(
        self,
        input_dim: int,
        embeddings_initializer: Any = "uniform",
        hierarchical: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_dim = input_dim
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.hierarchical = 0.4 if hierarchical is True else (hierarchical or None)
        if self.hierarchical is not None and not 0 < self.hierarchical < 1:
            raise ValueError(
                "`hierarchical` must be True, or a weight between 0 and 1. Received: "
                f"hierarchical={hierarchical!r}."
            )

    def build(self, inputs_shape, positions_shape=None):
        self.embeddings = self.add_weight(
            shape=(self.input_dim, inputs_shape[-1]),
            initializer=self.embeddings_initializer,
            name="embeddings",
        )

    def call(self, inputs, positions=None):
        if positions is None:
            length = ops.shape(inputs)[1]
            limit = self.input_dim if self.hierarchical is None else self.input_dim**2
            if isinstance(length, int) and length > limit:
                raise ValueError(
                    f"The model has {limit} positions. Received: a sequence of {length} "
                    "tokens. Shorten the texts (`maxlen`), or use a checkpoint with more positions."
                )
            if self.hierarchical is None:
                return inputs + ops.cast(self.embeddings[:length], inputs.dtype)
            positions = ops.arange(length)[None]
        return inputs + ops.cast(self._vectors(positions), inputs.dtype)

    def _vectors(self, positions):
        if self.hierarchical is None:
            return _look_up(self.embeddings, positions)
        alpha = self.hierarchical
        base = (self.embeddings - alpha * self.embeddings[:1]) / (1 - alpha)
        first = ops.take(base, ops.floor_divide(positions, self.input_dim), axis=0)
        second = ops.take(base, ops.mod(positions, self.input_dim), axis=0)
        return alpha * first + (1 - alpha) * second

    def compute_output_shape(self, inputs_shape, positions_shape=None):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "hierarchical": self.hierarchical,
        }


@keras.saving.register_keras_serializable(package="keras_ptuning")
class RotaryPosition(keras.layers.Layer):
    """Sine and cosine of each position, for attention that turns queries and keys by them.

    It has no weights.

    Args:
        size: Integer. Size of an attention head.
        base: Float. The greatest wave length, over 2 pi. Defaults to `10000`.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(batch, length, ...)`.
        positions: Optional integer tensor of shape `(batch, length)`. Defaults to 0, 1, 2...

    Returns:
        Tensor of shape `(1 or batch, length, size)`: sine and cosine in turn.

    Example:

    >>> import numpy as np
    >>> tuple(RotaryPosition(size=8)(np.zeros((2, 7))).shape)
    (1, 7, 8)

    Reference:
        - [Su et al., 2021](https://arxiv.org/abs/2104.09864), section 3.
    """

    def __init__(self, size: int, base: float = 10000.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.base = base

    def call(self, inputs, positions=None):
        if positions is None:
            positions = ops.arange(ops.shape(inputs)[1])[None]
        # Angles of far positions need more places than half precision has.
        frequencies = _frequencies(self.size, self.base)
        angles = ops.cast(positions, "float32")[..., None] * frequencies
        waves = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)
        return ops.reshape(waves, (*ops.shape(angles)[:2], self.size))

    def compute_output_spec(self, inputs, positions=None):
        batch = 1 if positions is None else inputs.shape[0]
        return keras.KerasTensor((batch, inputs.shape[1], self.size), "float32")

    def get_config(self):
        return {**super().get_config(), "size": self.size, "base": self.base}


@keras.saving.register_keras_serializable(package="keras_ptuning")
class RelativePosition(keras.layers.Layer):
    """A fixed vector for each distance between two tokens, for attention that adds them to keys.

    It has no weights: the vectors are waves, and far distances share one.

    Args:
        max_distance: Integer. From here on, distances are alike.
        size: Integer. Size of an attention head.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(batch, length, ...)`.
        positions: Optional integer tensor of shape `(batch, length)`. Defaults to 0, 1, 2...

    Returns:
        Tensor of shape `(1 or batch, length, length, size)`: query, key, vector.

    Example:

    >>> import numpy as np
    >>> tuple(RelativePosition(max_distance=64, size=8)(np.zeros((2, 7))).shape)
    (1, 7, 7, 8)

    Reference:
        - [Wei et al., 2019](https://arxiv.org/abs/1909.00204), section 2.2.
        - [Shaw et al., 2018](https://arxiv.org/abs/1803.02155), section 3.
    """

    def __init__(self, max_distance: int, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_distance = max_distance
        self.size = size
        angles = np.arange(2 * max_distance + 1)[:, None] * _frequencies(size)
        waves = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
        self._table = waves.reshape(-1, size).astype("float32")

    def call(self, inputs, positions=None):
        if positions is None:
            positions = ops.arange(ops.shape(inputs)[1])[None]
        distance = positions[:, None, :] - positions[:, :, None]
        row = ops.clip(distance, -self.max_distance, self.max_distance) + self.max_distance
        return ops.take(ops.convert_to_tensor(self._table), row, axis=0)

    def compute_output_spec(self, inputs, positions=None):
        batch, length = inputs.shape[:2] if positions is not None else (1, inputs.shape[1])
        return keras.KerasTensor((batch, length, length, self.size), "float32")

    def get_config(self):
        config = {"max_distance": self.max_distance, "size": self.size}
        return {**super().get_config(), **config}


def _frequencies(size, base=10000.0):
    """The wave lengths of sinusoidal positions, from short to long."""
    return np.power(base, -np.arange(0, size, 2) / size).astype("float32")


@keras.saving.register_keras_serializable(package="keras_ptuning")
class PtuningEmbedding(Embedding):
    """A token embedding of which only chosen rows learn.

    The forward pass, and the gradient of every chosen row, are those of a table
    `e * mask + stop_gradient(e) * (1 - mask)`, where `mask` is 1 at the rows `tuned_ids`; this
    holds for the lookup and for the tied projection back to the vocabulary. It is computed
    otherwise: the chosen rows are a small variable `prompt` laid over the table. So gradients and
    optimizer state have `len(tuned_ids)` rows, not as many as the vocabulary.

    With a prompt encoder, what is laid over the table is computed out of these rows.

    Args:
        input_dim: Integer. Size of the vocabulary.
        output_dim: Integer. Size of an embedding.
        tuned_ids: List of integers, the token ids whose rows learn. Ids of `input_dim` and above
            are additional tokens, which can be looked up but, unless they are label words, are not
            predicted.
        table_trainable: Whether the other rows learn too. Defaults to `False`.
        prompt_encoder: The `kind` of a `PromptEncoder`, `"lstm"` or `"mlp"`, which learns along
            with the rows. Defaults to `None`: the rows themselves are laid in.
        num_label_tokens: Integer, how many of the chosen rows, the last ones, are label words. They
            are no part of the prompt: the encoder does not see them. Each has a bias in the
            projection, `label_bias`, and those beyond the table are predicted, in columns after
            the others. Defaults to `0`.
        **kwargs: Other arguments of `keras.layers.ReversibleEmbedding`, with tied weights and
            without `logit_soft_cap`.

    Call arguments:
        inputs: Integer tensor of token ids, of any shape. With `reverse=True`, a tensor of shape
            `(..., output_dim)`.
        reverse: Whether to project back to the vocabulary. Defaults to `False`.

    Returns:
        Tensor of shape `(..., output_dim)`; with `reverse=True`, `(..., input_dim)`, and a column
        more for each label word beyond the table.

    Raises:
        ValueError: if `tuned_ids` is empty, has an id twice, or a negative one; if the projection
            is to be untied or capped; if there is no such encoder, or nothing for it to encode.

    Attributes:
        prompt: Variable of shape `(len(tuned_ids), output_dim)`, the rows that learn.
        label_bias: Variable of shape `(num_label_tokens,)` that does not learn, `None` without.
        start: Array of the same shape, what `vectors()` were before training; `None` if no start
            was set.

    Example:

    >>> import numpy as np
    >>> layer = PtuningEmbedding(input_dim=100, output_dim=16, tuned_ids=[1, 2, 3])
    >>> tuple(layer(np.array([[1, 2, 50]])).shape)
    (1, 3, 16)
    >>> [tuple(w.shape) for w in layer.trainable_weights]
    [(3, 16)]

    Reference:
        - [Su, 2021](https://kexue.fm/archives/8295), section on stopped gradients.
        - [Liu et al., 2021](https://arxiv.org/abs/2103.10385), section 3.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        tuned_ids: Sequence[int],
        table_trainable: bool = False,
        prompt_encoder: Literal["lstm", "mlp"] | None = None,
        num_label_tokens: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_dim, output_dim, **kwargs)
        tuned_ids = [int(i) for i in tuned_ids]
        if not tuned_ids or len(set(tuned_ids)) != len(tuned_ids) or min(tuned_ids) < 0:
            raise ValueError(
                "`tuned_ids` must name at least one token id, each once and none negative. "
                f"Received: tuned_ids={tuned_ids}."
            )
        if not self.tie_weights or self.logit_soft_cap:
            raise ValueError(
                "The projection of a PtuningEmbedding is tied and not capped. Received: "
                f"tie_weights={self.tie_weights}, logit_soft_cap={self.logit_soft_cap}."
            )
        if not 0 <= num_label_tokens <= len(tuned_ids):
            raise ValueError(
                f"`num_label_tokens` must be from 0 to {len(tuned_ids)}, the number of "
                f"`tuned_ids`. Received: num_label_tokens={num_label_tokens}."
            )
        self.num_label_tokens = int(num_label_tokens)
        self.num_virtual = len(tuned_ids) - self.num_label_tokens
        beyond = [i for i in tuned_ids[self.num_virtual :] if i >= input_dim]
        if beyond != list(range(input_dim, input_dim + len(beyond))):
            raise ValueError(
                "Label words beyond the table must be the first ids there, "
                f"{input_dim}, {input_dim + 1}... Received: {beyond}."
            )
        self._predicted_beyond = len(beyond)
        self.tuned_ids = tuned_ids
        self.table_trainable = table_trainable
        self.prompt_encoder = prompt_encoder
        self.encoder = None
        if prompt_encoder is not None:
            # In full precision: it is small, and a saved prompt then means what was trained.
            self.encoder = PromptEncoder(
                prompt_encoder,
                dtype=keras.backend.result_type(self.variable_dtype, "float32"),
                name="prompt_encoder",
            )
        self.start = None
        # Row k has its 1 at the k-th chosen id; additional tokens have none.
        self._columns = np.equal.outer(tuned_ids, np.arange(input_dim))

    def build(self, input_shape=None):
        super().build(input_shape)
        self.embeddings.trainable = self.table_trainable
        # A function, and not values: Keras may build layers before variables have any.
        self.prompt = self.add_weight(
            shape=(len(self.tuned_ids), self.output_dim),
            initializer=self._initial_rows,
            # Steps of an optimizer are lost in half precision.
            dtype=keras.backend.result_type(self.variable_dtype, "float32"),
            autocast=False,
            name="prompt",
        )
        self.label_bias = None
        if self.num_label_tokens:
            self.label_bias = self.add_weight(
                shape=(self.num_label_tokens,),
                initializer="zeros",
                trainable=False,
                name="label_bias",
            )
        if self.encoder is not None:
            self.encoder.build((self.num_virtual, self.output_dim))

    @property
    def added_weights(self):
        """The weights that no checkpoint has: all but the table."""
        return [v for v in self.weights if v is not self._embeddings]

    def _initial_rows(self, shape, dtype):
        # Not out of the variable: TensorFlow may make both while it traces a training step, and an
        # LSTM has no gradient there if one depends on the other. A table comes out the same again.
        rows = self.embeddings_initializer(shape, dtype=dtype)
        if min(self.tuned_ids) >= self.input_dim:
            return rows
        table = self.embeddings_initializer((self.input_dim, self.output_dim), dtype=dtype)
        return self._rows_or(table, rows)

    def vectors(self) -> Any:
        """What lookups and projection see of the chosen rows now, in the order of `tuned_ids`."""
        prompt = ops.convert_to_tensor(self.prompt)
        if self.encoder is None:
            return prompt
        encoded = self.encoder(prompt[: self.num_virtual])
        return ops.concatenate([encoded, prompt[self.num_virtual :]], axis=0)

    @property
    def num_additional(self):
        """How many of the chosen rows are beyond the vocabulary."""
        return sum(i >= self.input_dim for i in self.tuned_ids)

    def whole_table(self):
        """The table with the chosen rows laid in, and those of additional tokens after it."""
        table, rows = map(ops.convert_to_numpy, (self.embeddings, self.vectors()))
        table = np.concatenate([table, np.zeros_like(rows[: self.num_additional])])
        table[self.tuned_ids] = rows
        return table

    def whole_bias(self, bias):
        """A bias of the vocabulary with those of label words in it, and of additional tokens.

        Additional tokens that are not predicted get one that leaves no probability to them.
        """
        bias = np.pad(bias, (0, self.num_additional), constant_values=NEVER)
        for k, i in enumerate(self.tuned_ids[self.num_virtual :]):
            own = float(ops.convert_to_numpy(self.label_bias)[k])
            bias[i] = own + (bias[i] if i < self.input_dim else 0.0)
        return bias

    def reset_prompt(self) -> None:
        """Starts the chosen rows from the table's own; additional tokens keep their values."""
        self.start_from(self._rows_or(self.embeddings, ops.convert_to_tensor(self.prompt)))

    def start_from(self, values: ArrayLike) -> None:
        """Starts the chosen rows from `values`, and notes in `start` what this makes of them."""
        self.prompt.assign(values)
        self.start = ops.convert_to_numpy(self.vectors())

    def _rows_or(self, table, values):
        """The rows of `table` at the chosen ids, and `values` where it has no such row."""
        ids = np.array(self.tuned_ids)
        rows = ops.cast(ops.take(table, np.minimum(ids, self.input_dim - 1), axis=0), values.dtype)
        return ops.where(ops.convert_to_tensor(ids < self.input_dim)[:, None], rows, values)

    def call(self, inputs, reverse=False):
        prompt = ops.cast(self.vectors(), self.compute_dtype)
        if not reverse:
            hit = ops.equal(ops.expand_dims(inputs, -1), ops.convert_to_tensor(self.tuned_ids))
            tuned = ops.any(hit, axis=-1)
            # Additional tokens lie beyond the table: look up any row, it is covered anyway.
            table = super().call(ops.where(tuned, 0, inputs))
            # The choice is made by a product, since its gradient is dense on every backend.
            return ops.where(
                ops.expand_dims(tuned, -1), ops.matmul(ops.cast(hit, prompt.dtype), prompt), table
            )
        logits = super().call(inputs, reverse=True)
        if not self._columns.any() and not self._predicted_beyond:
            return logits
        tuned_logits = ops.matmul(inputs, ops.transpose(prompt))
        if self.label_bias is not None:
            bias = ops.pad(ops.convert_to_tensor(self.label_bias), [[self.num_virtual, 0]])
            tuned_logits = tuned_logits + ops.cast(bias, tuned_logits.dtype)
        if self._columns.any():
            columns = ops.convert_to_tensor(self._columns, prompt.dtype)
            in_table = ops.cast(ops.matmul(tuned_logits, columns), logits.dtype)
            tuned = ops.convert_to_tensor(self._columns.any(axis=0))
            logits = ops.where(tuned, in_table, logits)
        if self._predicted_beyond:
            beyond = ops.cast(tuned_logits[..., -self._predicted_beyond :], logits.dtype)
            logits = ops.concatenate([logits, beyond], axis=-1)
        return logits

    def compute_output_spec(self, inputs, reverse=False):
        columns = self.input_dim + self._predicted_beyond if reverse else self.output_dim
        shape = inputs.shape[:-1] if reverse else inputs.shape
        return keras.KerasTensor((*shape, columns), self.compute_dtype)

    def save_own_variables(self, store):
        # Keras's embedding would save the table alone.
        store["table"] = self.embeddings
        store["prompt"] = self.prompt
        if self.label_bias is not None:
            store["label_bias"] = self.label_bias
        if self.start is not None:
            store["start"] = self.start

    def load_own_variables(self, store):
        self.embeddings.assign(store["table"])
        self.prompt.assign(store["prompt"])
        # Files of version 0.1.0 have none, which is the same as 0.
        if self.label_bias is not None and "label_bias" in store:
            self.label_bias.assign(store["label_bias"])
        self.start = np.array(store["start"]) if "start" in store else None

    def get_config(self):
        return {
            **super().get_config(),
            "tuned_ids": self.tuned_ids,
            "table_trainable": self.table_trainable,
            "prompt_encoder": self.prompt_encoder,
            "num_label_tokens": self.num_label_tokens,
        }

    @classmethod
    def from_config(cls, config):
        if "num_encoded" in config:
            # Of version 0.1.0.
            config = dict(config)
            encoded = config.pop("num_encoded")
            tuned = len(config["tuned_ids"])
            config["num_label_tokens"] = 0 if encoded is None else tuned - encoded
        return super().from_config(config)
