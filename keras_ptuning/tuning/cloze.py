"""The cloze model: a transformer, a template's answer positions, and a verbalizer."""

import json
import os
from typing import Any, Literal

import keras
from keras import ops

from keras_ptuning.backend import build_model, sum_over_replicas, without_gradients
from keras_ptuning.checks import Config, Path, Texts, check_integer, check_path
from keras_ptuning.files import replacing_all
from keras_ptuning.layers import PtuningEmbedding, Verbalizer
from keras_ptuning.methods import named_weights
from keras_ptuning.methods.method import Tune
from keras_ptuning.models import find_application, find_model, override, save_transformer_model
from keras_ptuning.models.build import OTHERS
from keras_ptuning.text import PieceTokenizer, Tokenizer
from keras_ptuning.text.batches import ClozeDataset, model_inputs
from keras_ptuning.text.templates import Template
from keras_ptuning.tuning.base import LabelModel
from keras_ptuning.tuning.data import check_bool, check_template
from keras_ptuning.tuning.filling import learned_ids, likeliest_tokens, token_names
from keras_ptuning.tuning.generating import write_answers
from keras_ptuning.tuning.metrics import read_labels

# How many texts `fill` reads at once.
FILLED = 64


@keras.saving.register_keras_serializable(package="keras_ptuning")
class ClozeModel(LabelModel):
    """A classifier that fills in the masks of a template.

    `build_ptuning_model` makes it, and its documentation has the arguments. You train and use it
    like any Keras model, on what `template.dataset(...)` or `template.encode(...)` return:

    - `fit` minimises the mean cross-entropy over the answer positions. With `auxiliary`, it adds
      the positions of the auxiliary task: those masked at random, or with a causal template all
      words of the text. The batches of `template.dataset` have these positions; the arrays of
      `template.encode` do not. Dropout is on.
    - `evaluate` gives the loss of the answers alone, and the label accuracy. Both are on texts
      without random masks.
    - `predict` returns the log-probability of each label, `(n, num_labels)`, in the order of the
      texts. With a `classifier` it is the log-probability among the labels.
      `template.decode(scores)` turns them into labels, `keras.ops.softmax(scores)` into
      probabilities among the labels.

    Attributes:
        template: The `Template`.
        backbone: The functional Keras model inside, with the layers of the transformer.
    """

    def __init__(
        self,
        config,
        template,
        tune=None,
        normalization="vocabulary",
        auxiliary=True,
        classifier=False,
        checkpoint=None,
        name=None,
        **kwargs,
    ):
        super().__init__(config, template, tune, name, **kwargs)
        if normalization not in ("vocabulary", "labels"):
            raise ValueError(
                "`normalization` must be 'vocabulary' or 'labels'. Received: "
                f"normalization={normalization!r}."
            )
        self.normalization = normalization
        check_bool("auxiliary", auxiliary)
        check_bool("classifier", classifier)
        self.auxiliary = bool(auxiliary)
        self._check_kind(template)
        self._check_classifier(classifier)
        self.backbone = self._build_backbone(
            checkpoint, with_mlm="linear", with_mean=classifier, branching=template.causal
        )
        self.classifier = self._build_classifier() if classifier else None
        self.verbalizer = Verbalizer(
            template.word_ids,
            template.word_slots,
            # The candidates of one batch may be shorter than those of another.
            None if template.labels else template.num_masks,
            dtype="float32",
            name="Verbalizer",
        )
        self.built = True

    def _check_kind(self, template):
        """Refuses a template of another kind: masked, causal, or with a decoder."""
        settings = self.init_config
        config = settings["config"]
        application = find_application(config, settings.get("model"), settings.get("application"))
        if template.text_to_text != (application == "encoder-decoder"):
            need = (
                "A template with [DECODER] needs a model that reads a text and writes another, "
                "such as a T5"
                if template.text_to_text
                else "A model that reads a text and writes another needs a template that says what "
                "it writes, with [DECODER]: Template('{text}[DECODER][MASK]', ...)"
            )
            raise ValueError(f"{need}. Received: the template {template.pattern!r}.")
        start = config.get("decoder_start_token_id")
        if template.text_to_text and start not in (None, template.decoder_start_id):
            raise ValueError(
                f"The decoder of this checkpoint begins its text with the token {start}, and the "
                f"template with {template.decoder_start_id}. Make the template with the tokenizer "
                "of the checkpoint, or write the token right after [DECODER], as in "
                "'{text}[DECODER][BOS][MASK]'."
            )
        if not template.text_to_text and template.causal != (application == "lm"):
            need = (
                "A causal template needs a causal language model, such as 'gpt-mini-zh'; for a "
                "BERT that was trained as one, give application='lm'"
                if template.causal
                else "A causal language model needs a causal template, whose [MASK] comes last: "
                "Template(..., causal=True)"
            )
            raise ValueError(f"{need}. Received: the template {template.pattern!r}.")

    def _check_classifier(self, classifier):
        if not classifier:
            return
        if self.template.text_to_text:
            raise ValueError(
                "A template with [DECODER] has no classifier next to it: leave out `classifier`. "
                f"Received: {self.template!r}."
            )
        if self.template.labels is None:
            raise ValueError(
                "A classifier scores labels, and the texts of this template have candidates of "
                f"their own: leave out `classifier`. Received: {self.template!r}."
            )
        if self.normalization != "labels":
            raise ValueError(
                "What a classifier adds to the scores competes among the labels: give "
                f"`normalization='labels'` too. Received: normalization={self.normalization!r}."
            )

    def _build_classifier(self):
        """Scores of the labels out of the mean vector of a text."""
        hidden_size = self.backbone.transformer.hidden_size
        layers = [
            # The mean vectors of one checkpoint are ten times as long as those of another.
            keras.layers.LayerNormalization(
                epsilon=1e-12, center=False, scale=False, dtype="float32", name="Classifier-Norm"
            ),
            # At 0, so that training begins with the answers of the cloze.
            keras.layers.Dense(
                self.template.num_labels,
                kernel_initializer="zeros",
                dtype="float32",
                name="Classifier",
            ),
        ]
        classifier = keras.Sequential(layers, name="Classifier")
        classifier.build((None, hidden_size))
        return classifier

    def _head_weights(self):
        return {} if self.classifier is None else named_weights(self.classifier)

    @property
    def embedding(self) -> PtuningEmbedding:
        """The `PtuningEmbedding`.

        Raises:
            ValueError: if the template has no virtual tokens.
        """
        embedding = self.backbone.get_layer("Embedding-Token")
        if not isinstance(embedding, PtuningEmbedding):
            raise ValueError(
                f"The template {self.template.pattern!r} has no virtual tokens [u1], [u2]..., and "
                "no label word that learns, so there is no prompt."
            )
        return embedding

    @property
    def prompt(self) -> keras.Variable | None:
        """The variable behind the vectors of the tokens that learn, or `None` without any."""
        return getattr(self.backbone.get_layer("Embedding-Token"), "prompt", None)

    @property
    def learns_from_unlabeled(self):
        return self.auxiliary

    unlabeled_advice = (
        "Only the auxiliary task would: build the model with `auxiliary=True`, or leave them out."
    )

    def call(self, inputs, training=False):
        inputs = {name: ops.convert_to_tensor(array) for name, array in inputs.items()}
        return self._twice(lambda: self._score(inputs, training), training)

    def _score(self, inputs, training):
        auxiliary = training and self.auxiliary and "auxiliary_ids" in inputs
        answers = inputs["mask_positions"]
        token_ids, positions = inputs["token_ids"], answers
        if auxiliary:
            token_ids = inputs.get("masked_token_ids", token_ids)
            positions = ops.concatenate([answers, inputs["auxiliary_positions"]], axis=1)
        logits = self._logits(inputs, token_ids, positions, training)
        if self.classifier is not None:
            mean, logits = logits
        count = ops.shape(answers)[1]
        scores = self.verbalizer(
            logits[:, :count], inputs.get("candidate_ids"), inputs.get("candidate_slots")
        )
        if self.classifier is not None:
            scores = ops.log_softmax(scores + self.classifier(mean))
        if not auxiliary:
            return scores
        targets = inputs["auxiliary_ids"]
        weights = ops.cast(targets >= 0, "float32")
        losses = keras.losses.sparse_categorical_crossentropy(
            ops.maximum(targets, 0), logits[:, count:], from_logits=True
        )
        return {
            "scores": scores,
            "auxiliary_loss": ops.sum(losses * weights),
            "auxiliary_count": ops.sum(weights),
        }

    def _logits(self, inputs, token_ids, positions, training, backbone=None):
        """What the backbone returns, or another model of the same inputs."""
        backbone = backbone or self.backbone
        named = {
            "Input-Token": token_ids,
            "Decoder-Input-Token": inputs.get("decoder_token_ids"),
            "Input-Segment": inputs["segment_ids"],
            "Input-Reach": inputs.get("reach"),
            "Input-Gather": positions,
            "Input-Vectors": inputs.get("vectors"),
        }
        return backbone([named[x.name] for x in backbone.inputs], training=training)

    def fill(self, texts: Texts, top: int = 10) -> list[list[list[tuple[str, float]]]]:
        """The likeliest tokens at each mask, out of the whole vocabulary.

        They show what the model would say by itself. So they help to choose words for the labels.
        Each mask is predicted by itself, while all of them are masked.

        Args:
            texts: List of strings; of pairs of strings if the template has `{text_b}`. They need no
                candidates.
            top: Integer, how many tokens. Defaults to `10`.

        Returns:
            For each text a list with an entry for each mask. The entry is a list of pairs `(token,
            probability)`, the likeliest first. With a causal template there is one entry, for the
            first mask, because a later one depends on the word before it. Tokens that learned have
            their names in the template, such as `"[v1]"`. A `classifier` has no effect on this.

        Raises:
            TypeError: if `texts` is not a list of strings (or pairs).
            ValueError: if there are no texts, `top` is not from 1 to the size of the vocabulary, or
                a probability is not finite.

        Example:

        ```python
        template = Template("[MASK]满意。{text}", {"负面": "不", "正面": "很"}, "bert-small-zh")
        model = build_ptuning_model("bert-small-zh", template=template)
        model.fill(["物流很快，包装也好。"], top=3)
        # [[[("很", 0.963), ("挺", 0.018), ("不", 0.007)]]]
        ```
        """
        template = self.template
        check_integer("top", top, 1, template.tokenizer.vocab_size)
        examples = template._examples(texts, to_score=False)
        data = ClozeDataset(examples, template, batch_size=FILLED, shuffle=False)
        dataset, order = data.by_length()
        found: list[Any] = [None] * len(order)
        places = iter(order)
        for i in range(len(dataset)):
            (inputs,) = dataset[i]
            inputs = {name: ops.convert_to_tensor(array) for name, array in inputs.items()}
            p = self._token_probabilities(inputs)
            names = token_names(template, self._learned_columns, p.shape[-1])
            count = p.shape[0]
            for filled in likeliest_tokens(p, [template] * count, [names] * count, top):
                found[next(places)] = filled
        return found

    def generate(
        self, texts: Texts, max_tokens: int = 32, beams: int = 1, batch_size: int = 32
    ) -> list[str]:
        """Open answers: what the decoder writes, for a template with `[DECODER]`.

        The label words and the number of masks have no effect on this.

        Args:
            texts: List of strings; of pairs of strings if the template has `{text_b}`. They need no
                candidates.
            max_tokens: Integer, the greatest number of tokens of an answer. Defaults to `32`.
            beams: Integer, how many answers to a text are followed at once. The result is the
                answer with the greatest mean log-probability of its tokens. Defaults to `1`, greedy
                decoding.
            batch_size: Integer, texts at once. Defaults to `32`.

        Returns:
            A list of strings.

        Raises:
            TypeError: if `texts` is not a list of strings (or pairs).
            ValueError: if the template has no `[DECODER]`, or text after it; if there are no texts;
                if a number is not positive, or there are more beams than tokens.

        Example:

        ```python
        template = Template("{text}总之很extra0。[DECODER]extra0[MASK]", None, "uer_t5")
        model = build_ptuning_model("uer_t5", template=template)
        model.generate(["物流很快，包装也好。"], max_tokens=2, beams=4)
        ```
        """
        template = self.template
        if not template.text_to_text:
            raise ValueError(
                "Only a model that reads a text and writes another can generate, with a template "
                f"such as '{{text}}[DECODER][MASK]'. Received: {template!r}."
            )
        if self.backbone.transformer.own_vectors:
            raise ValueError(
                f"A {type(self).__name__} scores labels only. To generate with one of its prompts, "
                "save them, `model.save_tuned(folder)`, and load one: `load_tuned`."
            )
        check_integer("max_tokens", max_tokens, 1)
        check_integer("beams", beams, 1, template.tokenizer.vocab_size)
        check_integer("batch_size", batch_size, 1)
        examples = template._examples(texts, to_score=False)
        data = ClozeDataset(examples, template, batch_size=batch_size, shuffle=False)
        dataset, order = data.by_length()
        found = []
        for i in range(len(dataset)):
            (inputs,) = dataset[i]
            # How the decoder's text begins; its continuations are not written.
            ends = inputs["mask_positions"][:, 0] + 1
            if len(set(ends.tolist())) > 1:
                raise ValueError(
                    "Answers begin alike: no {text} may follow [DECODER]. Received: the template "
                    f"{template.pattern!r}."
                )
            found += write_answers(
                self.backbone.transformer,
                inputs["token_ids"],
                inputs["decoder_token_ids"][:, : ends[0]],
                template.tokenizer,
                beams,
                max_tokens,
            )
        answers: list[Any] = [None] * len(found)
        for place, ids in zip(order, found, strict=True):
            answers[place] = template.tokenizer.decode(ids)
        return answers

    def _token_probabilities(self, inputs):
        """Of shape `(batch, positions, columns)`."""
        with without_gradients():
            logits = self._logits(inputs, inputs["token_ids"], inputs["mask_positions"], False)
        logits = logits if self.classifier is None else logits[1]
        return ops.softmax(ops.cast(logits, "float32"))

    @property
    def _learned_columns(self):
        """The columns of the tokens that learn."""
        return learned_ids(self.template)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if self.rdrop and not self.template.asks_unlabeled:
            # Texts without a label come without the question: there are no answers to compare.
            x = {**x, "is_text": read_labels(y)[1]}
        return self._loss_of_passes(lambda p: self._loss(y, p, sample_weight), x, y_pred)

    def _loss(self, y, y_pred, sample_weight):
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

    def _export_axes(self):
        axes = {**super()._export_axes(), "mask_positions": ("batch", "answers")}
        if self.template.text_to_text:
            axes["decoder_token_ids"] = axes["reach"] = ("batch", "written")
        elif self.template.causal:
            axes["reach"] = axes["token_ids"]
        if self.template.labels is None:
            words = ("batch", "candidates", "tokens")
            axes |= {"candidate_ids": words, "candidate_slots": words}
        return axes

    def _options(self):
        return {
            "normalization": self.normalization,
            "auxiliary": self.auxiliary,
            "classifier": self.classifier is not None,
        }

    def save_checkpoint(self, folder: Path, dtype: str = "float32") -> None:
        """Writes the transformer, with what was tuned merged in, as a checkpoint for other tools.

        The folder has the files of `save_transformer_model`, and `template.json`. That has the
        pattern, the labels, and the token ids, segment ids and mask positions of an empty text. The
        vectors of virtual tokens are in the rows of these ids. If the vocabulary has no `[unused]`
        token for one of them, such a token is added. All files are replaced at once.

        A configuration has no place for `application="unilm"` and `hierarchical_position`. Pass
        these again when you load the checkpoint.

        Args:
            folder: Path of a folder. It is made if there is none.
            dtype: Type of the numbers in the safetensors file: `"float32"`, `"float16"` or
                `"bfloat16"`. Defaults to `"float32"`.

        Raises:
            OSError: if the files cannot be written.
            ValueError: if something that was tuned cannot be merged: checkpoints have no place for
                prefixes, adapters and the classifier; or if the folder has files of another
                checkpoint. Nothing is written then.

        Example:

        ```python
        model.save_checkpoint("my_bert")
        transformers.AutoModelForMaskedLM.from_pretrained("my_bert")
        ```
        """
        check_path("folder", folder)
        apart = [method for method in self.methods if not method.merges]
        apart += [] if self.classifier is None else [self.classifier.name]
        if apart:
            raise ValueError(
                f"A checkpoint has no place for {' and '.join(map(repr, apart))}, so nothing was "
                "written. Save what was tuned by itself with `model.save_tuned(...)`, or the model "
                "whole with `model.save(...)`."
            )
        template = self.template
        tokenizer = template.tokenizer
        vocab = list(tokenizer.vocab)
        # In the order of their ids.
        ids = template.virtual_ids + template.label_token_ids
        own = dict(zip(ids, template.tuned_names, strict=True))
        vocab += [_unused_name(own[i]) for i in sorted(own) if i >= len(vocab)]
        rows = self.backbone.get_layer("Embedding-Token").input_dim
        config = override(self.init_config["config"], self.init_config)
        config["vocab_size"] = max(rows, len(vocab))
        if config["vocab_size"] > rows and not self.backbone.transformer.tie_embeddings:
            raise ValueError(
                "The table that predicts tokens has no rows for the virtual tokens, so nothing was "
                "written. Save what was tuned by itself with `model.save_tuned(...)`."
            )
        if self.init_config.get("application") == "lm":
            config["is_decoder"] = True
        text = ("", "") if "text_b" in template.slots else ""
        (example,) = template._examples([text], to_score=False)
        # Of one text there is nothing to pad.
        arrays = model_inputs([example], len(example.token_ids), pad_id=0)
        names = ("token_ids", "segment_ids", "mask_positions", "decoder_token_ids")
        example = {name: arrays[name][0].tolist() for name in names if name in arrays}
        settings = template.get_config()
        del settings["tokenizer"]
        text = json.dumps({**settings, "empty_text": example}, ensure_ascii=False, indent=2)
        with replacing_all(folder, OTHERS) as temporary:
            own = tokenizer
            if not isinstance(tokenizer, PieceTokenizer):
                own = Tokenizer(vocab, tokenizer.do_lower_case, tokenizer.pre_tokenize)
            save_transformer_model(self.backbone, temporary, config, own, dtype)
            path = os.path.join(temporary, "template.json")
            with open(path, "w", encoding="utf-8") as file:
                file.write(text + "\n")


