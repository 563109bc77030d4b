"""A stop to training that has gone out of bounds, before it costs what was learned."""

import math

import keras
import numpy as np
from keras import ops


class StopAtNaN(keras.callbacks.Callback):
    """Stops where the loss is not finite, and brings back the weights of the best epoch.

    The best epoch is that of the smallest `val_loss`, or `loss` without validation; before the
    first epoch ends, the weights are those from before the training. `fit` then raises `error`.

    Args:
        dataset: Optional `ClozeDataset`, to name the texts of the batch.
    """

    def __init__(self, dataset=None):
        super().__init__()
        self.dataset = dataset
        self.error = None

    def on_train_begin(self, logs=None):
        self.step, self.texts = 0, None
        self.least, self.best_epoch, self.best = math.inf, None, self._weights()

    def _weights(self):
        return [np.array(ops.convert_to_numpy(v)) for v in self.model.trainable_variables]

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        self.batch = batch
        if not math.isfinite(logs["loss"]):
            # No error yet: in the middle of an epoch, JAX has the weights elsewhere.
            self.model.stop_training = True
            if self.dataset is not None and self.model.steps_per_execution == 1:
                # The next epoch has other batches.
                self.texts = sorted(self.dataset.batches[batch].tolist())

    def on_epoch_end(self, epoch, logs=None):
        weights = self._weights()
        if math.isfinite(logs["loss"]) and all(np.isfinite(w).all() for w in weights):
            value = logs.get("val_loss", logs["loss"])
            if value < self.least:
                self.least, self.best_epoch, self.best = value, epoch, weights
            return
        self.model.stop_training = True
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
            f"The loss is {logs['loss']}, or a weight is not finite, after step {self.step} "
            f"(epoch {epoch + 1}, batch {self.batch + 1}{texts}), with a learning rate of "
            f"{self._describe_rates()}. The model has the weights from {kept}. Compile it again, "
            "with a smaller learning rate."
        )

    def _describe_rates(self):
        return " and ".join(f"{rate:.2g}" for rate in learning_rates(self.model.optimizer))


def learning_rates(optimizer):
    """The learning rate of an optimizer as it is now, in a list; or of each optimizer in one."""
    optimizers = getattr(optimizer, "optimizers", [optimizer])
    return [float(ops.convert_to_numpy(o.learning_rate)) for o in optimizers]
