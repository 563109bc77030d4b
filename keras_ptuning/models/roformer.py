"""RoFormer, as its difference from BERT."""

from keras_ptuning.layers import RotaryPosition
from keras_ptuning.models.bert import BERT
from keras_ptuning.models.names import hugging_face, without


class RoFormer(BERT):
    """RoFormer: attention turns queries and keys by their positions.

    Reference:
        - [Su et al., 2021](https://arxiv.org/abs/2104.09864), section 3.
    """

    architecture = "roformer"
    google = without(BERT.google, "Embedding-Position")
    hugging_face = hugging_face(
        google,
        ("bert/encoder/embedding_hidden_mapping_in", "roformer/embeddings_project"),
        ("bert/", "roformer/"),
    )
    signs = ("roformer.",)
    limited = False

    def add_positions(self, x, positions):
        return x

    def attention_positions(self, x, positions):
        layer = self.layer("Embedding-Rotary-Position", RotaryPosition, size=self.head_size)
        return {"rotary": layer(x, positions=positions)}
