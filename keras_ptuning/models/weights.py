"""Which weights of a layer are pretrained, and their way from and to a checkpoint's tensors."""

import hashlib
import math
import os
import re

import keras
import numpy as np

from keras_ptuning.backend import assign_parts
from keras_ptuning.checks import check_finite
from keras_ptuning.models.architectures import find_architecture
from keras_ptuning.models.names import layout_of, tensors_of

# Layers with something for each token of the vocabulary, which `keep_tokens` selects from, and the
# axis of their weight that it is on.
PER_TOKEN = {"Embedding-Token": 0, "MLM-Bias": 0, "Output-Token": -1}
# A tensor of more numbers is read in parts of about so many, as reading it takes memory too.
LARGE = 2**22
# Tensors that change a model's numbers: where the architecture has no such name, the checkpoint is
# of another one. What else may be there, such as poolers and other heads, changes nothing.
TELLING = re.compile(r"_embeddings?(?=[./]|$)|crossattention")


def pretrained_weights(layer):
    """The weights of a layer that belong to its checkpoint, in the order of the tables.

    Others may be added to them, by a tuning method. A layer names those in `added_weights`, a list
    of variables; those of Keras's own `enable_lora` are known by their names.

    Args:
        layer: A built Keras layer.

    Returns:
        A list of variables.

    Example:

    >>> layer = keras.layers.Dense(2)
    >>> layer.build((None, 3))
    >>> layer.enable_lora(rank=1)
    >>> len(layer.weights), [v.name for v in pretrained_weights(layer)]
    (4, ['kernel', 'bias'])
    """
    parts = layer._flatten_layers()
    added = {id(v) for part in parts for v in getattr(part, "added_weights", ())}
    return [v for v in layer.weights if id(v) not in added and not v.name.startswith("lora_")]


def merged_values(layer):
    """The pretrained weights with what was added to them merged in, as a checkpoint has them.

    Args:
        layer: A built Keras layer.

    Returns:
        A list of NumPy arrays. Those of a token embedding may have more rows than its table, for
        additional tokens.
    """
    if hasattr(layer, "whole_table"):
        return [layer.whole_table()]
    merged = {}
    for part in layer._flatten_layers():
        if getattr(part, "lora_enabled", False):
            name = "kernel" if hasattr(part, "_kernel") else "embeddings"
            a, b = (getattr(part, f"lora_{name}_{letter}") for letter in "ab")
            table = getattr(part, f"_{name}")
            # Not `part.kernel`, which is in half precision if the policy is mixed.
            merged[id(table)] = table + part.lora_alpha / part.lora_rank * keras.ops.matmul(a, b)
    variables = pretrained_weights(layer)
    return [keras.ops.convert_to_numpy(merged.get(id(v), v)) for v in variables]


def token_vectors(model):
    """The output vectors: the logit of a token is the product of its vector and the head's.

    Args:
        model: A Keras model that predicts tokens, as `build_transformer_model` returns it.

    Returns:
        A NumPy array of shape `(vocabulary, size)`.
    """
    if model.transformer.tie_embeddings:
        return merged_values(model.get_layer("Embedding-Token"))[0]
    return merged_values(model.get_layer("Output-Token"))[0].T


def fingerprint(model, but=()):
    """A SHA-256 of the pretrained weights: the same for the same checkpoint.

    Args:
        model: A Keras model, as `build_transformer_model` returns it.
        but: Variables to leave out, since they have been trained.
    """
    trained = {id(variable) for variable in but}
    digest = hashlib.sha256()
    for layer in model.layers:
        for variable in pretrained_weights(layer):
            if id(variable) in trained:
                continue
            # Not in the type that the model has been built in, unless that has rounded them.
            value = keras.ops.convert_to_numpy(variable).astype("float32", copy=False)
            digest.update(f"{layer.name} {value.shape} {value.dtype}".encode())
            digest.update(value.tobytes())
    return digest.hexdigest()


