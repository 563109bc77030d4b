"""Batches: length buckets and padding."""

import math
from typing import NamedTuple

import keras
import numpy as np

from keras_ptuning.backend import compiles_each_shape
from keras_ptuning.checks import check_integer, check_number
from keras_ptuning.text.masking import NONE, mask_tokens, next_tokens

# In place of a label's number, where a text has none.
UNLABELED = -1
# Batches are formed within a random pool of this many batches, sorted by length: large enough
# that lengths match, small enough that each epoch mixes the examples again.
POOL = 16
# Padded lengths are multiples of this.
LENGTH_STEP = 8
# And of this on JAX, which compiles once for each shape.
COMPILED_LENGTH_STEP = 32
# The inputs that have a number for each token, and for each one that the auxiliary task predicts.
PER_TOKEN = {"token_ids", "segment_ids", "reach", "masked_token_ids"}
PER_PREDICTION = {"auxiliary_positions", "auxiliary_ids"}


class Example(NamedTuple):
    """One encoded text: what `Template` makes and `ClozeDataset` batches."""

    token_ids: np.ndarray
    segment_ids: np.ndarray
    mask_positions: np.ndarray
    # True at words, unknown ones too, which may be masked at random; False at virtual and special
    # tokens.
    maskable: np.ndarray
    # Of a causal template: the place of the last token that sees each.
    reach: np.ndarray | None = None
    # Where a text has candidates of its own, `(candidates, masks)`: their tokens, and which of the
    # `mask_positions` these are read at.
    candidate_ids: np.ndarray | None = None
    candidate_slots: np.ndarray | None = None
    # What a decoder reads, where there is one; `reach` and `mask_positions` are about this then.
    decoder_ids: np.ndarray | None = None


def pad(sequences, length, value=0):
    """Stacks arrays of different lengths into one of shape `(len(sequences), length)`."""
    out = np.full((len(sequences), length), value, dtype=sequences[0].dtype)
    for row, sequence in zip(out, sequences, strict=True):
        row[: len(sequence)] = sequence
    return out


def padding_of(template):
    """What follows the end of a text; any token does where the model only looks back."""
    pad_id = template.tokenizer.pad_id
    return 0 if pad_id is None else pad_id


def pad_words(words, length, value=0):
    """Stacks words, lists of integers, into an array of shape `(len(words), length)`."""
    return pad([np.array(word, "int32") for word in words], length, value)


def model_inputs(examples, length, pad_id, least_candidates=0):
    """The inputs of the model, padded: what `Template.encode` and each batch consist of."""
    inputs = {
        "token_ids": pad([e.token_ids for e in examples], length, pad_id),
        "segment_ids": pad([e.segment_ids for e in examples], length),
        "mask_positions": pad_words(
            [e.mask_positions for e in examples], max(len(e.mask_positions) for e in examples)
        ),
    }
    if examples[0].decoder_ids is not None:
        length = max(len(e.decoder_ids) for e in examples)
        inputs["decoder_token_ids"] = pad([e.decoder_ids for e in examples], length, pad_id)
    if examples[0].reach is not None:
        inputs["reach"] = pad([e.reach for e in examples], length)
    if examples[0].candidate_ids is not None:
        most = max(least_candidates, *(len(e.candidate_ids) for e in examples))
        inputs["candidate_ids"] = _stack_words([e.candidate_ids for e in examples], most, NONE)
        inputs["candidate_slots"] = _stack_words([e.candidate_slots for e in examples], most, 0)
    return inputs


def _stack_words(arrays, rows, value):
    widths = ([(0, rows - len(array)), (0, 0)] for array in arrays)
    padded = (np.pad(a, w, constant_values=value) for a, w in zip(arrays, widths, strict=True))
    return np.stack(list(padded))


def _repeat_first(array, times):
    return np.concatenate([array, np.repeat(array[:1], times, axis=0)])


