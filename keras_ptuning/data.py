"""Batches: length buckets, padding, and random masking."""

import functools
import itertools
import math
import weakref
from typing import NamedTuple

import keras
import numpy as np

from keras_ptuning.tokenizers import is_special

PAD = 0
# In place of a label's number, where a text has none.
UNLABELED = -1
# Batches are formed within a random pool of this many batches, sorted by length: large enough
# that lengths match, small enough that each epoch mixes the examples anew.
POOL = 16
# Padded lengths are multiples of this.
LENGTH_STEP = 8
# And of this on JAX, which compiles anew for each shape.
COMPILED_LENGTH_STEP = 32
# The inputs that have a number for each token, and for each one that the auxiliary task predicts.
PER_TOKEN = {"token_ids", "segment_ids", "reach", "masked_token_ids"}
PER_PREDICTION = {"auxiliary_positions", "auxiliary_ids"}


class Example(NamedTuple):
    """One encoded text: what `Template` makes and `ClozeDataset` batches."""

    token_ids: np.ndarray
    segment_ids: np.ndarray
    mask_positions: np.ndarray
    # True at ordinary words, which may be masked at random; False at virtual and special tokens.
    maskable: np.ndarray
    # Of a causal template: the place of the last token that sees each.
    reach: np.ndarray | None = None
    # Where a text has candidates of its own, `(candidates, masks)`: their tokens, and which of the
    # `mask_positions` these are read at.
    candidate_ids: np.ndarray | None = None
    candidate_slots: np.ndarray | None = None


def check_integer(name, value, least):
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be an integer, at least {least}. Received: {value!r}.")


def pad(sequences, length):
    """Stacks arrays of different lengths into one of shape `(len(sequences), length)`."""
    out = np.full((len(sequences), length), PAD, dtype=sequences[0].dtype)
    for row, sequence in zip(out, sequences, strict=True):
        row[: len(sequence)] = sequence
    return out


def pad_words(words, length):
    """Stacks words, lists of integers, into an array of shape `(len(words), length)`."""
    return pad([np.array(word, "int32") for word in words], length)


