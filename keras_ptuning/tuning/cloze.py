"""The cloze model: a transformer, a template's answer positions, and a verbalizer."""

import hashlib
import math
import os

import keras
import numpy as np
from keras import ops

from keras_ptuning.data import ClozeDataset
from keras_ptuning.files import replacing
from keras_ptuning.layers import Bias, PtuningEmbedding, Verbalizer
from keras_ptuning.models import build_transformer_model, is_causal, read_config
from keras_ptuning.templates import Template
from keras_ptuning.tuning.nan import StopAtNaN
from keras_ptuning.tuning.prompts import start_vectors, write_prompt


@keras.saving.register_keras_serializable(package="keras_ptuning")
class LabelAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """How often the best label is the right one; texts without a label do not count."""

    def __init__(self, name="accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        labeled = ops.cast(ops.reshape(y_true, (-1,)) >= 0, "float32")
        weights = labeled
        if sample_weight is not None:
            weights = weights * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        super().update_state(ops.maximum(y_true, 0), y_pred, weights)


@keras.saving.register_keras_serializable(package="keras_ptuning")
class ClozeModel(keras.Model):
    """A classifier that fills in the masks of a template.

    Made by `build_ptuning_model`, whose documentation has the arguments. It is trained and used
    like any Keras model, on what `template.dataset(...)` or `template.encode(...)` return:

    - `fit` minimises the mean cross-entropy over the answer positions and, with `auxiliary`, the
      positions of the auxiliary task (which the batches of `template.dataset` bring along, and the
      arrays of `template.encode` do not): those masked at random, or with a causal template all
      words of the text; dropout is on.
    - `evaluate` gives the answer's part of the loss alone, and the label accuracy, both on
      unmasked texts.
    - `predict` returns the log-probability of each label, `(n, num_labels)`, in the order of the
      texts. `template.decode(scores)` turns them into labels, `keras.ops.softmax(scores)` into
      probabilities among the labels.

    Attributes:
        template: The `Template`.
        backbone: The functional Keras model inside, with the layers of the transformer.
    """

    def __init__(
        self,
        config,
        template,
        trainable="prompt",
        normalization="vocabulary",
        auxiliary=True,
        prompt_encoder=None,
        prompt_start="unused",
        checkpoint_path=None,
        name=None,
        **kwargs,
    ):
        # Written down, so that a saved model keeps the policy that was global when it was made.
        kwargs["dtype"] = keras.dtype_policies.get(
            kwargs.get("dtype") or keras.config.dtype_policy()
        )
        if kwargs.get("keep_tokens") is not None:
            kwargs["keep_tokens"] = [int(i) for i in kwargs["keep_tokens"]]
        super().__init__(name=name, dtype=kwargs["dtype"])
        for argument, value, expected in (
            ("trainable", trainable, ("prompt", "all")),
            ("normalization", normalization, ("vocabulary", "labels")),
        ):
            if value not in expected:
                raise ValueError(
                    f"`{argument}` must be one of {expected}. Received: {argument}={value!r}."
                )
        self.template = template
        self.tuned = trainable
        self.normalization = normalization
        self.auxiliary = auxiliary
        self.prompt_encoder = prompt_encoder
        self.prompt_start = prompt_start
        self._init_config = {"config": config, **kwargs}
        self.backbone = _build_backbone(
            config, checkpoint_path, template, trainable, prompt_encoder, prompt_start, **kwargs
        )
        self.verbalizer = Verbalizer(
            template.word_ids, template.word_slots, dtype="float32", name="Verbalizer"
        )
        self.built = True
        if keras.backend.backend() == "tensorflow":
            # XLA would compile anew for each length of batch, and is no faster on a CPU.
            self.jit_compile = False

    @property
    def embedding(self):
        """The `PtuningEmbedding`.

        Raises:
            ValueError: if the template has no virtual tokens.
        """
        embedding = self.backbone.get_layer("Embedding-Token")
        if not isinstance(embedding, PtuningEmbedding):
            raise ValueError(
                f"The template {self.template.pattern!r} has no virtual tokens [u1], [u2]..., and "
                "its label words none that learn, so there is no prompt."
            )
        return embedding

    @property
    def prompt(self):
        """The variable behind the vectors of the tokens that learn, or `None` without any."""
        return getattr(self.backbone.get_layer("Embedding-Token"), "prompt", None)

    def build(self, input_shape):
        pass

    def call(self, inputs, training=False):
        inputs = {name: ops.convert_to_tensor(array) for name, array in inputs.items()}
        auxiliary = training and self.auxiliary and "auxiliary_ids" in inputs
        answers = inputs["mask_positions"]
        token_ids, positions = inputs["token_ids"], answers
        if auxiliary:
            token_ids = inputs.get("masked_token_ids", token_ids)
            positions = ops.concatenate([answers, inputs["auxiliary_positions"]], axis=1)
        named = {
            "Input-Token": token_ids,
            "Input-Segment": inputs["segment_ids"],
            "Input-Reach": inputs.get("reach"),
            "Input-Gather": positions,
        }
        logits = self.backbone([named[x.name] for x in self.backbone.inputs], training=training)
        count = ops.shape(answers)[1]
        scores = self.verbalizer(
            logits[:, :count], inputs.get("candidate_ids"), inputs.get("candidate_slots")
        )
        if not auxiliary:
            return scores
        targets = inputs["auxiliary_ids"]
        weights = ops.cast(ops.not_equal(targets, 0), "float32")
        losses = keras.losses.sparse_categorical_crossentropy(
            targets, logits[:, count:], from_logits=True
        )
        return {
            "scores": scores,
            "auxiliary_loss": ops.sum(losses * weights),
            "auxiliary_count": ops.sum(weights),
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        auxiliary = y_pred if isinstance(y_pred, dict) else {}
        scores = auxiliary.get("scores", y_pred)
        if self.normalization == "labels":
            scores = ops.log_softmax(scores)
        y = ops.reshape(ops.cast(y, "int32"), ops.shape(scores)[:1])
        # A text without a label is in no column.
        chosen = ops.one_hot(y, ops.shape(scores)[-1], dtype=scores.dtype)
        losses = -ops.sum(ops.where(chosen > 0, scores, 0.0), axis=-1)
        if sample_weight is not None:
            losses = losses * ops.reshape(ops.cast(sample_weight, losses.dtype), (-1,))
        # As in the original script, every predicted position counts the same.
        total = ops.sum(losses) + auxiliary.get("auxiliary_loss", 0.0)
        answers = ops.sum(ops.cast(y >= 0, "float32")) * self.template.num_masks
        return total / ops.maximum(answers + auxiliary.get("auxiliary_count", 0.0), 1.0)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        scores = y_pred["scores"] if isinstance(y_pred, dict) else y_pred
        return super().compute_metrics(x, y, scores, sample_weight)

    def compile(self, optimizer=None, loss=None, prompt_optimizer=None, **kwargs):
        """Configures training.

        Args:
            optimizer: Defaults to Adam with the learning rate 6e-4 for a prompt, 2e-5 for a
                whole model.
            loss: Must be `None`: the loss is chosen when building the model.
            prompt_optimizer: Optional optimizer of the virtual tokens alone, e.g. with a larger
                learning rate, `model.compile(Adam(2e-5), prompt_optimizer=Adam(1e-2))`, where the
                whole model trains.
            **kwargs: Other arguments of `keras.Model.compile`. `metrics` defaults to the
                accuracy of the labels.
        """
        if loss is not None:
            raise ValueError(
                "A ClozeModel has its own loss; choose it with `normalization` and `auxiliary` "
                f"when building the model. Received: loss={loss!r}."
            )
        if optimizer is None:
            optimizer = keras.optimizers.Adam(6e-4 if self.tuned == "prompt" else 2e-5)
        if prompt_optimizer is not None:
            if self.prompt is None:
                raise ValueError(
                    f"The template {self.template.pattern!r} has no tokens that learn: leave out "
                    "`prompt_optimizer`."
                )
            optimizer, prompt_optimizer = map(keras.optimizers.get, (optimizer, prompt_optimizer))
            # By its path, which ends so: the vectors, and the layers that make them.
            own = {r"(.*/)?(prompt|prompt_encoder/.*)": prompt_optimizer}
            optimizer = keras.optimizers.MultiOptimizer(
                keras.optimizers.OptimizerMap(optimizer, own)
            )
        kwargs.setdefault("metrics", [LabelAccuracy()])
        if keras.backend.backend() == "tensorflow":
            kwargs.setdefault("jit_compile", False)
        super().compile(optimizer=optimizer, **kwargs)

    def compile_from_config(self, config):
        # Keras leaves this to models with a `compile` of their own.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, y=None, batch_size=None, epochs=1, *, validation_data=None, **kwargs):
        """Trains the model, as `keras.Model.fit` does.

        A dataset's epochs go on where its last training stopped, so that its batches and masks
        differ each time; set `dataset.epoch = 0` to repeat them.

        Raises:
            FloatingPointError: if the loss, or a weight, is not finite. The model has the weights
                of the best epoch then, by `val_loss` or else `loss`.
            ValueError: if nothing would be trained, or the data are those of another template.
        """
        if not self.trainable_variables:
            reason = (
                "all of the model is frozen"
                if self.prompt is not None
                else f"the template {self.template.pattern!r} has no virtual tokens [u1], [u2]..., "
                'and the rest is frozen. Build the model with `trainable="all"` to train it whole'
            )
            raise ValueError(f"Nothing would be trained: {reason}.")
        callbacks = kwargs.pop("callbacks", None) or []
        callbacks = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
        # First, so that whatever writes weights afterwards writes good ones.
        stop_at_nan = StopAtNaN(x if isinstance(x, ClozeDataset) else None)
        callbacks = [stop_at_nan, *callbacks]
        if isinstance(x, ClozeDataset):
            if kwargs.get("steps_per_epoch"):
                raise ValueError(
                    "An epoch of a template's dataset is all of it: leave out `steps_per_epoch`."
                )
            start = kwargs.get("initial_epoch", 0)
            offset = max(x.epoch - start, 0)
            count_epochs = keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda epoch, logs: setattr(x, "epoch", epoch + offset),
                on_epoch_end=lambda epoch, logs: setattr(x, "epoch", epoch + offset + 1),
            )
            callbacks.insert(0, count_epochs)
            # The dataset shuffles by its own seed.
            kwargs["shuffle"] = False
            if x.has_unlabeled and (not self.auxiliary or kwargs.get("class_weight")):
                raise ValueError(
                    "Only the auxiliary task learns from unlabelled texts, which are in no class. "
                    "Build the model with `auxiliary=True`, without `class_weight`, or leave "
                    "these texts out."
                )
        history = super().fit(
            self._checked(x, "fit"),
            self._checked_labels(y, x),
            batch_size,
            epochs,
            validation_data=self._checked(validation_data, "evaluate"),
            callbacks=callbacks,
            **kwargs,
        )
        if stop_at_nan.error is not None:
            raise stop_at_nan.error
        return history

    def evaluate(self, x=None, y=None, batch_size=None, **kwargs):
        """Evaluates the model, as `keras.Model.evaluate` does; zero-shot, without `compile` too."""
        if not self.compiled:
            self.compile()
        x, y = self._checked(x, "evaluate"), self._checked_labels(y, x)
        return super().evaluate(x, y, batch_size, **kwargs)

    def predict(self, x, batch_size=None, **kwargs):
        if not isinstance(x, ClozeDataset):
            return super().predict(x, batch_size, **kwargs)
        if kwargs.get("steps"):
            raise ValueError("To predict some of the texts, make a dataset of these; not `steps`.")
        dataset, order = x.by_length()
        sorted_scores = super().predict(self._checked(dataset, "predict"), **kwargs)
        scores = sorted_scores.copy()
        scores[order] = sorted_scores
        return scores

    def _checked_labels(self, y, x):
        """Refuses labels that would train wrongly without a word; returns them flat."""
        if y is None:
            return None
        y = ops.convert_to_numpy(y) if ops.is_tensor(y) else np.asarray(y)
        if y.shape not in ((len(y),), (len(y), 1)):
            raise ValueError(f"`y` must have the shape (n,). Received: shape {y.shape}.")
        if y.dtype.kind not in "iub":
            raise TypeError(
                "`y` must be the numbers of the labels, as `template.label_ids(labels)` gives "
                f"them. Received: numbers of the type {y.dtype}, beginning with {y[:3].tolist()}."
            )
        names = self.template.label_names
        count = x["candidate_ids"].shape[1] if names is None else len(names)
        outside = y[(y < 0) | (y >= count)]
        if outside.size:
            raise ValueError(
                f"`y` must be from 0 to {count - 1}, the places of "
                f"{names or 'the candidates'}. Received: {outside[:5].tolist()}."
            )
        return y.reshape(-1)

    def _checked(self, data, purpose):
        """Refuses a dataset of another template; returns what Keras is to iterate over."""
        if not isinstance(data, ClozeDataset):
            return data
        if purpose != "predict" and data.label_ids is None:
            raise ValueError(
                "Training and evaluation need labels: `template.dataset(texts, labels)`."
            )
        if purpose == "evaluate" and data.has_unlabeled:
            raise ValueError("Evaluation needs labels: make a dataset without `unlabeled` texts.")
        for name in ("pattern", "labels", "label_names", "causal"):
            theirs, ours = getattr(data.template, name), getattr(self.template, name)
            if theirs != ours:
                raise ValueError(
                    "The dataset was made with another template than the model's. Received: "
                    f"{name} {theirs!r} instead of {ours!r}."
                )
        if data.template.tokenizer.get_config() != self.template.tokenizer.get_config():
            raise ValueError(
                "The dataset was made with another vocabulary than the model's, or other settings "
                "of its tokenizer."
            )
        if data.template.maxlen > self.template.maxlen:
            raise ValueError(
                "The dataset has longer texts than the model was made for. Received: "
                f"maxlen={data.template.maxlen} instead of {self.template.maxlen}."
            )
        return data.to_tf_data() if keras.backend.backend() == "tensorflow" else data

    def summary(self, *args, print_fn=None, **kwargs):
        """Prints the layers, and how many of the numbers in them are trained."""
        self.backbone.summary(*args, print_fn=print_fn, **kwargs)
        trained = sum(math.prod(v.shape) for v in self.trainable_variables)
        total = self.count_params()
        line = f"Trained: {trained:,} of {total:,} parameters ({trained / total:.3%})"
        if self._only_prompt_trains():
            line += ", the vectors of {} tokens x {}".format(*self.prompt.shape)
            line += f" and their {self.prompt_encoder} encoder" if self.prompt_encoder else ""
        (print_fn or print)(line)

    def _only_prompt_trains(self):
        if self.prompt is None or not self.trainable_variables:
            return False
        own = {id(v) for v in self.embedding.trainable_variables}
        frozen_table = not self.embedding.embeddings.trainable
        return frozen_table and all(id(v) in own for v in self.trainable_variables)

    def save(self, filepath, overwrite=True, **kwargs):
        """Saves the whole model; the file of that name is replaced only by a complete one."""
        if not os.fspath(filepath).endswith(".keras"):
            raise ValueError(f"Expected a name that ends in .keras. Received: {filepath!r}.")
        if not overwrite and os.path.exists(filepath):
            raise FileExistsError(f"The file {filepath!r} exists, and `overwrite` is False.")
        with replacing(filepath) as temporary:
            super().save(temporary, **kwargs)

    def save_prompt(self, filepath):
        """Saves the tuned prompt by itself: some kilobytes, to be used with `load_prompt`.

        Where an encoder made the vectors, they are saved as it makes them now, without it.

        The file holds the vectors of the tokens that learn, the template with its labels, and
        fingerprints of the frozen weights and of the vocabulary, without which the vectors mean
        nothing.

        Args:
            filepath: Path of the file to write, e.g. `"sentiment.prompt"`.

        Raises:
            ValueError: if the prompt alone is not the result of the training: the template has
                no tokens that learn, or other weights train too.
        """
        if not self._only_prompt_trains():
            reason = "has no virtual tokens" if self.prompt is None else "trains more than these"
            raise ValueError(
                f"The virtual tokens by themselves are not this model: it {reason}. Save all of "
                "it with `model.save(...)`."
            )
        write_prompt(
            filepath,
            ops.convert_to_numpy(self.embedding.vectors()),
            {"template": self.template.get_config(), "backbone": self.fingerprint()},
            self.embedding.start,
        )

    def fingerprint(self):
        """A SHA-256 of all weights but the prompt: the same for the same checkpoint."""
        digest = hashlib.sha256()
        for layer in self.backbone.layers:
            is_prompt = isinstance(layer, PtuningEmbedding)
            for variable in [layer.embeddings] if is_prompt else layer.weights:
                value = ops.convert_to_numpy(variable)
                digest.update(f"{layer.name} {value.shape} {value.dtype}".encode())
                digest.update(value.tobytes())
        return digest.hexdigest()

    def get_config(self):
        if not isinstance(self._init_config.get("model", ""), str):
            raise ValueError(
                "A model with an architecture of your own cannot be saved whole. Save its weights "
                f"with `save_weights`. Received: model={self._init_config['model']!r}."
            )
        return {
            **self._init_config,
            "dtype": self.dtype_policy.name,
            "template": self.template.get_config(),
            "trainable": self.tuned,
            "normalization": self.normalization,
            "auxiliary": self.auxiliary,
            "prompt_encoder": self.prompt_encoder,
            "prompt_start": self.prompt_start,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "template": Template.from_config(config["template"])})


