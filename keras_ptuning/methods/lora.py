"""LoRA: low-rank updates of frozen kernels."""

import keras
import numpy as np

from keras_ptuning.checks import check_integer, check_positive
from keras_ptuning.layers import Dense
from keras_ptuning.methods.method import Method, named_weights


@keras.saving.register_keras_serializable(package="keras_ptuning")
class LoRA(Method):
    """Adds a product of two small matrices to the kernels of dense layers, and trains these.

    The second matrix starts at 0, so the model starts as the pretrained one. `merge` adds the
    products to the kernels for prediction. In checkpoints they are merged.

    Args:
        rank: Integer. The size that the two matrices share. Defaults to `8`.
        alpha: Number. The product is multiplied by `alpha / rank`. Defaults to `16`.
        layers: Names of dense layers. In each block attention has `"query"`, `"key"`, `"value"` and
            `"output"`, and feed-forward has `"inner"` and `"outer"`. Other layers have names such
            as `"MLM-Dense"`. Defaults to `("query", "value")`.

    Raises:
        ValueError: if `rank` is not a positive integer, `alpha` not positive, or `layers` is empty.
            When the model is built: if there is no such layer.

    Example:

    ```python
    model = build_ptuning_model("bert-mini-zh", template=template, tune=LoRA(rank=4))
    ```

    Reference:
        - [Hu et al., 2021](https://arxiv.org/abs/2106.09685), section 4.
    """

    name = "lora"
    settings = ("rank", "alpha", "layers")
    steps = 60
    passes = 10
    merges = True

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16,
        layers: str | list[str] | tuple[str, ...] = ("query", "value"),
    ) -> None:
        check_integer("rank", rank, 1)
        check_positive("alpha", alpha)
        layers = [layers] if isinstance(layers, str) else layers
        listed = isinstance(layers, list | tuple) and all(isinstance(name, str) for name in layers)
        if not listed or not layers:
            raise ValueError(
                f"`layers` must be names of dense layers. Received: layers={layers!r}."
            )
        self.rank = int(rank)
        # A number of NumPy has no place in JSON.
        self.alpha = alpha.item() if isinstance(alpha, np.number) else alpha
        self.layers = list(dict.fromkeys(layers))

    def attach(self, model, template):
        found = {name for layer in model.layers for name in _dense_layers(layer)}
        unknown = [name for name in self.layers if name not in found]
        if unknown:
            raise ValueError(
                f"There are no dense layers {unknown} to update. Received: {self!r}. The model "
                f"has: {', '.join(sorted(found))}."
            )
        for layer in self._chosen(model):
            if layer.lora_enabled:
                raise ValueError(
                    f"Two methods cannot share one place. The layer {layer.name!r} has a LoRA "
                    f"already. Received: {self!r}."
                )
            if self.rank > min(layer._kernel.shape):
                raise ValueError(
                    f"`rank` must be at most {min(layer._kernel.shape)}, the smaller side of the "
                    f"kernel of {layer.name!r}. Received: rank={self.rank}."
                )
            layer.enable_lora(self.rank, self.alpha)

    def _chosen(self, model):
        layers = [_dense_layers(layer) for layer in model.layers]
        return [part for parts in layers for name, part in parts.items() if name in self.layers]

    def weights(self, model):
        chosen = {id(part) for part in self._chosen(model)}
        return {
            name: variable
            for layer in model.layers
            if any(id(part) in chosen for part in _dense_layers(layer).values())
            for name, variable in named_weights(layer).items()
            if name.split("/")[-2] in self.layers and variable.name.startswith("lora_")
        }

    def merge(self, model):
        for layer in self._chosen(model):
            layer.merge_lora()

    def unmerge(self, model):
        for layer in self._chosen(model):
            layer.unmerge_lora()

    def describe(self, model):
        return f"rank {self.rank}, {', '.join(self.layers)}, {len(self._chosen(model))} kernels"


def _dense_layers(layer):
    return {part.name: part for part in layer._flatten_layers() if isinstance(part, Dense)}
