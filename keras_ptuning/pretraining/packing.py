"""Documents, packed into sequences of one length."""

import itertools
import math
from collections.abc import Callable, Collection, Sequence

import keras
import numpy as np

from keras_ptuning.checks import Vocabulary, check_integer, check_list, check_number
from keras_ptuning.text import PieceTokenizer, as_tokenizer
from keras_ptuning.text.masking import NONE, mask_tokens
from keras_ptuning.text.tokenizers import Tokenizer, warn_of_unknown


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

    Each text becomes `[CLS] text [SEP]`; texts too long for one sequence become several. The
    attribute `model_options` has the arguments of `build_transformer_model` for a model that takes
    these batches. It keeps the texts of a sequence from seeing each other.

    Tokenizers of decoders may put no token before or after a text. Then, with `causal`, the token
    that ends documents is there.

    Args:
        texts: List of strings.
        tokenizer: A `Tokenizer` or `PieceTokenizer`, or what they take as their vocabulary.
        causal: Whether to predict each next token. Otherwise tokens are masked at random, again
            each time.
        length: Integer, tokens of a sequence. Defaults to `128`.
        batch_size: Integer. Defaults to `32`.
        steps: Integer, the number of batches that Keras takes for an epoch, which need not be one
            pass over the texts: the next epoch continues where the last stopped. `None` for one
            pass, always in the same order and with the same masks, as evaluation wants it.
        predict_rate: Share of the tokens to predict: to mask, or, with `causal`, to compute the
            loss at, where fewer are cheaper. Defaults to `0.15`, or with `causal` to all, `1.0`.
        split_words: Optional function from a string to its words, e.g. `jieba.lcut`; whole words
            are masked then.
        seed: Integer. The same seed gives the same batches. Defaults to `0`.

    Returns of `dataset[i]`:
        `(inputs, targets)`. The inputs are a dictionary by the names of a model's inputs:
        `"Input-Token"` and `"Input-Segment"`, `(batch_size, length)`, and the positions to predict
        at, `"Input-Gather"`, `(batch_size, n)`. A model without segments ignores those. The targets
        are the tokens to predict there, -1 for none. `n` is `ceil(predict_rate * length)`, or with
        `causal`, `ceil(predict_rate * (length - 1))`.

    Raises:
        TypeError: if `texts` is not a list, or one of them not a string.
        ValueError: if there are no texts, a number is out of range, or the tokenizer has no token
            before and after a text, or without `causal` none for masks or padding.

    Example:

    >>> from keras_ptuning.text import Tokenizer
    >>> vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"很不满意好"]
    >>> dataset = PackedDataset(["很满意", "不好"], Tokenizer(vocab), length=10, batch_size=1)
    >>> inputs, targets = dataset[0]
    >>> inputs["Input-Token"].shape, inputs["Input-Gather"].shape, int((targets >= 0).sum())
    ((1, 10), (1, 2), 1)
    """

    # Further settings that `pretrain` compares when it resumes.
    settings = {}  # noqa: RUF012

    def __init__(
        self,
        texts: Collection[str],
        tokenizer: Tokenizer | PieceTokenizer | Vocabulary,
        causal: bool = False,
        length: int = 128,
        batch_size: int = 32,
        steps: int | None = None,
        predict_rate: float | None = None,
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
        if predict_rate is None:
            predict_rate = 1.0 if causal else 0.15
        check_number("predict_rate", predict_rate, 0, 1)
        if not predict_rate:
            raise ValueError(
                f"`predict_rate` must be greater than 0. Received: predict_rate={predict_rate!r}."
            )
        self.tokenizer = tokenizer = as_tokenizer(tokenizer)
        self.causal = causal
        self.batch_size = batch_size
        self.steps = steps
        self.predict_rate = predict_rate
        self.seed = seed
        self.epoch = 0
        self._orders = {}
        self._ordinary_ids = np.array(tokenizer.ordinary_ids)
        self._ordinary = np.zeros(tokenizer.vocab_size, "bool")
        self._ordinary[self._ordinary_ids] = True
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
        tokenizer, room = self.tokenizer, length - 2
        self._start, self._end = tokenizer.start_id, tokenizer.end_id
        if not self.causal and None in (tokenizer.mask_id, tokenizer.pad_id):
            raise ValueError(
                "Masking needs tokens for masks and for padding, and this "
                f"{type(tokenizer).__name__} lacks one of them. For a decoder give `causal=True`."
            )
        if self.causal:
            end_of_text = getattr(tokenizer, "eos_id", self._end)
            self._start = end_of_text if self._start is None else self._start
            self._end = end_of_text if self._end is None else self._end
        if self._start is None or self._end is None:
            raise ValueError(
                "Packed documents need a token before and a token after each, such as [CLS] and "
                f"[SEP], and this {type(tokenizer).__name__} does not have both. Use a "
                "vocabulary of BERT's kind, or with `causal` one that has a token for the end."
            )
        ends = np.cumsum(lengths)
        pieces = [
            (start, min(start + room, end))
            for start0, end in zip(ends - lengths, ends, strict=True)
            for start in range(start0, end, room)
        ]
        bins = pack(np.array([end - start + 2 for start, end in pieces]), length)
        # A tokenizer without padding: fill with the end token.
        pad_id = self._end if tokenizer.pad_id is None else tokenizer.pad_id
        self.sequences = np.full((len(bins), length), pad_id, "int32")
        # Where a new document begins after the last, or none: that is not worth predicting.
        self._outside = np.ones(self.sequences.shape, "bool")
        self.words = None if words is None else np.zeros((len(bins), length), "int32")

        rng = np.random.default_rng(self.seed)
        for row, members in enumerate(bins):
            # Packing begins with the longest, but short texts belong to all positions too.
            rng.shuffle(members)
            place = 0
            for start, end in (pieces[i] for i in members):
                stop = place + end - start + 2
                self.sequences[row, place] = self._start
                self.sequences[row, place + 1 : stop - 1] = tokens[start:end]
                self.sequences[row, stop - 1] = self._end
                self._outside[row, place + 1 : stop] = False
                if words is not None:
                    numbers = words[start:end]
                    self.words[row, place + 1 : stop - 1] = numbers - numbers[0] + place
                place = stop

    @property
    def model_options(self):
        """Arguments of `build_transformer_model` for a model that takes these batches."""
        # A token that also begins or ends a text must be seen.
        shared = self.tokenizer.pad_id in (self._start, self._end)
        return {
            "gather_positions": True,
            "document_start_id": self._start,
            "sequence_length": self.sequences.shape[1],
            "pad_id": None if shared else self.tokenizer.pad_id,
        }

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

    def _order(self, number):
        """The order of the sequences in the pass `number` over them."""
        if number not in self._orders:
            order = np.random.default_rng([self.seed, number]).permutation(len(self.sequences))
            # A batch has sequences of this pass, and maybe of the one before it.
            self._orders = {n: self._orders[n] for n in self._orders if n == number - 1}
            self._orders[number] = order
        return self._orders[number]

    def __getitem__(self, index):
        step = index if self.steps is None else self.epoch * self.steps + index
        rows = self._rows(step)
        token_ids = self.sequences[rows]
        rng = np.random.default_rng([self.seed, step, 1])
        if self.causal:
            next_ids = np.where(self._outside[rows], NONE, token_ids)
            count = math.ceil(self.predict_rate * (token_ids.shape[1] - 1))
            positions = rng.random(token_ids[:, 1:].shape).argsort(axis=1)[:, :count]
            positions = np.sort(positions, axis=1).astype("int32")
            targets = np.take_along_axis(next_ids, positions + 1, axis=1)
            return self._inputs(token_ids, positions), targets
        masked_ids, positions, targets = mask_tokens(
            token_ids,
            self._ordinary[token_ids],
            self.predict_rate,
            self.tokenizer.mask_id,
            self._ordinary_ids,
            rng,
            None if self.words is None else self.words[rows],
        )
        return self._inputs(masked_ids, positions), targets

    def _inputs(self, token_ids, positions):
        return {
            "Input-Token": token_ids,
            "Input-Segment": np.zeros_like(token_ids),
            "Input-Gather": positions,
        }
