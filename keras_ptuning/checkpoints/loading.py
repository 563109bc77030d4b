"""From a checkpoint's tensors to a model's weights."""

import numpy as np

from keras_ptuning.checkpoints.names import (
    LAYOUTS,
    PER_TOKEN,
    TELLING,
    TIED,
    layout_of,
    spellings,
    tensors_of,
)


class NamedTensors:
    """The tensors of a checkpoint, by the layers of an architecture that they belong to.

    Args:
        checkpoint: A reader with `path`, `shapes` and `read`, e.g. `TensorFlowCheckpoint`.
        architecture: Name of a table in `checkpoints.names`, e.g. `"bert"`.

    Raises:
        ValueError: if the architecture is not known in the layout of the checkpoint.

    Example:

    ```python
    tensors = NamedTensors(open_checkpoint("bert_model.ckpt"), "bert")
    tensors.of("MLM-Bias")  # [Tensor(name="cls/predictions/output_bias", ...)]
    ```
    """

    def __init__(self, checkpoint, architecture):
        self.checkpoint = checkpoint
        self.architecture = architecture
        self.layout = layout_of(checkpoint.shapes)
        if not tensors_of(self.layout, architecture, "Embedding-Token"):
            raise ValueError(
                f"Checkpoints of {architecture!r} are read in Hugging Face's layout only. "
                f"Received: {checkpoint.path!r}, with the tensor {min(checkpoint.shapes)!r}."
            )
        self._spellings = {}
        if self.layout == "hugging_face":
            self._spellings = spellings(checkpoint.shapes, architecture)

    def of(self, layer_name):
        """The tensors of a layer, in the order of its weights, whether they are there or not."""
        return [
            tensor._replace(name=self._spellings.get(tensor.name, tensor.name))
            for tensor in tensors_of(self.layout, self.architecture, layer_name)
        ]

    def names(self, depth):
        """The names of all tensors that a model of so many layers may have."""
        layers = []
        for layer in LAYOUTS[self.layout][self.architecture]:
            numbers = range(depth) if "{}" in layer else [0]
            layers += [layer.format(i) for i in numbers]
        return list(dict.fromkeys(tensor.name for layer in layers for tensor in self.of(layer)))

    def missing(self, layer_name):
        """The names of those that the checkpoint lacks."""
        return [t.name for t in self.of(layer_name) if t.name not in self.checkpoint.shapes]

    def has(self, layer_name):
        """Whether the checkpoint has any tensor of a layer."""
        return any(t.name in self.checkpoint.shapes for t in self.of(layer_name))

    def shape_for(self, tensor, shape):
        """The shape that a tensor must have for a weight of the shape `shape`."""
        if tensor.third is not None:
            shape = (*shape[:-1], 3 * shape[-1])
        return tuple(shape[::-1] if tensor.transposed else shape)

    def read(self, tensor):
        """The weight that a tensor becomes."""
        value = self.checkpoint.read(tensor.name)
        if tensor.third is not None:
            value = np.split(value, 3, axis=-1)[tensor.third]
        return value.T if tensor.transposed else value


def check_architecture(tensors):
    """Raises a ValueError if a checkpoint has embeddings that the architecture does not have."""
    for layer, part in TELLING.items():
        found = [n for n in tensors.checkpoint.shapes if n.removesuffix(".weight").endswith(part)]
        if found and not tensors.of(layer):
            raise ValueError(
                f"The checkpoint {tensors.checkpoint.path!r} is not of the architecture "
                f"{tensors.architecture!r}: it has the tensor {found[0]!r}. Leave out `model`, and "
                "it is found out, or give another one."
            )


def check_tied(tensors):
    """Raises a ValueError if the head that predicts tokens has a table of its own."""
    shapes = tensors.checkpoint.shapes
    embedding = tensors.of("Embedding-Token")[0].name
    for name in (name for name in TIED if name in shapes):
        same = shapes[name] == shapes[embedding] and np.array_equal(
            tensors.checkpoint.read(name), tensors.checkpoint.read(embedding)
        )
        if not same:
            raise ValueError(
                f"The checkpoint {tensors.checkpoint.path!r} predicts tokens with a table of its "
                f"own, {name!r}, which differs from its token embedding. Such models are not "
                "implemented: the two are one here."
            )


