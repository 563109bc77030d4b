"""The transformer that all architectures derive from, and the seams that tuning methods use."""

import copy

import keras
from keras import layers, ops

from keras_ptuning.backend import Unset, check_name
from keras_ptuning.layers import (
    Bias,
    Dense,
    Dropout,
    Embedding,
    FeedForward,
    GatherPositions,
    LayerNormalization,
    MeanVector,
    MultiHeadAttention,
    OwnVectors,
    PositionEmbedding,
)
from keras_ptuning.layers.feed_forward import get_activation
from keras_ptuning.models.entries import ENTRIES
from keras_ptuning.models.names import spellings, tensors_of


def learning_policy(dtype):
    """The dtype policy of what a tuning method adds to layers of the type `dtype`.

    Steps of an optimizer are lost in variables of half precision, so these are in float32.
    """
    policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
    half = policy.variable_dtype in ("bfloat16", "float16")
    return keras.dtype_policies.get(f"mixed_{policy.variable_dtype}") if half else policy


class Transformer:
    """Builds a transformer as a functional Keras model, with bert4keras's layer names.

    Used through `build_transformer_model`, whose documentation has the arguments. The model
    reads from top to bottom in `build`. Each step is a method, and an architecture is a subclass
    that writes down where it differs: `apply_embeddings`, `apply_block`, `apply_token_head`, and
    the class attributes below.

    Tuning methods attach by the names of layers, in `layers`:

    - a layer called like one that is made here takes its place (`Embedding-Token`);
    - `Prefix` gives keys and values for each block that all tokens look at too
      (`keras_ptuning.layers.KeyValuePrefix`);
    - `{name}-Adapter`, such as `Transformer-0-FeedForward-Adapter`, is called on what attention
      or feed-forward add to the sequence, before the sum.

    A given layer that nothing in the model uses is an error.

    Attributes, of the class:
        architecture: Its name, as `model` of `build_transformer_model`, configurations and saved
            models have it. A subclass outside of this package is known by it once it is imported.
        google, hugging_face: Tables of the names of the weights in the two layouts of checkpoints,
            `{layer name: tensor names}`; `None` where there are no such checkpoints.
        signs: Parts of tensors' names that tell the architecture where no configuration does.
        config_signs: Entries of a configuration that tell it.
        tied: The name of a head's own table, where it is written next to the token embedding.
        fixed: Entries of a configuration that change a model's numbers, and the one value of each
            that is implemented.
        input_names: The inputs. `"Input-Segment"` is left out where `segment_vocab_size` is 0.
        norm_epsilon: Where the configuration has none.
        head_act: Name of the activation in the head that predicts tokens, where it is not that of
            the blocks.
        always_causal: Whether each token always sees only what came before it.
        limited: Whether there is a greatest length of texts.
        writes: Whether a decoder reads tokens of its own, and looks at what an encoder read.
    """

    known = {}
    architecture = None
    google = None
    hugging_face = None
    signs = ()
    config_signs = ()
    tied = "cls.predictions.decoder.weight"
    fixed = {
        "add_cross_attention": False,
        "inner_group_num": 1,
        "num_hidden_groups": 1,
        "position_embedding_type": "absolute",
        "rotary_value": False,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
    }
    input_names = ("Input-Token", "Input-Segment")
    norm_epsilon = 1e-12
    head_act = None
    always_causal = False
    limited = True
    writes = False

    def __init__(
        self,
        vocab_size,
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        intermediate_size,
        hidden_act="gelu",
        max_position=512,
        segment_vocab_size=2,
        embedding_size=None,
        num_key_value_heads=None,
        head_size=None,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        initializer_range=0.02,
        norm_epsilon=None,
        sequence_length=None,
        hierarchical_position=None,
        keep_tokens=None,
        with_pool=False,
        with_mlm=False,
        with_mean=False,
        gather_positions=False,
        application="encoder",
        document_start_id=None,
        branching=False,
        own_vectors=False,
        own_prefix=False,
        tie_embeddings=True,
        pad_id=0,
        first_is_text=False,
        layers=None,
        pretrained=False,
        dtype=None,
        name=None,
    ):
        if with_pool and gather_positions:
            raise ValueError(
                "The pooler reads the first token, and `gather_positions` may leave it out: use "
                "one of the two."
            )
        self.vocab_size = vocab_size if keep_tokens is None else len(keep_tokens)
        self.hidden_size = hidden_size
        self.embedding_size = embedding_size or hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_size = head_size or hidden_size // num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = get_activation(hidden_act)
        self.head_act = get_activation(self.head_act or hidden_act)
        self.max_position = max_position
        self.segment_vocab_size = segment_vocab_size
        self.dropout_rate = dropout_rate
        self.attention_dropout_rate = attention_dropout_rate
        self.initializer_range = initializer_range
        self.norm_epsilon = norm_epsilon or self.norm_epsilon
        self.application = "lm" if self.always_causal else application
        if self.application == "unilm" and not segment_vocab_size:
            raise ValueError(
                "The application 'unilm' tells a text from its continuation by their segments, and "
                "this model has none. Use 'encoder' or 'lm'."
            )
        self.sequence_length = sequence_length
        self.hierarchical_position = hierarchical_position
        self.keep_tokens = keep_tokens
        self.with_pool = with_pool
        self.with_mlm = with_mlm
        self.with_mean = with_mean
        self.gather_positions = gather_positions
        self.document_start_id = document_start_id
        self.branching = branching
        self.own_vectors = own_vectors
        self.own_prefix = own_prefix
        self.tie_embeddings = tie_embeddings
        self.pad_id = pad_id
        self.first_is_text = first_is_text
        self.layers = dict(layers or {})
        self.given = set(self.layers)
        self.pretrained = pretrained
        self.dtype = dtype
        # With a mixed policy only the blocks' own layers compute in half precision. What is added
        # up from block to block, and the head, whose logits lie close together, stay exact; so does
        # the last block where it computes only some positions, and shares no layers.
        self.exact = keras.dtype_policies.get(dtype or keras.config.dtype_policy()).variable_dtype
        check_name(name)
        self.name = name

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "architecture" in vars(cls):
            Transformer.known[cls.architecture] = cls

    @classmethod
    def config_entries(cls, config):
        """The entries of a configuration: `{entry: (argument, default, check, what it must be)}`.

        Args:
            config: The configuration, a dictionary.
        """
        return ENTRIES

    @classmethod
    def settings_of(cls, config, settings):
        """The arguments of this class; `settings` are those of its entries."""
        return settings

    @classmethod
    def complete_config(cls, config, tensors):
        """A configuration with what only the tensors of its checkpoint, `NamedTensors`, tell."""
        if tensors.has("Embedding-Segment"):
            return config
        if tensors.of("Embedding-Segment") and config.get("type_vocab_size") is not None:
            # If it says that there are some, they are missing.
            return config
        return {**config, "type_vocab_size": 0}

    @classmethod
    def config_of(cls, config, settings):
        """The entries that arguments set, `settings`, and that `config_entries` has not or not all.

        Args:
            config: The configuration, a dictionary.
            settings: Dictionary with arguments of this class.
        """
        return {}

    @classmethod
    def spellings(cls, names, layout):
        """How a checkpoint calls tensors otherwise: `{name in the table: name in it}`."""
        return spellings(names, cls.hugging_face) if layout == "hugging_face" else {}

    @classmethod
    def tables(cls):
        """The tables of the names of weights, by layout."""
        tables = {"google": cls.google, "hugging_face": cls.hugging_face}
        return {layout: table for layout, table in tables.items() if table is not None}

    @classmethod
    def is_pretrained(cls, layer_name):
        """Whether checkpoints of this architecture have the weights of a layer."""
        return any(tensors_of(table, layer_name) for table in cls.tables().values())

    @classmethod
    def count_positions(cls, max_position, hierarchical_position):
        """How many positions there are, from these two arguments; `None` if any number."""
        if not cls.limited:
            return None
        return max_position**2 if hierarchical_position else max_position

    def add_layer(self, name, layer):
        """Attaches a layer of a tuning method, before `build`.

        Raises:
            ValueError: if there is one of that name.
        """
        if name in self.layers:
            raise ValueError(f"Two methods cannot share one place. Both give a layer {name!r}.")
        self.layers[name] = layer
        self.given.add(name)

    def build(self):
        """Returns the Keras model."""
        self.used, self.attended = set(), []
        inputs = self.inputs()
        x = self.apply_body(inputs)
        outputs = self.apply_heads(x, inputs)
        unused = sorted(self.given - self.used)
        if unused:
            raise ValueError(
                f"A {type(self).__name__} has no place for the layers {unused}. It has: "
                f"{', '.join(sorted(self.used - self.given))}; and places for Prefix, and for "
                "adapters, such as Transformer-0-FeedForward-Adapter."
            )
        if self.hierarchical_position and "Embedding-Position" not in self.used:
            raise ValueError(
                f"A {type(self).__name__} has no table of positions: leave out "
                f"`hierarchical_position`. Received: {self.hierarchical_position!r}."
            )
        model = keras.Model(list(inputs.values()), outputs, name=self.name)
        if self.dtype is not None:
            # Where casts happen decides about the last bits of bfloat16.
            model.dtype_policy = self.dtype
        model.transformer = self
        return model

    def apply_body(self, inputs):
        """Embeddings -> blocks: the sequence that the heads read."""
        self.vectors = inputs.get("Input-Vectors")
        attention_mask = self.attention_mask(inputs)
        prefixes, prefix_mask = self.prefixes(inputs)
        positions = self.positions(attention_mask, inputs, prefixes, prefix_mask)
        x = self.apply_embeddings(inputs, positions)
        context = {"attention_mask": attention_mask, **self.attention_positions(x, positions)}
        if prefix_mask is not None:
            context["prefix_mask"] = prefix_mask
        for i in range(self.num_hidden_layers):
            if prefixes is not None:
                context["prefix"] = prefixes[i]
            if i == self.num_hidden_layers - 1 and not self.with_mean:
                # From here on, only the positions to read matter.
                context["positions"] = inputs.get("Input-Gather")
            self.block_dtype = self.dtype_of_block(i)
            x = self.apply_block(x, context, self.block_name(i))
        return x

    def build_plain(self):
        """The same layers without those that a method gave, and what attention reads in each block.

        Returns:
            `(model, attended)`: a functional Keras model, and for each block the attention layer,
            the symbolic tensor that it makes keys and values of, and what turns the keys or `None`.
        """
        plain = copy.copy(self)
        plain.given = set()
        return plain.build(), plain.attended

    def block_name(self, i):
        """What the names of the layers of a block begin with."""
        return f"Transformer-{i}"

    def blocks(self):
        """What the names of the layers of each block begin with, in order."""
        return [self.block_name(i) for i in range(self.num_hidden_layers)]

    def dtype_of_block(self, i):
        """What the own layers of a block compute in."""
        if i < self.num_hidden_layers - 1 or not self.gather_positions or self.application == "lm":
            return self.dtype
        # Only keys and values of all tokens are left, and no later block evens out what is lost
        # here. A causal model reads more positions.
        return self.exact

    def inputs(self):
        names = [*self.input_names, *(["Input-Reach"] if self.branching else [])]
        if not self.segment_vocab_size:
            names = [name for name in names if name != "Input-Segment"]
        inputs = {n: keras.Input((self.sequence_length,), dtype="int32", name=n) for n in names}
        if self.gather_positions:
            inputs["Input-Gather"] = keras.Input((None,), dtype="int32", name="Input-Gather")
        if self.own_vectors:
            shape = (None, self.embedding_size)
            inputs["Input-Vectors"] = keras.Input(shape, name="Input-Vectors")
        if self.own_prefix:
            heads = self.num_key_value_heads
            shape = (self.num_hidden_layers, 2, heads, None, self.head_size)
            inputs["Input-Prefix"] = keras.Input(shape, name="Input-Prefix")
            name = "Input-Prefix-Length"
            inputs[name] = keras.Input((), dtype="int32", name=name)
        return inputs

    def prefixes(self, inputs):
        """Keys and values of virtual tokens for each block, and which of them a text has.

        Without a prefix both are `None`; a mask is only where each text has a prefix of its own.
        """
        layer = self.given_layer("Prefix")
        if layer is not None:
            return layer(inputs["Input-Token"]), None
        if not self.own_prefix:
            return None, None
        own = inputs["Input-Prefix"]
        places = ops.cumsum(ops.ones_like(own[:, 0, 0, 0, :, 0]), axis=1)
        count = ops.cast(inputs["Input-Prefix-Length"], places.dtype)
        return ops.transpose(own, (1, 2, 0, 3, 4, 5)), places <= count[:, None]

    def attention_mask(self, inputs):
        """Who (third axis) may look at whom (fourth): everybody at all but padding.

        A causal model looks only back, and packed documents do not see each other. With
        `"unilm"`, only the second segment is causal. Where a text has several continuations, each
        token tells the place of the last one that sees it.
        """
        token_ids = inputs["Input-Token"]
        mask = self.is_token(token_ids)[:, None, None, :]
        place = ops.cumsum(ops.ones_like(token_ids), axis=1) - 1
        if self.application == "unilm":
            place_or_source = ops.cumsum(inputs["Input-Segment"], axis=1)
            before = place_or_source[:, :, None] >= place_or_source[:, None, :]
            mask = ops.logical_and(mask, before[:, None])
        if self.application == "lm":
            mask = ops.logical_and(mask, (place[:, :, None] >= place[:, None, :])[:, None])
        if self.branching:
            reach = inputs["Input-Reach"]
            mask = ops.logical_and(mask, (place[:, :, None] <= reach[:, None, :])[:, None])
        if self.document_start_id is not None:
            starts = ops.cast(ops.equal(token_ids, self.document_start_id), "int32")
            document = ops.cumsum(starts, axis=1)
            same = ops.equal(document[:, :, None], document[:, None, :])
            mask = ops.logical_and(mask, same[:, None])
        return mask

    def is_token(self, token_ids):
        """Which are no padding; all of them if no token means that."""
        if self.pad_id is None:
            return ops.ones_like(token_ids, "bool")
        is_token = ops.not_equal(token_ids, self.pad_id)
        if self.first_is_text:
            place = ops.cumsum(ops.ones_like(token_ids), axis=1)
            is_token = ops.logical_or(is_token, ops.equal(place, 1))
        return is_token

    def positions(self, attention_mask, inputs, prefixes, prefix_mask):
        """The position of each token; `None` where it is the token's place in the sequence.

        With branches it is how many tokens it sees before it. In a causal model a prefix comes
        first, and the text continues it; an encoder's text begins at 0, as in pretraining.
        """
        start = None
        if prefixes is not None and self.application == "lm":
            start = prefixes.shape[-2]
            if prefix_mask is not None:
                start = inputs["Input-Prefix-Length"][:, None]
        if self.branching:
            places = ops.sum(ops.cast(attention_mask[:, 0], "int32"), axis=-1) - 1
        elif start is not None:
            places = ops.cumsum(ops.ones_like(inputs["Input-Token"]), axis=1) - 1
        else:
            return None
        return places if start is None else places + start

    def apply_embeddings(self, inputs, positions):
        """The sequence that the first block reads."""
        raise NotImplementedError

    def apply_block(self, x, context, name):
        """One block, whose layers' names begin with `name`."""
        raise NotImplementedError

    def apply_token_head(self, x):
        """Logits of tokens."""
        raise NotImplementedError

    def apply_heads(self, x, inputs):
        """What the model returns: the sequence, or its pooled vector, or predicted tokens."""
        outputs = []
        if self.with_pool:
            if self.tables() and not self.is_pretrained("Pooler-Dense"):
                raise ValueError(
                    f"A {type(self).__name__} has no pooler: leave out `with_pool`. Received: "
                    f"with_pool={self.with_pool!r}."
                )
            activation = "tanh" if self.with_pool is True else self.with_pool
            outputs.append(self.dense("Pooler-Dense", activation)(x[:, 0]))
        if self.with_mean:
            if self.pad_id is None:
                raise ValueError(
                    "A mean vector needs a token for padding, and the tokenizer has none: give "
                    "`pad_token` in its `tokenizer_config.json`."
                )
            is_token = self.is_token(inputs["Input-Token"])
            outputs.append(self.layer("Output-Mean", MeanVector)(x, is_token))
            x = self.gather(x, {"positions": inputs.get("Input-Gather")})
        if self.with_mlm:
            y = self.apply_token_head(x)
            activation = "softmax" if self.with_mlm is True else self.with_mlm
            # Probabilities need the range and precision of float32.
            y = self.layer(
                "MLM-Activation", layers.Activation, activation=activation, dtype="float32"
            )(y)
            outputs.append(y)
            if self.own_vectors:
                outputs.append(self.own_logits)
        if not outputs:
            return x
        return outputs[0] if len(outputs) == 1 else outputs

    def add_segments(self, x, inputs):
        if not self.segment_vocab_size:
            return x
        embedding = self.embedding("Embedding-Segment", self.segment_vocab_size)
        segments = inputs["Input-Segment"]
        if self.segment_vocab_size == 1:
            # As a RoBERTa has it: the second text of a pair is in the same segment.
            segments = ops.zeros_like(segments)
        return self.layer("Embedding-Token-Segment", layers.Add)([x, embedding(segments)])

    def add_positions(self, x, positions):
        embedding = self.layer(
            "Embedding-Position",
            PositionEmbedding,
            input_dim=self.max_position,
            embeddings_initializer=self.initializer(),
            hierarchical=self.hierarchical_position,
        )
        return embedding(x, positions=positions)

    def attention_positions(self, x, positions):
        """What attention is given to know positions by, if they are not in the embeddings."""
        return {}

    def gather(self, x, context):
        """What a block passes on: all of the sequence, or, in the last one, what is read."""
        if context.get("positions") is None:
            return x
        return self.layer("Output-Gather", GatherPositions)(x, context["positions"])

    def add(self, name, x, residual):
        """Adds to the sequence what attention or feed-forward, `name`, made of it."""
        residual = self.dropout(f"{name}-Dropout", residual)
        adapter = self.given_layer(f"{name}-Adapter")
        if adapter is not None:
            residual = adapter(residual)
        return self.layer(f"{name}-Add", layers.Add)([x, residual])

    def token_embedding(self):
        return self.embedding("Embedding-Token", self.vocab_size)

    def embed_tokens(self, inputs):
        """The vectors of the tokens."""
        token_ids = inputs["Input-Token"]
        if not self.own_vectors:
            return self.token_embedding()(token_ids)
        x = self.token_embedding()(ops.minimum(token_ids, self.vocab_size - 1))
        own = self.layer("Embedding-Own", OwnVectors, first_id=self.vocab_size)
        return own(x, token_ids, self.vectors)

    def project_tokens(self, x):
        """Logits of the vocabulary, by the vectors of its tokens."""
        if isinstance(x, keras.KerasTensor):
            self.before_logits = x
        if self.own_vectors:
            self.own_logits = ops.matmul(x, ops.transpose(self.vectors, (0, 2, 1)))
        if self.tie_embeddings:
            return self.token_embedding()(x, reverse=True)
        return self.dense("Output-Token", None, self.vocab_size, use_bias=False)(x)

    def token_bias(self):
        # Tokens beyond the vocabulary, which a tuning method may add, have none.
        return self.layer("MLM-Bias", Bias, size=self.vocab_size)

    def embedding(self, name, size):
        return self.layer(
            name,
            Embedding,
            input_dim=size,
            output_dim=self.embedding_size,
            embeddings_initializer=self.initializer(),
        )

    def attend(self, name, x, context):
        """Attention of the sequence to itself."""
        attention = self.attention(name)
        if isinstance(x, keras.KerasTensor):
            # While the model is built, and not of the texts that it then reads.
            self.attended.append((attention, x, context.get("rotary")))
        return attention(x, **context)

    def attention(self, name, **kwargs):
        return self.layer(
            name,
            MultiHeadAttention,
            heads=self.num_attention_heads,
            head_size=self.head_size,
            key_heads=self.num_key_value_heads,
            **kwargs,
            dropout=self.attention_dropout_rate,
            kernel_initializer=self.initializer(),
            dtype=self.block_dtype,
        )

    def feed_forward(self, name, layer_class=FeedForward):
        return self.layer(
            name,
            layer_class,
            units=self.intermediate_size,
            activation=self.hidden_act,
            kernel_initializer=self.initializer(),
            dtype=self.block_dtype,
        )

    def norm(self, name):
        return self.layer(name, LayerNormalization, epsilon=self.norm_epsilon)

    def dense(self, name, activation, units=None, **kwargs):
        return self.layer(
            name,
            Dense,
            units=units or self.hidden_size,
            activation=activation,
            **kwargs,
            kernel_initializer=self.initializer(),
        )

    def dropout(self, name, x):
        if not self.dropout_rate:
            return x
        return self.layer(name, Dropout, rate=self.dropout_rate)(x)

    def initializer(self):
        return keras.initializers.TruncatedNormal(stddev=self.initializer_range)

    def layer(self, name, layer_class, **kwargs):
        """The layer called `name`: made once, shared after, or the one given from outside."""
        self.used.add(name)
        if self.pretrained and self.is_pretrained(name):
            # Random numbers would take time and memory, and then be replaced.
            kwargs = {k: Unset() if k.endswith("initializer") else v for k, v in kwargs.items()}
        if name not in self.layers:
            self.layers[name] = layer_class(**{"dtype": self.exact, **kwargs}, name=name)
        return self.layers[name]

    def given_layer(self, name):
        """A layer that only a tuning method gives; `None` without one."""
        if name not in self.given:
            return None
        self.used.add(name)
        return self.layers[name]
