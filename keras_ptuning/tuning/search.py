"""A search of templates: words for open places by gradient, and weights of several templates."""

import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from keras_ptuning.backend import gradient, predict_one_batch
from keras_ptuning.checkpoints import find_vocab
from keras_ptuning.checks import (
    Label,
    LabelsWithWords,
    Path,
    Texts,
    as_list,
    check_integer,
    check_text,
    check_verbose,
)
from keras_ptuning.layers import Verbalizer
from keras_ptuning.models import find_model
from keras_ptuning.text import as_tokenizer
from keras_ptuning.text.masking import NONE
from keras_ptuning.text.templates import Template, _as_label
from keras_ptuning.tuning.calibration import _log_softmax
from keras_ptuning.tuning.cloze import ClozeModel
from keras_ptuning.tuning.label_words import (
    check_arguments,
    check_labeled,
    is_causal,
    open_cloze,
    progress_bar,
    token_log_probabilities,
)
from keras_ptuning.tuning.own_tokens import find_own_tokens

TRIGGER = "[T]"
# How far the mean log-likelihood of a mixture may be from the best there is.
TOLERANCE = 1e-6


class _TriggerModel(ClozeModel):
    """A cloze whose input has the vectors of the trigger tokens.

    So one graph computes the loss of all words that are tried, and its gradient at the vectors.
    """

    def _build_backbone(self, checkpoint, **kwargs):
        return super()._build_backbone(checkpoint, methods=[], own_vectors=True, **kwargs)

    def _logits(self, *args):
        return super()._logits(*args)[0]


class _Triggers:
    """The trigger positions of a template: their loss, and what is known of each word there.

    Args:
        model: A `_TriggerModel`, whose template has a virtual token at each trigger position.
    """

    def __init__(self, model):
        self.model, self.template = model, model.template
        embedding = model.backbone.get_layer("Embedding-Token")
        self.table = ops.convert_to_numpy(embedding.embeddings)
        self._moved_ids = find_own_tokens(self.template, len(self.table)).moved_ids
        self.count = len(self.template.virtual_ids)
        if self.template.mask_id == NONE:
            # NumPy would add bfloat16 up in bfloat16.
            mean = self.table[self.template.ordinary_ids].mean(axis=0, dtype="float32")
            self._start = mean.astype(self.table.dtype)
        self.ids = _trigger_ids(self.template)
        self._template_ids = self._read(self.template.pattern)

    def encode(self, texts, labels):
        x, y = self.template.encode(texts, labels)
        names = x.keys() & {"token_ids", "decoder_token_ids"}
        return {**x, **{name: self._moved_ids[x[name]] for name in names}}, y

    def vectors(self, tokens):
        """The embeddings of the tokens; of an open place their mean, if there is no `[MASK]`."""
        rows = self.table[list(tokens)]
        is_nothing = np.equal(tokens, NONE)
        if is_nothing.any():
            rows[is_nothing] = self._start
        return rows

    def scores(self, tokens, x, batch_size):
        """Log-probabilities of the labels among the labels, where these are the trigger tokens."""
        found, vectors = [], self.vectors(tokens)[None]
        for first in range(0, len(x["token_ids"]), batch_size):
            batch = {name: array[first : first + batch_size] for name, array in x.items()}
            batch["vectors"] = np.repeat(vectors, len(batch["token_ids"]), axis=0)
            found.append(predict_one_batch(self.model, (batch,)))
        return _log_softmax(np.concatenate(found))

    def loss(self, tokens, x, y, batch_size):
        """The mean cross-entropy among the labels."""
        return -float(self.scores(tokens, x, batch_size)[np.arange(len(y)), y].mean())

    def loss_of_vectors(self, vectors, x, y):
        """The same as a tensor, of vectors that need not be those of tokens."""
        inputs = {name: ops.convert_to_tensor(array) for name, array in x.items()}
        shape = (len(y), *vectors.shape)
        inputs["vectors"] = ops.broadcast_to(vectors[None], shape)
        scores = self.model(inputs, training=False)
        targets = ops.convert_to_tensor(np.eye(scores.shape[-1], dtype="float32")[y])
        return -ops.sum(ops.log_softmax(scores) * targets) / len(y)

    def gains(self, tokens, place, x, y):
        """By how much the loss falls, to first order, with each of `ids` in one place."""
        vectors = self.vectors(tokens)
        slopes = gradient(lambda v: self.loss_of_vectors(v, x, y), ops.convert_to_tensor(vectors))
        slope = ops.convert_to_numpy(slopes)[place]
        return (vectors[place] - self.table[self.ids]) @ slope

    def spell(self, tokens):
        """The pattern with the tokens as words, or `None` if it would be read as other tokens.

        A place whose token is `[MASK]` stays open, a virtual token.
        """
        template = self.template
        is_open = [token == template.mask_id for token in tokens]
        expected = self._template_ids.copy()
        places = [expected == i for i in template.virtual_ids]
        for place, token, own in zip(places, tokens, is_open, strict=True):
            expected[place] = -1 if own else token
        # A space keeps two words apart, and looks odd between Chinese characters.
        for space in ("", " "):
            pattern = template.pattern
            for name, token, own in zip(template.tuned_names, tokens, is_open, strict=True):
                word = name if own else template.tokenizer.id_to_token(token)
                pattern = pattern.replace(name, word if own else space + word + space)
            pattern = re.sub(" {2,}", " ", pattern).strip()
            try:
                found = self._read(pattern)
            except ValueError:
                # Two words became a longer one, which the vocabulary lacks.
                continue
            if len(found) == len(expected) and ((found == expected) | (expected == -1)).all():
                return pattern
        return None

    def _read(self, pattern):
        """The token ids of an empty text, with those that a decoder reads."""
        template = Template(**self.template.get_params() | {"pattern": pattern, "labels": None})
        empty = ("", "") if len(template.slots) == 2 else ""
        (example,) = template._examples([empty], to_score=False)
        parts = example.token_ids, example.decoder_ids
        return np.concatenate([ids for ids in parts if ids is not None])


