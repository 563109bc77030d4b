"""Dropout."""

from typing import Any

import keras
from keras import ops

from keras_ptuning.backend import draw_kept


@keras.saving.register_keras_serializable(package="keras_ptuning")
class Dropout(keras.layers.Dropout):
    """Keras's dropout; on TensorFlow it draws 16 bits for each number, not 32, for speed.

    What is drawn is compared with the rate in steps of 1 / 65536.

    Args:
        rate: Float. Share of the inputs that are set to zero in training.
        **kwargs: Other arguments of `keras.layers.Dropout`, but `noise_shape`.

    Call arguments:
        inputs: Tensor of any shape.
        training: Whether to drop.

    Returns:
        Tensor of the same shape; what is kept is divided by its share, `1 - rate`.

    Example:

    >>> import numpy as np
    >>> layer = Dropout(0.5, seed=0)
    >>> sorted(set(np.array(layer(np.ones((4, 50)), training=True)).ravel().tolist()))
    [0.0, 2.0]

    Reference:
        - [Srivastava et al., 2014](https://jmlr.org/papers/v15/srivastava14a.html), section 4.
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(rate, **kwargs)
        if self.noise_shape is not None:
            raise ValueError(
                "`noise_shape` is not supported: use `keras.layers.Dropout`. Received: "
                f"noise_shape={self.noise_shape}."
            )

    def call(self, inputs, training=False):
        if not training or not 0 < self.rate < 1:
            return super().call(inputs, training=training)
        kept = draw_kept(inputs, self.rate, self.seed_generator)
        if kept is None:
            return super().call(inputs, training=training)
        return ops.where(kept, inputs * (1 / (1 - self.rate)), 0)
