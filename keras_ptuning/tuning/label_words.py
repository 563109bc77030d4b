"""A search of label words, by their likelihoods in labelled texts or by a classifier."""

import copy
import functools
import importlib.util
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LogisticRegression

from keras_ptuning.backend import without_gradients
from keras_ptuning.checkpoints import find_vocab
from keras_ptuning.checks import (
    Label,
    Path,
    Texts,
    as_list,
    check_integer,
    check_list,
    check_verbose,
)
from keras_ptuning.models import find_application, token_vectors
from keras_ptuning.text.batches import ClozeDataset
from keras_ptuning.text.templates import Template, _as_label
from keras_ptuning.tuning.cloze import ClozeModel, build_ptuning_model
from keras_ptuning.tuning.data import check_positions
from keras_ptuning.tuning.reading import _width

# How many words the table of a label has, at least.
SHOWN = 10
# A probability has no smaller logarithm than that of this number.
LEAST = 1e-30


class LabelWords(dict):
    """The words of each label, as `Template` takes them, and the table they come from.

    It is a dictionary `{label: [words]}`. Printed, it is a table of the best words of each label,
    with their scores; the chosen ones have a star.

    Args:
        ranking: Dictionary from each label to pairs `(word, score)`, the best first.
        words_per_label: Integer, how many of these are chosen.

    Attributes:
        ranking: The argument of this name.

    Example:

    >>> words = LabelWords({"负面": [("不", 2.5), ("差", 2.0)], "正面": [("很", 2.25)]}, 1)
    >>> words
    {'负面': ['不'], '正面': ['很']}
    >>> print(words)
    label  words, and their scores
    负面   *不 2.50  差 2.00
    正面   *很 2.25
    """

    def __init__(
        self, ranking: Mapping[Label, Sequence[tuple[str, float]]], words_per_label: int
    ) -> None:
        chosen = {label: rows[:words_per_label] for label, rows in ranking.items()}
        super().__init__({label: [word for word, _ in rows] for label, rows in chosen.items()})
        self.ranking = ranking

    def __str__(self):
        rows = [["label"]]
        for label, ranked in self.ranking.items():
            stars = ["*" if word in self.get(label, ()) else "" for word, _ in ranked]
            cells = [f"{s}{word} {x:.2f}" for s, (word, x) in zip(stars, ranked, strict=True)]
            rows.append([str(label), *cells])
        widths = [max(map(_width, column)) for column in itertools.zip_longest(*rows, fillvalue="")]
        lines = [
            "  ".join(cell + " " * (n - _width(cell)) for cell, n in zip(row, widths, strict=False))
            for row in rows
        ]
        lines[0] += "  words, and their scores"
        return "\n".join(line.rstrip() for line in lines)


