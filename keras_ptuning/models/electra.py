"""ELECTRA's generator, as its difference from BERT."""

from keras_ptuning.models.bert import BERT
from keras_ptuning.models.names import hugging_face, renamed, without


class ELECTRA(BERT):
    """The generator of an ELECTRA, which is a BERT without a pooler, under names of its own.

    Reference:
        - [Clark et al., 2020](https://arxiv.org/abs/2003.10555), section 2.
    """

    architecture = "electra"
    # Generator and discriminator are in one checkpoint, and share the embeddings.
    google = renamed(
        without(BERT.google, "Pooler-Dense"),
        ("bert/encoder/embedding_hidden_mapping_in", "generator/embeddings_project"),
        ("bert/encoder", "generator/encoder"),
        ("bert/", "electra/"),
        ("cls/predictions/transform/LayerNorm", "generator_predictions/LayerNorm"),
        ("cls/predictions/transform/dense", "generator_predictions/dense"),
        ("cls/predictions", "generator_predictions"),
    )
    hugging_face = hugging_face(
        google,
        ("generator/embeddings_project", "electra/embeddings_project"),
        ("generator/encoder", "electra/encoder"),
        ("generator_predictions/output_bias", "generator_lm_head/bias"),
    )
    signs = ("generator_predictions", "discriminator_predictions")
    tied = "generator_lm_head.weight"
    # Whatever the blocks have, in Hugging Face's. In Google's releases it is the same.
    head_act = "gelu"
