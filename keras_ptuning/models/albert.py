"""ALBERT, as its difference from BERT."""

from keras_ptuning.models.bert import BERT
from keras_ptuning.models.names import dense, hugging_face, norm

_SHARED = "bert/encoder/transformer/group_0/inner_group_0"
_LAYER = "albert/encoder/albert_layer_groups/0/albert_layers/0"


class ALBERT(BERT):
    """ALBERT: all blocks are the same one.

    Reference:
        - [Lan et al., 2019](https://arxiv.org/abs/1909.11942), section 3.1.
    """

    architecture = "albert"
    google = {
        **{layer: names for layer, names in BERT.google.items() if "{}" not in layer},
        "Transformer-MultiHeadSelfAttention": [
            *dense(f"{_SHARED}/attention_1/self/query"),
            *dense(f"{_SHARED}/attention_1/self/key"),
            *dense(f"{_SHARED}/attention_1/self/value"),
            *dense(f"{_SHARED}/attention_1/output/dense"),
        ],
        "Transformer-MultiHeadSelfAttention-Norm": norm(_SHARED),
        "Transformer-FeedForward": [
            *dense(f"{_SHARED}/ffn_1/intermediate/dense"),
            *dense(f"{_SHARED}/ffn_1/intermediate/output/dense"),
        ],
        "Transformer-FeedForward-Norm": [
            f"{_SHARED}/LayerNorm_1/gamma",
            f"{_SHARED}/LayerNorm_1/beta",
        ],
    }
    hugging_face = hugging_face(
        google,
        (f"{_SHARED}/LayerNorm_1", f"{_LAYER}/full_layer_layer_norm"),
        (f"{_SHARED}/LayerNorm", f"{_LAYER}/attention/LayerNorm"),
        (f"{_SHARED}/attention_1/self", f"{_LAYER}/attention"),
        (f"{_SHARED}/attention_1/output/dense", f"{_LAYER}/attention/dense"),
        (f"{_SHARED}/ffn_1/intermediate/dense", f"{_LAYER}/ffn"),
        (f"{_SHARED}/ffn_1/intermediate/output/dense", f"{_LAYER}/ffn_output"),
        ("bert/pooler/dense", "bert/pooler"),
        ("cls/predictions/transform", "predictions"),
        ("cls/predictions", "predictions"),
        # What bears the name already, as well.
        ("albert/", "bert/"),
        ("bert/", "albert/"),
    )
    signs = ("/inner_group_0/", ".albert_layers.")
    tied = "predictions.decoder.weight"

    @classmethod
    def complete_config(cls, config, tensors):
        size = config["hidden_size"]
        if tensors.has("Embedding-Mapping") and config.get("embedding_size", size) == size:
            raise ValueError(
                f"The checkpoint {tensors.checkpoint.path!r} has a layer between embeddings and "
                "blocks, which is built only where they differ in size. Received: embedding_size="
                f"{config.get('embedding_size')!r} and hidden_size={size}."
            )
        return super().complete_config(config, tensors)

    def block_name(self, i):
        return "Transformer"
