"""LLaMA, and the decoders that differ from it in a few lines."""

import math

from keras_ptuning.layers import GatedFeedForward, RMSNormalization, RotaryPosition
from keras_ptuning.models.entries import ENTRIES, POSITIVE, check_setting, read_flag
from keras_ptuning.models.gpt2 import GPT2
from keras_ptuning.models.names import Tensor
from keras_ptuning.models.transformer import Transformer

_POSITIVE_OR_NONE = (lambda v: v is None or POSITIVE[0](v), "a positive integer, or null")
_POSITIVE_NUMBER = (lambda v: 0 < v < math.inf, "a positive number")
_BLOCK = "model.layers.{}"


def _projections(*names, use_bias=False):
    """The tensors of linear layers."""
    kinds = ("weight", "bias") if use_bias else ("weight",)
    return [
        Tensor(f"{_BLOCK}.{name}.{kind}", transposed=kind == "weight")
        for name in names
        for kind in kinds
    ]


def _norms(*names):
    return [Tensor(f"{_BLOCK}.{name}.weight") for name in names]


class LLaMA(GPT2):
    """LLaMA: GPT-2's blocks with RMS norm, rotary positions and gated feed-forward.

    Several heads of queries may share one of keys. The head that predicts tokens is the token
    embedding, or a table of its own, `Output-Token`, as the configuration says.

    Reference:
        - [Touvron et al., 2023](https://arxiv.org/abs/2302.13971), section 2.2.
        - [Touvron et al., 2023](https://arxiv.org/abs/2307.09288), section 2.2.
    """

    architecture = "llama"
    google = None
    signs = ("self_attn.q_proj.",)
    config_signs = ()
    hugging_face = {
        "Embedding-Token": [Tensor("model.embed_tokens.weight")],
        "Transformer-{}-MultiHeadSelfAttention-Norm": _norms("input_layernorm"),
        "Transformer-{}-MultiHeadSelfAttention": _projections(
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"
        ),
        "Transformer-{}-FeedForward-Norm": _norms("post_attention_layernorm"),
        "Transformer-{}-FeedForward": _projections("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        "Output-Norm": [Tensor("model.norm.weight")],
        "Output-Token": [Tensor("lm_head.weight", transposed=True)],
    }
    fixed = {
        "add_cross_attention": False,
        "attention_bias": False,
        "mlp_bias": False,
    }
    norm_epsilon = 1e-6
    # What attention has beyond that of GPT-2.
    attention_settings = {"use_bias": False}

    def __init__(self, *args, rope_theta=10000.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.rope_theta = rope_theta

    @classmethod
    def config_entries(cls, config):
        same = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        same += ("intermediate_size", "max_position_embeddings", "initializer_range")
        return {
            **{name: ENTRIES[name] for name in same},
            "num_key_value_heads": ("num_key_value_heads", None, *_POSITIVE_OR_NONE),
            "head_dim": ("head_size", None, *_POSITIVE_OR_NONE),
            "rope_theta": ("rope_theta", 10000.0, *_POSITIVE_NUMBER),
            "rms_norm_eps": ("norm_epsilon", None, *ENTRIES["layer_norm_eps"][2:]),
            "hidden_act": ("hidden_act", "silu", *ENTRIES["hidden_act"][2:]),
            "attention_dropout": (
                "attention_dropout_rate",
                0.0,
                *ENTRIES["attention_probs_dropout_prob"][2:],
            ),
        }

    @classmethod
    def settings_of(cls, config, settings):
        """The rest of a configuration: what is no number, and what newer files nest.

        Raises:
            ValueError: if positions are scaled, or some blocks see only near tokens.
        """
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        nested = sorted(name for name, value in rope.items() if isinstance(value, dict))
        if nested:
            raise ValueError(
                "Blocks of several kinds have their own positions in this checkpoint, which is not "
                f"implemented. Received: rope_parameters of {nested}."
            )
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise ValueError(
                f"Positions are scaled by the method {kind!r} in this checkpoint, which is not "
                "implemented. Take a release without `rope_scaling`. Received: "
                f"{rope!r:.100}."
            )
        if set(config.get("layer_types") or []) - {"full_attention"}:
            raise ValueError(
                "Some blocks of this checkpoint see only near tokens (a sliding window), which is "
                "not implemented. Received: layer_types with "
                f"{sorted(set(config['layer_types']))}."
            )
        # From this block on. One that is not there slides nowhere.
        first = config.get("max_window_layers")
        slides = read_flag(config, "use_sliding_window", False)
        if slides and (first is None or first < settings["num_hidden_layers"]):
            raise ValueError(
                "use_sliding_window must be False, or max_window_layers the number of blocks: some "
                "see only near tokens, which is not implemented. Received: "
                f"max_window_layers={first!r} of {settings['num_hidden_layers']}."
            )
        theta = rope.get("rope_theta")
        theta = settings["rope_theta"] if theta is None else theta
        check_setting("The configuration: rope_theta", theta, *_POSITIVE_NUMBER)
        # Older files call the type of the weights `torch_dtype`.
        stored = config.get("dtype") or config.get("torch_dtype")
        pad_id = config.get("pad_token_id")
        return {
            **settings,
            "dtype": "bfloat16" if stored == "bfloat16" else None,
            "rope_theta": float(theta),
            "tie_embeddings": read_flag(config, "tie_word_embeddings", False),
            # What texts begin with is to be seen.
            "pad_id": None if pad_id == config.get("bos_token_id") else pad_id,
        }

    @classmethod
    def config_of(cls, config, settings):
        rope, theta = config.get("rope_parameters"), settings.get("rope_theta")
        # In newer files this is what counts.
        changed = {"rope_parameters": {**rope, "rope_theta": theta}} if rope and theta else {}
        if "tie_embeddings" in settings:
            changed["tie_word_embeddings"] = settings["tie_embeddings"]
        return changed

    def apply_embeddings(self, inputs, positions):
        """Tokens alone; attention knows positions."""
        return self.embed_tokens(inputs)

    def attention_positions(self, x, positions):
        layer = self.layer(
            "Embedding-Rotary-Position", RotaryPosition, size=self.head_size, base=self.rope_theta
        )
        return {"rotary": layer(x, positions=positions)}

    def attention(self, name):
        return super().attention(name, rotate_halves=True, **self.attention_settings)

    def feed_forward(self, name):
        return Transformer.feed_forward(self, name, GatedFeedForward)

    def norm(self, name):
        return self.layer(name, RMSNormalization, epsilon=self.norm_epsilon)


class Qwen2(LLaMA):
    """Qwen2 and Qwen2.5: queries, keys and values have a bias.

    Reference:
        - [Yang et al., 2024](https://arxiv.org/abs/2407.10671), section 2.2.
    """

    architecture = "qwen2"
    signs = ("self_attn.q_proj.bias",)
    hugging_face = {
        **LLaMA.hugging_face,
        "Transformer-{}-MultiHeadSelfAttention": [
            *_projections(*(f"self_attn.{name}_proj" for name in "qkv"), use_bias=True),
            *_projections("self_attn.o_proj"),
        ],
    }
    attention_settings = {"use_bias": True, "output_bias": False}


class Qwen3(LLaMA):
    """Qwen3: each head of queries and keys is normalised.

    Reference:
        - [Yang et al., 2025](https://arxiv.org/abs/2505.09388), section 2.
    """

    architecture = "qwen3"
    signs = ("self_attn.q_norm.",)
    hugging_face = {
        **LLaMA.hugging_face,
        "Transformer-{}-MultiHeadSelfAttention": [
            *LLaMA.hugging_face["Transformer-{}-MultiHeadSelfAttention"],
            *_norms("self_attn.q_norm", "self_attn.k_norm"),
        ],
    }

    @property
    def attention_settings(self):
        return {"use_bias": False, "norm_epsilon": self.norm_epsilon}
