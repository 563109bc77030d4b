"""What models are given: templates, the data that these make, labels and their weights."""

import copy
import math
import warnings
from collections.abc import Mapping, Sequence, Set

import numpy as np
from keras import ops

from keras_ptuning.checkpoints import find_vocab
from keras_ptuning.checks import as_list, as_weights, check_number
from keras_ptuning.models import max_length, override
from keras_ptuning.text.batches import UNLABELED, ClozeDataset
from keras_ptuning.text.piece_tokenizer import PieceTokenizer
from keras_ptuning.text.tags import TaggedText
from keras_ptuning.text.templates import Template
from keras_ptuning.text.tokenizers import load_vocab


def check_template(template, checkpoint_path, fits, expected):
    """Raises a TypeError if the builder of a model was not given a template that fits.

    Args:
        template, checkpoint_path: The builder's arguments.
        fits: Whether the template is of the right class.
        expected: String, what it should be.
    """
    if isinstance(checkpoint_path, Template):
        raise TypeError(
            "The template came as `checkpoint_path`, the second argument. Give it by name: "
            f"`template=template`. Received: checkpoint_path={checkpoint_path!r}."
        )
    if not fits:
        raise TypeError(f"`template` must be {expected}. Received: template={template!r}.")


def check_bool(name, value):
    """Refuses what Python would take for true or false, such as "no"."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be True or False. Received: {name}={value!r:.60}.")


def check_sizes(template, config, settings):
    """Refuses a template whose vocabulary or length a model does not have.

    Args:
        template: A `Template` or `PlainText`.
        config: The configuration of the model, a dictionary.
        settings: The arguments of the model, by name.
    """
    tokenizer = template.tokenizer
    keep_tokens = settings.get("keep_tokens")
    vocab_size = settings["vocab_size"] if keep_tokens is None else len(keep_tokens)
    spare = vocab_size - tokenizer.vocab_size
    if not 0 <= spare < tokenizer.most_spare:
        raise ValueError(
            f"The vocabulary does not belong to this checkpoint: it has {tokenizer.vocab_size} "
            f"tokens, and the model {vocab_size} embeddings. Make the template with the vocabulary "
            "of the checkpoint that you build the model from: Template(..., tokenizer=checkpoint)."
        )
    if spare and not isinstance(tokenizer, PieceTokenizer):
        warnings.warn(
            f"The vocabulary has {tokenizer.vocab_size} tokens, and the model {vocab_size} "
            f"embeddings. The last {spare} are taken for spare ones, as some releases have them.",
            stacklevel=5,
        )
    check_positions(template, config, settings)


def check_positions(template, config, settings):
    """Refuses a template of longer texts than a model, as `check_sizes` takes it, can read."""
    given = {name: settings[name] for name in ("model", "max_position") if name in settings}
    positions = max_length(
        override(config, given), settings.get("model"), settings.get("hierarchical_position")
    )
    if positions is not None and template.maxlen > positions:
        raise ValueError(
            f"The template makes texts of up to {template.maxlen} tokens, and the model has "
            f"{positions} positions. Use `maxlen={positions}` or less in the template."
        )


def check_token_order(template, checkpoint, keep_tokens=None):
    """Refuses tokens in another order than that of the checkpoint's vocabulary.

    Args:
        template: A `Template` or `PlainText`.
        checkpoint: What `open_checkpoint` returned, or `None`.
        keep_tokens: The ids of the checkpoint that the model keeps; `None` for all.
    """
    if checkpoint is None:
        return
    try:
        path = find_vocab(checkpoint.path)
        own = load_vocab(path)
    except (OSError, ValueError):
        # There is none, or several, or one of another kind.
        return
    if keep_tokens is not None:
        own = [own[i] for i in keep_tokens if 0 <= i < len(own)]
    # Of a token that is there twice, the last counts.
    own = {token: i for i, token in enumerate(own)}
    given = {token: i for i, token in enumerate(template.tokenizer.vocab)}
    moved = [token for token, i in given.items() if own.get(token, i) != i]
    if moved:
        raise ValueError(
            f"The vocabulary of the template has {len(moved)} tokens in other places than "
            f"{path!r}, that of the checkpoint, such as {moved[0]!r}: "
            f"{given[moved[0]]} in place of {own[moved[0]]}. They would have the vectors of "
            f"other tokens. Give the template that of the checkpoint, Tokenizer({path!r}), or give "
            "the checkpoint of the template's vocabulary."
        )


def check_data(template, data, purpose):
    """Refuses data that are not what the model's template makes."""
    if not isinstance(data, ClozeDataset):
        arrays = {"token_ids", "segment_ids"}
        arrays |= {"mask_positions"} if template.is_cloze else set()
        arrays |= {"decoder_token_ids", "reach"} if template.text_to_text else set()
        if isinstance(data, Mapping):
            wrong = not arrays <= data.keys()
        else:
            # Of other kinds there are iterators and datasets of Keras and its backends.
            wrong = data is None or isinstance(data, str | bytes | Sequence | Set)
            wrong = wrong or hasattr(data, "__array__") or hasattr(data, "columns")
        if wrong:
            make = "(texts)" if purpose == "predict" else "(texts, labels)"
            raise TypeError(
                f"`{purpose}` takes what the template makes of texts: "
                f"`template.dataset{make}`. Received: {data!r:.60} of type "
                f"{type(data).__name__}."
            )
        if isinstance(data, Mapping):
            rows = {name: len(array) for name, array in data.items()}
            if len(set(rows.values())) > 1:
                raise ValueError(
                    "All arrays must have a row for each text, as `template.encode` makes them. "
                    f"Received: rows of {rows}."
                )
        return
    if purpose != "predict" and data.label_ids is None:
        raise ValueError("Training and evaluation need labels: `template.dataset(texts, labels)`.")
    if purpose == "evaluate" and data.has_unlabeled:
        raise ValueError("Evaluation needs labels: make a dataset without `unlabeled` texts.")
    for name in ("pattern", "labels", "label_names", "causal"):
        theirs, ours = getattr(data.template, name), getattr(template, name)
        if theirs != ours:
            raise ValueError(
                "The dataset was made with another template than the model's. Received: "
                f"{name} {theirs!r} instead of {ours!r}."
            )
    if data.template.tokenizer.get_config() != template.tokenizer.get_config():
        raise ValueError(
            "The dataset was made with another vocabulary than the model's, or other settings "
            "of its tokenizer."
        )
    if data.template.maxlen > template.maxlen:
        raise ValueError(
            "The dataset has longer texts than the model was made for. Received: "
            f"maxlen={data.template.maxlen} instead of {template.maxlen}."
        )


