"""P-tuning on a live bert4keras model, for scripts that stay on bert4keras and tf_keras.

Needs bert4keras 0.11.5 tf_keras and TensorFlow, and two variables of the environment:

    pip install --no-deps bert4keras==0.11.5 tf-keras
    TF_KERAS=1 TF_USE_LEGACY_KERAS=1 python script.py

The templates, their datasets and the label scores are those of `keras_ptuning`. A script imports
this module before bert4keras itself, which otherwise takes the place of Keras in the process:

    from keras_ptuning import Template
    from keras_ptuning.bert4keras import build_ptuning_model
    from bert4keras.tokenizers import Tokenizer
"""

import contextlib
import hashlib
import inspect
import os
import sys
import warnings

import keras
import numpy as np

from keras_ptuning.backend import as_batches
from keras_ptuning.checkpoints import TensorFlowCheckpoint
from keras_ptuning.layers import Verbalizer
from keras_ptuning.layers.feed_forward import gelu, gelu_new, get_activation
from keras_ptuning.methods import Prompt, method_to_config
from keras_ptuning.methods.prompt import start_vectors
from keras_ptuning.models import find_model, load_config, pretrained_weights
from keras_ptuning.models.heads import has_head, untrained_evidence
from keras_ptuning.models.names import tensors_of
from keras_ptuning.models.weights import (
    NamedTensors,
    check_checkpoint,
    match_weights,
    read_weight,
)
from keras_ptuning.text.batches import ClozeDataset
from keras_ptuning.tuning.tuned_file import write_tuned

_NEEDS = (
    "`keras_ptuning.bert4keras` needs bert4keras 0.11.5 on tf_keras: "
    "`pip install --no-deps bert4keras==0.11.5 tf-keras`, and in the environment, before Python "
    "starts, `TF_KERAS=1 TF_USE_LEGACY_KERAS=1`. "
)


@contextlib.contextmanager
def _keras_kept():
    """Lets bert4keras find its own Keras under the name `keras`, and ours again afterwards."""

    def taken():
        names = ("keras", "tensorflow.keras")
        return [n for n in sys.modules if n in names or n.startswith(tuple(f"{m}." for m in names))]

    ours = {name: sys.modules.pop(name) for name in taken()}
    try:
        yield
    finally:
        for name in taken():
            del sys.modules[name]
        sys.modules.update(ours)


def _check_environment():
    if keras.backend.backend() != "tensorflow":
        raise ImportError(
            f"{_NEEDS}Keras must run on TensorFlow too. Received: the backend "
            f"{keras.backend.backend()!r}; unset KERAS_BACKEND."
        )
    names = ("TF_KERAS", "TF_USE_LEGACY_KERAS")
    unset = [n for n in names if os.environ.get(n, "").lower() not in ("1", "true")]
    if unset:
        raise ImportError(f"{_NEEDS}Not set: {' and '.join(unset)}.")


_check_environment()
try:
    with _keras_kept():
        import bert4keras.layers
        import bert4keras.models
        import bert4keras.snippets
        import bert4keras.tokenizers
        import tensorflow as tf
        import tf_keras

        _is_tf_keras = tf.keras.Model is tf_keras.Model
except ImportError as error:
    raise ImportError(f"{_NEEDS}Importing it failed: {error}.") from error
if not _is_tf_keras or not issubclass(bert4keras.layers.ScaleOffset, tf_keras.layers.Layer):
    raise ImportError(
        f"{_NEEDS}Here bert4keras got another Keras. Set the variables before TensorFlow is "
        "imported, and import `keras_ptuning.bert4keras` before bert4keras."
    )

# bert4keras's classes of the architectures whose MLM head is BERT's, and such that only bert4keras
# has, and reads by itself.
BRIDGED = {
    "albert": bert4keras.models.ALBERT,
    "bert": bert4keras.models.BERT,
    "nezha": bert4keras.models.NEZHA,
    "roformer": bert4keras.models.RoFormer,
}
ONLY_THERE = {"albert_unshared": bert4keras.models.ALBERT_Unshared}
# Arguments of bert4keras that the bridge gives.
RESERVED = {"layers", "with_mlm", "with_pool", "with_nsp", "prefix", "return_keras_model"}