class NamedTensors:
    """The tensors of a checkpoint, by the layers of an architecture that they belong to.

    Args:
        checkpoint: A reader with `path`, `shapes` and `read`, e.g. `TensorFlowCheckpoint`.
        architecture: A subclass of `Transformer`, or the name of one, e.g. `"bert"`.

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
        self.architecture = find_architecture({}, architecture)
        self.layout = layout_of(checkpoint.shapes)
        tables = self.architecture.tables()
        if self.layout not in tables:
            other = {"google": "Hugging Face's", "hugging_face": "Google's"}[self.layout]
            raise ValueError(
                f"Checkpoints of {self.architecture.architecture!r} are read in {other} layout "
                f"only. Received: {checkpoint.path!r}, with the tensor {min(checkpoint.shapes)!r}."
            )
        self.table = tables[self.layout]
        self._spellings = self.architecture.spellings(checkpoint.shapes, self.layout)

    def of(self, layer_name):
        """The tensors of a layer, in the order of its weights, whether they are there or not."""
        return [
            tensor._replace(name=self.spelled(tensor.name))
            for tensor in tensors_of(self.table, layer_name)
        ]

    def spelled(self, name):
        """What the checkpoint calls a tensor of the tables."""
        return self._spellings.get(name, name)

    def names(self, depth):
        """The names of all tensors that a model of so many layers may have."""
        layers = []
        for layer in self.table:
            numbers = range(depth) if "{}" in layer else [0]
            layers += [layer.format(i) for i in numbers]
        return list(dict.fromkeys(tensor.name for layer in layers for tensor in self.of(layer)))

    def missing(self, layer_name):
        """The names of those that the checkpoint lacks."""
        return [t.name for t in self.of(layer_name) if t.name not in self.checkpoint.shapes]

    def has(self, layer_name):
        """Whether the checkpoint has any tensor of a layer."""
        return any(t.name in self.checkpoint.shapes for t in self.of(layer_name))

    def alike(self, *layer_names):
        """Whether the checkpoint has the same tensor for both of two layers with one each."""
        found = [tensor for name in layer_names for tensor in self.of(name)]
        shapes = [self.checkpoint.shapes.get(tensor.name) for tensor in found]
        if shapes[0] is None or shapes[1] is None or sorted(shapes[0]) != sorted(shapes[1]):
            return False
        first, second = (self.checkpoint.read(tensor.name) for tensor in found)
        # Of the shape (vocabulary, hidden), both.
        return np.array_equal(first, second if shapes[0] == shapes[1] else second.T)

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

    def has_parts(self, tensor):
        """Whether a tensor is so large that it is read in parts."""
        large = math.prod(self.checkpoint.shapes[tensor.name]) > LARGE
        return large and tensor.third is None and hasattr(self.checkpoint, "read_rows")

    def parts(self, tensor):
        """The rows of a large tensor, some at a time: `(number of the first, rows)`."""
        rows, *others = self.checkpoint.shapes[tensor.name]
        step = max(1, LARGE // math.prod(others))
        for start in range(0, rows, step):
            yield start, self.checkpoint.read_rows(tensor.name, start, min(start + step, rows))


def check_checkpoint(tensors, blocks, tied):
    """Raises a ValueError if a checkpoint has tensors that a model would leave out, and should not.

    Args:
        tensors: `NamedTensors` of the checkpoint, which has all that the model needs.
        blocks: List of what the names of each block's layers begin with, as `Transformer.blocks`;
            `None` if only the lower ones were asked for.
        tied: Whether the model predicts tokens with its token embedding.
    """
    check_architecture(tensors)
    if blocks is not None:
        check_depth(blocks, tensors)
    if tied:
        check_tied(tensors)


def check_architecture(tensors):
    """Raises a ValueError if a checkpoint has embeddings that the architecture does not have."""
    known = {re.sub(r"\d+", "0", name) for name in tensors.names(1)}
    for name in tensors.checkpoint.shapes:
        usual = re.sub(r"\d+", "0", name)
        # An optimizer's numbers come below a tensor's name, and a wrapper's name comes before it.
        is_known = any(usual.startswith(f"{n}/") or usual.endswith(n) for n in known)
        if TELLING.search(name) and not is_known:
            raise ValueError(
                f"The checkpoint {tensors.checkpoint.path!r} is not of the architecture "
                f"{tensors.architecture.architecture!r}: it has the tensor {name!r}, which this "
                "one does not use. Leave out `model`, so that the checkpoint tells it, or give "
                "another one. If no architecture uses it, such models are not implemented."
            )


def check_memory(tensors, depth, dtype):
    """Raises a MemoryError if the weights of a checkpoint take more memory than there is.

    Args:
        tensors: `NamedTensors` of the checkpoint.
        depth: Integer, the number of blocks.
        dtype: What the weights are kept in.
    """
    shapes = tensors.checkpoint.shapes
    count = sum(math.prod(shapes.get(name, (0,))) for name in tensors.names(depth))
    size, memory = count * np.dtype(dtype).itemsize, total_memory()
    if memory is not None and size > memory:
        raise MemoryError(
            f"The checkpoint {tensors.checkpoint.path!r} has {count / 1e9:.1f} billion weights, "
            f"which take {size / 1e9:.1f} GB in {dtype}. Received: a machine with "
            f"{memory / 1e9:.1f} GB. Give dtype='bfloat16' if that is enough, or use a smaller "
            "checkpoint."
        )


def total_memory():
    """The bytes of memory that this machine has; `None` where nothing tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def check_tied(tensors):
    """Raises a ValueError if the head that predicts tokens has a table of its own."""
    shapes, name = tensors.checkpoint.shapes, tensors.spelled(tensors.architecture.tied)
    if name not in shapes:
        return
    embedding = tensors.of("Embedding-Token")[0].name
    same = shapes[name] == shapes[embedding] and np.array_equal(
        tensors.checkpoint.read(name), tensors.checkpoint.read(embedding)
    )
    if not same:
        raise ValueError(
            f"The checkpoint {tensors.checkpoint.path!r} predicts tokens with a table of its "
            f"own, {name!r}, which differs from its token embedding. Such models are not "
            "implemented: the two are one here."
        )


