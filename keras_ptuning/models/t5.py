"""T5 and mT5: an encoder, and a decoder that looks at what the encoder read."""

import os
import re

import numpy as np
from keras import ops

from keras_ptuning.layers import (
    FeedForward,
    GatedFeedForward,
    RelativeBias,
    RMSNormalization,
)
from keras_ptuning.layers.attention import take_queries
from keras_ptuning.layers.feed_forward import ACTIVATIONS
from keras_ptuning.models.entries import DEPTH, ENTRIES, POSITIVE, REQUIRED, read_flag
from keras_ptuning.models.names import WRAPPERS, Tensor
from keras_ptuning.models.transformer import Transformer

# Entries that Hugging Face calls otherwise: their name there, and their default.
_NAMES = {
    "hidden_size": ("d_model", REQUIRED),
    "num_hidden_layers": ("num_layers", REQUIRED),
    "num_attention_heads": ("num_heads", REQUIRED),
    "intermediate_size": ("d_ff", REQUIRED),
    "attention_head_size": ("d_kv", 64),
    "hidden_dropout_prob": ("dropout_rate", 0.1),
    "hidden_act": ("feed_forward_proj", "relu"),
    "layer_norm_eps": ("layer_norm_epsilon", None),
}


def _or_none(argument, check, expected):
    return argument, None, lambda v: v is None or check(v), f"{expected}, or nothing"


def _activation(value):
    """That of feed-forward layers, out of a configuration: `(name, whether they are gated)`."""
    if isinstance(value, list | tuple) and len(value) == 2 and value[1] == "linear":
        return value[0], True
    name = str(value).removeprefix("gated-")
    # Hugging Face's "gated-gelu" is the one with tanh.
    return ("gelu_new" if value == "gated-gelu" else name), name != value


_ENTRIES = {
    **ENTRIES,
    "hidden_act": (
        "hidden_act",
        ["gelu", "linear"],
        lambda v: _activation(v)[0] in ACTIVATIONS,
        "an activation, or of a gated layer such as 'gated-gelu' or ['gelu', 'linear']",
    ),
    "attention_head_size": _or_none("head_size", *POSITIVE),
    "num_decoder_layers": _or_none("num_decoder_layers", *DEPTH),
    "relative_attention_num_buckets": ("buckets", 32, *POSITIVE),
    "relative_attention_max_distance": ("max_distance", 128, *POSITIVE),
}


def _attention(name):
    return [f"{name}/{part}/kernel" for part in "qkvo"]


def _feed_forward(name, *inner):
    return [f"{name}/{part}/kernel" for part in (*inner, "wo")]


def _stack(title, *attentions):
    """The tensors of encoder or decoder; `attentions` are the names of layers and of tensors."""
    stack = title.lower()
    table = {
        f"{title}-Embedding-Relative-Position": [
            f"{stack}/block_000/layer_000/SelfAttention/relative_attention_bias"
        ],
        f"{title}-Output-Norm": [f"{stack}/final_layer_norm/scale"],
    }
    block, layer = f"{title}-Transformer-{{}}", f"{stack}/block_{{:0>3}}/layer_00"
    for i, (name, part) in enumerate(attentions):
        table[f"{block}-{name}"] = _attention(f"{layer}{i}/{part}")
        table[f"{block}-{name}-Norm"] = [f"{layer}{i}/layer_norm/scale"]
    i = len(attentions)
    table[f"{block}-FeedForward"] = _feed_forward(f"{layer}{i}/DenseReluDense", "wi")
    # Another layer, and so with a name of its own.
    table[f"{block}-GatedFeedForward"] = _feed_forward(f"{layer}{i}/DenseReluDense", "wi_0", "wi_1")
    table[f"{block}-FeedForward-Norm"] = [f"{layer}{i}/layer_norm/scale"]
    return table


_SELF = ("MultiHeadSelfAttention", "SelfAttention")
_CROSS = ("MultiHeadCrossAttention", "EncDecAttention")
_TABLE = {
    "Embedding-Token": ["shared/embedding"],
    **_stack("Encoder", _SELF),
    **_stack("Decoder", _SELF, _CROSS),
    "Output-Token": ["decoder/logits/kernel"],
}


def _as_google(name):
    transposed = name.endswith("relative_attention_bias")
    return Tensor(re.sub(r"(/[qkvo])/kernel$", r"\1", name), transposed)