__all__ = ["ClozeModel", "PtuningEmbedding", "build_ptuning_model", "copy_weights"]


@tf_keras.utils.register_keras_serializable(package="keras_ptuning")
class PtuningEmbedding(bert4keras.layers.Embedding):
    """A token embedding of bert4keras of which only chosen rows learn.

    It does what `keras_ptuning.PtuningEmbedding` does: the chosen rows are a small variable
    `prompt` laid over the table, in lookups and in the projection back to the vocabulary; so
    gradients and optimizer state have `len(tuned_ids)` rows.

    bert4keras loads a checkpoint into weights that train, so the table does at first. Once it is
    loaded, call `reset_prompt` and set `table_trainable = False`; `build_ptuning_model` does both.

    Args:
        input_dim: Integer. Size of the vocabulary.
        output_dim: Integer. Size of an embedding.
        tuned_ids: List of integers, the token ids whose rows learn. Ids of `input_dim` and above
            are additional tokens, which can be looked up but are not predicted.
        table_trainable: Whether the other rows learn too. Defaults to `True`, and can be set.
        **kwargs: Other arguments of bert4keras's `Embedding`, such as `mask_zero` and `name`.

    Call arguments:
        inputs: Tensor of token ids, `(batch, length)`. With `mode="dense"`, a tensor of shape
            `(batch, length, output_dim)`.
        mode: `"embedding"`, or `"dense"` to project back to the vocabulary.

    Returns:
        Tensor of shape `(batch, length, output_dim)`; with `mode="dense"`,
        `(batch, length, input_dim)`.

    Raises:
        ValueError: if `tuned_ids` is empty, has an id twice, or a negative one.

    Attributes:
        prompt: Variable of shape `(len(tuned_ids), output_dim)`, the rows that learn.
        start: Array of the same shape, what they were before training.

    Example:

    ```python
    embedding = PtuningEmbedding(21128, 768, range(1, 9), mask_zero=True, name="Embedding-Token")
    model = bert4keras.models.build_transformer_model(
        config_path, checkpoint_path, with_mlm=True, layers={"Embedding-Token": embedding}
    )
    for layer in model.layers:
        layer.trainable = layer is embedding
    embedding.reset_prompt()
    embedding.table_trainable = False
    ```

    Reference:
        - [Su, 2021](https://kexue.fm/archives/8295), section on stopped gradients.
    """

    def __init__(self, input_dim, output_dim, tuned_ids, table_trainable=True, **kwargs):
        super().__init__(input_dim, output_dim, **kwargs)
        tuned_ids = [int(i) for i in tuned_ids]
        if not tuned_ids or len(set(tuned_ids)) != len(tuned_ids) or min(tuned_ids) < 0:
            raise ValueError(
                "`tuned_ids` must name at least one token id, each once and none negative. "
                f"Received: tuned_ids={tuned_ids}."
            )
        self.tuned_ids = tuned_ids
        self.table_trainable = table_trainable
        self.start = None
        # Row k has its 1 at the k-th chosen id; additional tokens have none.
        self._columns = np.equal.outer(tuned_ids, np.arange(input_dim))

    def build(self, input_shape=None):
        super().build(input_shape)
        # A copy, since an initializer without a seed repeats itself.
        initializer = self.embeddings_initializer
        self.prompt = self.add_weight(
            name="prompt",
            shape=(len(self.tuned_ids), self.output_dim),
            initializer=type(initializer).from_config(initializer.get_config()),
        )
        self.reset_prompt()

    @property
    def trainable_weights(self):
        weights = super().trainable_weights
        return weights if self.table_trainable else [w for w in weights if not self._is_table(w)]

    @property
    def non_trainable_weights(self):
        weights, trainable = super().non_trainable_weights, super().trainable_weights
        frozen = [] if self.table_trainable else [w for w in trainable if self._is_table(w)]
        return frozen + weights

    def _is_table(self, variable):
        return variable is self.embeddings

    def vectors(self):
        """What lookups and projection see of the chosen rows now, in the order of `tuned_ids`."""
        return self.prompt.numpy()

    def reset_prompt(self):
        """Starts the chosen rows from the table's own; additional tokens keep their values."""
        values, ids = self.vectors(), np.array(self.tuned_ids)
        known = ids < self.input_dim
        values[known] = tf.gather(self.embeddings, ids[known]).numpy()
        self.start_from(values)

    def start_from(self, values):
        """Starts the chosen rows from `values`, and notes them in `start`."""
        self.prompt.assign(values)
        self.start = self.vectors()

    def call(self, inputs, mode="embedding"):
        if mode == "embedding":
            # bert4keras's inputs are floats.
            inputs = tf.cast(inputs, "int32")
            hit = tf.equal(inputs[..., None], self.tuned_ids)
            tuned = tf.reduce_any(hit, axis=-1)
            # Additional tokens lie beyond the table: look up any row, it is covered anyway.
            table = super().call(tf.where(tuned, 0, inputs))
            # The choice is made by a product, since its gradient is dense.
            rows = tf.matmul(tf.cast(hit, self.prompt.dtype), self.prompt)
            return tf.where(tuned[..., None], rows, table)
        logits = super().call(inputs, mode)
        if not self._columns.any():
            return logits
        tuned_logits = tf.matmul(inputs, self.prompt, transpose_b=True)
        tuned_logits = tf.matmul(tuned_logits, tf.constant(self._columns, tuned_logits.dtype))
        return tf.where(self._columns.any(axis=0), tuned_logits, logits)

    def get_config(self):
        return {
            **super().get_config(),
            "tuned_ids": self.tuned_ids,
            "table_trainable": self.table_trainable,
        }


