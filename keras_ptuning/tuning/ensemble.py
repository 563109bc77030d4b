"""Ensembles: several prompts for one task, trained and asked together on one frozen model."""

import os
import re
from collections.abc import Callable
from typing import Any, Literal, NoReturn

import keras
import numpy as np
from keras import ops

from keras_ptuning.backend import build_model
from keras_ptuning.checks import Config, Path, check_integer
from keras_ptuning.files import replacing_all
from keras_ptuning.methods import Prompt, method_to_config, read_methods
from keras_ptuning.methods.method import Tune, to_numpy
from keras_ptuning.methods.prompt import start_biases, start_vectors
from keras_ptuning.models import find_model
from keras_ptuning.text.templates import Template
from keras_ptuning.tuning.cloze import ClozeModel
from keras_ptuning.tuning.data import check_template
from keras_ptuning.tuning.filling import learned_ids
from keras_ptuning.tuning.nan import single_optimizers
from keras_ptuning.tuning.own_tokens import find_own_tokens, token_bias, with_own_logits
from keras_ptuning.tuning.tuned_file import write_tuned

VOTES = ("mean", "majority")
# What an optimizer of these does to a number depends on all others of the variable.
TOGETHER = {"Adafactor", "Lamb"}


@keras.saving.register_keras_serializable(package="keras_ptuning")
class PromptEnsemble(ClozeModel):
    """Several prompts on one frozen model, each trained as if it were alone.

    Made by `build_prompt_ensemble`, whose documentation has the arguments. It is trained and used
    like a `ClozeModel`. A batch of `n` texts is read once with each prompt, as one batch of
    `n * members` texts. `compile` refuses optimizers for which a prompt is not alone, because all
    prompts are one variable: those that clip gradients by their norm, Adafactor and Lamb.

    Attributes:
        members: The number of prompts.
        prompts: The variable with their vectors, `(members, tokens, embedding)`.
    """

    def __init__(
        self,
        config,
        template,
        tune=None,
        normalization="vocabulary",
        auxiliary=True,
        members=5,
        vote="mean",
        checkpoint=None,
        name=None,
        **kwargs,
    ):
        check_integer("members", members, 2)
        if vote not in VOTES:
            raise ValueError(f"`vote` must be one of {VOTES}. Received: vote={vote!r}.")
        tune = Prompt(start="vocabulary") if tune in (None, "prompt") else tune
        if not all(
            isinstance(m, Prompt) and not m.encoder and m.start in ("random", "vocabulary")
            for m in read_methods(tune, template)
        ):
            raise ValueError(
                "The prompts of an ensemble have no encoder, and start from different vectors: "
                "use tune=Prompt(start='vocabulary') or tune=Prompt(start='random'). Received: "
                f"tune={tune!r}."
            )
        super().__init__(
            config,
            template,
            tune,
            normalization,
            auxiliary,
            checkpoint=checkpoint,
            name=name,
            **kwargs,
        )
        self.members = int(members)
        self.vote = vote
        self._start_prompts()

    def _build_backbone(self, checkpoint, **kwargs):
        return super()._build_backbone(checkpoint, methods=[], own_vectors=True, **kwargs)

    def _start_prompts(self):
        (method,) = self.methods
        transformer, template = self.backbone.transformer, self.template
        # It says what is wrong with a template that has nothing to train.
        method.added_layers(transformer, template)
        bias = token_bias(self.backbone)
        bias = None if bias is None else ops.convert_to_numpy(bias)
        table = ops.convert_to_numpy(self.backbone.get_layer("Embedding-Token").embeddings)
        rng = np.random.default_rng(np.random.randint(2**31))
        stddev, label_start = transformer.initializer_range, method.label_start
        vectors = [
            start_vectors(method.start, template, table, bias, rng, stddev, label_start)
            for _ in range(self.members)
        ]
        self.label_bias = self.add_weight(
            shape=(len(template.label_token_ids),),
            initializer="zeros",
            trainable=False,
            dtype=keras.backend.result_type(self.variable_dtype, "float32"),
            autocast=False,
            name="label_bias",
        )
        self.label_bias.assign(start_biases(template, bias, label_start))
        self._tokens = find_own_tokens(
            template, transformer.vocab_size, tied=transformer.tie_embeddings
        )
        # The verbalizer reads the label words where their logits are.
        self._moved_ids = moved = self._tokens.moved_ids
        word_ids = template.word_ids and [
            [[int(moved[i]) for i in word] for word in words] for words in template.word_ids
        ]
        self.verbalizer = type(self.verbalizer).from_config(
            {**self.verbalizer.get_config(), "word_ids": word_ids}
        )
        self.prompts = self.add_weight(
            shape=(self.members, *vectors[0].shape),
            initializer="zeros",
            # Steps of an optimizer are lost in half precision.
            dtype=keras.backend.result_type(self.variable_dtype, "float32"),
            autocast=False,
            name="prompts",
        )
        self.prompts.assign(np.stack(vectors))

    @property
    def embedding(self) -> NoReturn:
        """Refused: each prompt has vectors of its own."""
        raise ValueError(
            f"A {type(self).__name__} has {self.members} prompts, and not the vectors of one. Save "
            "them, `model.save_tuned(folder)`, and load one: `load_tuned`."
        )

    def tuned_weights(self) -> dict[str, dict[str, keras.Variable]]:
        return {"prompt": {"prompts": self.prompts}}

    def _logits(self, inputs, token_ids, positions, training):
        count = ops.shape(token_ids)[0] // self.members
        vectors = ops.convert_to_tensor(self.prompts)[:, None]
        vectors = ops.broadcast_to(vectors, (self.members, count, *vectors.shape[2:]))
        vectors = ops.reshape(vectors, (-1, *self.prompts.shape[1:]))
        moved_ids = ops.convert_to_tensor(self._moved_ids)
        inputs = {**inputs, "vectors": vectors}
        if "decoder_token_ids" in inputs:
            written = ops.take(moved_ids, inputs["decoder_token_ids"], axis=0)
            inputs["decoder_token_ids"] = written
        moved = ops.take(moved_ids, token_ids, axis=0)
        logits, own = super()._logits(inputs, moved, positions, training)
        rows, offset = (ops.convert_to_tensor(a)[None] for a in self._tokens[1:3])
        label_bias = ops.cast(self.label_bias, offset.dtype)
        offset = offset + ops.pad(label_bias, [[offset.shape[1] - label_bias.shape[0], 0]])
        return with_own_logits(logits, own, rows, offset, token_bias(self.backbone))

    def call(self, inputs, training=False):
        found = super().call({k: self._for_each(v) for k, v in inputs.items()}, training)
        scores = found["scores"] if isinstance(found, dict) else found
        together = self._vote(ops.reshape(scores, (self.members, -1, scores.shape[-1])))
        if not training:
            return together
        found = found if isinstance(found, dict) else {}
        return {**found, "scores": together, "member_scores": scores}

    def _for_each(self, array):
        """The rows of an array, once for each member."""
        array = ops.convert_to_tensor(array)
        return ops.tile(array, (self.members, *[1] * (len(array.shape) - 1)))

    def _token_probabilities(self, inputs):
        """The means of those of the members."""
        found = super()._token_probabilities({k: self._for_each(v) for k, v in inputs.items()})
        return ops.mean(ops.reshape(found, (self.members, -1, *found.shape[1:])), axis=0)

    @property
    def _learned_columns(self):
        return self._tokens.move(learned_ids(self.template))

    def _vote(self, scores):
        """One score for each label out of those of the members, `(members, batch, labels)`."""
        if self.vote is None:
            return ops.reshape(
                ops.transpose(scores, (1, 0, 2)), (-1, self.members * scores.shape[-1])
            )
        p = ops.softmax(scores, axis=-1)
        mean = ops.mean(p, axis=0)
        if self.vote == "majority":
            votes = ops.one_hot(ops.argmax(p, axis=-1), p.shape[-1], dtype=mean.dtype)
            # Of labels with as many votes, the more probable one.
            mean = (ops.sum(votes, axis=0) + mean) / (self.members + 1)
        return ops.log(ops.maximum(mean, 1e-30))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not isinstance(y_pred, dict):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        y_pred = {**y_pred, "scores": y_pred["member_scores"]}
        x = {name: self._for_each(x[name]) for name in x.keys() & {"is_text"}}
        y = self._for_each(y)
        sample_weight = None if sample_weight is None else self._for_each(sample_weight)
        mean = super().compute_loss(x, y, y_pred, sample_weight, training)
        # Each learns from the whole of its own loss, and what is reported is their mean.
        return mean + (self.members - 1) * (mean - ops.stop_gradient(mean))

    def _check_optimizer(self):
        super()._check_optimizer()
        for one in single_optimizers(self.optimizer):
            kinds = {kind.__name__ for kind in type(one).__mro__} & TOGETHER
            if kinds:
                raise ValueError(
                    f"{kinds.pop()} scales the steps of {self.members} prompts by all of them "
                    "together, so none would train as if it were alone. Use Adam, AdamW or SGD, "
                    "say."
                )
        for name in ("clipnorm", "global_clipnorm"):
            for one in single_optimizers(self.optimizer):
                if getattr(one, name, None) is not None:
                    raise ValueError(
                        f"`{name}` would clip the gradients of {self.members} prompts by the norm "
                        "of all together, so none would train as if it were alone. Leave it out, "
                        f"or use `clipvalue`. Received: {name}={getattr(one, name)!r}."
                    )

    def predict_members(self, x: Any, batch_size: int | None = None, **kwargs: Any) -> np.ndarray:
        """Predicts with each prompt alone.

        Args:
            x, batch_size, **kwargs: As `predict` takes them.

        Returns:
            An array of shape `(members, n, num_labels)`, what the `ClozeModel` of each would
            predict.
        """
        vote, self.vote = self.vote, None
        # What was compiled has the vote.
        self.predict_function = None
        try:
            scores = self.predict(x, batch_size, **kwargs)
        finally:
            self.vote = vote
            self.predict_function = None
        return scores.reshape(len(scores), self.members, -1).transpose(1, 0, 2)

    def summary(
        self, *args: Any, print_fn: Callable[[str], Any] | None = None, **kwargs: Any
    ) -> None:
        """Prints the layers, and what trains."""
        self.backbone.summary(*args, print_fn=print_fn, **kwargs)
        members, tokens, size = self.prompts.shape
        count, total = members * tokens * size, self.count_params()
        (print_fn or print)(
            f"Trained: {count:,} of {total:,} parameters, {members} prompts of {tokens} tokens x "
            f"{size}"
        )

    def save_tuned(self, filepath: Path, dtype: str = "float32") -> None:
        """Saves each prompt as a tuned file, in a folder.

        Each is the file of an ordinary `ClozeModel`, for `load_tuned` or a `PromptBank`.

        Args:
            filepath: Path of a folder; made if need be. The files are called `1.tuned`,
                `2.tuned`...
            dtype: As in `ClozeModel.save_tuned`.

        Raises:
            NotADirectoryError: if there is a file of this name.
            ValueError: if a number is not finite, or the folder has the prompts of a larger
                ensemble, which would be mixed with these; nothing is written then.
        """
        if os.path.isfile(filepath):
            raise NotADirectoryError(
                f"A {type(self).__name__} is saved as a folder, with a file for each prompt. "
                f"Received the path of a file: {os.fspath(filepath)!r}. Give that of a folder."
            )
        found = os.listdir(filepath) if os.path.isdir(filepath) else []
        numbered = [name for name in found if re.fullmatch(r"[0-9]+\.tuned", name)]
        options = {"normalization": self.normalization, "auxiliary": self.auxiliary}
        content = {
            "model": ClozeModel.__name__,
            "options": options,
            "methods": [method_to_config(Prompt())],
            "template": self.template.get_config(),
            "backbone": self.fingerprint(),
        }
        with replacing_all(filepath, numbered) as temporary:
            for i, vectors in enumerate(to_numpy(self.prompts), 1):
                tensors = {"prompt/Embedding-Token/prompt": vectors}
                if self.template.label_token_ids:
                    tensors["prompt/Embedding-Token/label_bias"] = to_numpy(self.label_bias)
                write_tuned(os.path.join(temporary, f"{i}.tuned"), tensors, content, dtype)

    def save_checkpoint(self, folder: Path, dtype: str = "float32") -> NoReturn:
        """Refused: a checkpoint has a place for one prompt."""
        raise ValueError(
            f"A checkpoint has a place for one prompt, and there are {self.members}. Use "
            "`save_tuned(folder)`, and `load_tuned` and `save_checkpoint` for one of its files."
        )

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["prompts"], store["label_bias"] = self.prompts, self.label_bias

    def load_own_variables(self, store):
        super().load_own_variables(store)
        self.prompts.assign(store["prompts"])
        self.label_bias.assign(store["label_bias"])

    def _options(self):
        return {
            "normalization": self.normalization,
            "auxiliary": self.auxiliary,
            "members": self.members,
            "vote": self.vote,
        }


