"""Prompts: virtual tokens and label words that learn, and where they start."""

import itertools
from typing import Literal

import keras
import numpy as np
from keras import ops

from keras_ptuning.backend import Unset
from keras_ptuning.layers import Bias, PtuningEmbedding
from keras_ptuning.layers.prompt_encoder import KINDS
from keras_ptuning.methods.method import Method, assign, named_weights, to_numpy
from keras_ptuning.methods.words import text_ids

STARTS = ("unused", "random", "vocabulary", "labels")
# Among how many of the most frequent tokens a start is sampled.
FREQUENT = 5000


@keras.saving.register_keras_serializable(package="keras_ptuning")
class Prompt(Method):
    """Trains the template's virtual tokens `[u1]`, `[u2]`..., and label words `[v1]`, `[v2]`...

    This is P-tuning. With label words that learn, and `normalization="labels"`, it is WARP.

    Args:
        start: The vectors that the virtual tokens start as. Defaults to `"unused"`.

            - `"unused"`: the vocabulary's `[unused]` rows, or random vectors if it has none;
            - `"random"`: random vectors;
            - `"vocabulary"`: tokens drawn from the 5,000 most frequent;
            - `"labels"`: the label words;
            - a list of words, e.g. `["感觉很满意"]`: their tokens, one after the other.

            What is drawn depends on NumPy's global seed, which `keras.utils.set_random_seed` sets.
        encoder: What makes the vectors while they train. `None`: the vectors themselves learn.
            `"lstm"` or `"mlp"`: a small network makes them, and learns (`PromptEncoder`). A tuned
            file has the vectors, without the network. Defaults to `None`.
        label_start: The vectors that label words start as, if they learn. `None`: the mean of the
            other words of the label, or the vocabulary's `[unused]` rows if it has no others.
            `"mask"`: `[MASK]`. Or a list of words, one for each. Defaults to `None`.

    Raises:
        ValueError: if there is no such encoder or start. When the model is built: if the template
            has no tokens that learn, or lacks the kind of token that an argument is for.

    Example:

    ```python
    model = build_ptuning_model("bert-mini-zh", template=template, tune=Prompt("labels"))

    # WARP: vectors in the template, and one for each label.
    labels = {"负面": "[v1]", "正面": "[v2]"}
    template = Template("[u1][u2][MASK][u3]{text}", labels, "bert-mini-zh")
    model = build_ptuning_model("bert-mini-zh", template=template, normalization="labels",
                                tune=Prompt(label_start=["不", "很"]))
    ```

    Reference:
        - [Liu et al., 2021](https://arxiv.org/abs/2103.10385), section 3.
        - [Su, 2021](https://kexue.fm/archives/8295).
        - Starts: [Lester et al., 2021](https://arxiv.org/abs/2104.08691), section 3.2.
        - WARP: [Hambardzumyan et al., 2021](https://arxiv.org/abs/2101.00121), section 3.
    """

    name = "prompt"
    settings = ("start", "encoder", "label_start")
    starts_pretrained = False
    learning_rate = 6e-4
    pretrained_rate = True
    merges = True

    def __init__(
        self,
        start: str | list[str] | tuple[str, ...] = "unused",
        encoder: Literal["lstm", "mlp"] | None = None,
        label_start: Literal["mask"] | list[str] | tuple[str, ...] | None = None,
    ) -> None:
        if encoder not in KINDS:
            raise ValueError(f"A prompt encoder is one of {KINDS}. Received: encoder={encoder!r}.")
        self.start = start
        self.encoder = encoder
        self.label_start = label_start

    def added_layers(self, transformer, template):
        pattern = template.pattern
        if not template.tuned_names:
            raise ValueError(
                f"The template {pattern!r} has no virtual tokens [u1], [u2]..., and no "
                f"label word that learns, so there is no prompt to train. Received: {self!r}."
            )
        if template.label_token_ids and not transformer.tie_embeddings:
            raise ValueError(
                f"The label words {template.tuned_names[len(template.virtual_ids) :]} learn as "
                "rows of the token embedding, and this checkpoint predicts tokens with a table of "
                f"its own. Use words of the vocabulary for the labels. Received: "
                f"the template {pattern!r}."
            )
        for argument, value, tokens, what in (
            ("start", self.start != "unused", template.virtual_ids, "virtual tokens [u1], [u2]..."),
            ("encoder", self.encoder is not None, template.virtual_ids, "virtual tokens to make"),
            (
                "label_start",
                self.label_start is not None,
                template.label_token_ids,
                "label words that learn, [v1], [v2]...",
            ),
        ):
            if value and not tokens:
                raise ValueError(
                    f"The template {pattern!r} has no {what}: leave out `{argument}`. Received: "
                    f"{self!r}."
                )
        layer = PtuningEmbedding(
            transformer.vocab_size,
            transformer.embedding_size,
            tuned_ids=template.virtual_ids + template.label_token_ids,
            num_label_tokens=len(template.label_token_ids),
            prompt_encoder=self.encoder,
            # Random numbers would take time and memory, and then be replaced.
            embeddings_initializer=Unset() if transformer.pretrained else transformer.initializer(),
            dtype=transformer.exact,
            name="Embedding-Token",
        )
        return {"Embedding-Token": layer}

    def attach(self, model, template):
        embedding = model.get_layer("Embedding-Token")
        bias = next((layer.bias for layer in model.layers if isinstance(layer, Bias)), None)
        bias = None if bias is None else ops.convert_to_numpy(bias)
        vectors = start_vectors(
            self.start,
            template,
            _Table(embedding.embeddings),
            # How much a head favours each token follows how frequent it was.
            bias,
            np.random.default_rng(np.random.randint(2**31)),
            model.transformer.initializer_range,
            self.label_start,
        )
        embedding.start_from(vectors)
        if embedding.label_bias is not None:
            embedding.label_bias.assign(start_biases(template, bias, self.label_start))

    def weights(self, model):
        embedding = model.get_layer("Embedding-Token")
        added = {id(v) for v in embedding.added_weights if v is not embedding.label_bias}
        return {name: v for name, v in named_weights(embedding).items() if id(v) in added}

    def tensors(self, model):
        embedding = model.get_layer("Embedding-Token")
        tensors = {"Embedding-Token/prompt": to_numpy(embedding.vectors())}
        if embedding.label_bias is not None:
            tensors["Embedding-Token/label_bias"] = to_numpy(embedding.label_bias)
        if embedding.start is not None:
            tensors["Embedding-Token/start"] = np.array(embedding.start)
        return tensors

    def load(self, model, tensors):
        embedding = model.get_layer("Embedding-Token")
        found = {"Embedding-Token/prompt": embedding.prompt}
        # Prompt files of version 0.1.0 have no biases, which is the same as 0.
        if embedding.label_bias is not None and "Embedding-Token/label_bias" in tensors:
            found["Embedding-Token/label_bias"] = embedding.label_bias
        assign(found, tensors)
        start = tensors.get("Embedding-Token/start")
        if start is not None and start.shape != tuple(embedding.prompt.shape):
            raise ValueError(
                f"its prompt started with the shape {start.shape}, and the model needs "
                f"{tuple(embedding.prompt.shape)}"
            )
        embedding.start = start

    def saved_as(self):
        return Prompt()

    def describe(self, model):
        tokens, size = model.get_layer("Embedding-Token").prompt.shape
        encoder = f", and their {self.encoder} encoder" if self.encoder else ""
        return f"the vectors of {tokens} tokens x {size}{encoder}"