def check_batch_size(data, batch_size):
    """Refuses the size of batches where the data are batches already."""
    if batch_size is not None and isinstance(data, ClozeDataset):
        raise ValueError(
            "A dataset has its own batches: leave out `batch_size`, and use "
            f"`template.dataset(..., batch_size={batch_size!r})`. Received: "
            f"batch_size={batch_size!r}."
        )


def check_label_ids(template, y, x, sample_weight=None):
    """Refuses labels that would train wrongly without a word; returns them flat."""
    if isinstance(x, ClozeDataset) and (y is not None or sample_weight is not None):
        raise ValueError(
            "A dataset has the labels and the weights of its texts: leave out `y` and "
            "`sample_weight`, and use `template.dataset(texts, labels, sample_weight=...)`."
        )
    if y is None:
        if isinstance(x, Mapping):
            raise ValueError(
                "Training and evaluation need labels: `x, y = template.encode(texts, labels)`."
            )
        return None
    if isinstance(template, TaggedText):
        raise ValueError(
            "A Tagger learns from datasets only: `template.dataset(sentences, tags)`. Received: "
            f"arrays, `y` of type {type(y).__name__}."
        )
    y = ops.convert_to_numpy(y) if ops.is_tensor(y) else np.asarray(as_list("y", y))
    if y.ndim == 0 or y.shape[1:] not in ((), (1,)):
        raise ValueError(
            f"`y` must have the shape (n,). Received: shape {y.shape}. Probabilities of labels "
            "go into `template.dataset(texts, probabilities)`."
        )
    if y.dtype.kind not in "iu":
        raise TypeError(
            "`y` must be the numbers of the labels, as `template.label_ids(labels)` gives "
            f"them. Received: the type {y.dtype}, beginning with {y[:3].tolist()}."
        )
    if isinstance(x, Mapping) and len(y) != len(x["token_ids"]):
        raise ValueError(
            f"`y` must have a label for each text. Received: {len(y)} labels of "
            f"{len(x['token_ids'])} texts."
        )
    names = template.label_names
    count = x["candidate_ids"].shape[1] if names is None else len(names)
    outside = y[(y < 0) | (y >= count)]
    if outside.size:
        raise ValueError(
            f"`y` must be from 0 to {count - 1}, the places of "
            f"{names or 'the candidates'}. Received: {outside[:5].tolist()}."
        )
    return y.reshape(-1)