def check_depth(num_hidden_layers, tensors):
    """Raises a ValueError if the checkpoint has more layers than the configuration."""
    for tensor in tensors.of(f"Transformer-{num_hidden_layers}-FeedForward"):
        if tensor.name in tensors.checkpoint.shapes:
            raise ValueError(
                f"The configuration does not match the checkpoint {tensors.checkpoint.path!r}: it "
                f"has num_hidden_layers={num_hidden_layers}, and the checkpoint has more, such as "
                f"the tensor {tensor.name!r}. To use only the lower layers, give "
                "`num_hidden_layers` as an argument."
            )


def load_weights(layers, tensors, keep_tokens=None):
    """Loads a checkpoint into layers.

    Names and shapes are compared first. The tensors are then read one at a time, so that loading
    needs little more memory than the model.

    Args:
        layers: Dictionary of built Keras layers by name, as `BERT.layers`.
        tensors: `NamedTensors` of the checkpoint.
        keep_tokens: Optional list of token ids, to load only these rows of the vocabulary.

    Raises:
        ValueError: if the checkpoint lacks tensors of these layers, or they have another shape;
            nothing has been loaded then. If a tensor cannot be read; some have been loaded then.
    """
    path = tensors.checkpoint.path
    plan, missing = [], []
    for layer_name, layer in layers.items():
        missing += [(name, layer_name) for name in tensors.missing(layer_name) if layer.weights]
        # A layer may have weights after its pretrained ones, e.g. a prompt.
        pairs = zip(layer.weights, tensors.of(layer_name))  # noqa: B905
        plan += [(variable, tensor, layer_name) for variable, tensor in pairs]
    if missing:
        raise ValueError(_describe_missing(missing, tensors))
    if keep_tokens is not None:
        token = next(t for _, t, layer in plan if layer == "Embedding-Token")
        rows = tensors.checkpoint.shapes[token.name][0]
        outside = [i for i in keep_tokens if not 0 <= i < rows]
        if outside:
            raise ValueError(
                f"`keep_tokens` names tokens that {path!r} does not have. Received: "
                f"{outside[:5]} with a vocabulary of {rows}."
            )
    for variable, tensor, layer_name in plan:
        expected = tensors.shape_for(tensor, variable.shape)
        found = tensors.checkpoint.shapes[tensor.name]
        if keep_tokens is not None and layer_name in PER_TOKEN:
            found = (len(keep_tokens), *found[1:])
        if found != expected:
            raise ValueError(
                f"The configuration does not match the checkpoint {path!r}: its tensor "
                f"{tensor.name!r} has the shape {found}, and the layer {layer_name!r}, built from "
                f"the configuration, expects {expected}."
            )
    for variable, tensor, layer_name in plan:
        value = tensors.read(tensor)
        if value.dtype.kind != "f":
            raise ValueError(
                f"The tensor {tensor.name!r} of the checkpoint {path!r} is damaged, or not of a "
                f"model's weights. Expected floating-point numbers. Received: {value.dtype}."
            )
        if keep_tokens is not None and layer_name in PER_TOKEN:
            value = value[keep_tokens]
        variable.assign(np.ascontiguousarray(value))
    for layer in layers.values():
        # Layers that lay vectors of their own over a table start from the loaded one.
        if hasattr(layer, "reset_prompt"):
            layer.reset_prompt()


def _describe_missing(missing, tensors):
    parts = {layer_name.split("-")[0] for _, layer_name in missing}
    shapes = tensors.checkpoint.shapes
    names = list(dict.fromkeys(name for name, _ in missing))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if any("discriminator_predictions" in name for name in shapes) and "MLM" in parts:
        what = (
            "is the discriminator of an ELECTRA, which tells words from replaced ones and cannot "
            "fill in a mask. Use the generator's release."
        )
    elif parts == {"MLM"}:
        what = (
            "has no MLM head, so it cannot fill in a mask. Use a release that includes the head "
            "(`cls/predictions/...`); for a plain encoder leave out `with_mlm`."
        )
    elif parts == {"Pooler"}:
        what = "has no pooler. Leave out `with_pool`."
    else:
        what = f"does not have all the tensors of the architecture {tensors.architecture!r}."
    return (
        f"The checkpoint {tensors.checkpoint.path!r} {what} Missing: {shown}. It has "
        f"{len(shapes)} tensors, such as {min(shapes, default=None)!r}."
    )
