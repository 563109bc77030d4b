"""The feed-forward half of a transformer block."""

import math
from typing import Any

import keras
from keras import ops

from keras_ptuning.backend import computed_after, takes_derivatives, with_derivative
from keras_ptuning.layers.dense import Dense


@keras.saving.register_keras_serializable(package="keras_ptuning")
def gelu(x):
    """GELU, exact; on TensorFlow with a derivative that takes fewer passes over the numbers."""
    if not takes_derivatives(x):
        return keras.activations.gelu(x)
    return _gelu(ops.convert_to_tensor(x))


@with_derivative
def _gelu(x):
    # Written like this, TensorFlow joins it with the matrix product before when it predicts.
    def twice_phi(x):
        return 1.0 + ops.erf(x / ops.cast(math.sqrt(2), x.dtype))

    def grad(upstream):
        # These are the largest tensors of a model: one of them is kept for this, and not two.
        z = computed_after(x, upstream)
        density = ops.exp(-0.5 * ops.square(z)) / math.sqrt(2 * math.pi)
        return upstream * (0.5 * twice_phi(z) + z * density)

    return 0.5 * x * twice_phi(x), grad


@keras.saving.register_keras_serializable(package="keras_ptuning")
def gelu_new(x):
    """GELU as GPT-2 computes it, by an approximation with tanh."""
    return keras.activations.gelu(x, approximate=True)


# What Hugging Face calls the two.
_GELUS = {
    **dict.fromkeys(("gelu", "gelu_python"), gelu),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_accurate"), gelu_new),
    **dict.fromkeys(("gelu_pytorch_tanh", "gelu_python_tanh"), gelu_new),
}
# Names that mean the same in configurations and in Keras. Its "leaky_relu" has another slope.
ACTIVATIONS = {*_GELUS, "elu", "linear", "mish", "relu", "relu6", "selu", "sigmoid", "silu"}
ACTIVATIONS |= {"softplus", "swish", "tanh"}


def get_activation(identifier):
    """The activation of that name: one of Keras, or of Hugging Face's other GELUs."""
    if isinstance(identifier, str) and identifier in _GELUS:
        return _GELUS[identifier]
    return keras.activations.get(identifier)


@keras.saving.register_keras_serializable(package="keras_ptuning")
class FeedForward(keras.layers.Layer):
    """Two dense layers, the first with an activation, back to the input's size.

    Args:
        units: Integer. Size between the two.
        activation: Activation after the first: what Keras takes as one, or `"gelu_new"`.
        kernel_initializer: Initializer of both kernels.
        use_bias: Whether the two layers have a bias. Defaults to `True`.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(..., hidden)`.

    Returns:
        Tensor of the same shape.

    Example:

    >>> import numpy as np
    >>> layer = FeedForward(units=64, activation="gelu")
    >>> tuple(layer(np.zeros((2, 7, 16), "float32")).shape)
    (2, 7, 16)

    Reference:
        - [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762), section 3.3.
    """

    def __init__(
        self,
        units: int,
        activation: Any,
        kernel_initializer: Any = "glorot_uniform",
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.activation = get_activation(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.use_bias = use_bias

    def build(self, input_shape):
        hidden = input_shape[-1]
        self.inner = self._dense("inner", hidden, self.units, self.activation)
        self.outer = self._dense("outer", self.units, hidden)

    def _dense(self, name, input_size, units, activation=None):
        layer = Dense(
            units,
            activation=activation,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            name=name,
            dtype=self.dtype_policy,
        )
        layer.build((None, input_size))
        return layer

    def call(self, inputs):
        # As one matrix: TensorFlow joins a product with what follows it only then.
        rows = ops.reshape(inputs, (-1, inputs.shape[-1]))
        return ops.reshape(self.outer(self.inner(rows)), ops.shape(inputs))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "use_bias": self.use_bias,
        }


@keras.saving.register_keras_serializable(package="keras_ptuning")
class GatedFeedForward(FeedForward):
    """Two dense layers whose product a third brings back to the input's size.

    Args:
        units: Integer. Size between.
        activation: Activation of the first: what Keras takes as one, e.g. `"silu"`.
        kernel_initializer: Initializer of the kernels.
        use_bias: Whether the layers have a bias. Defaults to `False`.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(..., hidden)`.

    Returns:
        Tensor of the same shape.

    Example:

    >>> import numpy as np
    >>> layer = GatedFeedForward(units=64, activation="silu")
    >>> tuple(layer(np.zeros((2, 7, 16), "float32")).shape), len(layer.weights)
    ((2, 7, 16), 3)

    Reference:
        - [Shazeer, 2020](https://arxiv.org/abs/2002.05202), section 2.
    """

    def __init__(
        self,
        units: int,
        activation: Any,
        kernel_initializer: Any = "glorot_uniform",
        use_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, activation, kernel_initializer, use_bias, **kwargs)

    def build(self, input_shape):
        hidden = input_shape[-1]
        self.gate = self._dense("gate", hidden, self.units, self.activation)
        self.up = self._dense("up", hidden, self.units)
        self.down = self._dense("down", self.units, hidden)

    def call(self, inputs):
        rows = ops.reshape(inputs, (-1, inputs.shape[-1]))
        return ops.reshape(self.down(self.gate(rows) * self.up(rows)), ops.shape(inputs))
