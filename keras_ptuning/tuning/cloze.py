"""The cloze model: a transformer, a template's answer positions, and a verbalizer."""

import hashlib
import json
import math
import os

import keras
import numpy as np
from keras import ops

from keras_ptuning.distribution import sum_over_replicas
from keras_ptuning.files import replacing
from keras_ptuning.layers import Bias, PtuningEmbedding, Verbalizer
from keras_ptuning.models import (
    build_transformer_model,
    find_application,
    override,
    read_config,
    save_transformer_model,
)
from keras_ptuning.tuning.base import LabelModel
from keras_ptuning.tuning.prompts import start_vectors, write_prompt


@keras.saving.register_keras_serializable(package="keras_ptuning")
class ClozeModel(LabelModel):
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
        super().__init__(config, template, name, **kwargs)
        for argument, value, expected in (
            ("trainable", trainable, ("prompt", "all")),
            ("normalization", normalization, ("vocabulary", "labels")),
        ):
            if value not in expected:
                raise ValueError(
                    f"`{argument}` must be one of {expected}. Received: {argument}={value!r}."
                )
        self.tuned = trainable
        self.normalization = normalization
        self.auxiliary = auxiliary
        self.prompt_encoder = prompt_encoder
        self.prompt_start = prompt_start
        self.backbone = _build_backbone(
            config,
            checkpoint_path,
            template,
            trainable,
            prompt_encoder,
            prompt_start,
            **{key: value for key, value in self.init_config.items() if key != "config"},
        )
        self.verbalizer = Verbalizer(
            template.word_ids, template.word_slots, dtype="float32", name="Verbalizer"
        )
        self.built = True

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

    @property
    def default_learning_rate(self):
        return 6e-4 if self.tuned == "prompt" else 2e-5

    @property
    def nothing_trains(self):
        if self.prompt is not None:
            return super().nothing_trains
        return (
            f"the template {self.template.pattern!r} has no virtual tokens [u1], [u2]..., and the "
            'rest is frozen. Build the model with `trainable="all"` to train it whole'
        )

    @property
    def learns_from_unlabeled(self):
        return self.auxiliary

    unlabeled_advice = (
        "Only the auxiliary task would: build the model with `auxiliary=True`, or leave them out."
    )

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
        losses, labeled = self.label_losses(y, scores, sample_weight)
        # As in the original script, every predicted position counts the same.
        total = ops.sum(losses) + auxiliary.get("auxiliary_loss", 0.0)
        answers = ops.sum(ops.cast(labeled, "float32")) * self.template.num_masks
        count = sum_over_replicas(answers + auxiliary.get("auxiliary_count", 0.0))
        return total / ops.maximum(count, 1.0)

    def compile(self, optimizer=None, loss=None, prompt_optimizer=None, **kwargs):
        """Configures training.

        Args:
            optimizer: Defaults to Adam with the learning rate 6e-4 for a prompt, 2e-5 for a
                whole model.
            loss: Must be `None`: `normalization` and `auxiliary` choose it, when building the
                model.
            prompt_optimizer: Optional optimizer of the virtual tokens alone, e.g. with a larger
                learning rate, `model.compile(Adam(2e-5), prompt_optimizer=Adam(1e-2))`, where the
                whole model trains.
            **kwargs: Other arguments of `keras.Model.compile`. `metrics` defaults to the
                accuracy of the labels.
        """
        if prompt_optimizer is not None:
            if self.prompt is None:
                raise ValueError(
                    f"The template {self.template.pattern!r} has no tokens that learn: leave out "
                    "`prompt_optimizer`."
                )
            if optimizer is None:
                optimizer = keras.optimizers.Adam(self.default_learning_rate)
            optimizer, prompt_optimizer = map(keras.optimizers.get, (optimizer, prompt_optimizer))
            # By its path, which ends so: the vectors, and the layers that make them.
            own = {r"(.*/)?(prompt|prompt_encoder/.*)": prompt_optimizer}
            optimizer = keras.optimizers.MultiOptimizer(
                keras.optimizers.OptimizerMap(optimizer, own)
            )
        super().compile(optimizer=optimizer, loss=loss, **kwargs)

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

    def save_checkpoint(self, folder, dtype="float32"):
        """Writes the transformer with its tuned prompt as a checkpoint that other tools load.

        Besides the files of `save_transformer_model` there is `template.json`: the pattern, the
        labels, and of an empty text the token ids and segment ids, and where its masks are. The
        vectors of virtual tokens stand in the rows of these ids. Where the vocabulary had no
        `[unused]` token for one, it is added as such. What no configuration says,
        `application="unilm"` and `hierarchical_position`, has to be said again when loading it.

        Args:
            folder: Path of a folder; made if need be.
            dtype: Type of the numbers in the safetensors file, `"float32"` or `"float16"`.

        Raises:
            ValueError: if the architecture is not one of this library's.

        Example:

        ```python
        model.save_checkpoint("my_bert")
        transformers.AutoModelForMaskedLM.from_pretrained("my_bert")
        ```
        """
        template = self.template
        vocab = list(template.tokenizer.vocab)
        # In the order of their ids.
        vocab += [
            f"[unused{name[2:-1]}]"
            for name, token_id in zip(template.tuned_names, template.virtual_ids, strict=False)
            if token_id >= len(template.tokenizer.vocab)
        ]
        rows = self.backbone.get_layer("Embedding-Token").input_dim
        config = override(self.init_config["config"], self.init_config)
        config["vocab_size"] = max(rows, len(vocab))
        if self.init_config.get("application") == "lm":
            config["is_decoder"] = True
        save_transformer_model(self.backbone, folder, config, vocab, dtype)
        example = {name: array[0].tolist() for name, array in template.encode([""]).items()}
        example = {name: example[name] for name in ("token_ids", "segment_ids", "mask_positions")}
        settings = template.get_config()
        del settings["tokenizer"]
        text = json.dumps({**settings, "empty_text": example}, ensure_ascii=False, indent=2)
        path = os.path.join(folder, "template.json")
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(text + "\n")

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
        return {
            **super().get_config(),
            "trainable": self.tuned,
            "normalization": self.normalization,
            "auxiliary": self.auxiliary,
            "prompt_encoder": self.prompt_encoder,
            "prompt_start": self.prompt_start,
        }


def _build_backbone(
    config, checkpoint_path, template, trainable, prompt_encoder, prompt_start, **kwargs
):
    """A transformer whose head works at given positions, with the template's tokens laid in."""
    application = find_application(config, kwargs.get("model"), kwargs.get("application"))
    if template.causal != (application == "lm"):
        need = (
            "A causal template needs a causal language model, such as 'gpt-mini-zh'; for a BERT "
            "that was trained as one, give application='lm'"
            if template.causal
            else "A causal language model needs a causal template, whose [MASK] comes last: "
            "Template(..., causal=True)"
        )
        raise ValueError(f"{need}. Received: the template {template.pattern!r}.")
    settings = {**read_config(config), **kwargs}
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
        keep_tokens = settings.get("keep_tokens")
        layers["Embedding-Token"] = PtuningEmbedding(
            settings["vocab_size"] if keep_tokens is None else len(keep_tokens),
            settings["embedding_size"] or settings["hidden_size"],
            tuned_ids=tuned_ids,
            table_trainable=trainable == "all",
            prompt_encoder=prompt_encoder,
            num_encoded=len(template.virtual_ids),
            embeddings_initializer=keras.initializers.TruncatedNormal(
                stddev=settings["initializer_range"]
            ),
            dtype=kwargs["dtype"].variable_dtype,
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
