"""NEZHA, as its difference from BERT."""

from keras_ptuning.layers import RelativePosition
from keras_ptuning.models.bert import BERT
from keras_ptuning.models.entries import ENTRIES, POSITIVE
from keras_ptuning.models.names import hugging_face, without


class NEZHA(BERT):
    """NEZHA: attention knows how far apart two tokens are, and embeddings no positions.

    Reference:
        - [Wei et al., 2019](https://arxiv.org/abs/1909.00204), section 2.2.
    """

    architecture = "nezha"
    google = without(BERT.google, "Embedding-Position")
    hugging_face = hugging_face(google, ("bert/", "nezha/"))
    signs = ("nezha.",)
    config_signs = ("use_relative_position",)
    limited = False

    def __init__(self, *args, max_relative_position=64, **kwargs):
        super().__init__(*args, **kwargs)
        self.max_relative_position = max_relative_position

    @classmethod
    def config_entries(cls, config):
        return {**ENTRIES, "max_relative_position": ("max_relative_position", 64, *POSITIVE)}

    @classmethod
    def complete_config(cls, config, tensors):
        if not tensors.has("Embedding-Segment"):
            # NEZHA-GPT has no segments, and a configuration that does not say so.
            return {**config, "type_vocab_size": 0}
        return config

    def add_positions(self, x, positions):
        return x

    def attention_positions(self, x, positions):
        layer = self.layer(
            "Embedding-Relative-Position",
            RelativePosition,
            max_distance=self.max_relative_position,
            size=self.head_size,
        )
        return {"relative": layer(x, positions=positions)}
