"""The cloze model: a transformer, a template's answer positions, and a verbalizer."""

import hashlib
import math
import os

import keras
from keras import ops

from keras_ptuning.data import ClozeDataset
from keras_ptuning.files import replacing
from keras_ptuning.layers import PtuningEmbedding, Verbalizer
from keras_ptuning.models import build_transformer_model, read_config
from keras_ptuning.templates import Template
from keras_ptuning.tuning.prompts import write_prompt

NORMALIZATIONS = ("vocabulary", "labels")


@keras.saving.register_keras_serializable(package="keras_ptuning")
class ClozeModel(keras.Model):
    """A classifier that fills in the masks of a template.

    Made by `build_ptuning_model`, whose documentation has the arguments. It is trained and used
    like any Keras model, on what `template.dataset(...)` or `template.encode(...)` return:

    - `fit` minimises the mean cross-entropy over the answer positions and, with `auxiliary`, the
      positions masked at random; dropout is on.
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
        checkpoint_path=None,
        name=None,
        **kwargs,
    ):
        super().__init__(name=name)
        for argument, value, expected in (
            ("trainable", trainable, ("prompt", "all")),
            ("normalization", normalization, NORMALIZATIONS),
        ):
            if value not in expected:
                raise ValueError(
                    f"`{argument}` must be one of {expected}. Received: {argument}={value!r}."
                )
        self.template = template
        self.tuned = trainable
        self.normalization = normalization
        self.auxiliary = auxiliary
        self._init_config = {"config": config, **kwargs}
        self.backbone = _build_backbone(config, checkpoint_path, template, trainable, **kwargs)
        self.verbalizer = Verbalizer(template.word_ids, name="Verbalizer")
        self.built = True
        if keras.backend.backend() == "tensorflow":
            # XLA would compile anew for each length of batch, and is no faster on a CPU.
            self.jit_compile = False

    @property
    def prompt(self):
        """The variable with the virtual tokens' vectors, or `None` if there are none."""
        return getattr(self.backbone.get_layer("Embedding-Token"), "prompt", None)

    def build(self, input_shape):
        pass

    def call(self, inputs, training=False):
        auxiliary = training and self.auxiliary and "masked_token_ids" in inputs
        answers = inputs["mask_positions"]
        token_ids, positions = inputs["token_ids"], answers
        if auxiliary:
            token_ids = inputs["masked_token_ids"]
            positions = ops.concatenate([answers, inputs["auxiliary_positions"]], axis=1)
        logits = self.backbone([token_ids, inputs["segment_ids"], positions], training=training)
        scores = self.verbalizer(logits[:, : self.template.num_masks])
        if not auxiliary:
            return scores
        targets = inputs["auxiliary_ids"]
        weights = ops.cast(ops.not_equal(targets, 0), "float32")
        losses = keras.losses.sparse_categorical_crossentropy(
            targets, logits[:, self.template.num_masks :], from_logits=True
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
        chosen = ops.one_hot(ops.cast(y, "int32"), scores.shape[-1], dtype=scores.dtype)
        losses = -ops.sum(scores * chosen, axis=-1)
        if sample_weight is not None:
            losses = losses * ops.cast(sample_weight, losses.dtype)
        # As in the original script, every predicted position counts the same.
        total = ops.sum(losses) + auxiliary.get("auxiliary_loss", 0.0)
        answers = ops.cast(ops.shape(losses)[0] * self.template.num_masks, "float32")
        return total / (answers + auxiliary.get("auxiliary_count", 0.0))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        scores = y_pred["scores"] if isinstance(y_pred, dict) else y_pred
        return super().compute_metrics(x, y, scores, sample_weight)

    def compile(self, optimizer=None, loss=None, **kwargs):
        """Configures training.

        Args:
            optimizer: Defaults to Adam with the learning rate 6e-4 for a prompt, 2e-5 for a
                whole model.
            loss: Must be `None`: the loss is chosen when building the model.
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
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        kwargs.setdefault("metrics", [accuracy])
        if keras.backend.backend() == "tensorflow":
            kwargs.setdefault("jit_compile", False)
        super().compile(optimizer=optimizer, **kwargs)

    def compile_from_config(self, config):
        # Keras leaves this to models with a `compile` of their own.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, y=None, *, validation_data=None, callbacks=None, **kwargs):
        if not self.trainable_variables:
            raise ValueError(
                f"Nothing would be trained: the template {self.template.pattern!r} has no virtual "
                "tokens [u1], [u2]..., and the rest of the model is frozen. Build the model with "
                '`trainable="all"` to train it whole.'
            )
        if isinstance(x, ClozeDataset):
            if x.label_ids is None:
                raise ValueError("Training needs labels: `template.dataset(texts, labels)`.")
            set_epoch = keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda epoch, logs: setattr(x, "epoch", epoch)
            )
            callbacks = [set_epoch, *_as_list(callbacks)]
            # The dataset shuffles by its own seed.
            kwargs["shuffle"] = False
        return super().fit(
            _batches(x),
            y,
            validation_data=_batches(validation_data),
            callbacks=callbacks,
            **kwargs,
        )

    def evaluate(self, x=None, y=None, **kwargs):
        return super().evaluate(_batches(x), y, **kwargs)

    def predict(self, x, **kwargs):
        if not isinstance(x, ClozeDataset):
            return super().predict(x, **kwargs)
        dataset, order = x.by_length()
        sorted_scores = super().predict(_batches(dataset), **kwargs)
        scores = sorted_scores.copy()
        scores[order] = sorted_scores
        return scores

    def summary(self, *args, print_fn=None, **kwargs):
        """Prints the layers, and how many of the numbers in them are trained."""
        self.backbone.summary(*args, print_fn=print_fn, **kwargs)
        trained = sum(math.prod(v.shape) for v in self.trainable_variables)
        total = self.count_params()
        prompt = self.prompt
        line = f"Trained: {trained:,} of {total:,} parameters ({trained / total:.3%})"
        if self.tuned == "prompt" and prompt is not None:
            line += ", the vectors of {} virtual tokens x {}".format(*prompt.shape)
        (print_fn or print)(line)

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

        The file holds the virtual tokens' vectors, the template with its labels, and fingerprints
        of the frozen weights and of the vocabulary, without which the vectors mean nothing.

        Args:
            filepath: Path of the file to write, e.g. `"sentiment.prompt"`.

        Raises:
            ValueError: if the prompt alone is not the result of the training: the template has
                no virtual tokens, or the model was built with `trainable="all"`.
        """
        if self.tuned != "prompt" or self.prompt is None:
            raise ValueError(
                "This model is more than its prompt: it "
                + ("was trained whole" if self.tuned == "all" else "has no virtual tokens")
                + ". Save all of it with `model.save(...)`."
            )
        write_prompt(
            filepath,
            ops.convert_to_numpy(self.prompt),
            {"template": self.template.get_config(), "backbone": self.fingerprint()},
        )

    def fingerprint(self):
        """A SHA-256 of all weights but the prompt: the same for the same checkpoint."""
        digest = hashlib.sha256()
        for layer in self.backbone.layers:
            for variable in layer.weights:
                if variable is not self.prompt:
                    value = ops.convert_to_numpy(variable)
                    digest.update(f"{layer.name} {value.shape} {value.dtype}".encode())
                    digest.update(value.tobytes())
        return digest.hexdigest()

    def get_config(self):
        return {
            **self._init_config,
            "template": self.template.get_config(),
            "trainable": self.tuned,
            "normalization": self.normalization,
            "auxiliary": self.auxiliary,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "template": Template.from_config(config["template"])})