def _trigger_ids(template):
    """The ids of the tokens that may be trigger tokens."""
    tokenizer = template.tokenizer
    label_words = {i for words in template.word_ids for word in words for i in word}
    # Brackets mean something in a pattern.
    tokens = {
        i: tokenizer.id_to_token(i)
        for i in template.ordinary_ids.tolist()
        if i not in label_words and not set("[]{}") & set(tokenizer.id_to_token(i))
    }
    found = tokenizer.token_ids(list(tokens.values()))
    return np.array([i for i, ids in zip(tokens, found, strict=True) if ids == [i]], "int32")


def search_template(
    checkpoint: Path,
    pattern: str,
    words: LabelsWithWords,
    texts: Texts,
    labels: Collection[Label],
    validation_data: tuple[Texts, Collection[Label]] | None = None,
    steps: int = 50,
    candidates: int = 10,
    batch_size: int = 32,
    maxlen: int = 128,
    seed: int = 0,
    verbose: int | str = "auto",
    **kwargs: Any,
) -> Template:
    """Finds words for the open places of a template, so that it fits labelled texts.

    The places are `[T]` in the pattern, such as `"[T][T][T][MASK]{text}"`. All start as `[MASK]`,
    or as the mean of all words if the vocabulary has no `[MASK]`, and then get a word one after the
    other. After that each step takes one place and, by the gradient of the loss at its vector, the
    words that should lower the loss most. The loss of each of these is computed on a batch, and the
    best one takes the place if it lowers the loss there. Of all templates on this way, the result
    is the one with the lowest loss on held-out texts. The loss is the cross-entropy among the
    labels. Nothing in the model changes.

    The result has words only, no vectors. They need not make sense to a reader.

    Args:
        checkpoint: Name of an embedded checkpoint, or folder of one, as `build_ptuning_model` takes
            it. For a causal model, `[MASK]` comes last.
        pattern: String, a pattern of `Template` with some `[T]`, and without virtual tokens.
        words: Dictionary from each label to its words, as `Template` takes them.
        texts: List of strings; of pairs of strings if the pattern has `{text_b}`.
        labels: List of labels, one for each text.
        validation_data: Optional held-out texts, `(texts, labels)`. Of few texts, such as 30, the
            template that fits them by chance wins; give 100 or more. Defaults to half of the texts
            of each label, which the steps do not see then.
        steps: Integer, how many steps follow once all places have a word. Where a batch has all
            texts, the search ends early when no place changes any more. Defaults to `50`.
        candidates: Integer, how many words each step computes the loss of. Defaults to `10`.
        batch_size: Integer, how many texts a step computes the loss of. Defaults to `32`.
        maxlen: Integer, that of the `Template`. Defaults to `128`.
        seed: Integer. What is drawn depends on it: the places, the batches and the held-out texts.
            Defaults to `0`.
        verbose: `"auto"`, `0`, `1` or `2`, as in `keras.Model.fit`. Defaults to `"auto"`.
        **kwargs: Other arguments of `build_transformer_model`, such as `dtype` and `application`.

    Returns:
        A `Template`. Its words are tokenized into the same tokens as the search used. Its attribute
        `history` is a list of dictionaries: one when all places have a word, and one after each
        step. They are about the best template so far: its `pattern`, and its `loss` and `accuracy`
        on the held-out texts. The loss never rises.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        TypeError: if the pattern is not a string, `texts` and `labels` are no lists, or
            `validation_data` is no pair of such lists.
        ValueError: if the pattern has no `[T]`, or has virtual tokens; if a label word learns, or
            `Template` refuses something; if there are more or fewer labels than texts, no held-out
            texts, a label that `words` do not have, or texts of fewer than two labels; if a label
            has one text, and there is no `validation_data`; if no word can take a place; or if an
            argument of `build_ptuning_model` is given that a search sets itself.

    Example:

    ```python
    words = {"负面": "不", "正面": "很"}
    template = search_template("bert-mini-zh", "[T][T][MASK][T]{text}", words, texts, labels)
    template.pattern, template.history[-1]["accuracy"]
    model = build_ptuning_model("bert-mini-zh", template=template)
    ```

    Reference:
        - [Shin et al., 2020](https://arxiv.org/abs/2010.15980), section 2.2.
    """
    check_integer("steps", steps, 0)
    check_integer("candidates", candidates, 1)
    check_integer("batch_size", batch_size, 1)
    check_integer("seed", seed, 0)
    check_verbose(verbose)
    check_arguments(kwargs)
    texts, labels = check_labeled(texts, labels)
    if validation_data is not None:
        validation_data = _check_pair(validation_data)
    tokenizer = as_tokenizer(find_vocab(checkpoint))
    template = _open_template(pattern, words, tokenizer, maxlen, is_causal(checkpoint, kwargs))
    rng = np.random.default_rng(seed)
    if validation_data is None:
        validation_data, (texts, labels) = _split(texts, labels, rng)
    config, weights = find_model(checkpoint, None, kwargs.get("model"))
    # TensorFlow takes no name that begins as that of this class does.
    kwargs = {"name": "search", **kwargs}
    model = _TriggerModel(config, template, checkpoint=weights, **kwargs)
    triggers = _Triggers(model)
    x, y = triggers.encode(texts, labels)
    held_out = triggers.encode(*validation_data)

    def draw():
        rows = np.sort(rng.permutation(len(y))[:batch_size])
        return {name: array[rows] for name, array in x.items()}, y[rows]

    settings = (draw, candidates, batch_size)
    bar = progress_bar(triggers.count + steps, verbose, "step", ["val_loss", "val_accuracy"])
    tokens = [template.mask_id] * triggers.count
    for place in range(triggers.count):
        tokens = _with_better_word(triggers, tokens, place, *settings)
        bar.update(place + 1)
    history = [_measure(triggers, tokens, held_out, batch_size)]
    # The places to try in this round, and those that were tried in vain since the last change.
    places, idle = [], set()
    for step in range(steps):
        places = places or rng.permutation(triggers.count).tolist()
        place = places.pop()
        changed = _with_better_word(triggers, tokens, place, *settings)
        kept = history[-1]
        if changed is None:
            idle.add(place)
        else:
            tokens, idle = changed, set()
            found = _measure(triggers, tokens, held_out, batch_size)
            kept = found if found["loss"] <= kept["loss"] else kept
        history.append(kept)
        # With the same texts, all further steps would try the same.
        done = len(idle) == triggers.count and len(y) <= batch_size
        logs = [(f"val_{name}", kept[name]) for name in ("loss", "accuracy")]
        bar.update(triggers.count + step + 1, logs, finalize=done or None)
        if done:
            break
    template = Template(**template.get_params() | {"pattern": history[-1]["pattern"]})
    template.history = history
    return template


