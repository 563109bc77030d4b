"""Relatives of BERT, each as its difference from it."""

from keras import ops

from keras_ptuning.layers import RelativePosition, RotaryPosition
from keras_ptuning.layers.feed_forward import get_activation
from keras_ptuning.models.bert import BERT


class ERNIE(BERT):
    """ERNIE: where it has embeddings of tasks, that of the first task is added to each token.

    Reference:
        - [Sun et al., 2019](https://arxiv.org/abs/1907.12412), section 3.
    """

    weight_table = "ernie"

    def __init__(self, *args, task_vocab_size=0, **kwargs):
        super().__init__(*args, **kwargs)
        self.task_vocab_size = task_vocab_size

    def add_segments(self, x, inputs):
        x = super().add_segments(x, inputs)
        if not self.task_vocab_size:
            return x
        tasks = ops.zeros_like(inputs["Input-Token"])
        return x + self.embedding("Embedding-Task", self.task_vocab_size)(tasks)


class ALBERT(BERT):
    """ALBERT: all blocks are the same one.

    Reference:
        - [Lan et al., 2019](https://arxiv.org/abs/1909.11942), section 3.1.
    """

    weight_table = "albert"

    def apply_block(self, x, context, prefix):
        return super().apply_block(x, context, "Transformer")


class ELECTRA(BERT):
    """The generator of an ELECTRA, which is a BERT without a pooler, under names of its own.

    Reference:
        - [Clark et al., 2020](https://arxiv.org/abs/2003.10555), section 2.
    """

    weight_table = "electra"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Whatever the blocks have, in Hugging Face's. In Google's releases it is the same.
        self.head_act = get_activation("gelu")


class NEZHA(BERT):
    """NEZHA: attention knows how far apart two tokens are, and embeddings no positions.

    Reference:
        - [Wei et al., 2019](https://arxiv.org/abs/1909.00204), section 2.2.
    """

    weight_table = "nezha"
    limited = False

    def __init__(self, *args, max_relative_position=64, **kwargs):
        super().__init__(*args, **kwargs)
        self.max_relative_position = max_relative_position

    def add_positions(self, x, positions):
        return x

    def attention_positions(self, x, positions):
        layer = self.layer(
            "Embedding-Relative-Position",
            RelativePosition,
            max_distance=self.max_relative_position,
            size=self.hidden_size // self.num_attention_heads,
        )
        return {"relative": layer(x, positions=positions)}


class RoFormer(BERT):
    """RoFormer: attention turns queries and keys by their positions.

    Reference:
        - [Su et al., 2021](https://arxiv.org/abs/2104.09864), section 3.
    """

    weight_table = "roformer"
    limited = False

    def add_positions(self, x, positions):
        return x

    def attention_positions(self, x, positions):
        size = self.hidden_size // self.num_attention_heads
        layer = self.layer("Embedding-Rotary-Position", RotaryPosition, size=size)
        return {"rotary": layer(x, positions=positions)}