def check_depth(blocks, tensors):
    """Raises a ValueError if the checkpoint has more blocks than the configuration.

    Args:
        blocks: List of what the names of each block's layers begin with, as `Transformer.blocks`.
        tensors: `NamedTensors` of the checkpoint.
    """
    for layer in tensors.table:
        stack, is_block, part = layer.partition("{}")
        if not is_block or not part.endswith("FeedForward-Norm"):
            continue
        depth = sum(block.startswith(stack) for block in blocks)
        for tensor in tensors.of(layer.format(depth)):
            if tensor.name in tensors.checkpoint.shapes:
                raise ValueError(
                    f"The configuration does not match the checkpoint {tensors.checkpoint.path!r}: "
                    f"it has num_hidden_layers={depth}, and the checkpoint has more, such as the "
                    f"tensor {tensor.name!r}. To use only the lower layers, give "
                    "`num_hidden_layers` as an argument."
                )


def match_weights(layers, tensors, keep_tokens=None, weights_of=pretrained_weights):
    """Finds the tensor of each weight, and compares names and shapes.

    Args:
        layers, tensors, keep_tokens: As `load_weights` takes them.
        weights_of: Function from a layer to the list of its weights, in the order of the tables.

    Returns:
        A list of `(weight, tensor, layer name)`.

    Raises:
        ValueError: if a layer has weights that the architecture has no names for; or if the
            checkpoint lacks tensors of these layers, or they have another shape.
    """
    path = tensors.checkpoint.path
    plan, missing = [], []
    for layer_name, layer in layers.items():
        variables, named = weights_of(layer), tensors.of(layer_name)
        if not variables:
            continue
        if len(variables) != len(named):
            raise ValueError(_describe_unnamed(layer_name, variables, named, tensors))
        missing += [(name, layer_name) for name in tensors.missing(layer_name)]
        plan += [(v, tensor, layer_name) for v, tensor in zip(variables, named, strict=True)]
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
        expected = list(variable.shape)
        if keep_tokens is not None and layer_name in PER_TOKEN:
            expected[PER_TOKEN[layer_name]] = rows
        expected = tensors.shape_for(tensor, tuple(expected))
        found = tensors.checkpoint.shapes[tensor.name]
        if found != expected:
            raise ValueError(
                f"The configuration does not match the checkpoint {path!r}: its tensor "
                f"{tensor.name!r} has the shape {found}, and the layer {layer_name!r}, built from "
                f"the configuration, expects {expected}."
            )
    return plan