def search_label_words(
    checkpoint: Path | ClozeModel,
    pattern: str,
    texts: Texts,
    labels: Collection[Label],
    words_per_label: int = 1,
    words: Collection[str] | None = None,
    candidates: int = 30,
    score: Literal["likelihood", "classifier"] = "likelihood",
    batch_size: int = 32,
    maxlen: int = 128,
    verbose: int | str = "auto",
    **kwargs: Any,
) -> LabelWords:
    """Finds label words out of labelled texts.

    A word is good for a label if the model finds it likely at the mask in the texts of this label,
    and unlikely in the others. Its score is the mean of `log(p / (1 - p))` over the texts of the
    label, minus the mean over all other texts, where `p` is the probability of the word.

    `score="classifier"` is AutoPrompt's way. A logistic regression learns to tell the labels by the
    vectors that the head has at the mask. Then it reads the vectors of words in place of these. The
    score is the log of the probability that a word has the label, minus the mean over all words.

    No word means two labels. It belongs to the one that it has the best score for. Only a label
    that has too few words of its own takes one of another label, which can spare it.

    A word has as many tokens as the pattern has masks. The probability of a word of several tokens
    is the product of those of its tokens, each at its mask, as in `Verbalizer`.

    Args:
        checkpoint: Name of an embedded checkpoint or folder of one, as `build_ptuning_model` takes
            it; or a `ClozeModel`, also a tuned one, whose label words do not matter.
        pattern: The pattern of a `Template`, such as `"[MASK]满意。{text}"`.
        texts: List of strings; of pairs of strings if the pattern has `{text_b}`.
        labels: List of labels, one for each text.
        words_per_label: Integer. Defaults to `1`.
        words: Optional list of words to choose from. Those are left out that the vocabulary lacks,
            or that have more or fewer tokens than the pattern has masks. By default, for one mask,
            these are all tokens of the vocabulary that are words; for several masks, the words
            in the texts, found by `jieba`. Numbers, punctuation and pieces are no words.
        candidates: Integer. Only so many words can be chosen for a label, those that are likeliest
            in its texts. Rare words differ more, and answer less often. Defaults to `30`, with
            which a small model answered best.
        score: `"likelihood"` or `"classifier"`, see above. Defaults to `"likelihood"`.
        batch_size: Integer. Defaults to `32`.
        maxlen: Integer, that of the `Template`. A `ClozeModel` has its own. Defaults to `128`.
        verbose: `"auto"`, `0`, `1` or `2`, as in `keras.Model.fit`. Defaults to `"auto"`.
        **kwargs: Other arguments of `build_transformer_model`, such as `dtype` and `application`,
            where it builds the model.

    Returns:
        A `LabelWords`: a dictionary `{label: [words]}`, which `Template` takes, and which prints as
        a table. The labels are in the order in which they come first.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ImportError: if there are several masks, no `words`, and no jieba.
        TypeError: if `texts`, `labels` or `words` are no lists.
        ValueError: if there is no such `score`, or it is that of a classifier and the model a
            `PromptEnsemble`; if there are more or fewer labels than texts, fewer than two labels,
            no word to choose from, or too few for a label; if the pattern is no pattern, has
            virtual tokens that the model does not have, or has several masks and the model is
            causal.

    Example:

    ```python
    words = search_label_words("bert-mini-zh", "[MASK]满意。{text}", texts, labels)
    print(words)
    template = Template("[MASK]满意。{text}", words, "bert-mini-zh")
    ```

    Reference:
        - [Schick et al., 2020](https://arxiv.org/abs/2010.13641), section 4: the likelihood ratio.
        - [Shin et al., 2020](https://arxiv.org/abs/2010.15980), section 2.3: the classifier.
    """
    check_integer("words_per_label", words_per_label, 1)
    check_integer("candidates", candidates, 1)
    check_verbose(verbose)
    if score not in ("likelihood", "classifier"):
        raise ValueError(f"`score` must be 'likelihood' or 'classifier'. Received: {score!r}.")
    texts, labels = check_labeled(texts, labels)
    model, template = open_cloze(checkpoint, pattern, maxlen, kwargs)
    if score == "classifier" and model.backbone.transformer.own_vectors:
        raise ValueError(
            f"A {type(model).__name__} has several vectors at each mask, so no classifier learns "
            "from them: leave out `score`, or save its prompts, `model.save_tuned(folder)`, and "
            "load one: `load_tuned`. Received: score='classifier'."
        )
    found = _find_words(words, texts, template)
    names = list(dict.fromkeys(labels))
    numbers = np.array([names.index(label) for label in labels])
    # The sums of log p, and of log(p / (1 - p)), of each word over the texts of each label.
    sums = np.zeros((2, len(names), len(found)))
    ids = np.array(list(found.values()), "int32")
    for rows, log_p in token_log_probabilities(model, template, texts, batch_size, verbose):
        starts = np.arange(ids.shape[1], dtype="int32") * log_p.shape[-1]
        flat = ops.reshape(log_p, (log_p.shape[0], -1))
        columns = ops.convert_to_tensor(ids + starts)
        of_words = ops.sum(ops.take(flat, columns, axis=1), axis=-1)
        odds = of_words - ops.log1p(-ops.exp(ops.minimum(of_words, -1e-6)))
        of_label = ops.convert_to_tensor(np.eye(len(names), dtype="float32")[numbers[rows]].T)
        sums += [ops.convert_to_numpy(ops.matmul(of_label, x)) for x in (of_words, odds)]
    likely, odds = sums
    if score == "classifier":
        vectors = _head_vectors(model, template, texts, batch_size, verbose)
        scores = _classifier_scores(vectors, numbers, token_vectors(model.backbone)[ids])
    else:
        scores = _likelihood_scores(odds, np.bincount(numbers))
    ranking = _rank(list(found), names, likely, scores, candidates, words_per_label)
    for label, ranked in ranking.items():
        if len(ranked) < words_per_label:
            raise ValueError(
                f"Of {len(found)} words, {len(ranked)} are for the label {label!r}. Give more "
                "texts or other `words`, raise `candidates`, or use another pattern. Received: "
                f"words_per_label={words_per_label}, candidates={candidates}."
            )
    return LabelWords(ranking, words_per_label)


def _likelihood_scores(odds, counts):
    """The mean log-odds of words in the texts of each label, minus that in all others."""
    counts = counts[:, None]
    others = (odds.sum(axis=0) - odds) / (counts.sum() - counts)
    return odds / counts - others


