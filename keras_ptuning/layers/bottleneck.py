"""The bottleneck of an adapter."""

from typing import Any

import keras

from keras_ptuning.layers.feed_forward import get_activation


@keras.saving.register_keras_serializable(package="keras_ptuning")
class Bottleneck(keras.layers.Layer):
    """Two small dense layers whose output is added to the input.

    It starts close to the identity.

    Args:
        size: Integer. Size between the two.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(..., hidden)`.

    Returns:
        Tensor of the same shape.

    Example:

    >>> import numpy as np
    >>> tuple(Bottleneck(size=4)(np.ones((2, 7, 16), "float32")).shape)
    (2, 7, 16)

    Reference:
        - [Houlsby et al., 2019](https://arxiv.org/abs/1902.00751), section 2.1.
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def build(self, input_shape):
        def dense(units, activation, name):
            return keras.layers.Dense(
                units,
                activation,
                kernel_initializer=keras.initializers.TruncatedNormal(stddev=1e-3),
                dtype=self.dtype_policy,
                name=name,
            )

        self.down = dense(self.size, get_activation("gelu"), "down")
        self.up = dense(input_shape[-1], None, "up")
        self.down.build(input_shape)
        self.up.build((*input_shape[:-1], self.size))

    @property
    def added_weights(self):
        """All of its weights: no checkpoint has them."""
        return self.weights

    def call(self, inputs):
        return inputs + self.up(self.down(inputs))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "size": self.size}
