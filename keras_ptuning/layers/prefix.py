"""Keys and values of virtual tokens, for attention in every block."""

from typing import Any, Literal

import keras
from keras import ops

REPARAMETRIZATIONS = (None, "mlp")
# Size of the hidden layer of the network that makes a prefix.
WIDTH = 512


@keras.saving.register_keras_serializable(package="keras_ptuning")
class KeyValuePrefix(keras.layers.Layer):
    """Trained keys and values of virtual tokens that all tokens look at, in each block.

    Args:
        length: Integer. The number of virtual tokens.
        num_layers: Integer. The number of blocks.
        heads: Integer. The number of attention heads.
        head_size: Integer. Size of each head.
        reparametrize: `None`, the keys and values are the numbers that learn; or `"mlp"`, a
            network makes them out of a vector for each virtual token.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Any tensor of the model; only the batch is taken from it, and not even that.

    Returns:
        Tensor of shape `(num_layers, 2, 1, heads, length, head_size)`: for each block keys and
        values, the same for all texts.

    Example:

    >>> import numpy as np
    >>> prefix = KeyValuePrefix(length=5, num_layers=3, heads=2, head_size=8)
    >>> tuple(prefix(np.zeros((1, 7, 16))).shape)
    (3, 2, 1, 2, 5, 8)

    Reference:
        - [Li and Liang, 2021](https://arxiv.org/abs/2101.00190), section 4.
        - [Liu et al., 2021](https://arxiv.org/abs/2110.07602), section 3.2.
    """

    def __init__(
        self,
        length: int,
        num_layers: int,
        heads: int,
        head_size: int,
        reparametrize: Literal["mlp"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.length = length
        self.num_layers = num_layers
        self.heads = heads
        self.head_size = head_size
        self.reparametrize = reparametrize

    def build(self, input_shape):
        size, self.mlp = self.heads * self.head_size, []
        normal = keras.initializers.RandomNormal(stddev=0.02)
        if self.reparametrize is None:
            shape = (self.num_layers, 2, self.length, size)
            self.prefix = self.add_weight(shape=shape, initializer=normal, name="prefix")
            return
        self.tokens = self.add_weight(
            shape=(self.length, size), initializer="random_normal", name="tokens"
        )
        for name, units, activation, inputs in (
            ("inner", WIDTH, "tanh", size),
            ("outer", 2 * self.num_layers * size, None, WIDTH),
        ):
            layer = keras.layers.Dense(units, activation, dtype=self.dtype_policy, name=name)
            layer.build((self.length, inputs))
            self.mlp.append(layer)

    @property
    def added_weights(self):
        """All of its weights: no checkpoint has them."""
        return self.weights

    def vectors(self):
        """Keys and values now, of shape `(num_layers, 2, length, hidden)`."""
        if self.reparametrize is None:
            return ops.convert_to_tensor(self.prefix)
        x = ops.convert_to_tensor(self.tokens)
        for layer in self.mlp:
            x = layer(x)
        x = ops.reshape(x, (self.length, self.num_layers, 2, -1))
        return ops.transpose(x, (1, 2, 0, 3))

    def call(self, inputs):
        shape = (self.num_layers, 2, 1, self.length, self.heads, self.head_size)
        return ops.transpose(ops.reshape(self.vectors(), shape), (0, 1, 2, 4, 3, 5))

    def compute_output_spec(self, inputs):
        shape = (self.num_layers, 2, 1, self.heads, self.length, self.head_size)
        return keras.KerasTensor(shape, self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "length": self.length,
            "num_layers": self.num_layers,
            "heads": self.heads,
            "head_size": self.head_size,
            "reparametrize": self.reparametrize,
        }
