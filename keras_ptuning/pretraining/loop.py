"""Pretraining of language models, from scratch or continued."""

import contextlib
import csv
import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from typing import Literal

import h5py
import keras
import numpy as np

from keras_ptuning.backend import default_jit_compile, seed_dropout
from keras_ptuning.checks import (
    Path,
    check_integer,
    check_number,
    check_path,
    check_positive,
)
from keras_ptuning.files import lock, opened, read_json, replacing, sweep
from keras_ptuning.pretraining.packing import PackedDataset
from keras_ptuning.text.masking import NONE

STATE, SETTINGS = "training.weights.h5", "training.json"
CURVE, PLOT = "curve.csv", "curve.png"
# In the file of the state: how many epochs are done.
EPOCHS = "epochs"
COLUMNS = ("step", "tokens", "loss", "learning_rate", "seconds", "val_loss", "perplexity")
# How many times the held-out texts are scored on the way.
EVALUATIONS = 10


def pretrain(
    model: keras.Model,
    dataset: PackedDataset,
    epochs: int,
    folder: Path,
    held_out: PackedDataset | None = None,
    learning_rate: float = 1e-3,
    warmup: float = 0.05,
    optimizer: Literal["adamw", "muon"] = "adamw",
    weight_decay: float = 0.01,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> list[dict[str, float]]:
    """Trains a language model, in a way that can be interrupted at any moment.

    After each epoch everything that the next one depends on is written to `folder`. Called again
    with the same arguments, it continues from there, and the curve is the one that it would have
    been: batches, masks and dropout depend on the number of the step alone. An epoch is
    `dataset.steps` batches.

    The learning rate rises linearly during `warmup` and falls along a cosine to a hundredth.
    Gradients are clipped to a norm of 1.

    Args:
        model: A Keras model that takes what `dataset` gives and returns logits, such as
            `build_transformer_model(..., with_mlm="linear", **dataset.model_options)`.
        dataset: A `keras_ptuning.PackedDataset` with `steps`; or for a T5 a `TextToTextDataset`.
        epochs: Integer. How often to train for `dataset.steps` batches.
        folder: Folder for the state (`training.weights.h5`), the settings it belongs to
            (`training.json`), and the curve (`curve.csv`; where matplotlib is installed, in the end
            also `curve.png`). Made if need be.
        held_out: Optional dataset of the same kind and length without `steps`, to measure the
            perplexity on.
        learning_rate: Float, the highest. Defaults to `1e-3`.
        warmup: Float, the share of the steps to rise for. Defaults to `0.05`.
        optimizer: `"adamw"`, or `"muon"`, which needs fewer steps when starting from scratch.
        weight_decay: Float, of all but biases and normalisations. Defaults to `0.01`.
        callbacks: Further Keras callbacks.

    Returns:
        The curve: a list of dictionaries, one for each epoch, with `step`, `tokens` (seen so
        far), `loss` (mean over the epoch), `learning_rate`, `seconds`; and, where it was
        measured, `val_loss` and `perplexity`.

    Raises:
        TypeError: if `dataset` or `held_out` is no `PackedDataset`.
        ValueError: if `folder` has the state of a training with other settings, if an argument
            is out of range, or if the model's variables are in half precision.
        BlockingIOError: if another training uses the folder.
        FloatingPointError: if the loss or a weight is not a number any more. The last good state
            stays; in the first epoch the model is as it was.

    Example:

    ```python
    dataset = PackedDataset(texts, Tokenizer("bert-mini-zh"), steps=100)
    model = build_transformer_model("bert-mini-zh", with_mlm="linear", **dataset.model_options)
    pretrain(model, dataset, epochs=50, folder="my_bert", learning_rate=1e-4)
    ```

    Reference:
        - Masked: [Devlin et al., 2018](https://arxiv.org/abs/1810.04805), section 3.1; continued
          on the texts of a task: [Su, 2020](https://kexue.fm/archives/7764).
        - Causal: [Radford et al., 2018](https://openai.com/research/language-unsupervised),
          section 3.1.
        - Muon: [Liu et al., 2025](https://arxiv.org/abs/2502.16982).
    """
    check_integer("epochs", epochs, 1)
    check_path("folder", folder)
    check_positive("learning_rate", learning_rate)
    check_number("warmup", warmup, 0, 1)
    check_number("weight_decay", weight_decay, 0)
    for name, given in (("dataset", dataset), ("held_out", held_out)):
        if not isinstance(given, PackedDataset) and (name, given) != ("held_out", None):
            raise TypeError(
                f"`{name}` must be a `PackedDataset`, or for a T5 a `TextToTextDataset`. Received: "
                f"{given!r:.60}."
            )
    half = {v.dtype for v in model.trainable_variables} & {"bfloat16", "float16"}
    if half:
        raise ValueError(
            f"Variables of the type {half.pop()} cannot be trained, since most steps are too small "
            "for them. Build the model with dtype='mixed_bfloat16', which has them in float32."
        )
    if dataset.steps is None:
        raise ValueError(
            "The dataset needs `steps`, the number of batches after which the state is written: "
            "PackedDataset(..., steps=100). Received: one without."
        )
    if held_out is not None and (
        type(held_out) is not type(dataset)
        or held_out.steps is not None
        or held_out.sequences.shape[1] != dataset.sequences.shape[1]
        or held_out.causal != dataset.causal
    ):
        raise ValueError(
            "The held-out texts must be a dataset without `steps`, of the class, length and "
            f"`causal` of the other. Received: a {type(held_out).__name__} with "
            f"steps={held_out.steps}, length={held_out.sequences.shape[1]}, "
            f"causal={held_out.causal}; the other has length={dataset.sequences.shape[1]}, "
            f"causal={dataset.causal}."
        )
    if optimizer not in ("adamw", "muon"):
        raise ValueError(f"`optimizer` must be 'adamw' or 'muon'. Received: {optimizer!r}.")
    settings = {
        "epochs": epochs,
        "steps_per_epoch": dataset.steps,
        "batch_size": dataset.batch_size,
        "length": dataset.sequences.shape[1],
        "predict_rate": dataset.predict_rate,
        "data_seed": dataset.seed,
        "data": _digest(dataset.sequences),
        "words": None if dataset.words is None else _digest(dataset.words),
        "causal": dataset.causal,
        "weights": {v.path: list(v.shape) for v in model.weights},
        "learning_rate": learning_rate,
        "warmup": warmup,
        "optimizer": optimizer,
        "weight_decay": weight_decay,
        **dataset.settings,
    }
    os.makedirs(folder, exist_ok=True)
    with opened(folder) as descriptor:
        if lock(descriptor) is False:
            raise BlockingIOError(
                f"Another training uses the folder {str(folder)!r} now. Wait until it has ended, "
                "or give another folder."
            )
        _claim(folder, settings)
        return _train(model, dataset, folder, held_out, settings, callbacks)


def _plot(curve, path):
    # `Figure` needs no display, unlike pyplot.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for name, label, style in (("loss", "training", "-"), ("val_loss", "held out", "o-")):
        rows = [row for row in curve if name in row]
        if rows:
            axes.plot([r["tokens"] for r in rows], [r[name] for r in rows], style, label=label)
    # What is learnt at once would leave no room for the rest.
    axes.set(xlabel="tokens", ylabel="loss", ylim=(None, curve[min(len(curve) // 20, 5)]["loss"]))
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, bbox_inches="tight")


def _train(model, dataset, folder, held_out, settings, callbacks):
    epochs, optimizer = settings["epochs"], settings["optimizer"]
    learning_rate, warmup = settings["learning_rate"], settings["warmup"]
    weight_decay = settings["weight_decay"]
    sweep(folder)
    steps = epochs * dataset.steps
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=learning_rate,
        warmup_steps=max(round(warmup * steps), 1),
        decay_steps=max(steps - round(warmup * steps), 1),
        alpha=0.01,
    )
    if optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(schedule, weight_decay, beta_2=0.98, global_clipnorm=1.0)
    else:
        optimizer = keras.optimizers.Muon(
            schedule,
            weight_decay=weight_decay,
            adam_weight_decay=weight_decay,
            global_clipnorm=1.0,
        )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "scale"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=NONE)
    model.compile(optimizer, loss, jit_compile=default_jit_compile())
    # With float16 it is around the other one.
    model.optimizer.build(model.trainable_variables)
    state, done = os.path.join(folder, STATE), 0
    if os.path.exists(state):
        model.load_weights(state)
        with h5py.File(state) as file:
            # Older states do not say it. With float16 an optimizer leaves some steps out.
            done = int(file.attrs.get(EPOCHS, int(optimizer.iterations) // dataset.steps))
    curve = _read_curve(folder, done)
    if done < epochs:
        evaluations = min(epochs, EVALUATIONS)
        recorder = _Recorder(dataset, folder, curve, schedule)
        # Until there is a state to go on from.
        recorder.first_weights = None if done else model.get_weights()
        try:
            model.fit(
                dataset,
                initial_epoch=done,
                epochs=epochs,
                shuffle=False,
                validation_data=held_out,
                validation_freq=[
                    round(epochs * i / evaluations) for i in range(1, evaluations + 1)
                ],
                # The state comes last: what was done before it is done again after an interruption.
                callbacks=[*keras.tree.flatten(callbacks), recorder],
            )
        except BaseException:
            if recorder.first_weights is not None:
                model.set_weights(recorder.first_weights)
            raise
    plot = os.path.join(folder, PLOT)
    if curve and (done < epochs or not os.path.exists(plot)):
        # The training is done, with or without a plot.
        with contextlib.suppress(ImportError):
            _plot(curve, plot)
    return curve


def _digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()


def _claim(folder, settings):
    """Writes down what the folder is for, or raises if it is for something else."""
    path = os.path.join(folder, SETTINGS)
    # Without a state there is nothing that belongs to the settings.
    if not os.path.exists(os.path.join(folder, STATE)):
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            json.dump(settings, file, indent=2, default=float)
        return
    try:
        found = dict(read_json(path, path))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"The settings {path!r} are damaged ({error}). Choose another folder, or delete this "
            "one, to train from the start."
        ) from None
    # Older folders do not say it, and mostly differ in the data if they differ in it.
    found.setdefault("length", settings["length"])
    different = [key for key in settings if found.get(key) != settings[key]]
    if different:
        key = different[0]
        raise ValueError(
            f"The folder {str(folder)!r} has the state of a training with other settings. Use "
            "the same, choose another folder, or delete this one. Different: "
            f"{', '.join(different)}. Received: {key}={settings[key]!r}, and there it was "
            f"{found.get(key)!r}."
        )


def _read_curve(folder, epochs):
    try:
        with open(os.path.join(folder, CURVE), encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    # A row is written before the state that it belongs to.
    number = {"step": int, "tokens": int}
    return [{k: number.get(k, float)(v) for k, v in row.items() if v} for row in rows[:epochs]]


class _Recorder(keras.callbacks.Callback):
    """Numbers the epochs of the dataset, reports the speed, and writes the state and the curve."""

    def __init__(self, dataset, folder, curve, schedule):
        super().__init__()
        self.dataset = dataset
        self.folder = folder
        self.curve = curve
        self.schedule = schedule
        self.tokens = dataset.batch_size * dataset.sequences.shape[1]

    def on_epoch_begin(self, epoch, logs=None):
        self.dataset.epoch = epoch
        seed_dropout(self.model, np.random.default_rng([self.dataset.seed, epoch]))
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds = time.perf_counter() - self.start
        logs["tokens_per_second"] = (batch + 1) * self.tokens / self.seconds

    def on_epoch_end(self, epoch, logs=None):
        logs["tokens_per_second"] = self.dataset.steps * self.tokens / self.seconds
        step = (epoch + 1) * self.dataset.steps
        rate = float(self.schedule(step - 1))
        weights = all(np.isfinite(array).all() for array in self.model.get_weights())
        if not (weights and math.isfinite(logs["loss"])):
            kept = (
                f"The state before these {self.dataset.steps} steps stays in {self.folder!r}: for "
                "another learning rate, choose another folder."
            )
            advice = "The model is as it was before. Use a smaller learning rate."
            if epoch:
                advice = f"Build the model again, and use a smaller learning rate. {kept}"
            raise FloatingPointError(
                f"The loss is {logs['loss']} after step {step}, with a learning rate of {rate:.2g}"
                f"{'' if weights else ', and weights are not finite'}. {advice}"
            )
        row = {
            "step": step,
            "tokens": step * self.tokens,
            "loss": logs["loss"],
            "learning_rate": rate,
            "seconds": self.seconds,
        }
        if "val_loss" in logs:
            row["val_loss"] = logs["val_loss"]
            row["perplexity"] = logs["val_perplexity"] = math.exp(min(logs["val_loss"], 700))
        self.curve.append(row)
        path = os.path.join(self.folder, CURVE)
        with (
            replacing(path) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.curve)
        with replacing(os.path.join(self.folder, STATE)) as temporary:
            self.model.save_weights(temporary)
            with h5py.File(temporary, "a") as file:
                file.attrs[EPOCHS] = epoch + 1
        self.first_weights = None