def _build_backbone(
    config, checkpoint_path, template, trainable, prompt_encoder, prompt_start, **kwargs
):
    """A transformer whose head works at given positions, with the template's tokens laid in."""
    fixed = {"layers", "with_mlm", "with_pool", "gather_positions", "sequence_length"}
    fixed = (fixed | {"causal", "branching", "document_start_id"}) & set(kwargs)
    if fixed:
        raise ValueError(f"A cloze model sets {sorted(fixed)} itself; leave them out.")
    if template.causal != is_causal(config, kwargs.get("model"), kwargs.get("application")):
        need = (
            "A causal template needs a causal language model, such as 'gpt-mini-zh'; for a BERT "
            "that was trained as one, give application='lm'"
            if template.causal
            else "A causal language model needs a causal template, whose [MASK] comes last: "
            "Template(..., causal=True)"
        )
        raise ValueError(f"{need}. Received: the template {template.pattern!r}.")
    settings = {**read_config(config), **kwargs}
    keep_tokens = settings.get("keep_tokens")
    vocab_size = settings["vocab_size"] if keep_tokens is None else len(keep_tokens)
    if template.tokenizer.vocab_size != vocab_size:
        raise ValueError(
            f"The vocabulary does not belong to this checkpoint: it has "
            f"{template.tokenizer.vocab_size} tokens, and the model {vocab_size} embeddings."
        )
    positions = settings["max_position"]
    if template.maxlen > positions:
        raise ValueError(
            f"The template makes texts of up to {template.maxlen} tokens, and the model has "
            f"{positions} positions. Use `Template(..., maxlen={positions})` or less."
        )
    tuned_ids = template.virtual_ids + template.label_token_ids
    if prompt_start != "unused" and not tuned_ids:
        raise ValueError(
            f"The template {template.pattern!r} has no tokens that learn: leave out "
            f"`prompt_start`. Received: prompt_start={prompt_start!r}."
        )
    if prompt_encoder is not None and not template.virtual_ids:
        raise ValueError(
            "A prompt encoder needs virtual tokens [u1], [u2]... to make. Received: "
            f"prompt_encoder={prompt_encoder!r} with the template {template.pattern!r}."
        )
    layers = {}
    if tuned_ids:
        layers["Embedding-Token"] = PtuningEmbedding(
            vocab_size,
            settings["hidden_size"],
            tuned_ids=tuned_ids,
            table_trainable=trainable == "all",
            prompt_encoder=prompt_encoder,
            num_encoded=len(template.virtual_ids),
            embeddings_initializer=keras.initializers.TruncatedNormal(
                stddev=settings["initializer_range"]
            ),
            dtype=kwargs["dtype"],
            name="Embedding-Token",
        )
    backbone = build_transformer_model(
        config,
        checkpoint_path,
        with_mlm="linear",
        gather_positions=True,
        branching=template.causal,
        layers=layers,
        name="backbone",
        **kwargs,
    )
    if trainable == "prompt":
        for layer in backbone.layers:
            if not isinstance(layer, PtuningEmbedding):
                layer.trainable = False
    if tuned_ids:
        embedding = layers["Embedding-Token"]
        bias = next((layer.bias for layer in backbone.layers if isinstance(layer, Bias)), None)
        vectors = start_vectors(
            prompt_start,
            template,
            ops.convert_to_numpy(embedding.embeddings),
            # How much a head favours each token follows how frequent it was.
            None if bias is None else ops.convert_to_numpy(bias),
            np.random.default_rng(np.random.randint(2**31)),
            settings["initializer_range"],
        )
        embedding.start_from(vectors)
    return backbone
