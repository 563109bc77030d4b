"""ERNIE, as its difference from BERT."""

from keras import ops

from keras_ptuning.models.bert import BERT
from keras_ptuning.models.entries import COUNT, ENTRIES
from keras_ptuning.models.names import hugging_face


class ERNIE(BERT):
    """ERNIE: where it has embeddings of tasks, that of the first task is added to each token.

    Reference:
        - [Sun et al., 2019](https://arxiv.org/abs/1907.12412), section 3.
    """

    architecture = "ernie"
    google = None
    hugging_face = hugging_face(
        {**BERT.google, "Embedding-Task": ["bert/embeddings/task_type_embeddings"]},
        ("bert/", "ernie/"),
    )
    signs = ("task_type_embeddings", "ernie.")

    def __init__(self, *args, task_vocab_size=0, **kwargs):
        super().__init__(*args, **kwargs)
        self.task_vocab_size = task_vocab_size

    @classmethod
    def config_entries(cls, config):
        return {**ENTRIES, "task_type_vocab_size": ("task_vocab_size", 3, *COUNT)}

    @classmethod
    def settings_of(cls, config, settings):
        return settings if config.get("use_task_id") else {**settings, "task_vocab_size": 0}

    def add_segments(self, x, inputs):
        x = super().add_segments(x, inputs)
        if not self.task_vocab_size:
            return x
        tasks = ops.zeros_like(inputs["Input-Token"])
        return x + self.embedding("Embedding-Task", self.task_vocab_size)(tasks)
