"""Batches: length buckets, padding, and random masking."""

import math
from typing import NamedTuple

import keras
import numpy as np

PAD = 0
# Batches are formed within a random pool of this many batches, sorted by length: large enough
# that lengths match, small enough that each epoch mixes the examples anew.
POOL = 16
# Padded lengths are multiples of this, so that compiled backends see few shapes.
LENGTH_STEP = 8


class Example(NamedTuple):
    """One encoded text: what `Template` makes and `ClozeDataset` batches."""

    token_ids: np.ndarray
    segment_ids: np.ndarray
    mask_positions: np.ndarray
    # True at ordinary words, which may be masked at random; False at virtual and special tokens.
    maskable: np.ndarray


def pad(sequences, length):
    """Stacks arrays of different lengths into one of shape `(len(sequences), length)`."""
    out = np.full((len(sequences), length), PAD, dtype=sequences[0].dtype)
    for row, sequence in zip(out, sequences, strict=True):
        row[: len(sequence)] = sequence
    return out


def mask_tokens(token_ids, maskable, rate, mask_id, random_ids, rng):
    """Masks a share of the tokens at random, as BERT's pretraining does.

    In each row exactly `round(rate * number of maskable tokens)` tokens are chosen, at least one
    where there is one.
    Of these 80% become `[MASK]`, 10% a random token, and 10% stay as they are.

    Args:
        token_ids: Integer array of shape `(batch, length)`.
        maskable: Boolean array of the same shape.
        rate: Float between 0 and 1.
        mask_id: The id of `[MASK]`.
        random_ids: Integer array, the ids to choose random tokens from.
        rng: A `numpy.random.Generator`.

    Returns:
        `(masked_ids, positions, target_ids)`: the changed copy of `token_ids`, and two arrays of
        shape `(batch, ceil(rate * length))`, the chosen positions and the tokens that stood
        there. Rows with fewer are filled up with position 0 and id 0.

    Example:

    >>> import numpy as np
    >>> ids = np.array([[2, 7, 8, 9, 3, 0]])
    >>> maskable = np.array([[False, True, True, True, False, False]])
    >>> rng = np.random.default_rng(0)
    >>> _, _, targets = mask_tokens(ids, maskable, 0.3, mask_id=4, random_ids=[7, 8], rng=rng)
    >>> int((targets > 0).sum())
    1

    Reference:
        - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805), appendix A.1.
    """
    batch, length = token_ids.shape
    available = maskable.sum(axis=1)
    wanted = np.maximum(np.round(rate * available), 1).astype("int32")
    wanted = np.minimum(wanted, available)
    order = np.argsort(np.where(maskable, rng.random((batch, length)), 2.0), axis=1)
    positions = order[:, : math.ceil(rate * length)].astype("int32")
    chosen = np.arange(positions.shape[1]) < wanted[:, None]
    rows, columns = np.nonzero(chosen)
    cells = rows, positions[rows, columns]
    originals = token_ids[cells]
    dice = rng.random(len(rows))
    replacements = np.where(dice < 0.8, mask_id, originals)
    replacements = np.where(dice >= 0.9, rng.choice(random_ids, len(rows)), replacements)
    masked_ids = token_ids.copy()
    masked_ids[cells] = replacements
    target_ids = np.zeros_like(positions)
    target_ids[chosen] = originals
    return masked_ids, np.where(chosen, positions, 0), target_ids


def model_inputs(examples, length):
    """The inputs of the model, padded: what `Template.encode` and each batch consist of."""
    return {
        "token_ids": pad([e.token_ids for e in examples], length),
        "segment_ids": pad([e.segment_ids for e in examples], length),
        "mask_positions": np.stack([e.mask_positions for e in examples]),
    }


class ClozeDataset(keras.utils.PyDataset):
    """Batches of encoded texts, tokenized once; made by `Template.dataset`.

    Each batch is padded to its longest text. With `shuffle`, texts of similar length come
    together, in batches that differ from epoch to epoch and are the same for the same `seed`, on
    every backend. The auxiliary masks also differ from epoch to epoch; they travel beside the
    unmasked text, and only training looks at them.

    Args:
        examples: List of `Example`.
        template: The `Template` that made them.
        label_ids: Integer array of shape `(len(examples),)`, or `None`.
        batch_size: Integer.
        shuffle: Whether to bucket and shuffle. Otherwise the order is that of `examples`.
        seed: Integer; what all randomness here depends on.
        mask_rate: Share of the ordinary tokens to mask for the auxiliary task; 0 for none.

    Raises:
        ValueError: if `batch_size`, `seed` or `mask_rate` make no sense.
    """

    def __init__(
        self, examples, template, label_ids=None, *, batch_size, shuffle, seed=0, mask_rate=0.0
    ):
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0)):
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(
                    f"`{name}` must be an integer, at least {least}. Received: {value!r}."
                )
        if not 0 <= mask_rate < 1:
            raise ValueError(f"`mask_rate` must be at least 0 and below 1. Received: {mask_rate!r}")
        self.examples = examples
        self.template = template
        self.label_ids = label_ids
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.mask_rate = mask_rate
        self.lengths = np.array([len(e.token_ids) for e in examples])
        self.epoch = 0

    @property
    def epoch(self):
        """The number of the epoch, which the order of the batches and the masks depend on."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch):
        self._epoch = epoch
        order = np.arange(len(self.examples))
        if not self.shuffle:
            self._batches = self._split(order)
            return
        rng = np.random.default_rng([self.seed, epoch])
        rng.shuffle(order)
        pool = POOL * self.batch_size
        # With few texts, one pool would always put the same texts of one length together.
        pool = min(pool, math.ceil(len(order) / 2 / self.batch_size) * self.batch_size)
        self._batches = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            self._batches += self._split(part)
        rng.shuffle(self._batches)

    def _split(self, order):
        return [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]

    def on_epoch_end(self):
        self.epoch += 1

    def __len__(self):
        return len(self._batches)

    def __getitem__(self, index):
        rows = self._batches[index]
        examples = [self.examples[i] for i in rows]
        longest = self.lengths[rows].max()
        length = min(math.ceil(longest / LENGTH_STEP) * LENGTH_STEP, self.template.maxlen)
        x = model_inputs(examples, length)
        if self.label_ids is None:
            return (x,)
        if self.mask_rate:
            x["masked_token_ids"], x["auxiliary_positions"], x["auxiliary_ids"] = mask_tokens(
                x["token_ids"],
                pad([e.maskable for e in examples], length),
                self.mask_rate,
                self.template.mask_id,
                self.template.ordinary_ids,
                np.random.default_rng([self.seed, self.epoch, index]),
            )
        return x, self.label_ids[rows]

    def by_length(self):
        """The same texts without labels, in order of length, for prediction with little padding.

        Returns:
            A `ClozeDataset`, and an array with the place of each of its texts in this one.
        """
        order = np.argsort(self.lengths, kind="stable")
        dataset = ClozeDataset(
            [self.examples[i] for i in order],
            self.template,
            batch_size=self.batch_size,
            shuffle=False,
        )
        return dataset, order

    def to_tf_data(self):
        """The same batches as a `tf.data.Dataset` whose batches may differ in length.

        Keras guesses the shapes of a `PyDataset` from two batches; where these happen to be of
        one length, TensorFlow refuses the others.
        """
        import tensorflow as tf

        signature = keras.tree.map_structure(
            lambda array: tf.TensorSpec([None] * array.ndim, array.dtype), self[0]
        )
        dataset = tf.data.Dataset.from_generator(lambda: iter(self), output_signature=signature)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(self)))
        return dataset.prefetch(tf.data.AUTOTUNE)
