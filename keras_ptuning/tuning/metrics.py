"""Keras's metrics, of labels that are numbers and scores that are logarithms of probabilities."""

import inspect

import keras
from keras import metrics, ops

# What each of Keras's metrics compares the labels' probabilities with: the numbers of the labels;
SPARSE = (
    metrics.SparseCategoricalAccuracy,
    metrics.SparseCategoricalCrossentropy,
    metrics.SparseTopKCategoricalAccuracy,
)
# a 1 at the label, for a soft label at the most probable one;
ONE_HOT = (
    metrics.AUC,
    metrics.CategoricalAccuracy,
    metrics.FBetaScore,
    metrics.FalseNegatives,
    metrics.FalsePositives,
    metrics.OneHotIoU,
    metrics.OneHotMeanIoU,
    metrics.Precision,
    metrics.PrecisionAtRecall,
    metrics.Recall,
    metrics.RecallAtPrecision,
    metrics.SensitivityAtSpecificity,
    metrics.SpecificityAtSensitivity,
    metrics.TopKCategoricalAccuracy,
    metrics.TrueNegatives,
    metrics.TruePositives,
)
# or the same, where a soft label is as it is.
PROBABILITIES = (
    metrics.CategoricalCrossentropy,
    metrics.KLDivergence,
    metrics.MeanAbsoluteError,
    metrics.MeanSquaredError,
    metrics.RootMeanSquaredError,
)


@keras.saving.register_keras_serializable(package="keras_ptuning")
class LabelAccuracy(metrics.SparseCategoricalAccuracy):
    """How often the best label is the right one, or the most probable of soft labels.

    Texts without a label do not count.
    """

    def __init__(self, name="accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        label_ids, weights = read_labels(y_true, sample_weight)
        super().update_state(label_ids, y_pred, weights)


@keras.saving.register_keras_serializable(package="keras_ptuning")
class LabelMetric(metrics.Metric):
    """Gives one of Keras's metrics what it wants: probabilities, and labels as it compares them.

    Texts without a label do not count.

    Args:
        metric: A `keras.metrics.Metric`, or the configuration of one.
        num_labels: Integer, or `None` where each text has candidates of its own.
        name: Defaults to that of the metric.
        dtype: That of the metric; for `from_config`.

    Raises:
        ValueError: if the metric cannot mean what it says here.
    """

    def __init__(self, metric, num_labels, name=None, dtype=None):
        if isinstance(metric, dict):
            metric = keras.saving.deserialize_keras_object(metric)
        super().__init__(name=name or metric.name, dtype=metric.dtype)
        of_keras = type(metric).__module__.startswith("keras.")
        own = type(metric) is metrics.MeanMetricWrapper or not of_keras
        if not own and not isinstance(metric, SPARSE + ONE_HOT + PROBABILITIES):
            names = sorted(kind.__name__ for kind in SPARSE + ONE_HOT + PROBABILITIES)
            raise ValueError(
                f"{type(metric).__name__} does not measure how well one of several labels is "
                f"chosen. Use 'accuracy', F1Score, or one of {names}. Received: {metric!r}."
            )
        if not _takes_weights(metric):
            raise ValueError(
                "Texts without a label must not count, so `update_state` of a metric needs a third "
                f"argument, `sample_weight=None`. Received: {metric!r}."
            )
        self.shows_labels = isinstance(metric, ONE_HOT + PROBABILITIES)
        if num_labels is None and self.shows_labels:
            raise ValueError(
                "With candidates for each text there are no labels to tell apart. Use 'accuracy', "
                f"or another metric whose name begins with Sparse. Received: {metric!r}."
            )
        self.metric = metric
        self.num_labels = num_labels

    def update_state(self, y_true, y_pred, sample_weight=None):
        label_ids, weights = read_labels(y_true, sample_weight)
        if self.num_labels is not None:
            # Its number of columns is known then.
            y_pred = ops.reshape(y_pred, (-1, self.num_labels))
        logits = getattr(self.metric, "from_logits", getattr(self.metric, "_from_logits", False))
        y_pred = ops.log_softmax(y_pred) if logits else ops.softmax(y_pred)
        labels = label_ids
        if self.shows_labels:
            labels = ops.one_hot(label_ids, self.num_labels, dtype=y_pred.dtype)
            if is_soft(y_true) and isinstance(self.metric, PROBABILITIES):
                labels = ops.reshape(ops.cast(y_true, y_pred.dtype), (-1, self.num_labels))
        self.metric.update_state(labels, y_pred, weights)

    def result(self):
        return self.metric.result()

    def reset_state(self):
        self.metric.reset_state()

    def get_config(self):
        return {
            "metric": keras.saving.serialize_keras_object(self.metric),
            "num_labels": self.num_labels,
            "name": self.name,
        }


def for_labels(chosen, num_labels):
    """The metrics that `compile` is given, for labels.

    Args:
        chosen: What `keras.Model.compile` takes as metrics: names, metrics, functions, or a list.
            A function, or a metric that is not of Keras, gets the numbers of the labels and their
            probabilities.
        num_labels: Integer, or `None` where each text has candidates of its own.

    Returns:
        A list of metrics.

    Raises:
        ValueError: if there is no such metric, or it cannot mean what it says here.
    """
    return [_for_labels(metric, num_labels) for metric in keras.tree.flatten(chosen)]


def _for_labels(metric, num_labels):
    if isinstance(metric, LabelAccuracy | LabelMetric):
        return metric
    if isinstance(metric, str) and metric.lower() in ("accuracy", "acc"):
        return LabelAccuracy(metric)
    found = keras.metrics.get(metric)
    name = metric if isinstance(metric, str) else None
    if not isinstance(found, metrics.Metric):
        name = name or getattr(found, "__name__", None)
        if getattr(found, "__module__", "").startswith("keras."):
            found = keras.metrics.get(name)
        else:
            found = metrics.MeanMetricWrapper(found, name)
    return LabelMetric(found, num_labels, name)


def _takes_weights(metric):
    try:
        inspect.signature(metric.update_state).bind("labels", "probabilities", "weights")
    except TypeError:
        return False
    return True


def is_soft(y):
    """Whether these labels are probabilities of all labels, not numbers of single ones."""
    return len(y.shape) == 2 and "float" in keras.backend.standardize_dtype(y.dtype)


def read_labels(y, sample_weight=None):
    """The numbers of labels, and what they weigh.

    Args:
        y: Tensor of the numbers of labels, -1 where there is none; or of soft labels.
        sample_weight: Optional tensor of weights.

    Returns:
        `(label_ids, weights)`, each of shape `(batch,)`. Of a soft label the most probable one
        counts. A text without a label has the number 0, and weighs 0.
    """
    if is_soft(y):
        labeled = ops.any(y > 0, axis=-1)
        y = ops.argmax(y, axis=-1)
    else:
        y = ops.reshape(y, (-1,))
        labeled = y >= 0
    weights = ops.cast(labeled, "float32")
    if sample_weight is not None:
        weights = weights * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
    return ops.maximum(ops.cast(y, "int32"), 0), weights