def build_ptuning_model(
    config_path, checkpoint_path=None, template=None, tune=None, model=None, **kwargs
):
    """Builds a classifier out of a bert4keras model and a template.

    Args:
        config_path: Path of a checkpoint's folder, or of the `bert_config.json` in it, or a
            dictionary with what is in one; or the name of an embedded checkpoint,
            `"bert-mini-zh"`, `"bert-small-zh"` or `"gpt-mini-zh"`.
        checkpoint_path: The weights, with an MLM head, as `keras_ptuning.build_ptuning_model` takes
            them. `None` for those in the folder; with a configuration alone they are random.
        template: A `keras_ptuning.Template` over the checkpoint's vocabulary; with
            `application="lm"`, one with `causal=True`.
        tune: `"prompt"`, to train the template's virtual tokens and label words and freeze all
            else, or `"all"`, to train everything. Defaults to the template's tokens, if it has
            any that learn; without, the model is a zero-shot classifier.
        model: The architecture, as bert4keras takes it: `"bert"`, `"nezha"`, `"roformer"`,
            `"albert"`, or a class of these. Defaults to what the configuration and the
            checkpoint say.
        **kwargs: Other arguments of bert4keras's `build_transformer_model`: `application="lm"`
            for a causal language model with BERT's head, `dropout_rate`, `keep_tokens`...

    Returns:
        A `keras_ptuning.bert4keras.ClozeModel`, a tf_keras model.

    Raises:
        FileNotFoundError: if the configuration does not exist.
        TypeError: if `template` is not a `Template`.
        ValueError: if template and model do not fit each other, or need what only
            `keras_ptuning.build_ptuning_model` has.

    Example:

    ```python
    template = Template("[u1][u2][u3][u4][MASK][u5][u6][u7][u8]{text}",
                        labels={"负面": "不", "正面": "很"}, tokenizer="vocab.txt")
    model = build_ptuning_model("bert_config.json", "bert_model.ckpt", template)
    model.compile(tf_keras.optimizers.Adam(6e-4))
    model.fit(template.dataset(texts, labels), epochs=10)
    template.decode(model.predict(template.dataset(new_texts)))

    # The GPT of the article is a NEZHA that was trained as one:
    template = Template("[u1][u2][u3][u4]{text}[u5][u6][u7][u8][MASK]",
                        {"负面": "不", "正面": "很"}, "vocab.txt", causal=True)
    model = build_ptuning_model("config.json", "gpt.ckpt", template, model="nezha",
                                application="lm")
    ```

    Reference:
        - [Su, 2021](https://kexue.fm/archives/8295)
    """
    if not getattr(template, "is_cloze", False):
        raise TypeError(
            f"`template` must be a `keras_ptuning.Template`. Received: template={template!r}."
        )
    if tune not in (None, "prompt", "all"):
        raise ValueError(
            "On the bridge `tune` is 'prompt' or 'all'; `keras_ptuning.build_ptuning_model` has "
            f"the other methods. Received: tune={tune!r}."
        )
    if tune == "prompt" and not template.tuned_names:
        raise ValueError(
            f"The template {template.pattern!r} has no virtual tokens [u1], [u2]..., and no label "
            "word that learns, so there is no prompt to train. Received: tune='prompt'."
        )
    reserved = RESERVED & set(kwargs)
    if reserved:
        raise ValueError(f"The bridge sets {sorted(reserved)} itself; leave them out.")
    config, checkpoint, model = _find(config_path, checkpoint_path, model)
    _check_arguments(model, kwargs)
    settings = {**config, **kwargs}
    if settings.get("is_decoder"):
        settings.setdefault("application", "lm")
    _check_template(template, settings)
    activation = get_activation(settings.get("hidden_act", "gelu"))
    if activation in (gelu, gelu_new):
        settings["hidden_act"] = "gelu" if activation is gelu else "gelu_tanh"
    backbone = _build_backbone(settings, checkpoint, template, model)
    if isinstance(checkpoint, NamedTensors):
        blocks = [f"Transformer-{i}" for i in range(settings["num_hidden_layers"])]
        blocks = None if "num_hidden_layers" in kwargs else blocks
        check_checkpoint(checkpoint, blocks, tied=True)
    _freeze(backbone, template, tune, settings)
    return ClozeModel(backbone, template, tune)


