"""GPT-2: blocks that normalise what they read."""

from keras_ptuning.models.bert import BERT
from keras_ptuning.models.entries import ENTRIES, REQUIRED
from keras_ptuning.models.names import Tensor, norm, renamed
from keras_ptuning.models.transformer import Transformer

# Entries that Hugging Face calls otherwise: their name there, and their default.
_NAMES = {
    "hidden_size": ("n_embd", REQUIRED),
    "num_hidden_layers": ("n_layer", REQUIRED),
    "num_attention_heads": ("n_head", REQUIRED),
    "intermediate_size": ("n_inner", None),
    "max_position_embeddings": ("n_positions", 1024),
    "hidden_dropout_prob": ("resid_pdrop", 0.1),
    "attention_probs_dropout_prob": ("attn_pdrop", 0.1),
    "hidden_act": ("activation_function", "gelu_new"),
    "layer_norm_eps": ("layer_norm_epsilon", None),
}


def _pair(name):
    return [Tensor(f"transformer.{name}.weight"), Tensor(f"transformer.{name}.bias")]


class GPT2(Transformer):
    """GPT-2: tokens have no segments and see only what came before them.

    Each block normalises what goes into its halves, and `Output-Norm` what comes out of the last.
    The head that predicts tokens is the token embedding and nothing else.

    Id 0 is padding, as in Chinese GPT-2s over BERT's vocabulary. In OpenAI's vocabulary it is the
    exclamation mark, which this model would not see.
    """

    architecture = "gpt2"
    # As bert4keras has it, e.g. of CPM.
    google = {
        **renamed(
            {
                layer: names
                for layer, names in BERT.google.items()
                if "{}" in layer or layer in ("Embedding-Token", "Embedding-Position")
            },
            ("bert/encoder", "gpt/transformer"),
            ("bert/", "gpt/"),
            ("output/LayerNorm", "input/LayerNorm"),
        ),
        "Output-Norm": norm("gpt/output"),
    }
    hugging_face = {
        "Embedding-Token": [Tensor("transformer.wte.weight")],
        "Embedding-Position": [Tensor("transformer.wpe.weight")],
        "Transformer-{}-MultiHeadSelfAttention-Norm": _pair("h.{}.ln_1"),
        "Transformer-{}-MultiHeadSelfAttention": [
            *(t._replace(third=i) for i in range(3) for t in _pair("h.{}.attn.c_attn")),
            *_pair("h.{}.attn.c_proj"),
        ],
        "Transformer-{}-FeedForward-Norm": _pair("h.{}.ln_2"),
        "Transformer-{}-FeedForward": [*_pair("h.{}.mlp.c_fc"), *_pair("h.{}.mlp.c_proj")],
        "Output-Norm": _pair("ln_f"),
    }
    signs = ("gpt/output/", "attn.c_attn.")
    config_signs = ("n_embd",)
    tied = "lm_head.weight"
    input_names = ("Input-Token",)
    norm_epsilon = 1e-5
    always_causal = True

    @classmethod
    def config_entries(cls, config):
        if "n_embd" not in config and "hidden_size" in config:
            return ENTRIES
        entries = {}
        for key, (argument, default, check, expected) in ENTRIES.items():
            name, default = _NAMES.get(key, (key, default))
            entries[name] = (argument, default, check, expected)
        argument, _, check, expected = entries["n_inner"]
        # `null` means four times the hidden size.
        entries["n_inner"] = (argument, None, lambda v: v is None or check(v), expected)
        return entries

    @classmethod
    def settings_of(cls, config, settings):
        if settings["intermediate_size"] is None:
            return {**settings, "intermediate_size": 4 * settings["hidden_size"]}
        return settings

    def apply_embeddings(self, inputs, positions):
        """Token + position."""
        x = self.embed_tokens(inputs)
        x = self.add_positions(x, positions)
        return self.dropout("Embedding-Dropout", x)

    def apply_block(self, x, context, name):
        """Norm -> attention -> add -> norm -> feed-forward -> add."""
        half = f"{name}-MultiHeadSelfAttention"
        y = self.norm(f"{half}-Norm")(x)
        x = self.add(half, self.gather(x, context), self.attend(half, y, context))
        half = f"{name}-FeedForward"
        y = self.norm(f"{half}-Norm")(x)
        return self.add(half, x, self.feed_forward(half)(y))

    @classmethod
    def config_of(cls, config, settings):
        # One rate serves embeddings and blocks.
        rate = settings.get("dropout_rate")
        return {"embd_pdrop": rate} if "embd_pdrop" in config and rate is not None else {}

    def apply_heads(self, x, inputs):
        """The sequence, normalised, or what follows each token."""
        return super().apply_heads(self.norm("Output-Norm")(x), inputs)

    def apply_token_head(self, x):
        return self.project_tokens(x)
