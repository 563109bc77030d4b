"""Sequence labelling, such as named entities: a dense layer over the vector of each word."""

from typing import Any

import keras
from keras import ops

from keras_ptuning.backend import build_model
from keras_ptuning.checks import Config, Path
from keras_ptuning.methods.method import Tune
from keras_ptuning.models import find_model
from keras_ptuning.text.tags import TaggedText
from keras_ptuning.tuning.classifier import TextClassifier
from keras_ptuning.tuning.data import check_template


@keras.saving.register_keras_serializable(package="keras_ptuning")
class Tagger(TextClassifier):
    """A classifier of the words of a sentence.

    Made by `build_tagger`, whose documentation has the arguments. `fit` minimises the mean
    cross-entropy of the tags of all words, and `accuracy` is that of words. `predict` returns the
    log-probability of each tag, `(rows, words, num_tags)`, in the order of the sentences, of which
    long ones have several rows. Where a row has fewer words than another, the rest means nothing.
    `template.decode(scores, sentences)` turns them into tags.

    The loss of `evaluate` is a mean over batches, in which a batch counts by its rows, not by its
    words. So compare losses of one batch size only; or give `compile` the metric
    `keras.metrics.SparseCategoricalCrossentropy()`, which is the mean over all words.
    """

    def _positions(self, inputs):
        return ops.convert_to_tensor(inputs["mask_positions"])

    def log_probs(self, x):
        return ops.log_softmax(self.classifier(x))

    def fit(  # type: ignore[override]
        self, x: Any = None, y: Any = None, *args: Any, class_weight: None = None, **kwargs: Any
    ) -> keras.callbacks.History:
        """Trains the model on `template.dataset(sentences, tags)`, as `keras.Model.fit` does.

        Args:
            x, y, *args, **kwargs: As those of `ClozeModel.fit`.
            class_weight: Must be `None`.

        Raises:
            ValueError: as `ClozeModel.fit` does, and if there is a `class_weight`.
        """
        if class_weight is not None:
            raise ValueError(
                "All words count the same in the loss of a Tagger: leave out `class_weight`. "
                f"Received: {class_weight!r:.60}."
            )
        return super().fit(x, y, *args, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y = ops.reshape(y, (-1,))
        y_pred = keras.tree.map_structure(self._each_word, y_pred)
        # From here on, words are what texts are to a classifier.
        x = {"is_text": ops.cast(y >= 0, "float32")}
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        y_pred = keras.tree.map_structure(self._each_word, y_pred)
        return super().compute_metrics(x, ops.reshape(y, (-1,)), y_pred, sample_weight)

    def _each_word(self, scores):
        return ops.reshape(scores, (-1, self.template.num_labels))

    def _export_axes(self):
        return {**super()._export_axes(), "mask_positions": ("batch", "words")}


def build_tagger(
    config_path: Config,
    checkpoint_path: Path | None = None,
    template: TaggedText | None = None,
    tune: Tune = "all",
    **kwargs: Any,
) -> Tagger:
    """Builds a model for sequence labelling out of a pretrained BERT.

    With `tune=Prefix(...)` it is P-tuning v2. The pretrained model stays frozen. The keys and
    values of virtual tokens learn in each block, and so does the dense layer that gives the tags.
    Tagging needs longer prefixes than classification.

    Args:
        config_path, checkpoint_path: As `build_classifier` takes them.
        template: A `TaggedText` over the checkpoint's vocabulary. It has the tags.
        tune: What trains besides the dense layer, as `build_ptuning_model` takes it, except
            prompts. `None` for nothing else. Defaults to `"all"`.
        **kwargs: Other arguments of `build_transformer_model`, such as `dropout_rate`, `dtype`;
            and `data_parallel`, as `build_ptuning_model` takes it.

    Returns:
        A `Tagger`.

    Raises:
        FileNotFoundError: if the configuration or (a part of) the checkpoint does not exist.
        TypeError: if `template` is not a `TaggedText`.
        ValueError: if the model is causal, or a T5; if the configuration does not match the
            checkpoint; or if the vocabulary or `maxlen` does not match the configuration.

    Example:

    ```python
    sentences, tags = datasets.read_bio("train.bio")
    tagged = TaggedText(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], "bert-small-zh")
    model = build_tagger("bert-small-zh", template=tagged, tune=Prefix(100))
    model.compile()
    model.fit(tagged.dataset(sentences, tags), epochs=20)
    tagged.decode(model.predict(tagged.dataset(new_sentences)), new_sentences)
    ```

    Reference:
        - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805), section 5.3.
        - P-tuning v2: [Liu et al., 2021](https://arxiv.org/abs/2110.07602), section 3.
    """
    check_template(
        template,
        checkpoint_path,
        isinstance(template, TaggedText),
        "a `TaggedText`, e.g. TaggedText(['O', 'B-PER', 'I-PER'], 'bert-small-zh')",
    )
    config, checkpoint = find_model(config_path, checkpoint_path, kwargs.get("model"))
    kwargs = {"tune": tune, "checkpoint": checkpoint, **kwargs}
    return build_model(Tagger, config, template, **kwargs)