def build_prompt_ensemble(
    config_path: Config,
    checkpoint_path: Path | None = None,
    template: Template | None = None,
    members: int = 5,
    tune: Tune = "prompt",
    normalization: Literal["vocabulary", "labels"] = "vocabulary",
    auxiliary: bool = True,
    vote: Literal["mean", "majority"] = "mean",
    **kwargs: Any,
) -> PromptEnsemble:
    """Builds a classifier of several prompts, which train together on one frozen model.

    Each text is read once with each prompt, in one batch. The prompts do not share anything that
    learns: each becomes what it would have become alone, from its own start.

    Args:
        config_path, checkpoint_path, template: As `build_ptuning_model` takes them. The template
            needs virtual tokens.
        members: Integer, the number of prompts. Defaults to `5`.
        tune: `"prompt"`, or a `Prompt` without an encoder whose start is drawn: `Prompt(start=
            "vocabulary")` or `Prompt(start="random")`. Defaults to the first of these two.
        normalization, auxiliary: As in `build_ptuning_model`.
        vote: `"mean"`, the mean of the probabilities among the labels; or `"majority"`, the label
            that most prompts answer, the more probable of two that are even. Defaults to `"mean"`.
        **kwargs: Other arguments of `build_transformer_model`, such as `dtype`.

    Returns:
        A `PromptEnsemble`, a Keras model that is used like a `ClozeModel`. `predict` returns
        logarithms of what `vote` says, `(batch, num_labels)`.

    Raises:
        FileNotFoundError, TypeError: as those of `build_ptuning_model`.
        ValueError: as that of `build_ptuning_model`; if there are fewer than two members, they
            would all start alike, or something else than prompts is to train.

    Example:

    ```python
    model = build_prompt_ensemble("bert-mini-zh", template=template, members=5)
    model.compile()
    model.fit(template.dataset(texts, labels), epochs=50)
    template.decode(model.predict(template.dataset(new_texts)))
    model.save_tuned("prompts")  # prompts/1.tuned ... prompts/5.tuned
    ```

    Reference:
        - [Lester et al., 2021](https://arxiv.org/abs/2104.08691), section 6.
    """
    check_template(
        template,
        checkpoint_path,
        getattr(template, "is_cloze", False),
        "a `Template`, e.g. build_prompt_ensemble('bert-mini-zh', template=template)",
    )
    config, checkpoint = find_model(config_path, checkpoint_path, kwargs.get("model"))
    return build_model(
        PromptEnsemble,
        config,
        template,
        tune=tune,
        normalization=normalization,
        auxiliary=auxiliary,
        members=members,
        vote=vote,
        checkpoint=checkpoint,
        **kwargs,
    )
