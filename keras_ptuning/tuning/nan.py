"""A stop to training that has gone out of bounds, before it costs what was learned."""

import math

import keras
import numpy as np
from keras import ops

# Where the data are iterators, whose labels nothing has checked.
UNKNOWN_LABELS = "The loss is no number too where a label is not one of the template's: check `y`."


class StopAtNaN(keras.callbacks.Callback):
    """Stops where the loss is not finite, and brings back the weights of the best epoch.

    The best epoch is that of the smallest `val_loss`, or `loss` without validation; before the
    first epoch ends, the weights are those from before the training. The loss of an epoch does not
    show what its last step did. So without validation, the loss of the next step, or of the next
    `steps_per_execution` steps, must be finite too. `fit` then raises `error`.

    Args:
        dataset: Optional `ClozeDataset`, to name the texts of the batch.
        checked: Whether all labels are known to be those of the template.
    """

    def __init__(self, dataset=None, checked=True):
        super().__init__()
        self.dataset, self.checked = dataset, checked
        self.step, self.texts, self.error = 0, None, None

    def on_train_begin(self, logs=None):
        self.least, self.best_epoch, self.best = (True, math.inf), None, self._weights()
        # What takes their place if it gives a finite loss.
        self.candidate = None

    def _weights(self):
        return [np.array(ops.convert_to_numpy(v)) for v in self.model.trainable_variables]

    def _is_finite(self, weights):
        return math.isfinite(self.loss) and all(np.isfinite(w).all() for w in weights)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        self.batch, self.loss = batch, logs["loss"]
        if not math.isfinite(self.loss):
            # No error yet: in the middle of an epoch, JAX has the weights elsewhere.
            self.model.stop_training = True
            if self.dataset is not None and self.model.steps_per_execution == 1:
                # The next epoch has other batches.
                self.texts = sorted(self.dataset.batches[batch].tolist())
        elif self.candidate is not None:
            self._keep(self.candidate)

    def on_epoch_end(self, epoch, logs=None):
        weights, self.loss = self._weights(), logs["loss"]
        if not self._is_finite(weights):
            self.model.stop_training = True
            self._restore()
            return
        # With `validation_freq`, an epoch without a validation is no match for one that has it.
        loss = logs.get("val_loss", self.loss)
        value = ("val_loss" not in logs, loss)
        if math.isfinite(loss) and value < self.least:
            self.candidate = value, epoch, weights
            if "val_loss" in logs:
                self._keep(self.candidate)

    def _keep(self, found):
        self.least, self.best_epoch, self.best = found
        self.candidate = None

    def on_train_end(self, logs=None):
        if self.error is not None:
            # With `use_ema` Keras has put means of the weights in their place.
            self._restore()

    def on_error(self):
        """For `fit`, where an error ends it: `error` is set if the reason is what this stops at."""
        if not self.step:
            return
        try:
            finite = self._is_finite(self._weights())
        except RuntimeError:
            # On JAX, a step that failed has taken the weights with it.
            return
        if self.error is not None or not finite:
            self._restore()

    def _restore(self):
        for variable, value in zip(self.model.trainable_variables, self.best, strict=True):
            variable.assign(value)
        try:
            self.model.check_weights("It was so before this training: load good weights first.")
        except ValueError as error:
            self.error = error
            return
        texts = "" if self.texts is None else f", the texts {self.texts}"
        kept = "before this training"
        if self.best_epoch is not None:
            kept = f"epoch {self.best_epoch + 1}, the best so far"
        self.error = FloatingPointError(
            f"The loss is {self.loss}, or a weight is not finite, after step {self.step} "
            f"(epoch {self.epoch + 1}, batch {self.batch + 1}{texts}), with a learning rate of "
            f"{self._describe_rates()}. The model has the weights from {kept}. Compile it again, "
            f"with a smaller learning rate.{'' if self.checked else ' ' + UNKNOWN_LABELS}"
        )

    def _describe_rates(self):
        return " and ".join(f"{rate:.2g}" for rate in learning_rates(self.model.optimizer))


def learning_rates(optimizer):
    """The learning rate of an optimizer as it is now, in a list; or of each optimizer in one."""
    return [float(ops.convert_to_numpy(o.learning_rate)) for o in single_optimizers(optimizer)]


def single_optimizers(optimizer):
    # In half precision, Keras puts it into another that scales the loss.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return getattr(optimizer, "optimizers", [optimizer])
