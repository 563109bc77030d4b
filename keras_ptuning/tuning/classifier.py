"""Direct fine-tuning, the baseline: a dense layer over the vector of `[CLS]`, and no cloze."""

from typing import Any

import keras
from keras import ops

from keras_ptuning.backend import build_model, sum_over_replicas
from keras_ptuning.checks import Config, Path
from keras_ptuning.methods import named_weights
from keras_ptuning.methods.method import Tune
from keras_ptuning.models import find_application, find_model
from keras_ptuning.text.templates import PlainText
from keras_ptuning.tuning.base import LabelModel
from keras_ptuning.tuning.data import check_template


@keras.saving.register_keras_serializable(package="keras_ptuning")
class TextClassifier(LabelModel):
    """A classifier that reads the vector of `[CLS]`.

    Made by `build_classifier`, whose documentation has the arguments. It is trained and used like
    a `ClozeModel`: `fit` minimises the mean cross-entropy of the labels, which may be soft;
    `predict` returns the log-probability of each label, `(n, num_labels)`, in the order of the
    texts.
    """

    def __init__(self, config, template, tune="all", checkpoint=None, name=None, **kwargs):
        super().__init__(config, template, tune, name, **kwargs)
        application = find_application(config, kwargs.get("model"), kwargs.get("application"))
        if application == "encoder-decoder":
            raise ValueError(
                "A T5 has no [CLS]. Take a masked model, such as 'bert-mini-zh'; or a cloze: a "
                "`Template` with [DECODER], and `build_ptuning_model`."
            )
        if application == "lm":
            raise ValueError(
                "In a causal language model [CLS] has not seen the text. Take a masked one, such "
                "as 'bert-mini-zh'; or a cloze: a `Template` with causal=True, and "
                "`build_ptuning_model`."
            )
        self.backbone = self._build_backbone(checkpoint)
        transformer = self.backbone.transformer
        self.classifier = keras.layers.Dense(
            template.num_labels,
            kernel_initializer=transformer.initializer(),
            # Probabilities need the range and precision of float32.
            dtype="float32",
            name="Classifier",
        )
        self.classifier.build((None, transformer.hidden_size))
        self.built = True

    def _head_weights(self):
        return named_weights(self.classifier)

    def call(self, inputs, training=False):
        inputs = self.backbone_inputs(inputs)
        return self._twice(
            lambda: self.log_probs(self.backbone(inputs, training=training)), training
        )

    def backbone_inputs(self, inputs):
        """What the backbone reads, and which of all vectors it is to return."""
        token_ids, segment_ids = (
            ops.convert_to_tensor(inputs[name]) for name in ("token_ids", "segment_ids")
        )
        named = {
            "Input-Token": token_ids,
            "Input-Segment": segment_ids,
            "Input-Gather": self._positions(inputs),
        }
        return [named[x.name] for x in self.backbone.inputs]

    def _positions(self, inputs):
        """Of the vectors to read: that of `[CLS]`."""
        return ops.zeros_like(ops.convert_to_tensor(inputs["token_ids"])[:, :1])

    def log_probs(self, x):
        return ops.log_softmax(self.classifier(x[:, 0]))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return self._loss_of_passes(lambda p: self._loss(y, p, sample_weight), x, y_pred)

    def _loss(self, y, y_pred, sample_weight):
        scores = y_pred["scores"] if isinstance(y_pred, dict) else y_pred
        losses, labeled = self.label_losses(y, scores, sample_weight)
        count = sum_over_replicas(ops.sum(ops.cast(labeled, "float32")))
        return ops.sum(losses) / ops.maximum(count, 1.0)


def build_classifier(
    config_path: Config,
    checkpoint_path: Path | None = None,
    template: PlainText | None = None,
    tune: Tune = "all",
    **kwargs: Any,
) -> TextClassifier:
    """Builds an ordinary classifier out of a pretrained BERT: what fine-tuning is, without a cloze.

    With `tune="prefix"` it is P-tuning v2.

    Args:
        config_path: Path of a checkpoint's folder, in which all the rest is found; or the name of
            an embedded checkpoint, `"bert-mini-zh"` or `"bert-small-zh"`; or path of a
            configuration, or a dictionary with what is in one.
        checkpoint_path: Its weights, as `build_ptuning_model` takes them; an MLM head is not
            needed. `None` for those in the folder; with a configuration alone they are random.
        template: A `PlainText`, which has the labels, over the checkpoint's vocabulary.
        tune: What trains besides the dense layer, as `build_ptuning_model` takes it, but for
            prompts. `None` for nothing else. Defaults to `"all"`.
        **kwargs: Other arguments of `build_transformer_model`, such as `dropout_rate`, `dtype`;
            and `data_parallel`, as `build_ptuning_model` takes it.

    Returns:
        A `TextClassifier`.

    Raises:
        FileNotFoundError: if the configuration or (a part of) the checkpoint does not exist.
        TypeError: if `template` is not a `PlainText`.
        ValueError: if the model is causal, the configuration does not match the checkpoint, or the
            vocabulary or the length of the texts not the configuration.

    Example:

    ```python
    plain = PlainText(["负面", "正面"], "bert-mini-zh")
    model = build_classifier("bert-mini-zh", template=plain)
    model.compile(keras.optimizers.Adam(2e-5))
    model.fit(plain.dataset(texts, labels), epochs=10)
    plain.decode(model.predict(plain.dataset(new_texts)))
    ```

    Reference:
        - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805), section 4.
        - P-tuning v2: [Liu et al., 2021](https://arxiv.org/abs/2110.07602), section 3.
    """
    model = kwargs.get("model")
    config, checkpoint = find_classifier(config_path, checkpoint_path, template, model)
    kwargs = {"tune": tune, "checkpoint": checkpoint, **kwargs}
    return build_model(TextClassifier, config, template, **kwargs)


def find_classifier(config_path, checkpoint_path, template, model):
    check_template(
        template,
        checkpoint_path,
        isinstance(template, PlainText),
        "a `PlainText`, e.g. PlainText(['负面', '正面'], 'bert-mini-zh')",
    )
    return find_model(config_path, checkpoint_path, model)