def mask_tokens(token_ids, maskable, rate, mask_id, random_ids, rng, words=None):
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
        words: Optional integer array of the shape of `token_ids`, below `length`: the number of
            the word that each token belongs to. Whole words are masked then; only the last one
            chosen in a row may be cut, to keep the number of tokens exact.

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
        - Whole words: [Cui et al., 2019](https://arxiv.org/abs/1906.08101), section 2.2.
    """
    positions, chosen = _choose(maskable, rate, rng, words)
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


def next_tokens(token_ids, predictable, rate, rng):
    """Where a causal model predicts a share of the tokens, each from the one before it.

    Args:
        token_ids: Integer array of shape `(batch, length)`.
        predictable: Boolean array of the same shape.
        rate: Float between 0 and 1; as in `mask_tokens`.
        rng: A `numpy.random.Generator`.

    Returns:
        `(positions, target_ids)`, two arrays of shape `(batch, ceil(rate * (length - 1)))`. Rows
        with fewer are filled up with position 0 and id 0.

    Example:

    >>> ids = np.array([[2, 7, 8, 3]])
    >>> positions, targets = next_tokens(ids, ids > 3, 1.0, np.random.default_rng(0))
    >>> sorted(zip(positions[0].tolist(), targets[0].tolist()))
    [(0, 0), (0, 7), (1, 8)]
    """
    positions, chosen = _choose(predictable[:, 1:], rate, rng)
    targets = np.take_along_axis(token_ids, positions + 1, axis=1)
    return np.where(chosen, positions, 0), np.where(chosen, targets, 0)


def _choose(available, rate, rng, words=None):
    """Chooses a share of the available places of each row: the places, and which are real."""
    batch, length = available.shape
    count = available.sum(axis=1)
    wanted = np.maximum(np.round(rate * count), 1).astype("int32")
    wanted = np.minimum(wanted, count)
    dice = rng.random((batch, length))
    if words is not None:
        dice = np.take_along_axis(dice, words, axis=1)
    order = np.argsort(np.where(available, dice, 2.0), axis=1, kind="stable")
    positions = order[:, : math.ceil(rate * length)].astype("int32")
    return positions, np.arange(positions.shape[1]) < wanted[:, None]


def model_inputs(examples, length):
    """The inputs of the model, padded: what `Template.encode` and each batch consist of."""
    inputs = {
        "token_ids": pad([e.token_ids for e in examples], length),
        "segment_ids": pad([e.segment_ids for e in examples], length),
        "mask_positions": pad_words(
            [e.mask_positions for e in examples], max(len(e.mask_positions) for e in examples)
        ),
    }
    if examples[0].reach is not None:
        inputs["reach"] = pad([e.reach for e in examples], length)
    if examples[0].candidate_ids is not None:
        most = max(len(e.candidate_ids) for e in examples)
        inputs["candidate_ids"] = np.stack([_pad_rows(e.candidate_ids, most) for e in examples])
        inputs["candidate_slots"] = np.stack([_pad_rows(e.candidate_slots, most) for e in examples])
    return inputs


def _pad_rows(array, rows):
    return np.pad(array, [(0, rows - len(array)), (0, 0)])


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
    every backend. The auxiliary masks also differ from epoch to epoch; they travel beside the
    unmasked text, and only training looks at them.

    Args:
        examples: List of `Example`.
        template: The `Template` that made them.
        label_ids: Integer array of shape `(len(examples),)`, or `None`.
        batch_size: Integer.
        shuffle: Whether to bucket and shuffle. Otherwise the order is that of `examples`.
        seed: Integer; what all randomness here depends on.
        mask_rate: Share of the ordinary tokens that the auxiliary task predicts; 0 for none.

    Raises:
        ValueError: if `batch_size`, `seed` or `mask_rate` make no sense.
    """

    def __init__(
        self, examples, template, label_ids=None, *, batch_size, shuffle, seed=0, mask_rate=0.0
    ):
        super().__init__()
        check_integer("batch_size", batch_size, 1)
        check_integer("seed", seed, 0)
        # With all of a text masked, nothing is left to predict it from.
        if not (0 <= mask_rate < 1 or (template.causal and mask_rate == 1)):
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
        # The number of rows of a batch is a multiple of this: the first text stands in, without a
        # label, and `is_text` is 0. Of these rows, only one of several equal parts is made here.
        self.fill, self.part = 1, (0, 1)

    @property
    def has_unlabeled(self):
        """Whether some of the texts have no label, beside others that have one."""
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
        if keras.backend.backend() == "jax":
            self._pad_further(x)
        if self.fill > 1:
            extra = -len(x["token_ids"]) % self.fill
            x["is_text"] = np.ones(len(x["token_ids"]), "float32")
            x = {name: _repeat_first(array, extra) for name, array in x.items()}
            x["is_text"][len(x["is_text"]) - extra :] = 0
            if "auxiliary_ids" in x and extra:
                x["auxiliary_ids"][-extra:] = PAD
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
        for names, width in ((PER_TOKEN, length), (PER_PREDICTION, predicted)):
            for name in x.keys() & names:
                x[name] = np.pad(x[name], [(0, 0), (0, width - x[name].shape[1])])

    def _padded_length(self, length, step):
        # Continuations of a causal template stand beyond its `maxlen`.
        return max(length, min(math.ceil(length / step) * step, self.template.maxlen))

    def _batch(self, index):
        rows = self.batches[index]
        examples = [self.examples[i] for i in rows]
        length = self._padded_length(self.lengths[rows].max(), LENGTH_STEP)
        x = model_inputs(examples, length)
        if self.label_ids is None:
            return (x,)
        if not self.mask_rate:
            return x, self.label_ids[rows]
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
        return x, self.label_ids[rows]

    def subset(self, rows):
        """Some of the texts, with all settings as they are here.

        Args:
            rows: Integer array, the places of the texts.

        Returns:
            A `ClozeDataset`.
        """
        return ClozeDataset(
            [self.examples[i] for i in rows],
            self.template,
            self.label_ids[rows],
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
        dataset = ClozeDataset(
            [self.examples[i] for i in order],
            self.template,
            batch_size=math.ceil(self.batch_size / multiple) * multiple,
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
        # TensorFlow never lets go of a generator, and with it would keep all the texts.
        source = [self]
        dataset = tf.data.Dataset.from_generator(
            lambda: iter(source[0]), output_signature=signature
        )
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(self)))
        # Of several processes, each makes all batches and takes its share.
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        # There is nothing to tune, and stopping to tune can take longer than a small epoch.
        options.autotune.enabled = False
        dataset = dataset.with_options(options).prefetch(2)
        weakref.finalize(dataset, source.clear)
        return dataset


def pack(lengths, room):
    """Packs items into as few bins as it can: longest first, each where it fits best.

    Args:
        lengths: Integer array, the length of each item, at most `room`.
        room: Integer, the size of a bin.

    Returns:
        A list of bins, each a list of indices into `lengths`.

    Example:

    >>> pack([3, 5, 2, 4], room=7)
    [[1, 2], [3, 0]]

    Reference:
        - [Krell et al., 2021](https://arxiv.org/abs/2107.02027), section 3.
    """
    bins = []
    # For each amount of room left, the bins that have it.
    by_room = [[] for _ in range(room + 1)]
    for i in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        length = int(lengths[i])
        left = next((r for r in range(length, room + 1) if by_room[r]), None)
        if left is None:
            left, chosen = room, []
            bins.append(chosen)
        else:
            chosen = by_room[left].pop()
        chosen.append(i)
        by_room[left - length].append(chosen)
    return bins


class PackedDataset(keras.utils.PyDataset):
    """Texts for pretraining, packed into sequences of one length: every batch has one shape.

    Each text becomes `[CLS] text [SEP]`; texts too long for one sequence become several. A model
    built with `document_start_id` keeps the texts of a sequence from seeing each other.

    Args:
        texts: List of strings.
        tokenizer: A `Tokenizer`.
        causal: Whether to predict each next token. Otherwise tokens are masked at random, anew
            each time.
        length: Integer, tokens of a sequence. Defaults to `128`.
        batch_size: Integer. Defaults to `32`.
        steps: Integer, the number of batches that Keras takes for an epoch, which need not be one
            pass over the texts: the next epoch goes on where the last stopped. `None` for one
            pass, always in the same order and with the same masks, as evaluation wants it.
        predict_rate: Share of the tokens to predict: to mask, or, with `causal`, to compute the
            loss at (`1.0` for all; fewer are cheaper). Defaults to `0.15`.
        split_words: Optional function from a string to its words, e.g. `jieba.lcut`; whole words
            are masked then.
        seed: Integer. The same seed gives the same batches. Defaults to `0`.

    Returns of `dataset[i]`:
        `(inputs, targets)`: the inputs of a model with `gather_positions`, which are token ids and
        segment ids, `(batch_size, length)`, and the positions to predict at, `(batch_size, n)`; and
        the tokens to predict there, 0 for none. `n` is `ceil(predict_rate * length)`, or with
        `causal`, `ceil(predict_rate * (length - 1))`.

    Raises:
        TypeError: if one of the texts is not a string.
        ValueError: if there are no texts, or a number makes no sense.

    Example:

    >>> from keras_ptuning.tokenizers import Tokenizer
    >>> vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"很不满意好"]
    >>> dataset = PackedDataset(["很满意", "不好"], Tokenizer(vocab), length=10, batch_size=1)
    >>> (token_ids, segment_ids, positions), targets = dataset[0]
    >>> token_ids.shape, positions.shape, int((targets > 0).sum())
    ((1, 10), (1, 2), 1)
    """

    def __init__(
        self,
        texts,
        tokenizer,
        causal=False,
        length=128,
        batch_size=32,
        steps=None,
        predict_rate=0.15,
        split_words=None,
        seed=0,
    ):
        super().__init__()
        for name, value, least in (
            ("length", length, 3),
            ("batch_size", batch_size, 1),
            ("steps", 1 if steps is None else steps, 1),
            ("seed", seed, 0),
        ):
            check_integer(name, value, least)
        if not 0 < predict_rate <= 1:
            raise ValueError(
                "`predict_rate` must be greater than 0 and at most 1. Received: "
                f"predict_rate={predict_rate!r}."
            )
        self.tokenizer = tokenizer
        self.causal = causal
        self.batch_size = batch_size
        self.steps = steps
        self.predict_rate = predict_rate
        self.seed = seed
        self.epoch = 0
        self._special = np.array([is_special(token) for token in tokenizer.vocab])
        self._ordinary_ids = np.flatnonzero(~self._special)
        # One flat row of tokens; documents are stretches of it.
        encoded = tokenizer.token_ids(texts)
        lengths = np.array([len(ids) for ids in encoded])
        if not lengths.any():
            raise ValueError(f"There is nothing to learn from in the {len(encoded)} texts given.")
        ends = np.cumsum(lengths)
        tokens = np.fromiter(itertools.chain.from_iterable(encoded), "int32", ends[-1])
        words = None
        if split_words is not None and not causal:
            words = np.concatenate(tokenizer.word_numbers(texts, split_words)).astype("int32")
        room = length - 2
        pieces = [
            (start, min(start + room, end))
            for start0, end in zip(ends - lengths, ends, strict=True)
            for start in range(start0, end, room)
        ]
        bins = pack(np.array([end - start + 2 for start, end in pieces]), length)
        self.sequences = np.zeros((len(bins), length), "int32")
        self.words = None if words is None else np.zeros((len(bins), length), "int32")
        cls_id, sep_id = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
        rng = np.random.default_rng(seed)
        for row, members in enumerate(bins):
            # Packing begins with the longest, but short texts belong to all positions too.
            rng.shuffle(members)
            place = 0
            for start, end in (pieces[i] for i in members):
                stop = place + end - start + 2
                self.sequences[row, place] = cls_id
                self.sequences[row, place + 1 : stop - 1] = tokens[start:end]
                self.sequences[row, stop - 1] = sep_id
                if words is not None:
                    numbers = words[start:end]
                    self.words[row, place + 1 : stop - 1] = numbers - numbers[0] + place
                place = stop

    def __len__(self):
        return self.steps or math.ceil(len(self.sequences) / self.batch_size)

    def on_epoch_end(self):
        self.epoch += 1

    def _rows(self, step):
        n = len(self.sequences)
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        if self.steps is None:
            return places[places < n]
        rows = [
            self._order(number)[places[places // n == number] % n]
            for number in np.unique(places // n)
        ]
        return np.concatenate(rows)

    @functools.lru_cache(2)  # noqa: B019
    def _order(self, number):
        """The order of the sequences in the pass `number` over them."""
        return np.random.default_rng([self.seed, number]).permutation(len(self.sequences))

    def __getitem__(self, index):
        step = index if self.steps is None else self.epoch * self.steps + index
        rows = self._rows(step)
        token_ids = self.sequences[rows]
        segment_ids = np.zeros_like(token_ids)
        rng = np.random.default_rng([self.seed, step, 1])
        if self.causal:
            # That a new document begins after the last is not worth predicting.
            next_ids = np.where(token_ids == self.tokenizer.token_to_id("[CLS]"), 0, token_ids)
            count = math.ceil(self.predict_rate * (token_ids.shape[1] - 1))
            positions = rng.random(token_ids[:, 1:].shape).argsort(axis=1)[:, :count]
            positions = np.sort(positions, axis=1).astype("int32")
            targets = np.take_along_axis(next_ids, positions + 1, axis=1)
            return (token_ids, segment_ids, positions), targets
        masked_ids, positions, targets = mask_tokens(
            token_ids,
            ~self._special[token_ids],
            self.predict_rate,
            self.tokenizer.token_to_id("[MASK]"),
            self._ordinary_ids,
            rng,
            None if self.words is None else self.words[rows],
        )
        return (masked_ids, segment_ids, positions), targets
