"""Documents, packed into sequences of one length."""

import functools
import itertools
import math
from collections.abc import Callable, Collection, Sequence

import keras
import numpy as np

from keras_ptuning.checks import check_integer, check_list
from keras_ptuning.text.masking import NONE, mask_tokens
from keras_ptuning.text.tokenizers import Tokenizer, is_special, warn_of_unknown


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
        causal: Whether to predict each next token. Otherwise tokens are masked at random, again
            each time.
        length: Integer, tokens of a sequence. Defaults to `128`.
        batch_size: Integer. Defaults to `32`.
        steps: Integer, the number of batches that Keras takes for an epoch, which need not be one
            pass over the texts: the next epoch continues where the last stopped. `None` for one
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
        TypeError: if `texts` is not a list, or one of them not a string.
        ValueError: if there are no texts, a number is out of range, or the tokenizer has no token
            before and after a text.

    Example:

    >>> from keras_ptuning.text import Tokenizer
    >>> vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"很不满意好"]
    >>> dataset = PackedDataset(["很满意", "不好"], Tokenizer(vocab), length=10, batch_size=1)
    >>> (token_ids, segment_ids, positions), targets = dataset[0]
    >>> token_ids.shape, positions.shape, int((targets >= 0).sum())
    ((1, 10), (1, 2), 1)
    """

    # What else a training depends on, with names of its own.
    settings = {}  # noqa: RUF012

    def __init__(
        self,
        texts: Collection[str],
        tokenizer: Tokenizer,
        causal: bool = False,
        length: int = 128,
        batch_size: int = 32,
        steps: int | None = None,
        predict_rate: float = 0.15,
        split_words: Callable[[str], Sequence[str]] | None = None,
        seed: int = 0,
    ) -> None:
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
        texts = list(check_list("texts", texts))
        encoded = tokenizer.token_ids(texts)
        lengths = np.array([len(ids) for ids in encoded])
        if not lengths.any():
            raise ValueError(f"There is nothing to learn from in the {len(encoded)} texts given.")
        warn_of_unknown(encoded, tokenizer)
        ends = np.cumsum(lengths)
        tokens = np.fromiter(itertools.chain.from_iterable(encoded), "int32", ends[-1])
        words = None
        if split_words is not None and not causal:
            words = np.concatenate(tokenizer.word_numbers(texts, split_words)).astype("int32")
        self._lay_out(tokens, lengths, words, length)

    def _lay_out(self, tokens, lengths, words, length):
        """Puts the tokens of all texts, one after the other, into `sequences`."""
        if self.tokenizer.start_id is None or self.tokenizer.end_id is None:
            raise ValueError(
                "Packed documents need a token before and a token after each, such as [CLS] and "
                f"[SEP], and this {type(self.tokenizer).__name__} does not have both. Use a "
                "vocabulary of BERT's kind."
            )
        ends, tokenizer, room = np.cumsum(lengths), self.tokenizer, length - 2
        pieces = [
            (start, min(start + room, end))
            for start0, end in zip(ends - lengths, ends, strict=True)
            for start in range(start0, end, room)
        ]
        bins = pack(np.array([end - start + 2 for start, end in pieces]), length)
        self.sequences = np.zeros((len(bins), length), "int32")
        self.words = None if words is None else np.zeros((len(bins), length), "int32")

        rng = np.random.default_rng(self.seed)
        for row, members in enumerate(bins):
            # Packing begins with the longest, but short texts belong to all positions too.
            rng.shuffle(members)
            place = 0
            for start, end in (pieces[i] for i in members):
                stop = place + end - start + 2
                self.sequences[row, place] = tokenizer.start_id
                self.sequences[row, place + 1 : stop - 1] = tokens[start:end]
                self.sequences[row, stop - 1] = tokenizer.end_id
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
            skipped = np.isin(token_ids, [self.tokenizer.start_id, self.tokenizer.pad_id])
            next_ids = np.where(skipped, NONE, token_ids)
            count = math.ceil(self.predict_rate * (token_ids.shape[1] - 1))
            positions = rng.random(token_ids[:, 1:].shape).argsort(axis=1)[:, :count]
            positions = np.sort(positions, axis=1).astype("int32")
            targets = np.take_along_axis(next_ids, positions + 1, axis=1)
            return (token_ids, segment_ids, positions), targets
        masked_ids, positions, targets = mask_tokens(
            token_ids,
            ~self._special[token_ids],
            self.predict_rate,
            self.tokenizer.mask_id,
            self._ordinary_ids,
            rng,
            None if self.words is None else self.words[rows],
        )
        return (masked_ids, segment_ids, positions), targets