def check_weights(x, sample_weight):
    """Refuses weights of arrays that are not one number for each text; returns them flat."""
    if sample_weight is None or not isinstance(x, Mapping):
        return sample_weight
    if ops.is_tensor(sample_weight):
        sample_weight = ops.convert_to_numpy(sample_weight)
    if getattr(sample_weight, "shape", ())[1:] == (1,):
        # As Keras takes them.
        sample_weight = np.reshape(sample_weight, -1)
    return as_weights(sample_weight, len(x["token_ids"]))


def weighted(template, x, y, sample_weight, class_weight):
    """The data and the weights of the texts, `class_weight` included; a dataset has its own."""
    if class_weight is None:
        return x, sample_weight
    dataset = x if isinstance(x, ClozeDataset) else None
    factors = class_factors(template, class_weight, y if dataset is None else dataset.label_ids)
    own = sample_weight if dataset is None else dataset.sample_weight
    weights = factors if own is None else factors * own
    if dataset is None:
        return x, weights
    # The user's is as it was, and may be the one to validate with.
    dataset = copy.copy(dataset)
    dataset.sample_weight = weights
    return dataset, None


def split_off(x, y, sample_weight, share):
    """The arrays to train with, and those to validate with: the last ones, as in Keras."""
    if not share:
        return (x, y, sample_weight), None
    check_number("validation_split", share, 0, 1)
    count = math.floor(len(y) * (1 - share))
    if not count:
        raise ValueError(
            f"`validation_split` leaves no text to train with. Received: {share}, and {len(y)} "
            "texts."
        )

    def part(rows):
        weights = [] if sample_weight is None else [sample_weight[rows]]
        return {name: array[rows] for name, array in x.items()}, y[rows], *weights

    train, held_out = part(slice(count)), part(slice(count, None))
    return (*train, None)[:3], held_out


def class_factors(template, class_weight, label_ids):
    """How much each text counts by its label; 1 where it has none."""
    names = template.label_names
    if names is None or label_ids is None:
        raise ValueError(
            "`class_weight` needs the labels of a template: `template.dataset(texts, labels)`."
        )
    if isinstance(class_weight, Mapping):
        unknown = [label for label in class_weight if label not in names]
        if unknown:
            raise ValueError(
                f"`class_weight` must have labels of the template, some of {names}. Received: "
                f"{unknown}."
            )
        numbers = np.array(list(class_weight.values()))
        if numbers.dtype.kind not in "fiu" or not (np.isfinite(numbers) & (numbers >= 0)).all():
            raise ValueError(
                "The weights in `class_weight` must be finite numbers from 0 on. Received: "
                f"{class_weight!r}."
            )
    elif not isinstance(class_weight, str) or class_weight != "balanced":
        raise ValueError(
            "`class_weight` must be a dictionary from labels to numbers, or 'balanced'. "
            f"Received: {class_weight!r:.60}."
        )
    if label_ids.ndim == 2:
        label_ids = label_ids.argmax(axis=1)
    labeled = label_ids != UNLABELED
    if isinstance(class_weight, Mapping):
        weights = np.array([class_weight.get(name, 1.0) for name in names])
    else:
        counts = np.bincount(label_ids[labeled], minlength=len(names))
        weights = labeled.sum() / np.maximum(np.count_nonzero(counts) * counts, 1)
    return np.where(labeled, weights[label_ids], 1.0).astype("float32")