def load_weights(layers, tensors, keep_tokens=None):
    """Loads a checkpoint into layers.

    Names and shapes are compared first. The tensors are then read one at a time, so that loading
    needs little more memory than the model.

    Args:
        layers: Dictionary of built Keras layers by name, as `Transformer.layers`.
        tensors: `NamedTensors` of the checkpoint.
        keep_tokens: Optional list of token ids, to load only these rows of the vocabulary.

    Raises:
        ValueError: if the layers do not match the checkpoint; nothing has been loaded then. If a
            tensor cannot be read; some have been loaded then.
    """
    for variable, tensor, layer_name in match_weights(layers, tensors, keep_tokens):
        if keep_tokens is None and tensors.has_parts(tensor):
            assign_parts(variable, _checked_parts(tensor, tensors), 1 if tensor.transposed else 0)
            continue
        value = read_weight(tensor, tensors)
        if keep_tokens is not None and layer_name in PER_TOKEN:
            value = np.take(value, keep_tokens, PER_TOKEN[layer_name])
        variable.assign(np.ascontiguousarray(value))
    for layer in layers.values():
        # Layers that lay vectors of their own over a table start from the loaded one.
        if hasattr(layer, "reset_prompt"):
            layer.reset_prompt()


def _checked_parts(tensor, tensors):
    """The parts of a large tensor, as the weight has them."""
    for start, value in tensors.parts(tensor):
        _check_numbers(value, tensor, tensors.checkpoint.path)
        yield start, value.T if tensor.transposed else value


def read_weight(tensor, tensors):
    """The weight that a tensor becomes, of finite numbers."""
    value = tensors.read(tensor)
    _check_numbers(value, tensor, tensors.checkpoint.path)
    return value


def _check_numbers(value, tensor, path):
    name = f"The tensor {tensor.name!r} of the checkpoint {path!r}"
    if value.dtype.kind != "f" and value.dtype.name != "bfloat16":
        raise ValueError(
            f"{name} is damaged, or not of a model's weights. Expected floating-point numbers. "
            f"Received: {value.dtype}."
        )
    check_finite([(name, value)], "It is damaged: copy or download it again.")


def _describe_unnamed(layer_name, variables, named, tensors):
    known = [name for name in tensors.table if name.startswith(layer_name.split("-")[0])]
    return (
        f"The layer {layer_name!r} has {len(variables)} pretrained weights, "
        f"{[v.name for v in variables]}, and the architecture "
        f"{tensors.architecture.architecture!r} has {len(named)} names for them. Give the layer a "
        f"name of this architecture, such as {known or list(tensors.table)}; or, if these weights "
        "belong to no checkpoint, name them in its `added_weights`."
    )


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
            "(`cls/predictions/...`), or `build_classifier`, which needs none; for a plain encoder "
            "leave out `with_mlm`."
        )
    elif all("token_type_embeddings" in name for name in names):
        what = (
            "has no embeddings of segments, and the configuration says that there are some. If it "
            "was trained without, set `type_vocab_size` to 0 in the configuration; otherwise take "
            "a complete file."
        )
    elif parts == {"Pooler"}:
        what = "has no pooler. Leave out `with_pool`."
    else:
        architecture = tensors.architecture.architecture
        what = f"does not have all the tensors of the architecture {architecture!r}."
    return (
        f"The checkpoint {tensors.checkpoint.path!r} {what} Missing: {shown}. It has "
        f"{len(shapes)} tensors, such as {min(shapes, default=None)!r}."
    )


def checkpoint_tensors(layers, table):
    """The weights of layers under a checkpoint's names.

    What was added to pretrained weights is merged in. Vectors laid over a token embedding are in
    its rows. Those of additional tokens come after them, and a bias of the tokens makes them
    improbable where the layer itself does not predict them.

    Args:
        layers: Iterable of built Keras layers, as `model.layers`.
        table: The architecture's table in the layout of the checkpoint.

    Returns:
        A dictionary of NumPy arrays, in float32.

    Raises:
        ValueError: if a layer has weights that the architecture has no names for.
    """
    parts = {}
    layers = list(layers)
    overlay = next((layer for layer in layers if hasattr(layer, "whole_bias")), None)
    for layer in layers:
        values, tensors = merged_values(layer), tensors_of(table, layer.name)
        if len(tensors) != len(values) and layer.weights:
            raise ValueError(
                f"The layer {layer.name!r} has {len(values)} weights of a checkpoint, and its "
                f"architecture {len(tensors)} names for them. Give the configuration of this "
                "model, or save it whole with `model.save(...)`."
            )
        for tensor, value in zip(tensors, values, strict=False):
            value = value.astype("float32")
            if layer.name == "MLM-Bias" and overlay is not None:
                value = overlay.whole_bias(value)
            parts.setdefault(tensor.name, []).append(value.T if tensor.transposed else value)
    # Writers take the numbers as they lie in memory.
    return {
        name: np.ascontiguousarray(np.concatenate(values, axis=-1))
        for name, values in parts.items()
    }
