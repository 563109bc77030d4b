"""Adapters: small networks between the parts of a frozen model."""

from typing import Literal

import keras

from keras_ptuning.checks import check_integer
from keras_ptuning.layers import Bottleneck
from keras_ptuning.methods.method import Method, named_weights
from keras_ptuning.models.transformer import learning_policy

KINDS = {"houlsby": ("MultiHeadSelfAttention", "FeedForward"), "pfeiffer": ("FeedForward",)}


@keras.saving.register_keras_serializable(package="keras_ptuning")
class Adapter(Method):
    """Puts a small network behind attention and feed-forward, before their output is added.

    It has a bottleneck, and starts close to the identity. A checkpoint has no place for it.

    Args:
        size: Integer. The size of the bottleneck. Defaults to `48`.
        kind: `"houlsby"`: one behind each of both. `"pfeiffer"`: behind feed-forward alone.
            Defaults to `"houlsby"`.

    Raises:
        ValueError: if `size` is not a positive integer, or there is no such kind.

    Example:

    ```python
    model = build_ptuning_model("bert-mini-zh", template=template, tune=Adapter(kind="pfeiffer"))
    ```

    Reference:
        - [Houlsby et al., 2019](https://arxiv.org/abs/1902.00751), section 2.
        - [Pfeiffer et al., 2020](https://arxiv.org/abs/2005.00052), section 3.2.
    """

    name = "adapter"
    settings = ("size", "kind")

    def __init__(self, size: int = 48, kind: Literal["houlsby", "pfeiffer"] = "houlsby") -> None:
        check_integer("size", size, 1)
        if kind not in KINDS:
            raise ValueError(f"An adapter is one of {tuple(KINDS)}. Received: kind={kind!r}.")
        self.size = int(size)
        self.kind = kind

    def added_layers(self, transformer, template):
        layers = {}
        for i, block in enumerate(transformer.blocks()):
            for part in KINDS[self.kind]:
                name = f"{block}-{part}-Adapter"
                # Blocks that share their layers share an adapter too.
                if name not in layers:
                    dtype = learning_policy(transformer.dtype_of_block(i))
                    layers[name] = Bottleneck(self.size, dtype=dtype, name=name)
        return layers

    def weights(self, model):
        layers = [layer for layer in model.layers if isinstance(layer, Bottleneck)]
        return {name: v for layer in layers for name, v in named_weights(layer).items()}

    def describe(self, model):
        count = sum(isinstance(layer, Bottleneck) for layer in model.layers)
        return f"{self.kind}, {count} of size {self.size}"