def _unused_name(token):
    """What an additional token is called in a vocabulary: `[u3]` is `[unused3]`."""
    return f"[unused{token[2:-1]}]" if token[1] == "u" else f"[unused_{token[1:-1]}]"


def build_ptuning_model(
    config_path: Config,
    checkpoint_path: Path | None = None,
    template: Template | None = None,
    tune: Tune = None,
    normalization: Literal["vocabulary", "labels"] = "vocabulary",
    auxiliary: bool = True,
    classifier: bool = False,
    **kwargs: Any,
) -> ClozeModel:
    """Builds a classifier out of a pretrained language model, masked or causal, and a template.

    Args:
        config_path: Path of a checkpoint's folder, which has the configuration and the weights; or
            the name of an embedded checkpoint, `"bert-mini-zh"`, `"bert-small-zh"`,
            `"gpt-mini-zh"` or `"t5-mini-zh"`; or the name of a model of Hugging Face's hub; or path
            of a configuration, or a dictionary with the content of one.
        checkpoint_path: The weights, with a head that predicts tokens, as
            `build_transformer_model` takes them. `None` for those in the folder. With a
            configuration alone they are random.
        template: A `Template` over the checkpoint's vocabulary. A causal language model (GPT, Qwen,
            LLaMA) needs one with `causal=True`, and a T5 one with `[DECODER]`.
        tune: What trains, while the rest is frozen: `"prompt"`, the template's virtual tokens and
            label words (for few labels); `"prefix"`, `"lora"` or `"adapter"`; `"all"`, everything
            (for many labels); or an object with settings, such as `Prompt(start="labels")`,
            `Prefix(20)`, `LoRA(rank=4)`, `Adapter(kind="pfeiffer")`; or a list of these. The
            virtual tokens and label words of the template that learn do so with every method.
            Defaults to these alone. Without any, the model is a zero-shot classifier.
        normalization: What the label words compete with in the loss: `"vocabulary"`, all tokens,
            as in pretraining, or `"labels"`, each other only. Defaults to `"vocabulary"`.
        auxiliary: Whether training also predicts other words, masked at random in each epoch, or
            with a causal model the whole text (`mask_rate` of `Template.dataset`). Defaults to
            `True`.
        classifier: Whether a dense layer over the mean vector of the text learns too. Its output is
            added to the scores of the label words. The layer starts at 0, so at first the answers
            are those of the cloze. It helps most if there are many labels. It needs
            `normalization="labels"`, and a template with labels and without `[DECODER]`. Defaults
            to `False`.
        **kwargs: Other arguments of `build_transformer_model`: `model`, `dropout_rate`,
            `attention_dropout_rate`, `keep_tokens`, `dtype` (e.g. `"mixed_bfloat16"`), `name`;
            `application="lm"` for a BERT that was trained as a causal language model. With
            `data_parallel=True` all devices share each batch: on TensorFlow those of this process,
            or with `TF_CONFIG` in the environment those of all workers; on JAX all that it sees.
            Then `compile` makes a new optimizer from its configuration (it is `model.optimizer`).
            A saved model is for a single device again.

    Returns:
        A `ClozeModel`: a Keras model with `compile`, `fit`, `evaluate`, `predict`, `summary`,
        `save`, and `save_tuned`. Its inputs are what `template.dataset` and `template.encode`
        make; its output has shape `(batch, num_labels)`, the log-probability of each label.

    Raises:
        FileNotFoundError: if the configuration or (a part of) the checkpoint does not exist.
        TypeError: if `template` is not a `Template`, or `auxiliary` or `classifier` not a bool.
        ValueError: if the configuration does not match the checkpoint, the checkpoint has no head
            that predicts tokens, template and model are not of the same kind (masked, causal, or
            with a decoder), the vocabulary has another size than the embedding, the template's
            `maxlen` is more than the model has positions, two methods need the same place, or an
            argument is none of those above.

    Example:

    ```python
    template = Template("[u1][u2][u3][u4][MASK][u5][u6][u7][u8]{text}",
                        labels={"负面": "不", "正面": "很"}, tokenizer="bert-mini-zh")
    model = build_ptuning_model("bert-mini-zh", template=template)
    model.compile()
    model.fit(template.dataset(texts, labels), epochs=50)
    template.decode(model.predict(template.dataset(new_texts)))

    # A T5 reads a text, and writes the answer:
    template = Template("[u1][u2][u3][u4]{text}[DECODER][MASK][MASK]",
                        {"负面": "负面", "正面": "正面"}, "mengzi-t5-base")
    model = build_ptuning_model("mengzi-t5-base", template=template, tune=Prompt("labels"))

    # A GPT continues where the text ends:
    template = Template("[u1][u2][u3][u4]{text}[u5][u6][u7][u8][MASK]",
                        {"负面": "不", "正面": "很"}, "gpt-mini-zh", causal=True)
    model = build_ptuning_model("gpt-mini-zh", template=template)
    ```

    Reference:
        - [Liu et al., 2021](https://arxiv.org/abs/2103.10385), section 3.
        - [Su, 2021](https://kexue.fm/archives/8295): frozen model, masked stop-gradient, and the
          auxiliary task in place of an LSTM.
        - Of a T5: [Lester et al., 2021](https://arxiv.org/abs/2104.08691), section 2.
    """
    check_template(
        template,
        checkpoint_path,
        getattr(template, "is_cloze", False),
        "a `Template`, e.g. build_ptuning_model('bert-mini-zh', template=template)",
    )
    config, checkpoint = find_model(config_path, checkpoint_path, kwargs.get("model"))
    return build_model(
        ClozeModel,
        config,
        template,
        tune=tune,
        normalization=normalization,
        auxiliary=auxiliary,
        classifier=classifier,
        checkpoint=checkpoint,
        **kwargs,
    )
