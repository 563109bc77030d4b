"""Prefixes: trained keys and values in every block."""

from typing import Literal

import keras
import numpy as np
from keras import ops

from keras_ptuning.checks import check_integer
from keras_ptuning.layers import KeyValuePrefix
from keras_ptuning.layers.prefix import REPARAMETRIZATIONS
from keras_ptuning.methods.method import Method, assign, named_weights, to_numpy
from keras_ptuning.methods.words import text_ids
from keras_ptuning.models.transformer import learning_policy


@keras.saving.register_keras_serializable(package="keras_ptuning")
class Prefix(Method):
    """Virtual tokens whose keys and values train in each block, and which all tokens look at.

    With a cloze this is prefix-tuning, and with a `[CLS]` head, `build_classifier`, P-tuning v2.
    In a causal model the text's positions continue those of the prefix. A masked model's texts
    begin at position 0, as in pretraining. A T5 has a prefix in the blocks of its encoder and of
    its decoder. A checkpoint has no place for a prefix.

    Args:
        length: Integer. The number of virtual tokens. Defaults to `20`.
        reparametrize: `None`: keys and values themselves learn. `"mlp"`: a small network makes them
            while they train, and learns. A tuned file has keys and values, without the network.
            Defaults to `None`.
        start: `"random"`; or a word, or a list of words. Their keys and values in the pretrained
            model are the start. The words are repeated or cut to `length` tokens. Defaults to
            `"random"`.

    Raises:
        ValueError: if `length` is not a positive integer, there is no such `reparametrize`, `start`
            is not words, or words are given as the start of a network. When the model is built: if
            the prefix, with the texts of a causal model, is longer than the model has positions.

    Example:

    ```python
    model = build_ptuning_model("bert-mini-zh", template=template, tune=Prefix(10))
    model = build_classifier("bert-mini-zh", template=plain, tune=Prefix(10))
    ```

    Reference:
        - [Li and Liang, 2021](https://arxiv.org/abs/2101.00190), section 4.
        - [Liu et al., 2021](https://arxiv.org/abs/2110.07602), section 3.
    """

    name = "prefix"
    settings = ("length", "reparametrize", "start")
    starts_pretrained = False
    learning_rate = 1e-2

    def __init__(
        self,
        length: int = 20,
        reparametrize: Literal["mlp"] | None = None,
        start: str | list[str] | tuple[str, ...] = "random",
    ) -> None:
        check_integer("length", length, 1)
        if reparametrize not in REPARAMETRIZATIONS:
            raise ValueError(
                f"`reparametrize` must be one of {REPARAMETRIZATIONS}. Received: "
                f"reparametrize={reparametrize!r}."
            )
        listed = isinstance(start, list | tuple) and all(isinstance(word, str) for word in start)
        if not isinstance(start, str) and not listed:
            raise ValueError(
                f"A prefix starts at 'random', or at a list of words. Received: start={start!r}."
            )
        if reparametrize and start != "random":
            raise ValueError(
                "A prefix that a network makes starts at random: leave out `start`, or "
                f"`reparametrize`. Received: start={start!r}, reparametrize={reparametrize!r}."
            )
        self.length = int(length)
        self.reparametrize = reparametrize
        self.start = start

    def added_layers(self, transformer, template):
        positions = transformer.count_positions(
            transformer.max_position, transformer.hierarchical_position
        )
        causal = transformer.application == "lm"
        # The texts of a causal model continue the positions of the prefix.
        taken = template.maxlen if causal else 0
        if positions is not None and self.length + taken > positions:
            shorter = f", or `maxlen={positions - self.length}` in the template" if causal else ""
            raise ValueError(
                f"The model has {positions} positions, of which texts take up to {taken}. "
                f"Received: a prefix of {self.length}. Use a shorter prefix{shorter}."
            )
        layer = KeyValuePrefix(
            self.length,
            len(transformer.blocks()),
            transformer.num_key_value_heads,
            transformer.head_size,
            self.reparametrize,
            dtype=learning_policy(transformer.exact),
            name="Prefix",
        )
        return {"Prefix": layer}

    def attach(self, model, template):
        if self.start == "random":
            return
        words = [self.start] if isinstance(self.start, str) else list(self.start)
        ids = np.resize(text_ids(words, template.tokenizer), self.length)
        model.get_layer("Prefix").prefix.assign(keys_and_values(model, ids))

    def weights(self, model):
        return named_weights(model.get_layer("Prefix"))

    def tensors(self, model):
        return {"Prefix/prefix": to_numpy(model.get_layer("Prefix").vectors())}

    def load(self, model, tensors):
        assign({"Prefix/prefix": model.get_layer("Prefix").prefix}, tensors)

    def saved_as(self):
        return Prefix(self.length)

    def describe(self, model):
        blocks = model.get_layer("Prefix").num_layers
        by = f", by an {self.reparametrize.upper()}" if self.reparametrize else ""
        return f"{self.length} keys and values in {blocks} blocks{by}"


def keys_and_values(model, token_ids):
    """The keys and values that the pretrained model has for tokens, in each block.

    Args:
        model: The functional Keras model, with its builder as `model.transformer`.
        token_ids: Integer array of shape `(length,)`.

    Returns:
        Array of shape `(blocks, 2, length, hidden)`, as `KeyValuePrefix` has them.
    """
    transformer = model.transformer
    plain, attended = transformer.build_plain()
    token_ids = np.array(token_ids, "int32")
    arrays = {
        "Input-Token": token_ids[None],
        "Decoder-Input-Token": token_ids[None],
        "Input-Reach": np.full((1, len(token_ids)), len(token_ids), "int32"),
        "Input-Gather": np.zeros((1, 1), "int32"),
    }
    nothing = np.zeros((1, len(token_ids)), "int32")
    reads = [[tensor for tensor in read if tensor is not None] for _, *read in attended]
    read = keras.Model(plain.inputs, reads)
    outputs = read([arrays.get(x.name, nothing) for x in plain.inputs], training=False)
    found = []
    for (attention, *_), tensors in zip(attended, outputs, strict=True):
        pair = ops.stack(attention.project_memory(*tensors))[:, 0]
        # (2, heads, length, size) -> (2, length, heads * size)
        pair = ops.transpose(ops.cast(pair, "float32"), (0, 2, 1, 3))
        found.append(ops.convert_to_numpy(ops.reshape(pair, (2, len(token_ids), -1))))
    return np.stack(found)