def _head_vectors(model, template, texts, batch_size, verbose):
    """What the logits at the masks are computed from, `(texts, masks * size)`."""
    backbone = model.backbone
    head = keras.Model(backbone.inputs, backbone.transformer.before_logits)

    def read(inputs):
        places = inputs["token_ids"], inputs["mask_positions"]
        with without_gradients():
            return model._logits(inputs, *places, training=False, backbone=head)

    found = [None] * len(texts)
    for rows, vectors in _batches(read, template, texts, batch_size, verbose):
        for row, own in zip(rows, ops.convert_to_numpy(vectors), strict=True):
            found[row] = own.astype("float32").ravel()
    return np.array(found)


def _classifier_scores(vectors, numbers, of_words):
    """The log-probabilities that words have each label, minus their means over the words.

    Vectors of texts and of words differ, so that all words may be nearer to one label.

    Args:
        vectors: Array `(texts, masks * size)`, at the masks.
        numbers: Array `(texts,)`, the labels.
        of_words: Array `(words, masks, size)`, those of the words' tokens.
    """
    classifier = LogisticRegression(max_iter=1000)
    classifier.fit(vectors, numbers)
    log_p = classifier.predict_log_proba(of_words.reshape(len(of_words), -1).astype("float32"))
    log_p = np.maximum(log_p, np.log(LEAST))
    return (log_p - log_p.mean(axis=0)).T


