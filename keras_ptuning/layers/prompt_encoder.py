"""The reparametrization of a prompt: a small network between trained vectors and the model."""

from typing import Any, Literal

import keras
from keras import ops

KINDS = ("lstm", "mlp", None)


@keras.saving.register_keras_serializable(package="keras_ptuning")
class PromptEncoder(keras.layers.Layer):
    """Makes the vectors of virtual tokens out of trained ones, so that they depend on each other.

    `"lstm"` is the encoder of P-tuning: a bidirectional LSTM of two layers along the virtual
    tokens, and two dense layers with a ReLU between them. `"mlp"` is the dense layers alone, which
    share their weights among the tokens. After training only the outputs are needed.

    Args:
        kind: `"lstm"`, `"mlp"`, or `None` for the vectors as they are. Defaults to `"lstm"`.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(virtual tokens, hidden)`, in the order of the prompt.

    Returns:
        Tensor of the same shape.

    Raises:
        ValueError: if `kind` is unknown, there are no virtual tokens, or `hidden` is odd, which
            the two directions of an LSTM cannot share.

    Example:

    >>> import numpy as np
    >>> encoder = PromptEncoder("lstm")
    >>> tuple(encoder(np.zeros((8, 16), "float32")).shape)
    (8, 16)

    Reference:
        - [Liu et al., 2021](https://arxiv.org/abs/2103.10385), section 3.2.
    """

    def __init__(self, kind: Literal["lstm", "mlp"] | None = "lstm", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if kind not in KINDS:
            raise ValueError(f"A prompt encoder is one of {KINDS}. Received: kind={kind!r}.")
        self.kind = kind

    def build(self, input_shape):
        tokens, hidden = input_shape
        if tokens == 0:
            raise ValueError(
                "A prompt encoder needs at least one virtual token. Received: vectors of shape "
                f"{tuple(input_shape)}."
            )
        self.lstms, self.dense = [], []
        if self.kind == "lstm":
            if hidden % 2:
                raise ValueError(
                    "The two directions of an LSTM share the size of a vector, which must be even; "
                    f"use 'mlp'. Received: vectors of shape {tuple(input_shape)}."
                )
            self.lstms = [
                keras.layers.Bidirectional(
                    keras.layers.LSTM(
                        hidden // 2, return_sequences=True, dtype=self.dtype_policy, name="lstm"
                    ),
                    dtype=self.dtype_policy,
                    name=f"lstm_{i}",
                )
                for i in range(2)
            ]
        if self.kind:
            self.dense = [
                keras.layers.Dense(hidden, activation, dtype=self.dtype_policy, name=f"dense_{i}")
                for i, activation in enumerate(("relu", None))
            ]
        for layer in self.lstms:
            layer.build((1, tokens, hidden))
        for layer in self.dense:
            layer.build((tokens, hidden))

    def call(self, inputs):
        x = inputs
        if self.lstms:
            # To an LSTM the prompt is a batch of one sequence.
            x = x[None]
            for layer in self.lstms:
                x = layer(x)
            x = ops.squeeze(x, 0)
        for layer in self.dense:
            x = layer(x)
        return x

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}