def _measure(triggers, tokens, held_out, batch_size):
    x, y = held_out
    scores = triggers.scores(tokens, x, batch_size)
    return {
        "pattern": triggers.spell(tokens),
        "loss": -float(scores[np.arange(len(y)), y].mean()),
        "accuracy": float((scores.argmax(axis=1) == y).mean()),
    }


def _with_better_word(triggers, tokens, place, draw, candidates, batch_size):
    """The tokens of all places, with a better word in one of them.

    Returns:
        A list of token ids; `None` if no word that was tried lowers the loss. An open place gets
        the best of these all the same.
    """
    is_open = tokens[place] == triggers.template.mask_id
    gains = triggers.gains(tokens, place, *draw())
    tried = []
    for token in triggers.ids[np.argsort(-gains, kind="stable")].tolist():
        changed = [*tokens[:place], token, *tokens[place + 1 :]]
        if token != tokens[place] and triggers.spell(changed) is not None:
            tried.append(changed)
        if len(tried) == candidates:
            break
    if not tried and is_open:
        raise ValueError(
            f"No word of the vocabulary can take the place {place + 1} of {TRIGGER}: each of the "
            f"{len(triggers.ids)} tokens that are whole words and no label words would be read as "
            f"other tokens there. Put a [MASK], {{text}} or [SEP] between this {TRIGGER} and other "
            "words, or use another vocabulary."
        )
    batch = draw()
    losses = [triggers.loss(changed, *batch, batch_size) for changed in tried]
    if tried and (is_open or min(losses) < triggers.loss(tokens, *batch, batch_size)):
        return tried[int(np.argmin(losses))]
    return None