def _build_backbone(config, checkpoint_path, template, trainable, **kwargs):
    """A transformer whose head works at given positions, with the template's tokens laid in."""
    settings = {**read_config(config), **kwargs}
    vocab_size = len(settings.get("keep_tokens") or range(settings["vocab_size"]))
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
    layers = {}
    if template.virtual_ids:
        layers["Embedding-Token"] = PtuningEmbedding(
            vocab_size,
            settings["hidden_size"],
            tuned_ids=template.virtual_ids,
            table_trainable=trainable == "all",
            embeddings_initializer=keras.initializers.TruncatedNormal(
                stddev=settings["initializer_range"]
            ),
            dtype=kwargs.get("dtype"),
            name="Embedding-Token",
        )
    backbone = build_transformer_model(
        config,
        checkpoint_path,
        with_mlm="linear",
        gather_positions=True,
        layers=layers,
        name="backbone",
        **kwargs,
    )
    if layers:
        layers["Embedding-Token"].reset_prompt()
    if trainable == "prompt":
        for layer in backbone.layers:
            if not isinstance(layer, PtuningEmbedding):
                layer.trainable = False
    return backbone


def _batches(data):
    """What Keras's own loops should iterate over."""
    if isinstance(data, ClozeDataset) and keras.backend.backend() == "tensorflow":
        return data.to_tf_data()
    return data


def _as_list(callbacks):
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
