"""Pretraining of a T5: spans that are left out, or texts that are continued."""

from collections.abc import Collection
from typing import Literal

import numpy as np

from keras_ptuning.checks import Vocabulary, check_integer, check_number, check_positive
from keras_ptuning.pretraining.packing import PackedDataset
from keras_ptuning.text.masking import NONE
from keras_ptuning.text.piece_tokenizer import PieceTokenizer
from keras_ptuning.text.tokenizers import Tokenizer

OBJECTIVES = ("spans", "continuation")


class TextToTextDataset(PackedDataset):
    """Texts for pretraining a T5, which reads a text and writes another.

    All batches have the same shape. The texts are joined, one after the other, and cut into
    sequences of the same length, as in T5's pretraining.

    Args:
        texts: List of strings.
        tokenizer: A `Tokenizer` or `PieceTokenizer`.
        objective: `"spans"` leaves out some spans of tokens, and puts a sentinel in the place of
            each. The model writes each sentinel and the span. `"continuation"` cuts the text in two
            at random. The model reads the first part and writes the rest. This is LM adaptation.
            Defaults to `"spans"`.
        length: Integer, tokens of a sequence. Defaults to `128`.
        predict_rate: For `"spans"`, the share of the tokens to leave out. Defaults to `0.15`.
        mean_span: For `"spans"`, the mean number of tokens of a span. Defaults to `3.0`.
        batch_size, steps, seed: As `PackedDataset` has them.

    Returns of `dataset[i]`:
        `(inputs, targets)`. The inputs are what the encoder reads and what the decoder reads, each
        of shape `(batch_size, n)`. The targets are what the decoder is to write, -1 for nothing, in
        the shape of what it reads.

    Raises:
        TypeError: if `texts` is not a list, or one of them is not a string.
        ValueError: if there are no texts, a number is out of range, there is no such objective, or
            the vocabulary has too few sentinels.

    Example:

    >>> from keras_ptuning.text import Tokenizer
    >>> vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "extra0", *"很不满意好"]
    >>> tokenizer = Tokenizer(vocab)
    >>> dataset = TextToTextDataset(["很不满意"], tokenizer, batch_size=1, length=6)
    >>> (read, written), targets = dataset[0]
    >>> "".join(vocab[i] for i in read[0] if i), "".join(vocab[i] for i in targets[0] if i > 0)
    ('[CLS]很不满extra0[SEP]', 'extra0意[SEP]')

    Reference:
        - [Raffel et al., 2019](https://arxiv.org/abs/1910.10683), section 3.1.4.
        - LM adaptation: [Lester et al., 2021](https://arxiv.org/abs/2104.08691), section 2.2.
    """

    def __init__(
        self,
        texts: Collection[str],
        tokenizer: Tokenizer | PieceTokenizer | Vocabulary,
        objective: Literal["spans", "continuation"] = "spans",
        length: int = 128,
        predict_rate: float | None = None,
        mean_span: float = 3.0,
        batch_size: int = 32,
        steps: int | None = None,
        seed: int = 0,
    ) -> None:
        if objective not in OBJECTIVES:
            raise ValueError(
                f"`objective` must be one of {OBJECTIVES}. Received: objective={objective!r}."
            )
        check_integer("length", length, 3)
        check_positive("mean_span", mean_span)
        predict_rate = 0.15 if predict_rate is None else predict_rate
        check_number("predict_rate", predict_rate, 0, 1)
        if not 0 < predict_rate < 1:
            raise ValueError(
                "`predict_rate` must be between 0 and 1: with all of a text left out, nothing is "
                f"left to read. Received: predict_rate={predict_rate!r}."
            )
        super().__init__(
            texts,
            tokenizer,
            length=length,
            batch_size=batch_size,
            steps=steps,
            predict_rate=predict_rate,
            seed=seed,
        )
        tokenizer = self.tokenizer
        self.objective = objective
        self.mean_span = mean_span
        # A training depends on these too.
        self.settings = {"objective": objective, "mean_span": mean_span}
        self._sentinels = find_sentinels(tokenizer)
        self._before = [] if tokenizer.start_id is None else [tokenizer.start_id]
        self._after = [] if tokenizer.end_id is None else [tokenizer.end_id]
        self._decoder_start = self._before or [tokenizer.pad_id]
        if self._decoder_start == [None]:
            raise ValueError(
                "The decoder begins with the token for padding, and nothing says which one that "
                "is. Put the `tokenizer_config.json` of the checkpoint next to its "
                "`tokenizer.json`."
            )
        if objective == "continuation":
            read = written = length
        else:
            counts = [_count_spans(n, predict_rate, mean_span) for n in range(2, length + 1)]
            most = max(spans for _, spans in counts)
            if most > len(self._sentinels):
                raise ValueError(
                    f"Up to {most} spans of a text are left out, and the vocabulary has "
                    f"{len(self._sentinels)} sentinels, <extra_id_0>, <extra_id_1>... or extra0, "
                    "extra1... Add more to the vocabulary, or use shorter texts or longer spans."
                )
            sizes = zip(range(2, length + 1), counts, strict=True)
            read = max(n - noise + spans for n, (noise, spans) in sizes)
            written = max(noise + spans for noise, spans in counts)
        self._widths = read + len(self._before + self._after), written + len(self._after)

    def _lay_out(self, tokens, lengths, words, length):
        rows = -(-len(tokens) // length)
        self.sequences = np.full((rows, length), NONE, "int32")
        self.sequences.ravel()[: len(tokens)] = tokens
        self.words = None

    @property
    def model_options(self):
        """A T5 needs no further arguments."""
        return {}

    def __getitem__(self, index):
        step = index if self.steps is None else self.epoch * self.steps + index
        rng = np.random.default_rng([self.seed, step, 1])
        rows = self.sequences[self._rows(step)]
        read, written = (np.full((len(rows), n), self.tokenizer.pad_id) for n in self._widths)
        targets = np.full((len(rows), self._widths[1]), NONE)
        for i, row in enumerate(rows):
            source, target = self._split(row[row != NONE], rng)
            source, target = [*self._before, *source, *self._after], [*target, *self._after]
            read[i, : len(source)] = source
            targets[i, : len(target)] = target
            written[i, : len(target)] = [*self._decoder_start, *target[:-1]]
        return tuple(array.astype("int32") for array in (read, written)), targets.astype("int32")

    def _split(self, ids, rng):
        """What is read of a text, and what is written."""
        if len(ids) < 2:
            return ids, []
        if self.objective == "continuation":
            cut = rng.integers(1, len(ids))
            return ids[:cut], ids[cut:]
        noise, spans = _count_spans(len(ids), self.predict_rate, self.mean_span)
        # In turn what stays and what is left out, each at least one token long.
        kept, dropped = (_cut(n, spans, rng) for n in (len(ids) - noise, noise))
        ends = np.cumsum(np.stack([kept, dropped], axis=1).ravel())
        parts = np.split(ids, ends[:-1])
        source, target = [], []
        for sentinel, stays, leaves in zip(self._sentinels, parts[::2], parts[1::2], strict=False):
            source += [*stays, sentinel]
            target += [sentinel, *leaves]
        return source, target


def find_sentinels(tokenizer):
    """The ids of the tokens that stand for what is left out of a text, in order.

    They are called `<extra_id_0>`, `<extra_id_1>`... in most vocabularies, and `extra0`,
    `extra1`... in some.

    Example:

    >>> from keras_ptuning.text import Tokenizer
    >>> vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "extra1", "extra0"]
    >>> find_sentinels(Tokenizer(vocab))
    [5, 4]
    """
    for name in ("<extra_id_{}>", "extra{}"):
        found = []
        while name.format(len(found)) in tokenizer:
            found.append(tokenizer.token_to_id(name.format(len(found))))
        if found:
            return found
    return []


def _count_spans(length, rate, mean_span):
    """How many tokens of a text are left out, and at how many places."""
    noise = min(max(round(rate * length), 1), length - 1)
    spans = max(round(noise / mean_span), 1)
    return noise, min(spans, noise, length - noise)


def _cut(total, parts, rng):
    """Random lengths of parts, each at least 1, that add up to `total`."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff([0, *cuts, total])