def _as_hugging_face(name):
    transposed = name.endswith("/kernel")
    for old, new in (
        ("decoder/logits", "lm_head"),
        ("/(embedding|kernel|scale)$", ""),
        ("_000/", "/0/"),
        ("_{:0>3}/", "/{}/"),
        ("layer_00", "layer/"),
        ("/", "."),
    ):
        name = re.sub(old, new, name)
    return Tensor(f"{name}.weight", transposed)


class T5(Transformer):
    """T5, mT5 and their relatives: the encoder reads a text, and the decoder writes another.

    Blocks normalise what they read, by its root mean square. Attention knows positions by a number
    for each range of distances, which all blocks of a stack share. Scores are not divided by the
    square root of the heads' size. The layers have bert4keras's names, and a gated feed-forward
    layer is called `GatedFeedForward`.

    The inputs are the encoder's tokens and the decoder's. The first of the decoder's is the padding
    token, or `[CLS]` if the vocabulary is a BERT's. So the decoder's padding has to come last.

    Two settings belong to a checkpoint. Wrong ones give wrong probabilities:

    - `scale_output`: whether the decoder's output is multiplied by `hidden_size ** -0.5` before the
      head. Google's releases have it if the head is the token embedding (T5 1.0), and not if it is
      a table of its own (T5 1.1, mT5). bert4keras always has it.
    - `cross_position_bias`: whether the decoder's attention to the encoder has a position bias.
      Google's releases have none. bert4keras had one until August 2022.

    Both follow the configuration, or else Google's releases. A TensorFlow checkpoint with a head of
    its own and a `vocab.txt`, such as t5-pegasus, is taken as trained with bert4keras.

    Args:
        scale_output, cross_position_bias: See above.
        num_decoder_layers: Integer. Defaults to `num_hidden_layers`, those of the encoder.
        buckets, max_distance: As `keras_ptuning.layers.RelativeBias` has them.
        *args, **kwargs: As `Transformer` has them.

    Reference:
        - [Raffel et al., 2019](https://arxiv.org/abs/1910.10683), section 2.1.
        - [Xue et al., 2020](https://arxiv.org/abs/2010.11934), section 3, of mT5.
    """

    architecture = "t5"
    google = {layer: [_as_google(name) for name in names] for layer, names in _TABLE.items()}
    hugging_face = {
        layer: [_as_hugging_face(name) for name in names] for layer, names in _TABLE.items()
    }
    signs = ("encoder.block.", "encoder/block_")
    config_signs = ("d_kv", "relative_attention_num_buckets")
    tied = "lm_head.weight"
    input_names = ("Input-Token", "Decoder-Input-Token")
    norm_epsilon = 1e-6
    writes = True
    limited = False
    fixed = {}

    def __init__(
        self,
        *args,
        scale_output=False,
        cross_position_bias=False,
        num_decoder_layers=None,
        buckets=32,
        max_distance=128,
        hidden_act="relu",
        **kwargs,
    ):
        activation, self.gated = _activation(hidden_act)
        super().__init__(*args, hidden_act=activation, **kwargs)
        for name, value in (
            ("scale_output", scale_output),
            ("cross_position_bias", cross_position_bias),
        ):
            if not isinstance(value, bool):
                raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}.")
        self.scale_output = scale_output
        self.cross_position_bias = cross_position_bias
        self.num_decoder_layers = num_decoder_layers or self.num_hidden_layers
        self.buckets = buckets
        self.max_distance = max_distance
        for name in ("with_pool", "with_mean", "own_prefix", "document_start_id"):
            if getattr(self, name):
                raise ValueError(f"A T5 has no `{name}`. Received: {name}={getattr(self, name)!r}.")

    @classmethod
    def config_entries(cls, config):
        if "d_model" not in config:
            return _ENTRIES
        entries = {}
        for key, (argument, default, check, expected) in _ENTRIES.items():
            name, default = _NAMES.get(key, (key, default))
            entries[name] = (argument, default, check, expected)
        return entries

    @classmethod
    def settings_of(cls, config, settings):
        tied = read_flag(config, "tie_word_embeddings", True)
        settings = {
            **settings,
            "segment_vocab_size": 0,
            "tie_embeddings": tied,
            "scale_output": read_flag(config, "scale_decoder_outputs", tied),
            "cross_position_bias": read_flag(config, "cross_position_bias", False),
            "pad_id": config.get("pad_token_id", 0),
        }
        if "d_model" in config:
            # One rate for all.
            settings["attention_dropout_rate"] = settings["dropout_rate"]
        return settings

    @classmethod
    def complete_config(cls, config, tensors):
        """Adds what the tensors of a checkpoint say, such as whether it has a head of its own."""
        own_head = tensors.has("Output-Token")
        tied = read_flag(config, "tie_word_embeddings", True)
        if own_head and tied:
            # Some files have the same table twice, and newer configurations call all heads tied.
            own_head = not tensors.alike("Output-Token", "Embedding-Token")
        folder = os.path.dirname(tensors.checkpoint.path)
        of_bert4keras = (
            tensors.layout == "google"
            and own_head
            and os.path.isfile(os.path.join(folder, "vocab.txt"))
        )
        # Transformers 5 calls every mT5 tied, and never scales what goes into its head.
        version = str(config.get("transformers_version", "")).partition(".")[0]
        unscaled = config.get("model_type") == "mt5" and version.isdigit() and int(version) >= 5
        # Where only the configuration says that there is a head of its own, the head is missing.
        tied = tied and not own_head
        derived = {
            "scale_decoder_outputs": of_bert4keras or (tied and not unscaled),
            "cross_position_bias": of_bert4keras,
        }
        given = {key: value for key, value in config.items() if value is not None}
        return {**config, **derived, **given, "tie_word_embeddings": tied}

    @classmethod
    def config_of(cls, config, settings):
        names = {
            "scale_output": "scale_decoder_outputs",
            "cross_position_bias": "cross_position_bias",
            "tie_embeddings": "tie_word_embeddings",
        }
        return {names[name]: value for name, value in settings.items() if name in names}

    @classmethod
    def spellings(cls, names, layout):
        found = {}
        for name in names:
            if layout == "google":
                # mT5's.
                usual = re.sub("coder/rms_norm", "coder/final_layer_norm", name)
                usual = usual.replace("rms_norm", "layer_norm")
            else:
                usual = WRAPPERS.sub("", name)
                if "shared.weight" not in names:
                    usual = usual.replace("encoder.embed_tokens", "shared")
            if usual not in names:
                found[usual] = name
        return found

    def blocks(self):
        encoder = [f"Encoder-Transformer-{i}" for i in range(self.num_hidden_layers)]
        return encoder + [f"Decoder-Transformer-{i}" for i in range(self.num_decoder_layers)]

    def dtype_of_block(self, i):
        return self.dtype

    def apply_body(self, inputs):
        """Encoder -> decoder."""
        self.vectors = inputs.get("Input-Vectors")
        prefixes, _ = self.prefixes(inputs)
        memory = self.encode(inputs["Input-Token"], prefixes)
        written = inputs["Decoder-Input-Token"]
        # The first token may be that of padding. What is padding comes last, and is not seen.
        place = ops.cumsum(ops.ones_like(written), axis=1) - 1
        mask, place = place[:, :, None] >= place[:, None, :], _places(written)
        if self.branching:
            mask, place = self.branches(mask, inputs["Input-Reach"])
        context = {"attention_mask": mask[:, None], "bias": self.bias("Decoder")(place, place)}
        return self.decode(written, place, context, memory, prefixes, inputs.get("Input-Gather"))

    def encode(self, token_ids, prefixes=None):
        """What the encoder makes of texts, as the decoder's blocks look at it."""
        self.block_dtype = self.dtype
        places = _places(token_ids)
        is_text = self.is_token(token_ids)[:, None, None, :]
        context = {"attention_mask": is_text, "bias": self.bias("Encoder")(places, places)}
        x = self.embed(token_ids, "Encoder")
        for i, name in enumerate(self.blocks()[: self.num_hidden_layers]):
            if prefixes is not None:
                context["prefix"] = prefixes[i]
            x = self.apply_block(x, context, name)
        return {"memory": self.finish(x, "Encoder"), "attention_mask": is_text, "places": places}

    def decode(self, written, place, context, memory, prefixes=None, positions=None):
        """What the decoder makes of its own text, at some or all positions.

        `context` has the mask and the positions of what it has written. Where texts are written
        token by token, it has a dictionary `cache` too, of keys and values by block.
        """
        memory = dict(memory)
        places = memory.pop("places")
        if self.cross_position_bias:
            memory["bias"] = self.bias("Decoder")(place, places)
        x = self.embed(written, "Decoder")
        names = self.blocks()
        for i in range(self.num_hidden_layers, len(names)):
            if prefixes is not None:
                context["prefix"] = prefixes[i]
            if i == len(names) - 1 and positions is not None:
                context["positions"] = positions
            x = self.apply_block(x, context, names[i], memory)
        return self.finish(x, "Decoder")

    def next_logits(self, written, begun, memory, cache):
        """Logits of what follows the texts that the decoder has written.

        Not for building a model: the layers are those of a built one.

        Args:
            written: Integer array of shape `(batch, n)`, the tokens since the last call.
            begun: Integer. How many there were before.
            memory: What `encode` returned.
            cache: Dictionary, at first empty, which the call fills: the keys and values so far.

        Returns:
            Tensor of shape `(batch, vocabulary)`.
        """
        total = begun + written.shape[1]
        seen = np.arange(total)[None]
        place = seen[:, begun:]
        mask = place[:, :, None] >= seen[:, None, :]
        context = {"attention_mask": mask[:, None], "cache": cache}
        context["bias"] = self.bias("Decoder")(place, seen)
        prefixes, _ = self.prefixes({"Input-Token": written})
        x = self.decode(written, place, context, memory, prefixes)
        return self.apply_token_head(x[:, -1:])[:, 0]

    def branches(self, mask, reach):
        """The mask where a text has several continuations, and the position of each token."""
        place = ops.cumsum(ops.ones_like(reach), axis=1) - 1
        mask = ops.logical_and(mask, place[:, :, None] <= reach[:, None, :])
        return mask, ops.sum(ops.cast(mask, "int32"), axis=-1) - 1

    def embed(self, token_ids, stack):
        x = self.embed_tokens({"Input-Token": token_ids})
        return self.dropout(f"{stack}-Embedding-Dropout", x)

    def finish(self, x, stack):
        return self.dropout(f"{stack}-Output-Dropout", self.norm(f"{stack}-Output-Norm")(x))

    def bias(self, stack):
        return self.layer(
            f"{stack}-Embedding-Relative-Position",
            RelativeBias,
            heads=self.num_attention_heads,
            buckets=self.buckets,
            max_distance=self.max_distance,
            bidirectional=stack == "Encoder",
            embeddings_initializer=self.initializer(),
        )

    def apply_block(self, x, context, name, memory=None):
        """Norm -> attention -> add -> norm -> feed-forward -> add.

        In a decoder, norm, attention and add come once more between the two, with what the encoder
        read.
        """
        half = f"{name}-MultiHeadSelfAttention"
        y = self.norm(f"{half}-Norm")(x)
        x = self.add(half, self.gather(x, context), self.attend(half, y, context))
        if memory is not None:
            if context.get("positions") is not None and "bias" in memory:
                bias = take_queries(memory["bias"], context["positions"])
                memory = {**memory, "bias": bias}
            half = f"{name}-MultiHeadCrossAttention"
            y = self.norm(f"{half}-Norm")(x)
            attention = self.attention(half)
            if "cache" in context:
                cache = context["cache"]
                if half not in cache:
                    cache[half] = ops.stack(attention.project_memory(memory["memory"]))
                memory = {**memory, "memory": cache[half]}
            x = self.add(half, x, attention(y, **memory))
        half = f"{name}-FeedForward"
        y = self.norm(f"{half}-Norm")(x)
        return self.add(half, x, self.feed_forward(half)(y))

    def attend(self, name, x, context):
        """Attention of the sequence to itself, and to what is in the cache."""
        if "cache" not in context:
            return super().attend(name, x, context)
        attention, cache = self.attention(name), context["cache"]
        context = {key: value for key, value in context.items() if key != "cache"}
        own = ops.stack(attention.project_memory(x))
        cache[name] = own if name not in cache else ops.concatenate([cache[name], own], axis=3)
        return attention(x, memory=cache[name], **context)

    def attention(self, name):
        return super().attention(name, use_bias=False, scaled=False)

    def feed_forward(self, name):
        kind = GatedFeedForward if self.gated else FeedForward
        return self.layer(
            name.replace("FeedForward", kind.__name__),
            kind,
            units=self.intermediate_size,
            activation=self.hidden_act,
            kernel_initializer=self.initializer(),
            use_bias=False,
            dtype=self.block_dtype,
        )

    def norm(self, name):
        return self.layer(name, RMSNormalization, epsilon=self.norm_epsilon)

    def apply_token_head(self, x):
        if self.scale_output:
            x = x * self.hidden_size**-0.5
        return self.project_tokens(x)


def _places(token_ids):
    """The place of each token, the same for all texts: of shape `(1, length)`."""
    return ops.expand_dims(ops.cumsum(ops.ones_like(token_ids[0])) - 1, 0)