def _check_arguments(model, kwargs):
    """Raises a ValueError if bert4keras would take an argument, and do nothing with it."""
    kind = {**BRIDGED, **ONLY_THERE}.get(model, model)
    functions = [f for c in kind.__mro__ for f in (c.__init__, getattr(c, "build", None)) if f]
    known = {name for f in functions for name in inspect.signature(f).parameters}
    known = (known | {"application"}) - {"self", "args", "kwargs"}
    unknown = sorted(set(kwargs) - known)
    if unknown:
        raise ValueError(
            f"bert4keras has no arguments {unknown} for a {kind.__name__}, and would do nothing "
            f"with them. Expected some of {sorted(known - RESERVED)}."
        )


def _check_template(template, settings):
    if template.labels is None or (template.causal and template.num_masks > 1):
        what = (
            "candidates of each text (`labels=None`)"
            if template.labels is None
            else "label words of several tokens in a causal template"
        )
        raise ValueError(
            f"bert4keras's models have no place for {what}. Give fixed labels of one token each, "
            f"or use `keras_ptuning.build_ptuning_model`. Received: {template.pattern!r}."
        )
    if any(i >= template.tokenizer.vocab_size for i in template.label_token_ids):
        raise ValueError(
            "bert4keras's models predict no tokens beyond the vocabulary, and this one has too few "
            f"[unused] rows for the label words that learn. Received: {template.labels}."
        )
    application = settings.get("application", "encoder")
    expected = "lm" if template.causal else "encoder"
    if application != expected:
        raise ValueError(
            f"A {'causal' if template.causal else 'masked'} template, such as "
            f"{template.pattern!r}, needs application={expected!r}. Received: "
            f"application={application!r}."
        )
    keep_tokens = settings.get("keep_tokens")
    size = settings["vocab_size"] if keep_tokens is None else len(keep_tokens)
    size += len(settings.get("compound_tokens") or [])
    if template.tokenizer.vocab_size != size:
        raise ValueError(
            f"The vocabulary does not belong to this checkpoint: it has "
            f"{template.tokenizer.vocab_size} tokens, and the model {size} embeddings."
        )


