"""What all models here share: a template's data in, one score for each label out."""

import contextlib
import copy
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import keras
import numpy as np
from keras import ops

from keras_ptuning.backend import (
    as_batches,
    check_name,
    compiles_each_shape,
    count_replicas,
    default_jit_compile,
    export_arguments,
    find_part,
    for_all_workers,
    for_any_backend,
    predict_with_one_graph,
    sum_over_replicas,
)
from keras_ptuning.checkpoints import open_checkpoint
from keras_ptuning.checks import ClassWeight, Path, check_entries, check_finite, check_number
from keras_ptuning.files import replacing
from keras_ptuning.methods import (
    All,
    Prompt,
    build_tuned_backbone,
    method_from_config,
    method_to_config,
    named_weights,
    read_methods,
)
from keras_ptuning.methods.method import assign
from keras_ptuning.models import Transformer, fingerprint, load_config, read_config
from keras_ptuning.text.batches import UNLABELED, ClozeDataset
from keras_ptuning.text.tags import template_from_config
from keras_ptuning.tuning.data import (
    check_batch_size,
    check_data,
    check_label_ids,
    check_sizes,
    check_token_order,
    check_weights,
    split_off,
    weighted,
)
from keras_ptuning.tuning.metrics import LabelAccuracy, for_labels, is_soft
from keras_ptuning.tuning.nan import UNKNOWN_LABELS, StopAtNaN, learning_rates
from keras_ptuning.tuning.tuned_file import (
    vocabulary_fingerprint,
    without_vocabulary,
    write_tuned,
)

# What to do where a prediction is no number.
DAMAGED = "Its weights are damaged, or overflow in half precision: load good ones, or train again."