class _Table:
    """The rows of an embedding, read as they are asked for: a large one is not copied."""

    def __init__(self, embeddings):
        self.embeddings, self.shape = embeddings, tuple(embeddings.shape)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        rows = np.arange(len(self))[rows]
        return to_numpy(ops.take(self.embeddings, rows, axis=0)).astype("float32")


def start_vectors(start, template, table, log_frequency, rng, stddev=0.02, label_start=None):
    """Values for the trainable rows of a template to start from.

    Args:
        start: Where the virtual tokens start:
            `"unused"`: the table's own rows, as pretraining left them; random beyond the table.
            `"random"`: a normal distribution, without values beyond two standard deviations.
            `"vocabulary"`: the rows of different tokens, sampled from the 5000 most frequent.
            `"labels"`: the label words, the first of each label and then the second of each; a
            word of several tokens is their mean. Where the words end, as `"vocabulary"`.
            A list of strings: their tokens in order, and from the beginning again.
        template: A `Template`.
        table: Float32 array of shape `(vocabulary, hidden)`, the token embedding.
        log_frequency: Array of shape `(vocabulary,)` that is greater for more frequent tokens. A
            masked language model has one in the bias of its head, which learns how often each token
            is the answer. With `None`, the vocabulary is taken to begin with the frequent ones.
        rng: A `numpy.random.Generator`.
        stddev: Float. Of random rows. Defaults to `0.02`.
        label_start: Where the label tokens start. `None`: as the mean of their label's other words
            (a second one of the same label close to it), or else as `"unused"`. `"mask"`: as the
            row of `[MASK]`. A list of words, one for each label token: as the mean of its tokens.

    Returns:
        A float32 array with a row for each of `template.virtual_ids` and then for each of
        `template.label_token_ids`.

    Raises:
        ValueError: if `start` is none of these, a list has no tokens or ones that the vocabulary
            lacks, or the template has no label words of the vocabulary to start from.

    Example:

    ```python
    table = keras.ops.convert_to_numpy(model.get_layer("Embedding-Token").embeddings)
    bias = keras.ops.convert_to_numpy(model.get_layer("MLM-Bias").bias)
    rng = np.random.default_rng(0)
    start_vectors("vocabulary", template, table, bias, rng)  # (virtual tokens, hidden)
    start_vectors(["这句话的情感是"], template, table, bias, rng)
    ```

    Reference:
        - [Lester et al., 2021](https://arxiv.org/abs/2104.08691), section 3.2.
    """
    label_ids = template.label_token_ids
    virtual = _virtual_rows(start, template, table, log_frequency, rng, stddev)
    if label_start is not None:
        words = _label_words(label_start, template)
        return np.concatenate([virtual, *(table[word].mean(axis=0)[None] for word in words)])
    labels = _own_rows(label_ids, table, rng, stddev)
    for words in template.word_ids or []:
        frozen = _frozen_words(words, label_ids)
        own = [i for i, token_id in enumerate(label_ids) if any(token_id in w for w in words)]
        if frozen and own:
            labels[own] = np.mean([table[word].mean(axis=0) for word in frozen], axis=0)
            # Several tokens that start alike would stay one and the same.
            labels[own[1:]] += _random_rows((len(own) - 1, table.shape[1]), rng, stddev)
    return np.concatenate([virtual, labels])