def _find(config_path, checkpoint_path, model):
    """The configuration, the architecture, and between them the checkpoint.

    That is `NamedTensors`; or a path, if bert4keras is to read it by itself; or `None`.
    """
    if not isinstance(model, str | None) or model in ONLY_THERE:
        if checkpoint_path is not None:
            checkpoint_path = TensorFlowCheckpoint(checkpoint_path).path
        elif not isinstance(config_path, dict):
            raise ValueError(
                "bert4keras reads the weights of such a model itself: give the path of a "
                "TensorFlow checkpoint too, or, for random weights, the configuration as a "
                f"dictionary. Received: model={model!r} and checkpoint_path=None."
            )
        return load_config(config_path), checkpoint_path, model
    config, checkpoint = find_model(config_path, checkpoint_path, model)
    model = config["model_type"]
    if model not in BRIDGED:
        raise ValueError(
            f"On the bridge a model is one of {[*BRIDGED, *ONLY_THERE]}, or a class of bert4keras; "
            f"others have `keras_ptuning.build_ptuning_model`. Received: {model!r}."
        )
    # bert4keras has one of each, whatever the configuration says.
    far, epsilon = config.get("max_relative_position", 64), config.get("layer_norm_eps") or 1e-12
    if (model == "nezha" and far != 64) or epsilon > 1e-5:
        raise ValueError(
            "bert4keras would compute other numbers than this checkpoint's: use "
            "`keras_ptuning.build_ptuning_model`. Received: max_relative_position="
            f"{far}, layer_norm_eps={epsilon}."
        )
    if checkpoint is None:
        return config, None, model
    tensors = NamedTensors(checkpoint, model)
    if not has_head(tensors):
        raise ValueError(
            f"The checkpoint {checkpoint.path!r} has no head that predicts tokens, so it cannot "
            "fill in a mask. Use a release that includes the head."
        )
    evidence = untrained_evidence(tensors)
    if evidence:
        warnings.warn(
            f"The head of {checkpoint.path!r} looks as if it had never been trained: "
            f"{'; '.join(evidence)}. Its answers are noise.",
            stacklevel=3,
        )
    return config, tensors, model


def _read_values(layers, tensors, settings):
    """The tensors of bert4keras's layers, checked, under Google's names, as bert4keras takes them.

    Its own reading would leave a number that is not finite, or a wrong shape, to Keras.
    """
    architecture = tensors.architecture
    pretrained = {n: layer for n, layer in layers.items() if architecture.is_pretrained(n)}
    rows = settings.get("keep_tokens")
    if settings.get("compound_tokens"):
        # bert4keras adds rows of its own to those of the vocabulary.
        rows = range(settings["vocab_size"]) if rows is None else rows
    plan = match_weights(pretrained, tensors, rows, _weights)
    names = {n: iter(tensors_of(architecture.google, n)) for n in pretrained}
    return {
        next(names[layer]).name: np.asarray(read_weight(tensor, tensors), "float32")
        for _, tensor, layer in plan
    }


def _build_backbone(settings, checkpoint, template, model):
    """bert4keras's transformer, with its MLM head at given positions only."""
    layers = {}
    tuned_ids = template.virtual_ids + template.label_token_ids
    if tuned_ids:
        layers["Embedding-Token"] = PtuningEmbedding(
            template.tokenizer.vocab_size,
            settings.get("embedding_size") or settings["hidden_size"],
            tuned_ids,
            mask_zero=True,
            embeddings_initializer=tf_keras.initializers.TruncatedNormal(stddev=0.02),
            name="Embedding-Token",
        )
    # Not by its path, so that a dictionary will do.
    transformer = bert4keras.models.build_transformer_model(
        None,
        None if isinstance(checkpoint, NamedTensors) else checkpoint,
        model=model,
        with_mlm="linear",
        layers=layers,
        return_keras_model=False,
        **settings,
    )
    missing = {"MLM-Dense", "MLM-Norm", "MLM-Bias"} - set(layers)
    if missing:
        raise ValueError(
            f"The model needs an MLM head like BERT's, and lacks {sorted(missing)}. Choose another "
            f"architecture than model={model!r}."
        )
    if isinstance(checkpoint, NamedTensors):
        values = _read_values(transformer.layers, checkpoint, settings)
        transformer.load_weights_from_checkpoint(values)
    position = layers.get("Embedding-Position")
    if isinstance(position, bert4keras.layers.PositionEmbedding):
        positions = position.input_dim
        if template.maxlen > positions and not position.hierarchical:
            raise ValueError(
                f"The template makes texts of up to {template.maxlen} tokens, and the model has "
                f"{positions} positions. Use `maxlen={positions}` or less in the template."
            )
    chosen = tf_keras.Input((None,), dtype="int32", name="Input-Gather")
    x = tf.gather(layers["MLM-Dense"].input, chosen, batch_dims=1)
    x = layers["MLM-Norm"](layers["MLM-Dense"](x))
    x = layers["MLM-Bias"](layers["Embedding-Token"](x, mode="dense"))
    return tf_keras.Model([*transformer.inputs, chosen], x, name="backbone")