def _open_template(pattern, words, tokenizer, maxlen, causal):
    """The template of a pattern with `[T]`, each of which is a virtual token of its own."""
    check_text("The pattern", pattern)
    virtual = re.findall(r"\[u[0-9]+\]", pattern)
    parts = pattern.split(TRIGGER)
    if len(parts) == 1 or virtual:
        raise ValueError(
            f"The pattern needs {TRIGGER} at each place that the search is to find a word for, as "
            "in '[T][T][MASK]{text}', and no virtual tokens [u1], [u2]... Received: "
            f"{pattern!r}."
        )
    names = [f"[u{i}]" for i in range(1, len(parts))]
    opened = "".join(part + name for part, name in zip(parts, [*names, ""], strict=True))
    if words is None:
        raise ValueError("The search needs `words`: a word for each label. Received: words=None.")
    template = Template(opened, words, tokenizer, maxlen, causal)
    if template.label_token_ids:
        raise ValueError(
            "Nothing learns in this search, so label words must be words of the vocabulary. "
            f"Received: {template.labels}."
        )
    return template


def _check_pair(validation_data):
    if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
        raise TypeError(
            "`validation_data` must be held-out texts and their labels, (texts, labels). Received: "
            f"{validation_data!r:.80}."
        )
    texts, labels = validation_data
    texts, labels = as_list("validation_data[0]", texts), as_list("validation_data[1]", labels)
    return texts, [_as_label(label) for label in labels]


