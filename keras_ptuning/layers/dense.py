"""A dense layer whose low-rank update stays apart from its kernel."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_ptuning")
class Dense(keras.layers.Dense):
    """Keras's dense layer, with another LoRA behind the same `enable_lora`.

    Keras adds the update to the kernel, in each step and in the saved file. Here the update is
    computed by itself, which is cheaper to train, and the file keeps both, so that a loaded layer
    continues to train what trained. `merge_lora` adds them up for prediction. In a frozen layer
    nothing trains, so set `layer.trainable = True` before `enable_lora`, which freezes the kernel.
    After it, the kernel would train too.

    A layer of layers, such as attention, is loaded from a `.keras` file without their LoRA, and so
    refuses the file. Build the model, call `enable_lora` again, and then `load_weights` of the
    file.

    Args:
        units: Integer. Size of the outputs.
        **kwargs: Other arguments of `keras.layers.Dense`.

    Call arguments:
        inputs: Tensor of shape `(..., size)`.

    Returns:
        Tensor of shape `(..., units)`.

    Example:

    >>> import numpy as np
    >>> layer = Dense(2)
    >>> layer.build((None, 3))
    >>> x = np.ones((1, 3), "float32")
    >>> before = layer(x)
    >>> layer.enable_lora(rank=1)
    >>> bool(keras.ops.all(layer(x) == before)), [v.name for v in layer.trainable_weights]
    (True, ['bias', 'lora_kernel_a', 'lora_kernel_b'])

    Reference:
        - [Hu et al., 2021](https://arxiv.org/abs/2106.09685), section 4.1.
    """

    # A function, so that Keras does not take the merged kernel for one more weight.
    _merged_kernel = None

    def enable_lora(self, rank, lora_alpha=None, **kwargs):
        # Keras forgets the alpha of a configuration.
        super().enable_lora(rank, lora_alpha or self.lora_alpha, **kwargs)

    def add_weight(self, *args, name=None, **kwargs):
        if name in ("lora_kernel_a", "lora_kernel_b"):
            # Steps of an optimizer are lost in half precision.
            kwargs["dtype"] = keras.backend.result_type(self.variable_dtype, "float32")
        return super().add_weight(*args, name=name, **kwargs)

    def merge_lora(self):
        """Computes with one kernel, the sum, until `unmerge_lora`; the weights stay as they are."""
        merged = keras.Variable(self.kernel, trainable=False, dtype=self.variable_dtype)
        self._merged_kernel = lambda: merged

    def unmerge_lora(self):
        """Computes with kernel and update again."""
        self._merged_kernel = None

    def call(self, inputs, training=None):
        if not self.lora_enabled:
            return super().call(inputs, training=training)
        if self._merged_kernel is not None:
            x = ops.matmul(inputs, ops.cast(self._merged_kernel(), inputs.dtype))
        else:
            x = ops.matmul(inputs, self._kernel)
            a, b = (ops.cast(v, inputs.dtype) for v in (self.lora_kernel_a, self.lora_kernel_b))
            update = ops.matmul(ops.matmul(inputs, a), b)
            x = x + self.lora_alpha / self.lora_rank * update
        if self.bias is not None:
            x = ops.add(x, self.bias)
        return x if self.activation is None else self.activation(x)

    def save_own_variables(self, store):
        if not self.lora_enabled:
            super().save_own_variables(store)
            return
        for variable in self._trainable_variables + self._non_trainable_variables:
            store[variable.name] = variable

    def load_own_variables(self, store):
        if not self.lora_enabled:
            super().load_own_variables(store)
            return
        for variable in self._trainable_variables + self._non_trainable_variables:
            variable.assign(store[variable.name])