def _freeze(backbone, template, tune, settings):
    """Freezes what is not to train, and starts the chosen rows as the native library does."""
    embedding = backbone.get_layer("Embedding-Token")
    if tune != "all":
        for layer in backbone.layers:
            layer.trainable = isinstance(layer, PtuningEmbedding)
    if isinstance(embedding, PtuningEmbedding):
        embedding.table_trainable = tune == "all"
        rng = np.random.default_rng(np.random.randint(2**31))
        stddev = settings.get("initializer_range", 0.02)
        table = embedding.embeddings.numpy()
        embedding.start_from(start_vectors("unused", template, table, None, rng, stddev))


class ClozeModel(tf_keras.Model):
    """A bert4keras model that fills in the masks of a template; made by `build_ptuning_model`.

    It is trained and used like any tf_keras model, on what `template.dataset(...)` or
    `template.encode(...)` return. Loss, accuracy and scores are those of
    `keras_ptuning.ClozeModel`: full-vocabulary cross-entropy, in training with the auxiliary
    positions that the batches bring along (none with `mask_rate=0.0`); `predict` returns the
    log-probability of each label, `(n, num_labels)`, in the order of the texts.

    Attributes:
        template: The `keras_ptuning.Template`.
        backbone: The functional tf_keras model inside, with bert4keras's layers.
    """

    def __init__(self, backbone, template, tune):
        super().__init__(name="ptuning")
        self.backbone = backbone
        self.template = template
        self.tune = tune
        self.loss_tracker = tf_keras.metrics.Mean("loss")
        verbalizer = Verbalizer(template.word_ids, template.word_slots, dtype="float32")
        # A function, since tf_keras would take the layer for one of its own.
        self._scores = lambda logits: verbalizer(logits)
        self.built = True

    @property
    def embedding(self):
        """The token embedding, a `PtuningEmbedding` where the template has tokens that learn."""
        return self.backbone.get_layer("Embedding-Token")

    @property
    def prompt(self):
        """The vectors of the tokens that learn, a variable, or `None` without any."""
        return getattr(self.embedding, "prompt", None)

    @property
    def metrics(self):
        return [self.loss_tracker, *super().metrics]

    def call(self, inputs, training=False):
        auxiliary = training and "auxiliary_ids" in inputs
        token_ids, positions = inputs["token_ids"], inputs["mask_positions"]
        count = tf.shape(positions)[1]
        if auxiliary:
            token_ids = inputs.get("masked_token_ids", token_ids)
            positions = tf.concat([positions, inputs["auxiliary_positions"]], axis=1)
        named = {
            "Input-Token": token_ids,
            "Input-Segment": inputs["segment_ids"],
            "Input-Gather": positions,
        }
        logits = self.backbone([named[n] for n in self.backbone.input_names], training=training)
        scores = self._scores(logits[:, :count])
        if not auxiliary:
            return scores
        targets = inputs["auxiliary_ids"]
        weights = tf.cast(targets >= 0, "float32")
        targets = tf.maximum(targets, 0)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits[:, count:])
        return {
            "scores": scores,
            "auxiliary_loss": tf.reduce_sum(losses * weights),
            "auxiliary_count": tf.reduce_sum(weights),
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        auxiliary = y_pred if isinstance(y_pred, dict) else {}
        scores = auxiliary.get("scores", y_pred)
        labels = tf.reshape(tf.cast(y, "int32"), (-1,))
        losses = -tf.gather(scores, labels, batch_dims=1)
        if sample_weight is not None:
            losses *= tf.reshape(tf.cast(sample_weight, losses.dtype), (-1,))
        # Every predicted position counts the same.
        total = tf.reduce_sum(losses) + auxiliary.get("auxiliary_loss", 0.0)
        texts = tf.shape(losses)[0]
        answers = tf.cast(texts * self.template.num_masks, "float32")
        loss = total / (answers + auxiliary.get("auxiliary_count", 0.0))
        self.loss_tracker.update_state(loss, sample_weight=texts)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight):
        scores = y_pred["scores"] if isinstance(y_pred, dict) else y_pred
        return super().compute_metrics(x, y, scores, sample_weight)

    def compile(self, optimizer=None, loss=None, **kwargs):
        """Configures training.

        Args:
            optimizer: An optimizer of tf_keras. Defaults to Adam with the learning rate 6e-4 for
                a prompt, 2e-5 for a whole model.
            loss: Must be `None`: the model has its own.
            **kwargs: Other arguments of `tf_keras.Model.compile`. `metrics` defaults to the
                accuracy of the labels.
        """
        if loss is not None:
            raise ValueError(f"The model has its own loss. Received: loss={loss!r}.")
        if optimizer is None:
            optimizer = tf_keras.optimizers.Adam(2e-5 if self.tune == "all" else 6e-4)
        kwargs.setdefault("metrics", [tf_keras.metrics.SparseCategoricalAccuracy("accuracy")])
        super().compile(optimizer=optimizer, **kwargs)

    def fit(self, x=None, y=None, *, validation_data=None, callbacks=None, **kwargs):
        """Trains the model, as `tf_keras.Model.fit` does.

        A dataset's epochs continue where its last training stopped; set `dataset.epoch = 0` to
        repeat them.
        """
        if not self.trainable_variables:
            raise ValueError(
                f"Nothing would be trained: the template {self.template.pattern!r} has no virtual "
                "tokens [u1], [u2]..., and the rest is frozen. Build the model with "
                '`tune="all"` to train it whole.'
            )
        callbacks = list(callbacks or [])
        if isinstance(x, ClozeDataset):
            next_epoch = tf_keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: x.on_epoch_end()
            )
            callbacks.insert(0, next_epoch)
        return super().fit(
            self._batches(x),
            y,
            validation_data=self._batches(validation_data),
            callbacks=callbacks,
            **kwargs,
        )

    def evaluate(self, x=None, y=None, **kwargs):
        return super().evaluate(self._batches(x), y, **kwargs)

    def predict(self, x, **kwargs):
        if not isinstance(x, ClozeDataset):
            return super().predict(x, **kwargs)
        dataset, order = x.by_length()
        sorted_scores = super().predict(self._batches(dataset, labeled=False), **kwargs)
        scores = np.empty_like(sorted_scores)
        scores[order] = sorted_scores
        return scores

    def _batches(self, data, labeled=True):
        """What tf_keras is to iterate over."""
        if not isinstance(data, ClozeDataset):
            return data
        if data.template.get_config() != self.template.get_config():
            raise ValueError(
                "The dataset was made with another template than the model's. Received: "
                f"{data.template.pattern!r}; expected {self.template.pattern!r}, with the same "
                "labels, vocabulary and `maxlen`."
            )
        hard = data.label_ids is not None and data.label_ids.ndim == 1 and not data.has_unlabeled
        if labeled and not hard:
            raise ValueError(
                "Training and evaluation need one label for each text: "
                "`template.dataset(texts, labels)`. On texts without labels, or with their "
                "probabilities, `keras_ptuning.build_ptuning_model` can train."
            )
        return as_batches(data)

    def save_tuned(self, filepath):
        """Saves the tuned prompt by itself, to be used with `keras_ptuning.load_tuned`.

        That builds its own model from the same checkpoint; no bert4keras is needed there.

        Args:
            filepath: Path of the file to write, e.g. `"sentiment.tuned"`.

        Raises:
            ValueError: if the prompt alone is not the result of the training.
        """
        if self.prompt is None or self.tune == "all":
            reason = "has no virtual tokens" if self.prompt is None else "trains more than these"
            raise ValueError(
                f"The virtual tokens by themselves are not this model: it {reason}. Save all of "
                "its weights with `model.save_weights(...)`."
            )
        tensors = {"prompt": self.embedding.vectors(), "start": self.embedding.start}
        content = {
            "model": "ClozeModel",
            "options": {},
            "methods": [method_to_config(Prompt())],
            "template": self.template.get_config(),
            "backbone": self.fingerprint(),
        }
        named = {f"prompt/Embedding-Token/{name}": value for name, value in tensors.items()}
        write_tuned(filepath, named, content)

    def fingerprint(self):
        """A SHA-256 of all weights but the prompt, the same as that of the native model."""
        digest = hashlib.sha256()
        for layer in self.backbone.layers:
            for value in map(np.asarray, _weights(layer)):
                digest.update(f"{layer.name} {value.shape} {value.dtype}".encode())
                digest.update(value.tobytes())
        return digest.hexdigest()


