"""Embeddings: positions, and the token embedding of which only chosen rows learn."""

import keras
import numpy as np
from keras import ops

from keras_ptuning.layers.prompt_encoder import PromptEncoder


@keras.saving.register_keras_serializable(package="keras_ptuning")
class PositionEmbedding(keras.layers.Layer):
    """Adds a trainable vector for each position.

    Args:
        input_dim: Integer. The number of positions.
        embeddings_initializer: Initializer of the vectors.
        **kwargs: Other arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch, length, hidden)`.
        positions: Optional integer tensor of shape `(batch, length)`. Defaults to 0, 1, 2...

    Returns:
        Tensor of the same shape.

    Raises:
        ValueError: if there are no `positions`, and `length` is known and greater than `input_dim`.

    Example:

    >>> import numpy as np
    >>> layer = PositionEmbedding(input_dim=512)
    >>> tuple(layer(np.zeros((2, 7, 16), "float32")).shape)
    (2, 7, 16)

    Reference:
        - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805), section 3.
    """

    def __init__(self, input_dim, embeddings_initializer="uniform", **kwargs):
        super().__init__(**kwargs)
        self.input_dim = input_dim
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, inputs_shape, positions_shape=None):
        self.embeddings = self.add_weight(
            shape=(self.input_dim, inputs_shape[-1]),
            initializer=self.embeddings_initializer,
            name="embeddings",
        )

    def call(self, inputs, positions=None):
        if positions is not None:
            return inputs + ops.cast(ops.take(self.embeddings, positions, axis=0), inputs.dtype)
        length = ops.shape(inputs)[1]
        if isinstance(length, int) and length > self.input_dim:
            raise ValueError(
                f"The model has {self.input_dim} positions. Received: a sequence of {length} "
                "tokens. Shorten the texts (`maxlen`), or use a checkpoint with more positions."
            )
        return inputs + ops.cast(self.embeddings[:length], inputs.dtype)

    def compute_output_shape(self, inputs_shape, positions_shape=None):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_ptuning")
class PtuningEmbedding(keras.layers.ReversibleEmbedding):
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
            are additional tokens, which can be looked up but are not predicted.
        table_trainable: Whether the other rows learn too. Defaults to `False`.
        prompt_encoder: The `kind` of a `PromptEncoder`, `"lstm"` or `"mlp"`, which learns along
            with the rows. Defaults to `None`: the rows themselves are laid in.
        num_encoded: Integer, how many of the chosen rows, from the first, the encoder sees; the
            others are laid in themselves. Defaults to all.
        **kwargs: Other arguments of `keras.layers.ReversibleEmbedding`, with tied weights and
            without `logit_soft_cap`.

    Call arguments:
        inputs: Integer tensor of token ids, of any shape. With `reverse=True`, a tensor of shape
            `(..., output_dim)`.
        reverse: Whether to project back to the vocabulary. Defaults to `False`.

    Returns:
        Tensor of shape `(..., output_dim)`; with `reverse=True`, `(..., input_dim)`.

    Raises:
        ValueError: if `tuned_ids` is empty, has an id twice, or a negative one; if the projection
            is to be untied or capped; if there is no such encoder, or nothing for it to encode.

    Attributes:
        prompt: Variable of shape `(len(tuned_ids), output_dim)`, the rows that learn.
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
        input_dim,
        output_dim,
        tuned_ids,
        table_trainable=False,
        prompt_encoder=None,
        num_encoded=None,
        **kwargs,
    ):
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
        if num_encoded is not None and not 0 <= num_encoded <= len(tuned_ids):
            raise ValueError(
                f"`num_encoded` must be from 0 to {len(tuned_ids)}, the number of `tuned_ids`. "
                f"Received: num_encoded={num_encoded}."
            )
        self.tuned_ids = tuned_ids
        self.table_trainable = table_trainable
        self.prompt_encoder = prompt_encoder
        self.num_encoded = None if num_encoded is None else int(num_encoded)
        self.encoder = None
        if prompt_encoder is not None:
            # In full precision: it is small, and a saved prompt then means what was trained.
            self.encoder = PromptEncoder(
                prompt_encoder, dtype=self.variable_dtype, name="prompt_encoder"
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
            autocast=False,
            name="prompt",
        )
        if self.encoder is not None:
            self.encoder.build((len(self.tuned_ids[: self.num_encoded]), self.output_dim))

    def _initial_rows(self, shape, dtype):
        # Not out of the variable: TensorFlow may make both while it traces a training step, and an
        # LSTM has no gradient there if one depends on the other. A table comes out the same again.
        table = self.embeddings_initializer((self.input_dim, self.output_dim), dtype=dtype)
        return self._rows_or(table, self.embeddings_initializer(shape, dtype=dtype))

    def vectors(self):
        """What lookups and projection see of the chosen rows now, in the order of `tuned_ids`."""
        prompt = ops.convert_to_tensor(self.prompt)
        if self.encoder is None:
            return prompt
        encoded = self.encoder(prompt[: self.num_encoded])
        if self.num_encoded is None:
            return encoded
        return ops.concatenate([encoded, prompt[self.num_encoded :]], axis=0)

    def reset_prompt(self):
        """Starts the chosen rows from the table's own; additional tokens keep their values."""
        self.start_from(self._rows_or(self.embeddings, ops.convert_to_tensor(self.prompt)))

    def start_from(self, values):
        """Starts the chosen rows from `values`, and notes in `start` what this makes of them."""
        self.prompt.assign(values)
        self.start = ops.convert_to_numpy(self.vectors())

    def _rows_or(self, table, values):
        """The rows of `table` at the chosen ids, and `values` where it has no such row."""
        ids = np.array(self.tuned_ids)
        rows = ops.take(table, np.minimum(ids, self.input_dim - 1), axis=0)
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
        if not self._columns.any():
            return logits
        tuned_logits = ops.matmul(inputs, ops.transpose(prompt))
        tuned_logits = ops.matmul(tuned_logits, ops.convert_to_tensor(self._columns, prompt.dtype))
        tuned = ops.convert_to_tensor(self._columns.any(axis=0))
        return ops.where(tuned, ops.cast(tuned_logits, logits.dtype), logits)

    def save_own_variables(self, store):
        # Keras's embedding would save the table alone.
        store["table"] = self.embeddings
        store["prompt"] = self.prompt
        if self.start is not None:
            store["start"] = self.start

    def load_own_variables(self, store):
        self.embeddings.assign(store["table"])
        self.prompt.assign(store["prompt"])
        self.start = np.array(store["start"]) if "start" in store else None

    def get_config(self):
        return {
            **super().get_config(),
            "tuned_ids": self.tuned_ids,
            "table_trainable": self.table_trainable,
            "prompt_encoder": self.prompt_encoder,
            "num_encoded": self.num_encoded,
        }