class LabelModel(keras.Model):
    """A Keras model that reads what `template.dataset` makes and scores the template's labels.

    Subclasses give `call`, `compute_loss`, and what they are made of.

    Attributes:
        template: The `Template` or `PlainText`.
        backbone: The functional Keras model inside, with the layers of the transformer.
        distribution: The devices that share its work, or `None`.
    """

    distribution = None
    is_merged = False
    # What to do about texts without labels.
    learns_from_unlabeled = False
    unlabeled_advice = "Leave these texts out."
    # While `save` writes: the vocabulary is kept with the weights then.
    _vocabulary_apart = False
    # The weight of R-Drop's divergence, which `compile` sets.
    rdrop = 0.0
    # What `compile` was given as `jit_compile`, if anything.
    _given_jit_compile = None
    # What makes the model out of a vocabulary, and compiles it, where a file is being loaded.
    _make = _compile = None

    def __init__(self, config, template, tune=None, name=None, **kwargs):
        fixed = {"layers", "with_mlm", "with_mean", "with_pool", "gather_positions", "pad_id"}
        fixed |= {"branching", "document_start_id", "first_is_text", "own_prefix", "own_vectors"}
        fixed |= {"sequence_length"}
        fixed &= set(kwargs)
        if fixed:
            raise ValueError(
                f"A {type(self).__name__} sets {sorted(fixed)} itself; leave them out."
            )
        settings = read_config(config, model=kwargs.get("model"))
        self.methods = read_methods(tune, template)
        # Written down, so that a saved model keeps the policy that was global when it was made.
        dtype = kwargs.get("dtype") or settings.get("dtype") or keras.config.dtype_policy()
        kwargs["dtype"] = _policy(dtype, self.methods)
        if kwargs.get("keep_tokens") is not None:
            kwargs["keep_tokens"] = [int(i) for i in kwargs["keep_tokens"]]
        check_name(name)
        super().__init__(name=name, dtype=kwargs["dtype"])
        # Later changes of the template by `set_params` are not for this model.
        self.template = copy.copy(template)
        # A saved model has what is in the configuration, not where that was.
        config = load_config(config)
        self.init_config = {"config": config, **kwargs}
        check_sizes(self.template, config, {**settings, **kwargs})
        if not default_jit_compile():
            self.jit_compile = False

    def _build_backbone(self, checkpoint, methods=None, **kwargs):
        """The transformer, with the methods attached, those of the model or others."""
        checkpoint = None if checkpoint is None else open_checkpoint(checkpoint)
        check_token_order(self.template, checkpoint, self.init_config.get("keep_tokens"))
        settings = {key: value for key, value in self.init_config.items() if key != "config"}
        tokenizer = self.template.tokenizer
        return build_tuned_backbone(
            self.init_config["config"],
            checkpoint,
            self.methods if methods is None else methods,
            self.template,
            gather_positions=True,
            pad_id=tokenizer.pad_id,
            first_is_text=tokenizer.pad_id == tokenizer.start_id,
            name="backbone",
            **settings,
            **kwargs,
        )

    def build(self, input_shape):
        pass

    def tuned_weights(self) -> dict[str, dict[str, keras.Variable]]:
        """What trains: for the name of each method a dictionary of variables, `layer/variable`."""
        found = {}
        for method in self.methods:
            found.setdefault(method.name, {}).update(method.weights(self.backbone))
        return found

    def _own_weights(self):
        """What trains unless somebody freezes it, the head included."""
        own = [*self.tuned_weights().values(), self._head_weights()]
        return {name: v for weights in own for name, v in weights.items()}

    def _pretrained_weights(self):
        """What is frozen unless somebody unfreezes it."""
        own = {id(v) for v in self._own_weights().values()}
        found = {k: v for layer in self.backbone.layers for k, v in named_weights(layer).items()}
        return {name: v for name, v in found.items() if id(v) not in own}

    def _set_trainable(self, frozen=(), unfrozen=()):
        """Freezes and unfreezes weights, by their names in a file.

        Raises:
            ValueError: if there is no weight of such a name.
        """
        for names, weights, trainable in (
            (frozen, self._own_weights(), False),
            (unfrozen, self._pretrained_weights(), True),
        ):
            for name in map(str, names):
                if name not in weights:
                    raise ValueError(
                        f"it freezes or unfreezes {name!r}, and the model has no such weight"
                    )
                weights[name].trainable = trainable

    @keras.Model.trainable.setter
    def trainable(self, value):
        """`False` freezes all; `True` lets train what did when the model was made, not the rest."""
        keras.Model.trainable.fset(self, value)
        if value:
            for variable in self._pretrained_weights().values():
                variable.trainable = False

    @property
    def default_learning_rate(self) -> float:
        rates = [method.default_learning_rate(self.backbone) for method in self.methods]
        return min(rates, default=1e-3)

    @property
    def nothing_trains(self):
        if self.methods:
            return "all of the model is frozen"
        return (
            f"the template {self.template.pattern!r} has no virtual tokens [u1], [u2]..., and the "
            'rest is frozen. Build the model with a method, e.g. `tune="lora"`, or `tune="all"` to '
            "train it whole"
        )

    def merge(self) -> None:
        """Merges what can be merged into the backbone, for prediction as fast as the backbone's.

        All weights stay as they are, and so does what is saved. Training needs `unmerge` first.
        """
        self._merge(True)

    def unmerge(self) -> None:
        """Undoes `merge`, exactly."""
        self._merge(False)

    def _merge(self, merged):
        for method in self.methods:
            (method.merge if merged else method.unmerge)(self.backbone)
        self.is_merged = merged
        # What was compiled has the other computation. Training has one alone, and may be under way.
        self.test_function = self.predict_function = None

    def _forget_compiled(self):
        self.train_function = self.test_function = self.predict_function = None

    @contextlib.contextmanager
    def _at_work(self):
        """For `fit`, `evaluate` and `predict` of Keras."""
        try:
            with self._scope():
                yield
        except BaseException:
            # TensorFlow keeps what it compiled half, and then refuses to compile the rest.
            self._forget_compiled()
            raise

    @contextlib.contextmanager
    def _unmerged(self):
        """For a change of weights, after which what was merged has to be merged again."""
        if not self.is_merged:
            yield
            return
        self.unmerge()
        try:
            yield
        finally:
            self.merge()

    def save_weights(self, filepath: Path, overwrite: bool = True, **kwargs: Any) -> None:
        """Saves the weights; the file of that name is replaced only by a complete one.

        Raises:
            FileExistsError: if there is such a file, and `overwrite` is `False`.
            ValueError: if a weight is not finite; nothing is written then.
        """
        self.check_weights("Nothing was written. Train again, with a smaller learning rate.")
        if not overwrite and os.path.exists(filepath):
            raise FileExistsError(f"The file {filepath!r} exists, and `overwrite` is False.")
        if kwargs:
            # Several files.
            super().save_weights(filepath, overwrite, **kwargs)
            return
        with replacing(filepath) as temporary:
            super().save_weights(temporary)

    def load_weights(self, filepath: Path, skip_mismatch: bool = False, **kwargs: Any) -> None:
        """Loads the weights that `save_weights` wrote.

        Args:
            filepath: Path of the file.
            skip_mismatch: Whether to load what fits, with a warning about the rest.
            **kwargs: Other arguments of `keras.Model.load_weights`.

        Raises:
            ValueError: if they belong to another template, other labels or another vocabulary; if
                the weights do not fit, or are not finite. The model keeps its weights then.
        """
        single = str(filepath).endswith((".weights.h5", ".weights.json"))
        optimizer = getattr(self, "optimizer", None)
        variables = [*self.variables, *(optimizer.variables if optimizer else [])]
        with self._unmerged():
            # Keras loads what fits, and then says that something did not.
            before = [np.array(ops.convert_to_numpy(v)) for v in variables]
            try:
                if single and not skip_mismatch and not kwargs:
                    # What belongs to the model itself comes first: it says which template it was.
                    skipped = [*self._flatten_layers(include_self=False), optimizer]
                    super().load_weights(filepath, objects_to_skip=skipped)
                super().load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)
                self.check_weights(f"Nothing of {str(filepath)!r} was loaded: load others.")
            except BaseException:
                for variable, value in zip(variables, before, strict=True):
                    variable.assign(value)
                raise

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Sets all weights, as `keras.Model.set_weights` does. What was merged is merged again."""
        with self._unmerged():
            super().set_weights(weights)

    def quantize(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: Keras finds no layer here that it could quantize, and does nothing."""
        raise ValueError(
            "`quantize` of Keras would change nothing here. For a smaller model, build it with "
            "dtype='bfloat16'."
        )

    def check_weights(self, advice):
        """Refuses weights that are not finite, with a word on what to do."""
        weights = ((f"The weight {v.path!r}", ops.convert_to_numpy(v)) for v in self.weights)
        check_finite(weights, advice)

    def save_own_variables(self, store):
        meaning = json.dumps(self._meaning(), ensure_ascii=False)
        store["template"] = np.frombuffer(meaning.encode(), "uint8")
        if self._vocabulary_apart:
            vocabulary = json.dumps(self.template.tokenizer.get_config()["vocab"])
            store["vocabulary"] = np.frombuffer(vocabulary.encode(), "uint8")

    def load_own_variables(self, store):
        if self._make is not None:
            if "vocabulary" not in store:
                raise ValueError("The file has no vocabulary: it is damaged.")
            make, compile_model, self._make = self._make, self._compile, None
            make(json.loads(bytes(store["vocabulary"])))
            if compile_model is not None:
                compile_model()
        # Files of version 0.1.0 do not say.
        if "template" not in store:
            return
        theirs, ours = json.loads(bytes(store["template"])), self._meaning()
        for name, value in ours.items():
            if theirs[name] != value:
                raise ValueError(
                    "These weights belong to another template than the model's, and would mean "
                    f"something else here. Received: {name} {theirs[name]!r} instead of "
                    f"{value!r}. Build the model with the template that they were saved with."
                )

    def _meaning(self):
        """What must be the same for the weights to keep their meaning, ready for JSON."""
        template, tokenizer = self.template, self.template.tokenizer
        return {
            "pattern": template.pattern,
            "labels": template.labels and [[k, words] for k, words in template.labels.items()],
            "causal": template.causal,
            "vocabulary": vocabulary_fingerprint(tokenizer.get_config()["vocab"]),
            "do_lower_case": tokenizer.do_lower_case,
        }

    def make_train_function(self, force=False):
        if self.is_merged:
            raise ValueError("What would be trained is merged: call `model.unmerge()` first.")
        return super().make_train_function(force)

    def fingerprint(self) -> str:
        """A SHA-256 of the frozen weights: the same for the same checkpoint."""
        trained = [v for own in self.tuned_weights().values() for v in own.values()]
        return fingerprint(self.backbone, trained)

    def summary(
        self, *args: Any, print_fn: Callable[[str], Any] | None = None, **kwargs: Any
    ) -> None:
        """Prints the layers, and what trains, by method, with its size in a tuned file."""
        self.backbone.summary(*args, print_fn=print_fn, **kwargs)
        print_fn = print_fn or print
        trained = sum(math.prod(v.shape) for v in self.trainable_variables)
        total = self.count_params()
        print_fn(f"Trained: {trained:,} of {total:,} parameters ({trained / total:.3%})")
        rows = [
            (m.name, m.describe(self.backbone), m.weights(self.backbone), m.tensors(self.backbone))
            for m in self.methods
        ]
        head = self._head_weights()
        if head:
            rows.append(("head", "", head, {k: ops.convert_to_numpy(v) for k, v in head.items()}))
        for name, words, weights, tensors in rows:
            count = sum(math.prod(v.shape) for v in weights.values())
            size = sum(array.nbytes for array in tensors.values())
            print_fn(
                f"  {name}: {words + ', ' if words else ''}{count:,} parameters, "
                f"{size / 1024:,.1f} KiB in a tuned file"
            )

    def save_tuned(self, filepath: Path, dtype: str = "float32") -> None:
        """Saves what was trained by itself, to be used with `load_tuned` and the checkpoint.

        The file holds the tensors of each method, its settings, the template with its labels, and
        fingerprints of the pretrained weights and of the vocabulary, without which the rest means
        nothing. A prompt or a prefix that a network makes is saved as it is now, without the
        network. The optimizer's state is not saved: `save` does that.

        Args:
            filepath: Path of the file to write, e.g. `"sentiment.tuned"`.
            dtype: Type of the numbers, `"float32"`, or `"float16"` for half the size.

        Raises:
            ValueError: if nothing was trained, or what was is not finite; nothing is written then.
        """
        if not self.methods and not self._head_weights():
            raise ValueError(f"There is nothing to save: {self.nothing_trains}.")
        own = {id(v) for v in self._own_weights().values()}
        more = [v.path for v in self.trainable_variables if id(v) not in own]
        if more:
            raise ValueError(
                f"Other weights train than those of {self.methods}, such as {more[:3]}. Save the "
                "model whole with `model.save(...)`."
            )
        tensors = {
            f"{method.name}/{name}": value
            for method in self.methods
            for name, value in method.tensors(self.backbone).items()
        }
        tensors |= {f"head/{k}": ops.convert_to_numpy(v) for k, v in self._head_weights().items()}
        content = {
            "model": type(self).__name__,
            "options": self._options(),
            "methods": [method_to_config(method.saved_as()) for method in self.methods],
            "template": self.template.get_config(),
            "backbone": self.fingerprint(),
        }
        # Without the weights of networks that are not saved.
        frozen = [
            name
            for part, weights in {**self.tuned_weights(), "head": self._head_weights()}.items()
            for name, v in weights.items()
            if not v.trainable and f"{part}/{name}" in tensors
        ]
        if frozen:
            content["frozen"] = frozen
        write_tuned(filepath, tensors, content, dtype)

    def _head_weights(self):
        """The weights of the head that is trained from scratch, `layer/variable`."""
        return {}

    def _options(self):
        """The arguments of the model beyond those of its backbone."""
        return {}

    def load_tensors(self, tensors):
        """Puts the tensors of a tuned file in place.

        Raises:
            ValueError: if they do not fit.
        """
        parts = {}
        for name, value in tensors.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = value
        unknown = set(parts) - {*(method.name for method in self.methods), "head"}
        if unknown:
            raise ValueError(f"it has tensors of {sorted(unknown)}, and no such method")
        with self._unmerged():
            for method in self.methods:
                method.load(self.backbone, parts.get(method.name, {}))
            assign(self._head_weights(), parts.get("head", {}))

    def _scope(self):
        """What Keras has to know while the model is made, compiled and used."""
        return contextlib.nullcontext() if self.distribution is None else self.distribution.scope()

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Does nothing on several devices, since all layers are built.

        For this Keras would take the mean of the batches of all devices, which fails where the
        inputs are a dictionary and the devices belong to several processes.
        """
        if self.distribution is None:
            super()._maybe_symbolic_build(iterator, data_batch)

    def train_step(self, *args):
        return for_all_workers(super().train_step(*args))

    def test_step(self, *args):
        return for_all_workers(super().test_step(*args))

    def predict_step(self, *args):
        found = super().predict_step(*args)
        if find_part(self.distribution)[1] == 1:
            return found
        # Each process wants all of the scores, and has those of its own texts.
        scores, *state = found
        mesh = self.distribution.device_mesh
        layout = keras.distribution.TensorLayout([None] * len(scores.shape), mesh)
        return keras.distribution.distribute_tensor(scores, layout), *state

    def label_losses(self, y, scores, sample_weight=None):
        """The cross-entropy of each text, 0 where it has no label; and which texts have one."""
        if is_soft(y):
            chosen = ops.cast(y, scores.dtype)
        else:
            y = ops.reshape(ops.cast(y, "int32"), ops.shape(scores)[:1])
            count = ops.shape(scores)[-1]
            # No check has seen those of an iterator. They are no missing ones, which train nothing.
            unknown = ops.logical_or(y < UNLABELED, y >= count)
            # A text without a label is in no column. PyTorch refuses columns that are not there.
            chosen = ops.one_hot(ops.where(unknown, UNLABELED, y), count, dtype=scores.dtype)
        losses = -ops.sum(ops.where(chosen > 0, chosen * scores, 0.0), axis=-1)
        if not is_soft(y):
            losses = ops.where(unknown, math.nan, losses)
        if sample_weight is not None:
            losses = losses * ops.reshape(ops.cast(sample_weight, losses.dtype), (-1,))
        return losses, ops.any(chosen > 0, axis=-1)

    def _twice(self, read, training):
        """What `read()` returns; with R-Drop in training also a second time, with other dropout."""
        found = read()
        if not training or not self.rdrop:
            return found
        found, again = (p if isinstance(p, dict) else {"scores": p} for p in (found, read()))
        return {**found, "again": again}

    def _loss_of_passes(self, loss, x, y_pred):
        """The loss of what `_twice` returned; of two passes the mean, and their divergence."""
        if not isinstance(y_pred, dict) or "again" not in y_pred:
            return loss(y_pred)
        again = y_pred["again"]
        p, q = (ops.log_softmax(found["scores"]) for found in (y_pred, again))
        apart = (divergences(p, q) + divergences(q, p)) / 2
        return (loss(y_pred) + loss(again) + self.rdrop * mean_over_texts(apart, x)) / 2

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        scores = y_pred["scores"] if isinstance(y_pred, dict) else y_pred
        return super().compute_metrics(x, y, scores, sample_weight)

    def compile(
        self,
        optimizer: str | keras.Optimizer | Mapping[str, str | keras.Optimizer] | None = None,
        loss: None = None,
        rdrop: float = 0.0,
        **kwargs: Any,
    ) -> None:
        """Configures training.

        Args:
            optimizer: Defaults to Adam with the smallest of the learning rates that the methods
                recommend: 1e-2 for a prefix, 1e-3 for LoRA and adapters; for BERT-base 6e-4 for a
                prompt and 3e-5 for all weights, and up to 16 times as much for smaller models, by
                the square of the size of their vectors. Or a dictionary of an optimizer for each
                method, by name, e.g. `{"all": Adam(2e-5), "prompt": Adam(1e-2)}`; `"head"` is that
                of a classifier.
            loss: Must be `None`: the model has its own.
            rdrop: Float from 0 on, the weight α of R-Drop's divergence. In training each batch then
                takes two passes with different dropout, and the divergence between what they say of
                the labels, in both directions, is a part of the loss. The loss is half of that of
                the paper, with the same α. A step takes twice as long. `sample_weight` and
                `class_weight` have no effect on the divergence. Defaults to `0`, one pass.
            **kwargs: Other arguments of `keras.Model.compile`. `metrics` defaults to the
                accuracy of the labels. Others of Keras get probabilities, such as
                `keras.metrics.F1Score("macro")`; texts without a label do not count.

        Raises:
            ValueError: if a loss or its weights are given, a dictionary has not the names of all
                methods, or a learning rate is negative or not finite, or a metric cannot mean here
                what it says; if `rdrop` is negative or not finite, or the model has no dropout for
                it.

        Reference:
            - R-Drop: [Liang et al., 2021](https://arxiv.org/abs/2106.14448), section 2.1.
        """
        for argument, value in {"loss": loss, "loss_weights": kwargs.get("loss_weights")}.items():
            if value is not None:
                raise ValueError(
                    f"A {type(self).__name__} has its own loss, which its arguments choose: leave "
                    f"out `{argument}`. Received: {argument}={value!r}."
                )
        check_number("rdrop", rdrop, 0)
        if rdrop and not self._has_dropout():
            raise ValueError(
                "Without dropout both passes of R-Drop are the same: build the model with "
                f"`dropout_rate=0.1`, or leave out `rdrop`. Received: rdrop={rdrop!r}."
            )
        self.rdrop = float(rdrop)
        self._given_jit_compile = kwargs.get("jit_compile")
        kwargs.setdefault("jit_compile", default_jit_compile())
        with self._scope():
            if optimizer is None:
                optimizer = keras.optimizers.Adam(self.default_learning_rate)
            if isinstance(optimizer, dict):
                optimizer = self._optimizer_by_method(optimizer)
            if self.distribution is not None:
                # Its variables have to be made here, with those of the model.
                optimizer = keras.optimizers.get(optimizer)
                optimizer = type(optimizer).from_config(optimizer.get_config())
            kwargs.setdefault("metrics", [LabelAccuracy()])
            for name in kwargs.keys() & {"metrics", "weighted_metrics"}:
                if kwargs[name]:
                    kwargs[name] = for_labels(kwargs[name], self.template.num_labels)
            super().compile(optimizer=optimizer, **kwargs)
            self._check_optimizer()
            if self.distribution is not None and self.trainable_variables:
                self.optimizer.build(self.trainable_variables)

    def _check_optimizer(self):
        rates = learning_rates(self.optimizer)
        if not all(0 <= rate < math.inf for rate in rates):
            raise ValueError(f"A learning rate must be finite, and not below 0. Received: {rates}.")

    def _optimizer_by_method(self, optimizers):
        weights = {**self.tuned_weights(), "head": self._head_weights()}
        names = [name for name, variables in weights.items() if variables]
        if set(optimizers) != set(names):
            raise ValueError(
                f"Expected an optimizer for each of {names}. Received: {list(optimizers)}."
            )
        optimizers = {name: keras.optimizers.get(optimizers[name]) for name in names}
        first, *others = names
        by_path = {
            re.escape(v.path): optimizers[name] for name in others for v in weights[name].values()
        }
        by_path = keras.optimizers.OptimizerMap(optimizers[first], by_path)
        return keras.optimizers.MultiOptimizer(by_path)

    def _has_dropout(self):
        layers = self.backbone._flatten_layers()
        return any(isinstance(part, keras.layers.Dropout) and part.rate for part in layers)

    def get_compile_config(self):
        config = super().get_compile_config()
        if not config:
            return config
        # What is good on one backend makes another slow: each has a default of its own.
        del config["jit_compile"]
        if self._given_jit_compile is not None:
            config["given_jit_compile"] = self._given_jit_compile
        return {**config, "rdrop": self.rdrop}

    def compile_from_config(self, config):
        # Keras leaves this to models with a `compile` of their own.
        arguments = keras.saving.deserialize_keras_object(for_any_backend(config))
        # Files of earlier versions have these, where they had no effect or nobody gave them.
        for name in ("jit_compile", "loss_weights"):
            arguments.pop(name, None)
        if "given_jit_compile" in arguments:
            arguments["jit_compile"] = arguments.pop("given_jit_compile")

        def compile_model():
            self.compile(**arguments)
            self.optimizer.build(self.trainable_variables)

        if self._make is None:
            compile_model()
        else:
            self._compile = compile_model

    def get_build_config(self):
        # All is built when the model is made.
        return None

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        *,
        validation_data: Any = None,
        class_weight: ClassWeight | None = None,
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains the model, as `keras.Model.fit` does.

        A dataset's epochs continue where its last training stopped, so that its batches and masks
        differ each time; set `dataset.epoch = 0` to repeat them.

        Args:
            x: What `template.dataset` makes; or, with `y`, what `template.encode` makes.
            y, batch_size, sample_weight: As in `keras.Model.fit`, for arrays. A dataset has its
                own.
            epochs, **kwargs: As in `keras.Model.fit`.
            validation_data: A dataset with labels, or a tuple `(x, y)`, as `template.encode` makes
                it.
            class_weight: How much a text counts in the loss, by its label: a dictionary from labels
                to numbers from 0 on, e.g. `{"负面": 3.0}`, and 1 for those that are left out; or
                `"balanced"`, as in scikit-learn, so that all labels count the same together.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            FloatingPointError: if the loss, or a weight, is not finite. The model has the weights
                of the best epoch then, by `val_loss` or else `loss`.
            TypeError: if the data are texts, not what the template makes of them.
            ValueError: if nothing would be trained, the data are those of another template, or
                `class_weight` is not of its labels.
        """
        if not self.trainable_variables:
            raise ValueError(f"Nothing would be trained: {self.nothing_trains}.")
        if isinstance(x, ClozeDataset):
            if kwargs.get("steps_per_epoch"):
                raise ValueError(
                    "An epoch of a template's dataset is all of it: leave out `steps_per_epoch`."
                )
            # The dataset shuffles by its own seed.
            kwargs["shuffle"] = False
            if x.has_unlabeled and not self.learns_from_unlabeled:
                raise ValueError(
                    f"This model learns nothing from texts without a label. {self.unlabeled_advice}"
                )
        check_data(self.template, x, "fit")
        check_batch_size(x, batch_size)
        y = check_label_ids(self.template, y, x, sample_weight)
        sample_weight = check_weights(x, sample_weight)
        if class_weight is not None and isinstance(x, Mapping) and validation_data is None:
            # Keras would split later, and the held-out texts would have weights of classes too.
            share = kwargs.pop("validation_split", None)
            (x, y, sample_weight), validation_data = split_off(x, y, sample_weight, share)
        if validation_data is not None:
            validation_data = self._checked_validation(validation_data)
        data, sample_weight = weighted(self.template, x, y, sample_weight, class_weight)
        # First, so that whatever writes weights afterwards writes good ones.
        dataset = data if isinstance(data, ClozeDataset) else None
        stop_at_nan = StopAtNaN(dataset, checked=isinstance(data, ClozeDataset | Mapping))
        callbacks = kwargs.pop("callbacks", None) or []
        callbacks = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
        callbacks = [stop_at_nan, *callbacks]
        if isinstance(x, ClozeDataset):
            callbacks.insert(0, CountEpochs(x, data))
        with self._at_work():
            if self.compiled and not self.optimizer.built:
                # Here, since TensorFlow lets no variables be made where a call has failed.
                self.optimizer.build(self.trainable_variables)
            try:
                history = super().fit(
                    self._as_batches(data),
                    y,
                    batch_size,
                    epochs,
                    validation_data=validation_data,
                    sample_weight=sample_weight,
                    callbacks=callbacks,
                    **kwargs,
                )
            except Exception as error:
                # Such as that of a callback that saves after each step, and is refused.
                stop_at_nan.on_error()
                if stop_at_nan.error is None:
                    raise
                raise stop_at_nan.error from error
        if stop_at_nan.error is not None:
            raise stop_at_nan.error
        return history

    def evaluate(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, **kwargs: Any
    ) -> Any:
        """Evaluates the model, as `keras.Model.evaluate` does; zero-shot, without `compile` too.

        Raises:
            ValueError: if the loss is not finite, or the data are those of another template.
        """
        if not self.compiled:
            self.compile()
        in_training = "_use_cached_eval_dataset" in kwargs
        check_data(self.template, x, "evaluate")
        # What `fit` validates with may be a dataset, where it trains on arrays.
        if not in_training:
            check_batch_size(x, batch_size)
        y = check_label_ids(self.template, y, x, kwargs.get("sample_weight"))
        kwargs["sample_weight"] = check_weights(x, kwargs.get("sample_weight"))
        epoch = getattr(x, "epoch", None)
        with self._at_work():
            found = super().evaluate(self._as_batches(x), y, batch_size, **kwargs)
        if isinstance(x, ClozeDataset):
            # Keras counts this as an epoch too, but for TensorFlow, and only training is one.
            x.epoch = epoch
        # `fit` has its own way to stop.
        if not in_training:
            loss = np.ravel(found["loss"] if isinstance(found, dict) else found)[:1]
            checked = isinstance(x, ClozeDataset | Mapping)
            advice = DAMAGED if checked else f"{DAMAGED} {UNKNOWN_LABELS}"
            check_finite([("The loss", loss)], advice)
        return found

    def predict(self, x: Any, batch_size: int | None = None, **kwargs: Any) -> np.ndarray:
        """Predicts the log-probability of each label, in the order of the texts.

        Raises:
            ValueError: if a score is not finite, or the data are those of another template.
        """
        check_data(self.template, x, "predict")
        check_batch_size(x, batch_size)
        scores = self._predict(x, batch_size, **kwargs)
        check_finite([("What the model predicts", scores)], DAMAGED)
        return scores

    def _predict(self, x, batch_size, **kwargs):
        if not isinstance(x, ClozeDataset):
            with self._at_work():
                return super().predict(x, batch_size, **kwargs)
        if kwargs.get("steps"):
            raise ValueError("To predict some of the texts, make a dataset of these; not `steps`.")
        # Only the last batch may need to be filled up: what is predicted for these rows is cut off.
        dataset, order = x.by_length(count_replicas(self.distribution))
        batches = self._as_batches(dataset)
        if compiles_each_shape() and len(dataset) > 1:
            # The last batch would have another shape.
            dataset.fill = dataset.batch_size
        with self._at_work():
            if self.distribution is None:
                predict_with_one_graph(self, batches)
            sorted_scores = super().predict(batches, **kwargs)[: len(order)]
        scores = sorted_scores.copy()
        scores[order] = sorted_scores
        return scores

    def _checked_validation(self, data):
        """What Keras is to validate with."""
        if isinstance(data, tuple | list) and len(data) in (2, 3) and isinstance(data[0], Mapping):
            x, y, *weights = data
            check_data(self.template, x, "evaluate")
            y = check_label_ids(self.template, y, x, *weights)
            return (x, y, *(check_weights(x, w) for w in weights))
        check_data(self.template, data, "evaluate")
        return self._as_batches(data)

    def _as_batches(self, data):
        """What Keras is to iterate over."""
        if not isinstance(data, ClozeDataset):
            return data
        data.fill, data.part = count_replicas(self.distribution), find_part(self.distribution)
        return as_batches(data)

    def export(
        self,
        filepath: Path,
        format: str = "tf_saved_model",
        *args: Any,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Exports the model for other programs, as `keras.Model.export` does.

        What is exported reads a dictionary of arrays, those of `template.encode(texts)` that are
        named in `export_inputs`, and returns the log-probabilities of the labels, in the order of
        `template.label_names`. Any number of texts of any length fits, where the format allows
        it. What was merged stays merged. On PyTorch, Keras exports one size only, so give an
        `input_signature`, or load the `.keras` file of the model on another backend.

        Args:
            filepath: Path of what to write; with TensorFlow's format, a folder.
            format: `"tf_saved_model"`, or another that Keras exports, such as `"onnx"`, which on
                TensorFlow needs the packages `onnx` and `tf2onnx`. A file for `"litert"` runs only
                where LiteRT is linked with TensorFlow's select operators.
            *args: Other arguments of `keras.Model.export`.
            input_signature: As in `keras.Model.export`. Defaults to the inputs of the template.
            **kwargs: Other arguments of `keras.Model.export`.

        Raises:
            ValueError: on PyTorch, if there is no `input_signature`.

        Example:

        ```python
        model.export("served")
        served = tf.saved_model.load("served")
        inputs = template.encode(["物流很快，包装也好。"])
        served.serve({name: inputs[name] for name in model.export_inputs})
        ```

        Reference:
            - https://keras.io/api/models/model_saving_apis/export/
        """
        if input_signature is None:
            axes = self._export_axes()
            input_signature = [
                {
                    name: keras.InputSpec(shape=(None,) * len(own), dtype="int32", name=name)
                    for name, own in axes.items()
                }
            ]
            kwargs = {**export_arguments(format, axes, self.template.maxlen), **kwargs}
        super().export(filepath, format, *args, input_signature=input_signature, **kwargs)

    @property
    def export_inputs(self):
        """The names of the inputs of an exported model."""
        return list(self._export_axes())

    def _export_axes(self):
        """The inputs of an exported model, and the names of their axes."""
        return {name: ("batch", "length") for name in ("token_ids", "segment_ids")}

    def save(self, filepath: Path, overwrite: bool = True, **kwargs: Any) -> None:
        """Saves the whole model; the file of that name is replaced only by a complete one.

        `keras_ptuning.load_model` loads it, and `keras.models.load_model` after
        `import keras_ptuning`.

        Raises:
            FileExistsError: if there is such a file, and `overwrite` is `False`.
            ValueError: if the name does not end in .keras, `zipped` is `False`, the file could not
                be loaded again, or a weight is not finite; nothing is written then.
        """
        if not os.fspath(filepath).endswith(".keras"):
            raise ValueError(f"Expected a name that ends in .keras. Received: {filepath!r}.")
        if not overwrite and os.path.exists(filepath):
            raise FileExistsError(f"The file {filepath!r} exists, and `overwrite` is False.")
        if kwargs.get("zipped") is False:
            raise ValueError(
                "A model is saved as one file: leave out `zipped`. Received: zipped=False."
            )
        own = {id(v) for weights in self.tuned_weights().values() for v in weights.values()}
        added = [v for v in self.backbone.weights if v.name.startswith("lora_")]
        unknown = [v.path for v in added if id(v) not in own]
        if unknown:
            raise ValueError(
                f"No method of the model made {unknown[0]!r}, so a .keras file could not be read. "
                "Build the model with `tune=LoRA(...)` in place of `enable_lora`."
            )
        self.check_weights("Nothing was written. Train again, with a smaller learning rate.")
        with replacing(filepath) as temporary:
            self._vocabulary_apart = True
            try:
                super().save(temporary, **kwargs)
            finally:
                self._vocabulary_apart = False

    def get_config(self):
        model = self.init_config.get("model")
        settings = dict(self.init_config)
        if isinstance(model, type):
            settings["model"] = model.architecture
            if Transformer.known.get(model.architecture) is not model:
                raise ValueError(
                    "A model with an architecture of your own is saved whole only if its class has "
                    "a name of its own, in `architecture`. Or save the weights with "
                    f"`save_weights`. Received: model={model!r}."
                )
        template = self.template.get_config()
        # What somebody froze or unfroze by hand.
        by_hand = {
            "frozen": [name for name, v in self._own_weights().items() if not v.trainable],
            "unfrozen": [name for name, v in self._pretrained_weights().items() if v.trainable],
        }
        return {
            **settings,
            **self._options(),
            **{key: names for key, names in by_hand.items() if names},
            "tune": [method_to_config(method) for method in self.methods],
            "dtype": self.dtype_policy.name,
            # Keras prints the configuration of a file that it cannot load.
            "template": without_vocabulary(template) if self._vocabulary_apart else template,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        config = {"frozen": [], "unfrozen": [], **_current_config(config)}
        kinds = {"config": dict, "template": dict, "tune": (list, tuple)}
        kinds |= {"frozen": list, "unfrozen": list}
        check_entries(f"a {cls.__name__}", config, {**kinds, "checkpoint": type(None)})
        methods = [method_from_config(method) for method in config["tune"]]
        by_hand = {key: config.pop(key) for key in ("frozen", "unfrozen")}
        tokenizer = config["template"].get("tokenizer")
        apart = isinstance(tokenizer, dict) and isinstance(tokenizer.get("vocab"), str)

        def initialize(model, template):
            template = template_from_config(template)
            model.__init__(**{**config, "template": template, "tune": methods})
            try:
                model._set_trainable(**by_hand)
            except ValueError as error:
                raise ValueError(f"The file is damaged: {error}.") from None

        if not apart:
            model = cls.__new__(cls)
            initialize(model, config["template"])
            return model
        # The vocabulary comes with the weights, and without it there is no model. So what Keras
        # gets now is made when it loads the weights, in `load_own_variables`.
        model = cls.__new__(cls)
        model.name, model.built = config.get("name"), True

        def make(vocab):
            if vocabulary_fingerprint(vocab) != tokenizer["vocab"]:
                raise ValueError("The file has another vocabulary than its model: it is damaged.")
            initialize(model, {**config["template"], "tokenizer": {**tokenizer, "vocab": vocab}})

        model._make = make
        return model


class CountEpochs(keras.callbacks.Callback):
    """Lets the epochs of a dataset continue where its last training stopped.

    Args:
        dataset: The `ClozeDataset` that counts.
        read: The one that is read: the same, or a copy with other weights.
    """

    def __init__(self, dataset, read):
        super().__init__()
        self.dataset, self.read, self.offset = dataset, read, None
        # Keras may count an epoch before the first one begins.
        self.done = dataset.epoch

    def on_epoch_begin(self, epoch, logs=None):
        if self.offset is None:
            # Only now: `BackupAndRestore` says at the beginning of training which epoch is first.
            self.offset = max(self.done - epoch, 0)
        self.read.epoch = epoch + self.offset

    def on_epoch_end(self, epoch, logs=None):
        self.dataset.epoch = epoch + self.offset + 1


def divergences(log_p, log_q):
    """The Kullback-Leibler divergence of each row."""
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)


def mean_over_texts(values, x):
    """The mean of a number of each text, where some rows of `x` may only fill up the batch."""
    is_text = x.get("is_text", ops.ones_like(values))
    count = ops.maximum(sum_over_replicas(ops.sum(is_text)), 1.0)
    return ops.sum(ops.multiply(values, is_text)) / count


def _policy(dtype, methods):
    """A dtype policy that training can use.

    The steps of an optimizer are too small for variables in half precision: with bfloat16 nothing
    changes, and with float16 all overflows. A mixed policy has its variables in float32. Frozen
    weights may stay in bfloat16: what a method adds is in float32 by itself.
    """
    policy = keras.dtype_policies.get(dtype)
    frozen = not any(isinstance(method, All) for method in methods)
    if policy.name not in ("bfloat16", "float16") or (policy.name == "bfloat16" and frozen):
        return policy
    mixed = f"mixed_{policy.name}"
    warnings.warn(
        f"Variables of the type {policy.name} cannot be trained, so the model computes in "
        f"{policy.name} and keeps its variables in float32. Use dtype={mixed!r} to say so. "
        f"Received: dtype={policy.name!r}.",
        stacklevel=6,
    )
    return keras.dtype_policies.get(mixed)


def _current_config(config):
    """A model's configuration, of this version or of 0.1.0, where `tune` was three arguments."""
    if "tune" in config:
        return config
    config = dict(config)
    trainable = config.pop("trainable", "all")
    encoder, start = config.pop("prompt_encoder", None), config.pop("prompt_start", "unused")
    methods = [All()] if trainable == "all" else []
    if encoder is not None or start != "unused":
        methods.append(Prompt(start=start, encoder=encoder))
    return {**config, "tune": [method_to_config(method) for method in methods]}