def copy_weights(source, target):
    """Copies the weights from a bert4keras model into a native one, or the other way round.

    Layers belong together by their names. A tuned prompt travels too: where the target has a
    `PtuningEmbedding`, into its prompt, and otherwise into the rows of its table.

    Args:
        source: A model of bert4keras, or of `keras_ptuning`, or of this module.
        target: Another such model. It may lack layers of the source, such as the MLM head.

    Raises:
        ValueError: if the source lacks a layer of the target, or has one of another shape; or if
            the target has no place for a tuned row, or makes its rows with an encoder. Nothing
            has been copied then.

    Example:

    ```python
    theirs = bert4keras.models.build_transformer_model(config_path, checkpoint_path)
    ours = keras_ptuning.build_transformer_model(config_path)
    copy_weights(theirs, ours)
    ```
    """
    sources = {layer.name: layer for layer in _layers(source)}
    targets = _layers(target)
    missing = [layer.name for layer in targets if layer.name not in sources]
    if missing:
        raise ValueError(
            f"The source has no layers {missing[:5]}, which the target has. It has {list(sources)}."
        )
    plan = []
    for layer in targets:
        values = [np.array(v) for v in _weights(sources[layer.name])]
        shapes = [tuple(v.shape) for v in _weights(layer)]
        if shapes != [v.shape for v in values]:
            raise ValueError(
                f"The layer {layer.name!r} has weights of the shapes {[v.shape for v in values]} "
                f"in the source, and of {shapes} in the target."
            )
        prompt = _lay_rows(sources[layer.name], layer, values)
        plan.append((layer, values, prompt))
    for layer, values, prompt in plan:
        for variable, value in zip(_weights(layer), values, strict=True):
            variable.assign(value)
        if prompt is not None:
            origin = sources[layer.name]
            # As plain lists: each library wraps its own, and these never compare equal.
            same = list(getattr(origin, "tuned_ids", [])) == list(layer.tuned_ids)
            layer.prompt.assign(prompt)
            layer.start = origin.start if same else prompt


