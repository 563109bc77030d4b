"""Normalization, of layers and of the root mean square."""

from typing import Any

import keras
from keras import ops

from keras_ptuning.backend import takes_derivatives, with_derivative


@keras.saving.register_keras_serializable(package="keras_ptuning")
class LayerNormalization(keras.layers.LayerNormalization):
    """Keras's; of the last axis, on TensorFlow, with a derivative that takes fewer passes.

    Args:
        **kwargs: Arguments of `keras.layers.LayerNormalization`.

    Call arguments:
        inputs: Tensor of shape `(..., size)`.

    Returns:
        Tensor of the same shape.

    Example:

    >>> import numpy as np
    >>> layer = LayerNormalization(epsilon=1e-12)
    >>> [f"{number:.2f}" for number in layer(np.array([[1.0, 2.0, 4.0]]))[0]]
    ['-1.07', '-0.27', '1.34']

    Reference:
        - [Ba et al., 2016](https://arxiv.org/abs/1607.06450), section 3.
    """

    def call(self, inputs):
        differs = self.gamma is None or self.beta is None or self.axis not in (-1, [-1])
        if differs or not takes_derivatives(inputs):
            return super().call(inputs)
        # The variance of numbers in half precision may not be one of them.
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        gamma, beta = ops.cast(self.gamma, x.dtype), ops.cast(self.beta, x.dtype)
        return ops.cast(_normalize(x, self.epsilon) * gamma + beta, self.compute_dtype)


@keras.saving.register_keras_serializable(package="keras_ptuning")
class RMSNormalization(keras.layers.Layer):
    """Divides by the root mean square of the last axis, and scales.

    The statistics are computed in float32, whatever the layer's type, as in LLaMA.

    Args:
        epsilon: Float, added to the mean square.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(..., size)`.

    Returns:
        Tensor of the same shape.

    Example:

    >>> import numpy as np
    >>> layer = RMSNormalization(epsilon=1e-6)
    >>> [f"{number:.2f}" for number in layer(np.array([[1.0, 2.0, 2.0]]))[0]]
    ['0.58', '1.15', '1.15']

    Reference:
        - [Zhang and Sennrich, 2019](https://arxiv.org/abs/1910.07467), section 4.
    """

    def __init__(self, epsilon: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="scale")

    def call(self, inputs):
        x = ops.cast(inputs, "float32")
        x = x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + self.epsilon)
        return ops.cast(x, self.compute_dtype) * ops.cast(self.scale, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@with_derivative
def _normalize(x, epsilon):
    def mean(x):
        return ops.mean(x, axis=-1, keepdims=True)

    x = x - mean(x)
    scale = ops.rsqrt(mean(ops.square(x)) + epsilon)
    x = x * scale

    def grad(upstream):
        return scale * (upstream - mean(upstream) - x * mean(upstream * x))

    return x, grad
