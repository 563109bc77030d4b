"""ERNIE, as its difference from BERT."""

from keras import ops

from keras_ptuning.models.bert import BERT
from keras_ptuning.models.entries import COUNT, ENTRIES, read_flag
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
        used = read_flag(config, "use_task_id", False)
        return settings if used else {**settings, "task_vocab_size": 0}

    @classmethod
    def complete_config(cls, config, tensors):
        config = super().complete_config(config, tensors)
        if config.get("use_task_id") is None and tensors.has("Embedding-Task"):
            (table,) = tensors.of("Embedding-Task")
            rows = tensors.checkpoint.shapes[table.name][0]
            return {**config, "use_task_id": True, "task_type_vocab_size": rows}
        return config

    @classmethod
    def config_of(cls, config, settings):
        size = settings.get("task_vocab_size")
        if size is None:
            return {}
        return {"use_task_id": bool(size), **({"task_type_vocab_size": size} if size else {})}

    def add_segments(self, x, inputs):
        x = super().add_segments(x, inputs)
        if not self.task_vocab_size:
            return x
        tasks = ops.zeros_like(inputs["Input-Token"])
        return x + self.embedding("Embedding-Task", self.task_vocab_size)(tasks)