def _layers(model):
    """The layers with weights, of a model or of the transformer in it."""
    return [layer for layer in getattr(model, "backbone", model).layers if layer.weights]


def _weights(layer):
    """The variables of a layer, of either library, in the native order and without a prompt."""
    if isinstance(layer, keras.layers.Layer):
        return pretrained_weights(layer)
    if hasattr(layer, "tuned_ids"):
        return [layer.embeddings]
    if isinstance(layer, bert4keras.layers.LayerNormalization):
        return [layer.gamma, layer.beta]
    return layer.weights


def _lay_rows(source, target, values):
    """Lays the source's tuned rows into its table, `values[0]`; returns the target's prompt."""
    tuned = {}
    if hasattr(source, "tuned_ids"):
        tuned = dict(zip(source.tuned_ids, np.asarray(source.vectors()), strict=True))
    own = getattr(target, "tuned_ids", [])
    if getattr(target, "encoder", None) is not None:
        raise ValueError(
            f"The rows of {target.name!r} in the target are made by an encoder, and cannot be "
            "set. Build the target without an encoder."
        )
    beyond = sorted(i for i in set(tuned) ^ set(own) if i >= len(values[0]))
    if beyond:
        raise ValueError(
            f"Source and target must have the same tokens beyond the vocabulary. Received: {beyond}"
            " in only one of them."
        )
    for i, row in tuned.items():
        if i not in own:
            values[0][i] = row
    return np.array([tuned[i] if i in tuned else values[0][i] for i in own]) if own else None
