"""MegatronBERT, as its difference from BERT."""

from keras_ptuning.models.bert import BERT
from keras_ptuning.models.gpt2 import GPT2
from keras_ptuning.models.names import hugging_face, norm, without


class MegatronBERT(BERT):
    """MegatronBERT: a BERT whose blocks normalise what they read, as those of GPT-2.

    `Output-Norm` normalises what comes out of the last block. The embeddings have no norm.

    Reference:
        - [Shoeybi et al., 2019](https://arxiv.org/abs/1909.08053), section 5.3.
    """

    architecture = "megatron-bert"
    google = None
    hugging_face = hugging_face(
        {
            **without(BERT.google, "Embedding-Norm", "Embedding-Mapping"),
            "Output-Norm": norm("bert/encoder"),
        },
        ("attention/output/LayerNorm", "attention/ln"),
        ("layer_{}/output/LayerNorm", "layer_{}/ln"),
        ("encoder/LayerNorm", "encoder/ln"),
    )
    signs = ("attention.ln.",)

    def apply_embeddings(self, inputs, positions):
        """Token + segment + position."""
        x = self.embed_tokens(inputs)
        x = self.add_segments(x, inputs)
        x = self.add_positions(x, positions)
        return self.dropout("Embedding-Dropout", x)

    apply_block = GPT2.apply_block

    def apply_heads(self, x, inputs):
        return super().apply_heads(self.norm("Output-Norm")(x), inputs)