def _no_labels(labels, count):
    """Labels, and after them so many of texts that have none."""
    none = 0 if labels.dtype.kind == "f" else UNLABELED
    return np.concatenate([labels, np.full((count, *labels.shape[1:]), none, labels.dtype)])


class ClozeDataset(keras.utils.PyDataset):
    """Batches of encoded texts, tokenized once; made by `Template.dataset`.

    Each batch is padded to its longest text. With `shuffle`, texts of similar length come
    together, in batches that differ from epoch to epoch and are the same for the same `seed`, on
    every backend. The auxiliary masks also differ from epoch to epoch; they travel with the
    unmasked text, and only training looks at them.

    Args:
        examples: List of `Example`.
        template: The `Template` that made them.
        label_ids: Integer array of shape `(len(examples),)`, or `None`.
        sample_weight: Float array of shape `(len(examples),)`, how much each label counts, or
            `None`. Defaults to `None`.
        batch_size: Integer.
        shuffle: Whether to bucket and shuffle. Otherwise the order is that of `examples`.
        seed: Integer; what all randomness here depends on.
        mask_rate: Share of the ordinary tokens that the auxiliary task predicts; 0 for none.

    Raises:
        ValueError: if `batch_size`, `seed` or `mask_rate` are out of range.
    """

    def __init__(
        self,
        examples,
        template,
        label_ids=None,
        sample_weight=None,
        *,
        batch_size,
        shuffle,
        seed=0,
        mask_rate=0.0,
    ):
        super().__init__()
        check_integer("batch_size", batch_size, 1)
        check_integer("seed", seed, 0)
        check_number("mask_rate", mask_rate, 0, 1)
        # With all of a text masked, nothing is left to predict it from.
        if not (0 <= mask_rate < 1 or (template.causal and mask_rate == 1)):
            raise ValueError(f"`mask_rate` must be at least 0 and below 1. Received: {mask_rate!r}")
        self.examples = examples
        self.template = template
        self.label_ids = label_ids
        self.sample_weight = sample_weight
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.mask_rate = mask_rate
        self.lengths = np.array([len(e.token_ids) for e in examples])
        self.epoch = 0
        # Each batch has room for so many candidates, though its own texts may have fewer.
        self.least_candidates = 0
        # The number of rows of a batch is a multiple of this: the first text fills it up, without a
        # label, and `is_text` is 0. Of these rows, only one of several equal parts is made here.
        self.fill, self.part = 1, (0, 1)

    def __repr__(self):
        labels = "without labels" if self.label_ids is None else "with labels"
        return (
            f"<{type(self).__name__}: {len(self.examples)} texts {labels}, {len(self)} batches of "
            f"{self.batch_size}, of {self.template!r}>"
        )

    @property
    def has_unlabeled(self):
        """Whether some of the texts have no label, and others have one."""
        return self.label_ids is not None and (self.label_ids == UNLABELED).any()

    @property
    def epoch(self):
        """The number of the epoch, which the order of the batches and the masks depend on."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch):
        self._epoch = epoch
        order = np.arange(len(self.examples))
        if not self.shuffle:
            self.batches = self._split(order)
            return
        rng = np.random.default_rng([self.seed, epoch])
        rng.shuffle(order)
        pool = POOL * self.batch_size
        # With few texts, one pool would always put the same texts of one length together.
        pool = min(pool, math.ceil(len(order) / 2 / self.batch_size) * self.batch_size)
        self.batches = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            self.batches += self._split(part)
        rng.shuffle(self.batches)

    def _split(self, order):
        return [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]

    def on_epoch_end(self):
        self.epoch += 1

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        x, *labels = self._batch(index)
        if compiles_each_shape():
            self._pad_further(x)
        if self.fill > 1:
            extra = -len(x["token_ids"]) % self.fill
            x["is_text"] = np.ones(len(x["token_ids"]), "float32")
            x = {name: _repeat_first(array, extra) for name, array in x.items()}
            x["is_text"][len(x["is_text"]) - extra :] = 0
            if "auxiliary_ids" in x and extra:
                x["auxiliary_ids"][-extra:] = NONE
            labels = [_no_labels(array, extra) for array in labels]
        part, parts = self.part
        if parts > 1:
            size = len(x["token_ids"]) // parts
            rows = slice(part * size, (part + 1) * size)
            x = {name: array[rows] for name, array in x.items()}
            labels = [array[rows] for array in labels]
        return (x, *labels)

    def _pad_further(self, x):
        """Pads in place; the random masks stay those of the other backends."""
        length = self._padded_length(x["token_ids"].shape[1], COMPILED_LENGTH_STEP)
        predicted = math.ceil(self.mask_rate * (length - self.template.causal))
        pad_id = padding_of(self.template)
        fill = dict.fromkeys(x, 0) | {"auxiliary_ids": NONE}
        fill |= {"token_ids": pad_id, "masked_token_ids": pad_id}
        per_token = PER_TOKEN - ({"reach"} if "decoder_token_ids" in x else set())
        for names, width in ((per_token, length), (PER_PREDICTION, predicted)):
            for name in x.keys() & names:
                x[name] = np.pad(
                    x[name], [(0, 0), (0, width - x[name].shape[1])], constant_values=fill[name]
                )

    def _padded_length(self, length, step):
        # Continuations of a causal template come after its `maxlen`.
        return max(length, min(math.ceil(length / step) * step, self.template.maxlen))

    def _batch(self, index):
        rows = self.batches[index]
        examples = [self.examples[i] for i in rows]
        length = self._padded_length(self.lengths[rows].max(), LENGTH_STEP)
        x = model_inputs(examples, length, padding_of(self.template), self.least_candidates)
        if self.label_ids is None:
            return (x,)
        labels = [self.label_ids[rows]]
        if self.sample_weight is not None:
            labels.append(self.sample_weight[rows])
        if not self.mask_rate:
            return (x, *labels)
        rng = np.random.default_rng([self.seed, self.epoch, index])
        maskable = pad([e.maskable for e in examples], length)
        if self.template.causal:
            x["auxiliary_positions"], x["auxiliary_ids"] = next_tokens(
                x["token_ids"], maskable, self.mask_rate, rng
            )
        else:
            x["masked_token_ids"], x["auxiliary_positions"], x["auxiliary_ids"] = mask_tokens(
                x["token_ids"],
                maskable,
                self.mask_rate,
                self.template.mask_id,
                self.template.ordinary_ids,
                rng,
            )
        return (x, *labels)

    def subset(self, rows):
        """Some of the texts, with all settings as they are here.

        Args:
            rows: Integer array, the places of the texts.

        Returns:
            A dataset of the same class.
        """
        labels = self.label_ids
        if labels is not None:
            # Those of words have as many entries as the sentence.
            labels = [labels[i] for i in rows] if isinstance(labels, list) else labels[rows]
        return type(self)(
            [self.examples[i] for i in rows],
            self.template,
            labels,
            None if self.sample_weight is None else self.sample_weight[rows],
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            seed=self.seed,
            mask_rate=self.mask_rate,
        )

    def by_length(self, multiple=1):
        """The same texts without labels, in order of length, for prediction with little padding.

        Args:
            multiple: Integer; the size of a batch is made a multiple of it.

        Returns:
            A `ClozeDataset`, and an array with the place of each of its texts in this one.
        """
        order = np.argsort(self.lengths, kind="stable")
        dataset = type(self)(
            [self.examples[i] for i in order],
            self.template,
            batch_size=math.ceil(self.batch_size / multiple) * multiple,
            shuffle=False,
        )
        # Keras puts what it predicts of all batches into one array.
        dataset.least_candidates = max(
            0 if e.candidate_ids is None else len(e.candidate_ids) for e in self.examples
        )
        return dataset, order
