"""Layer normalization."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_ptuning")
class LayerNormalization(keras.layers.LayerNormalization):
    """Keras's; of the last axis, on TensorFlow, its derivative takes fewer passes.

    Args:
        epsilon: Float, added to the variance. Defaults to `1e-12`.
        **kwargs: Other arguments of `keras.layers.LayerNormalization`.

    Call arguments:
        inputs: Tensor of shape `(..., size)`.

    Returns:
        Tensor of the same shape.

    Example:

    >>> import numpy as np
    >>> layer = LayerNormalization()
    >>> np.array(layer(np.array([[1.0, 2.0, 3.0]]))).round(2).tolist()
    [[-1.22, 0.0, 1.22]]

    Reference:
        - [Ba et al., 2016](https://arxiv.org/abs/1607.06450), section 3.
    """

    def __init__(self, epsilon=1e-12, **kwargs):
        super().__init__(epsilon=epsilon, **kwargs)

    def call(self, inputs):
        usual = self.center and self.scale and self.axis in (-1, [-1])
        if not usual or keras.backend.backend() != "tensorflow":
            return super().call(inputs)
        # The variance of numbers in half precision may not be one of them.
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        gamma, beta = ops.cast(self.gamma, x.dtype), ops.cast(self.beta, x.dtype)
        return ops.cast(_normalized(x, self.epsilon) * gamma + beta, self.compute_dtype)


def _normalized(x, epsilon):
    def mean(x):
        return ops.mean(x, axis=-1, keepdims=True)

    @ops.custom_gradient
    def normalize(x):
        x = x - mean(x)
        scale = ops.rsqrt(mean(ops.square(x)) + epsilon)
        x = x * scale

        def grad(upstream):
            return scale * (upstream - mean(upstream) - x * mean(upstream * x))

        return x, grad

    return normalize(x)