def _split(texts, labels, rng):
    """Holds out half of the texts of each label."""
    is_held_out = np.zeros(len(texts), bool)
    numbers = rng.permutation(len(texts))
    for label in dict.fromkeys(labels):
        own = [i for i in numbers if labels[i] == label]
        if len(own) < 2:
            raise ValueError(
                f"Half of the texts of each label are held out, and {label!r} has one text. Give "
                "more texts, or `validation_data=(texts, labels)`."
            )
        is_held_out[own[: len(own) // 2]] = True
    pairs = list(zip(texts, labels, is_held_out, strict=True))
    return [
        [list(column) for column in zip(*((t, k) for t, k, h in pairs if h == part), strict=True)]
        for part in (True, False)
    ]


class WeighedTemplates:
    """Several templates on one frozen model, whose answers are averaged with weights.

    Made by `weigh_templates`. The probability of a label is the weighted mean of its
    probabilities among the labels with each template. Printed, it is a table of weights and
    patterns.

    Args:
        model: A `ClozeModel`.
        templates: List of `Template`, with the same labels.
        weights: List of numbers from 0 on, one for each template, that add up to 1.

    Attributes:
        model, templates: The arguments of these names.
        weights: The weights, an array.

    Raises:
        ValueError: if there are not as many weights as templates, or they are no weights.

    Example:

    ```python
    found = weigh_templates("bert-mini-zh", templates, texts, labels)
    print(found)
    found.decode(found.predict(new_texts))
    ```
    """

    def __init__(
        self,
        model: ClozeModel,
        templates: Sequence[Template],
        weights: Sequence[float] | np.ndarray,
    ) -> None:
        weights = np.asarray(weights, "float64")
        fits = weights.shape == (len(templates),) and (weights >= 0).all()
        if not fits or not np.isclose(weights.sum(), 1):
            raise ValueError(
                f"`weights` must be {len(templates)} numbers from 0 on that add up to 1. "
                f"Received: {weights.tolist()}."
            )
        self.model, self.templates, self.weights = model, list(templates), weights

    def predict(self, texts: Texts, batch_size: int = 32, verbose: int | str = 0) -> np.ndarray:
        """Predicts the log-probability of each label among the labels.

        Args:
            texts: List of strings; of pairs of strings if the templates have `{text_b}`.
            batch_size: Integer. Defaults to `32`.
            verbose: As in `keras.Model.predict`. Defaults to `0`.

        Returns:
            An array of shape `(len(texts), num_labels)`, in the order of the labels of the first
            template.
        """
        scores = _scores(self.model, self.templates, texts, batch_size, verbose)
        return _mix(scores, self.weights)

    def decode(self, scores: ArrayLike) -> list[Any]:
        """The best label for each row of scores, as `Template.decode` returns it."""
        return self.templates[0].decode(scores)

    def __str__(self):
        rows = zip(self.weights, self.templates, strict=True)
        return "\n".join(["weight  pattern", *(f"{w:6.3f}  {t.pattern}" for w, t in rows)])


def weigh_templates(
    checkpoint: Path | ClozeModel,
    templates: Collection[Template],
    texts: Texts,
    labels: Collection[Label],
    batch_size: int = 32,
    verbose: int | str = "auto",
    **kwargs: Any,
) -> WeighedTemplates:
    """Learns from labelled texts how much each of several templates counts.

    The weights are from 0 on and add up to 1. They make the labels of the texts as likely as such
    weights can, so at least as likely as the best single template. They are found by expectation
    maximization, which ends at the best weights there are: the problem has one maximum.

    Args:
        checkpoint: Name of an embedded checkpoint or folder of one, as `build_ptuning_model` takes
            it; or a `ClozeModel`, also a tuned one.
        templates: List of at least two `Template`, with the same labels and the same vocabulary,
            and without tokens that learn. The words of a label may differ.
        texts: List of strings; of pairs of strings if the templates have `{text_b}`.
        labels: List of labels, one for each text.
        batch_size: Integer. Defaults to `32`.
        verbose: `"auto"`, `0`, `1` or `2`, as in `keras.Model.fit`. Defaults to `"auto"`.
        **kwargs: Other arguments of `build_transformer_model`, where it builds the model.

    Returns:
        A `WeighedTemplates`, with `weights`, `predict(texts)` and `decode(scores)`.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        TypeError: if something in `templates` is not a `Template`, or `texts` and `labels` are no
            lists.
        ValueError: if there are fewer than two templates, or they differ in what they must share,
            or have tokens that learn; if they were made for another model; if there are more or
            fewer labels than texts, or fewer than two labels, or a label that the templates do not
            have.

    Example:

    ```python
    words = {"负面": "不", "正面": "很"}
    patterns = ["[MASK]满意。{text}", "{text}总之很[MASK]。"]
    templates = [Template(pattern, words, "bert-mini-zh") for pattern in patterns]
    found = weigh_templates("bert-mini-zh", templates, texts, labels)
    print(found)
    found.decode(found.predict(new_texts))
    ```

    Reference:
        - [Jiang et al., 2019](https://arxiv.org/abs/1911.12543), section 4.3, optimized ensemble.
    """
    check_integer("batch_size", batch_size, 1)
    check_verbose(verbose)
    templates = _check_templates(templates)
    texts, labels = check_labeled(texts, labels)
    first = templates[0]
    y = first.label_ids(labels)
    model, _ = open_cloze(checkpoint, first.pattern, max(t.maxlen for t in templates), kwargs)
    scores = _scores(model, templates, texts, batch_size, verbose)
    weights = _best_weights(scores[:, np.arange(len(y)), y])
    return WeighedTemplates(model, templates, weights)


def _check_templates(templates):
    templates = as_list("templates", templates)
    for template in templates:
        if not isinstance(template, Template) or not template.is_cloze:
            raise TypeError(f"`templates` must be a list of `Template`. Received: {template!r}.")
    first = templates[0]
    for template in templates:
        if not template.labels or set(template.labels) != set(first.labels):
            raise ValueError(
                "All templates must have the same labels. Received: "
                f"{template.label_names} and {first.label_names}."
            )
        own, others = (t.tokenizer.get_config() for t in (template, first))
        if own != others or (template.causal, template.slots) != (first.causal, first.slots):
            raise ValueError(
                "All templates must have the same vocabulary and the same slots, and all or none "
                f"be causal. Received: {template!r} and {first!r}."
            )
        if template.tuned_names:
            raise ValueError(
                "The templates share one frozen model, so they can have no tokens that learn. "
                f"Received: {template.tuned_names} in {template!r}."
            )
    if len(templates) < 2:
        raise ValueError(f"There must be at least two templates. Received: {templates}.")
    return templates


def _scores(model, templates, texts, batch_size, verbose):
    """Log-probabilities among the labels, of shape `(templates, texts, labels)`."""
    names = templates[0].label_names
    texts = as_list("texts", texts)
    scores = np.zeros((len(templates), len(texts), len(names)))
    for k, template in enumerate(templates):
        verbalizer = Verbalizer(template.word_ids, template.word_slots, dtype="float32")
        columns = [template.label_names.index(name) for name in names]
        for rows, log_p in token_log_probabilities(model, template, texts, batch_size, verbose):
            scores[k, rows] = ops.convert_to_numpy(verbalizer(log_p))[:, columns]
        scores[k] = _log_softmax(scores[k])
    return scores


def _mix(scores, weights):
    """The logarithm of the weighted mean of probabilities; the first axis is that of templates."""
    weights = weights.reshape(-1, *[1] * (scores.ndim - 1))
    # A template without weight must not decide, even where no other finds something possible.
    with np.errstate(divide="ignore"):
        return np.logaddexp.reduce(scores + np.log(weights), axis=0)


def _best_weights(log_p):
    """The weights with the greatest mean log-likelihood.

    Args:
        log_p: Array of shape `(templates, texts)`, what each template gives to the labels.
    """
    weights = np.full(len(log_p), 1 / len(log_p))
    for _ in range(100_000):
        ratios = np.exp(log_p - _mix(log_p, weights)).mean(axis=1)
        # The mean log-likelihood is at most by this below the greatest one, as it is concave.
        if ratios.max() - 1 < TOLERANCE:
            break
        weights = weights * ratios / (weights * ratios).sum()
    return weights