def _virtual_rows(start, template, table, log_frequency, rng, stddev):
    count = len(template.virtual_ids)
    if isinstance(start, list | tuple) and all(isinstance(text, str) for text in start):
        return table[np.resize(text_ids(start, template.tokenizer), count)]
    if not isinstance(start, str) or start not in STARTS:
        raise ValueError(
            f"A prompt starts from one of {STARTS}, or from the words of a list of strings, e.g. "
            f"['这句话的情感是']. Received: start={start!r}."
        )
    if start == "unused":
        return _own_rows(template.virtual_ids, table, rng, stddev)
    if start == "random":
        return _random_rows((count, table.shape[1]), rng, stddev)
    words = _label_rows(template, table) if start == "labels" else table[:0]
    frequent = np.asarray(template.ordinary_ids)
    if log_frequency is not None:
        order = np.argsort(-np.asarray(log_frequency)[frequent], kind="stable")
        frequent = frequent[order]
    # No token comes twice, unless there are more virtual tokens than tokens.
    sampled = np.resize(rng.permutation(frequent[:FREQUENT]), max(count - len(words), 0))
    return np.concatenate([words[:count], table[sampled]])


def _random_rows(shape, rng, stddev):
    values = rng.normal(size=shape)
    while (far := np.abs(values) > 2).any():
        values[far] = rng.normal(size=far.sum())
    return (stddev * values).astype("float32")


def _own_rows(token_ids, table, rng, stddev):
    rows = _random_rows((len(token_ids), table.shape[1]), rng, stddev)
    for row, token_id in zip(rows, token_ids, strict=True):
        if token_id < len(table):
            row[:] = table[token_id]
    return rows


def _frozen_words(words, label_ids):
    """The words without trainable label tokens."""
    return [word for word in words if not set(word) & set(label_ids)]


def _label_rows(template, table):
    if template.word_ids is None:
        raise ValueError(
            "start='labels' needs label words, and those of this template come with each "
            f"text, as candidates. Choose another of {STARTS}, or a list of words."
        )
    label_ids = template.label_token_ids
    labels = [_frozen_words(words, label_ids) for words in template.word_ids]
    # The first word of each label, then the second of those that have one...
    turns = itertools.zip_longest(*labels)
    rows = [table[word].mean(axis=0) for turn in turns for word in turn if word]
    if not rows:
        raise ValueError(
            "start='labels' needs label words of the vocabulary, and those of this template "
            f"are all trainable tokens. Choose another of {STARTS}, or a list of words."
        )
    return np.array(rows)


def start_biases(template, bias, label_start=None):
    """What to add to the biases of label tokens, so that each starts as its word's.

    Args:
        template: A `Template`.
        bias: Array of shape `(vocabulary,)`, the bias of the head.
        label_start: As `start_vectors` takes it.

    Returns:
        A float32 array of shape `(label tokens,)`. It is 0 without a `label_start`. With `"mask"`
        no token is preferred.
    """
    token_ids = template.label_token_ids
    if label_start is None or bias is None:
        return np.zeros(len(token_ids), "float32")
    own = np.array([bias[i] if i < len(bias) else 0.0 for i in token_ids], "float32")
    if label_start == "mask":
        return -own
    return np.array([bias[word].mean() for word in _label_words(label_start, template)]) - own


def _label_words(label_start, template):
    """The token ids that each label token starts as."""
    count = len(template.label_token_ids)
    if label_start == "mask":
        return [[template.mask_id]] * count
    is_list = isinstance(label_start, list | tuple)
    if not is_list or not all(isinstance(word, str) for word in label_start):
        raise ValueError(
            "Label words that learn start at 'mask', or at a list of words. Received: "
            f"label_start={label_start!r}."
        )
    if len(label_start) != count:
        raise ValueError(
            f"`label_start` must have a word for each of the {count} label tokens "
            f"{template.tuned_names[len(template.virtual_ids) :]}. Received: {label_start!r}."
        )
    return [text_ids([word], template.tokenizer) for word in label_start]