def _rank(words, names, likely, scores, candidates, words_per_label):
    """For each label the pairs of a word and its score: those that it gets, and others to show."""
    good = np.zeros(scores.shape, bool)
    usual = np.argsort(-likely, axis=1, kind="stable")[:, :candidates]
    np.put_along_axis(good, usual, True, axis=1)
    good &= scores > 0
    own = good & (scores.argmax(axis=0) == np.arange(len(names))[:, None])
    # What any sum of scores is below, so that a word of another label is the last resort.
    places = len(names) * words_per_label
    limit = 1 + places * np.abs(scores).max()
    value = np.where(own, scores, np.where(good, scores - limit, -limit * (places + 1)))
    rows, columns = linear_sum_assignment(value.repeat(words_per_label, axis=0), maximize=True)
    pairs = zip((rows // words_per_label).tolist(), columns.tolist(), strict=True)
    taken = [(k, i) for k, i in pairs if good[k, i]]
    rest = own.copy()
    rest[:, [i for _, i in taken]] = False
    ranking = {}
    for k, name in enumerate(names):
        chosen, further = [i for row, i in taken if row == k], np.flatnonzero(rest[k]).tolist()
        chosen, further = (sorted(part, key=lambda i: -scores[k, i]) for part in (chosen, further))
        shown = (chosen + further)[: max(SHOWN, words_per_label)]
        ranking[name] = [(words[i], float(scores[k, i])) for i in shown]
    return ranking


def _find_words(words, texts, template):
    """The words to choose from: a dictionary from each to its tokens."""
    tokenizer, length = template.tokenizer, template.num_masks
    if template.causal and length > 1:
        raise ValueError(
            "A causal model predicts a second token out of the first, so the search reads one "
            f"[MASK]. Received: the pattern {template.pattern!r}."
        )
    if words is not None:
        source = "`words`"
        tried = as_list("words", words)
    elif length == 1:
        source = "the vocabulary"
        tried = [tokenizer.id_to_token(i) for i in template.ordinary_ids]
    else:
        source = "the texts"
        tried = _words_of(texts)
    # Numbers and punctuation mean no label, unless somebody chose them.
    tried = [word for word in tried if words is not None or word.isalpha()]
    found = {}
    for word, ids in zip(tried, tokenizer.token_ids(tried), strict=True):
        if len(ids) == length and tokenizer.unk_id not in ids:
            found.setdefault(tuple(ids), word)
    if not found:
        raise ValueError(
            f"No word of {source} has {length} tokens, all in the vocabulary, and the pattern "
            f"{template.pattern!r} has {length} masks. Give other `words`, or change the number "
            f"of masks. Received: {tried[:5]}, {len(tried)} words."
        )
    return {word: ids for ids, word in found.items()}


def word_splitter():
    """jieba's function from a text to the list of its words."""
    if importlib.util.find_spec("jieba") is None:
        raise ImportError("To find words in texts, the search needs jieba: `pip install jieba`.")
    import jieba

    return functools.partial(jieba.lcut, HMM=False)


def _words_of(texts):
    split = word_splitter()
    parts = [part for text in texts for part in ([text] if isinstance(text, str) else text)]
    return list(dict.fromkeys(word for part in parts for word in split(part)))


def check_labeled(texts, labels):
    """Texts and their labels as two lists of the same length, with at least two labels."""
    texts = as_list("texts", texts)
    labels = [_as_label(label) for label in check_list("labels", labels)]
    if len(texts) != len(labels):
        raise ValueError(
            "There must be one label for each text. Received: "
            f"{len(texts)} texts and {len(labels)} labels."
        )
    if len(set(labels)) < 2:
        raise ValueError(
            "A search needs texts of at least two labels, to tell them apart. Received: only "
            f"the label {labels[0]!r}."
        )
    return texts, labels


def open_cloze(checkpoint, pattern, maxlen, kwargs):
    """The model of a search, and the template to read texts with, which has no labels."""
    if isinstance(checkpoint, ClozeModel):
        own = checkpoint.template
        if kwargs:
            raise ValueError(
                f"A `ClozeModel` is built already: leave out {sorted(kwargs)}. Received: {kwargs}."
            )
        if pattern == own.pattern:
            template = copy.copy(own)
            # Without labels, but the virtual tokens keep their ids, which depend on these.
            template._read_labels(None)
            return checkpoint, template
        template = Template(pattern, None, own.tokenizer, own.maxlen, own.causal)
        if template.virtual_ids:
            raise ValueError(
                "The vectors of virtual tokens belong to the pattern of the model, "
                f"{own.pattern!r}. Use this pattern, or one without virtual tokens. Received: "
                f"{pattern!r}."
            )
        return checkpoint, template
    template = Template(
        pattern, None, find_vocab(checkpoint), maxlen, is_causal(checkpoint, kwargs)
    )
    check_arguments(kwargs)
    return build_ptuning_model(checkpoint, template=template, **kwargs), template


def check_arguments(kwargs):
    """Refuses arguments of the builder of a cloze that a search sets, or that would do nothing."""
    own = {"auxiliary", "classifier", "data_parallel", "normalization", "template", "tune"}
    found = sorted(own & set(kwargs))
    if found:
        raise ValueError(
            "A search trains nothing, uses one device, and makes its own template: leave out "
            f"{found}. Received: { {name: kwargs[name] for name in found}!r:.200}."
        )


def is_causal(checkpoint, kwargs):
    """Whether a checkpoint, with the other arguments of the builder, needs causal templates."""
    application = find_application(checkpoint, kwargs.get("model"), kwargs.get("application"))
    return application == "lm"


def token_log_probabilities(model, template, texts, batch_size, verbose):
    """What a model says at the answer positions of texts, batch by batch.

    Args:
        model: A `ClozeModel`.
        template: A `Template` for the same checkpoint.
        texts: List of texts.
        batch_size: Integer.
        verbose: As in `keras.Model.fit`.

    Yields:
        The numbers of the texts of a batch, and a tensor of shape `(batch, positions, vocabulary)`.

    Raises:
        ValueError: if the model cannot read such a template.
    """
    _check_fits(model, template)
    for rows, p in _batches(model._token_probabilities, template, texts, batch_size, verbose):
        yield rows, ops.log(ops.maximum(p, LEAST))


def _check_fits(model, template):
    """Refuses a template that was made for another model."""
    model._check_kind(template)
    if template.tokenizer.vocab != model.template.tokenizer.vocab:
        raise ValueError(
            "The template has another vocabulary than the model, so its words would have the "
            "vectors of other tokens. Make it with the vocabulary of the model's checkpoint: "
            f"Template(..., tokenizer=checkpoint). Received: {template!r}."
        )
    check_positions(template, model.init_config["config"], model.init_config)


def _batches(read, template, texts, batch_size, verbose):
    """The numbers of the texts of each batch, and what `read` makes of its inputs."""
    examples = template._examples(texts, to_score=False)
    data = ClozeDataset(examples, template, batch_size=batch_size, shuffle=False)
    dataset, order = data.by_length()
    bar = progress_bar(len(texts), verbose, "text")
    first = 0
    for i in range(len(dataset)):
        (inputs,) = dataset[i]
        found = read({name: ops.convert_to_tensor(array) for name, array in inputs.items()})
        rows = order[first : first + found.shape[0]]
        yield rows, found
        first += len(rows)
        bar.update(first)


def progress_bar(count, verbose, unit, stateful_metrics=None):
    verbose = 1 if verbose == "auto" else verbose
    return keras.utils.Progbar(
        count, verbose=verbose, unit_name=unit, stateful_metrics=stateful_metrics
    )
