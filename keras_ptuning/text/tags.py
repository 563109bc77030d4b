"""Sentences whose words have a tag each, such as the named entities of a BIO file."""

import copy
import itertools
from collections.abc import Collection
from typing import Any, Self, overload

import numpy as np
from numpy.typing import ArrayLike

from keras_ptuning.backend import compiles_each_shape
from keras_ptuning.checks import (
    Label,
    Sentences,
    Vocabulary,
    as_list,
    check_entries,
    check_finite,
    check_list,
)
from keras_ptuning.text.batches import (
    COMPILED_LENGTH_STEP,
    LENGTH_STEP,
    UNLABELED,
    ClozeDataset,
    Example,
    model_inputs,
    pad,
    padding_of,
)
from keras_ptuning.text.templates import PlainText, Template, is_label, tokenizer_of
from keras_ptuning.text.tokenizers import Tokenizer, warn_of_unknown


class TaggedText(PlainText):
    """Sentences as lists of words, each of which gets a tag: `[CLS] words [SEP]`.

    In Chinese, the words are usually single characters. If a word becomes several tokens, the first
    one gets the tag. If it becomes none, such as a space, it is read as `[UNK]`, so that it has a
    tag like the others.

    Args:
        tags: List of at least two tags, e.g. `["O", "B-PER", "I-PER"]`, in any scheme.
        tokenizer: A `Tokenizer`, or what `Tokenizer` takes as its vocabulary.
        maxlen: Integer, the greatest number of tokens of an encoded row, with `[CLS]` and `[SEP]`.
            A longer sentence takes several rows, one after the other, so that no word is left out.
            Defaults to `128`.

    Raises:
        TypeError: if `tags` is not a list, or `maxlen` not an integer.
        ValueError: if there are fewer than two tags, one of them twice or of another type; or if
            `maxlen` leaves no room for text.

    Example:

    >>> vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"王明在北京"]
    >>> tagged = TaggedText(["O", "B-PER", "I-PER"], vocab)
    >>> x, y = tagged.encode([list("王明在"), ["北"]], [["B-PER", "I-PER", "O"], ["O"]])
    >>> x["token_ids"].tolist()
    [[2, 5, 6, 7, 3], [2, 8, 3, 0, 0]]
    >>> y.tolist()  # -1 where there is no word
    [[1, 2, 0], [0, -1, -1]]

    Reference:
        - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805), section 5.3.
    """

    def __init__(
        self, tags: Collection[Label], tokenizer: Tokenizer | Vocabulary, maxlen: int = 128
    ) -> None:
        super().__init__(check_list("tags", tags), tokenizer, maxlen)

    @overload  # type: ignore[override]
    def encode(self, sentences: Sentences, tags: None = None) -> dict[str, np.ndarray]: ...

    @overload
    def encode(
        self, sentences: Sentences, tags: Collection[Collection[Label]]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]: ...

    def encode(
        self, sentences: Sentences, tags: Collection[Collection[Label]] | None = None
    ) -> dict[str, np.ndarray] | tuple[dict[str, np.ndarray], np.ndarray]:
        """Encodes sentences (and tags) to arrays, padded to the longest.

        Args:
            sentences: List of lists of words.
            tags: Optional list of lists of tags, one for each word.

        Returns:
            A dictionary of integer arrays, the inputs of the model: `token_ids` and `segment_ids`
            of shape `(rows, length)`, and `mask_positions` of shape `(rows, words)`, where the
            first tokens of the words are. With `tags`, a tuple of this dictionary and an integer
            array of shape `(rows, words)`, with -1 where a row has ended.

        Raises:
            TypeError: if a sentence is not a list of strings.
            ValueError: if there are no sentences, or one of them has no words; if a tag is unknown,
                or there are more or fewer tags than words.
        """
        examples, tag_ids = self._encode(sentences, tags)
        length = max(len(e.token_ids) for e in examples)
        x = model_inputs(examples, length, padding_of(self))
        return x if tags is None else (x, pad(tag_ids, x["mask_positions"].shape[1], UNLABELED))

    def dataset(  # type: ignore[override]
        self,
        sentences: Sentences,
        tags: Collection[Collection[Label]] | None = None,
        batch_size: int = 32,
        shuffle: bool | None = None,
        seed: int = 0,
    ) -> "TagDataset":
        """Makes batches for `fit`, `evaluate` and `predict`.

        Args:
            sentences, tags: As `encode` takes them.
            batch_size: Integer. Defaults to `32`.
            shuffle: Whether to shuffle, with sentences of similar length together. Defaults to
                `True` if there are tags. `predict` returns the order of `sentences` in both cases.
            seed: Integer. The same seed gives the same batches. Defaults to `0`.

        Returns:
            A `TagDataset`, a `keras.utils.PyDataset`.

        Raises:
            TypeError, ValueError: as `encode` does, and if `batch_size` or `seed` are out of range.
        """
        examples, tag_ids = self._encode(sentences, tags)
        return TagDataset(
            examples,
            # Later changes of the template by `set_params` are not for these sentences.
            copy.copy(self),
            tag_ids,
            batch_size=batch_size,
            shuffle=tags is not None if shuffle is None else shuffle,
            seed=seed,
        )

    def decode(  # type: ignore[override]
        self, scores: ArrayLike, sentences: Sentences
    ) -> list[list[Any]]:
        """The best tag of each word.

        Args:
            scores: Array of shape `(rows, words, tags)`, as the model predicts it.
            sentences: The sentences, as `encode` takes them.

        Returns:
            A list of lists of tags, one for each word.

        Raises:
            ValueError: if `scores` has another shape, or numbers that are not finite.
        """
        scores = np.asarray(scores)
        check_finite([("`scores`", scores)], "The model that predicted them is damaged.")
        sentences = as_list("sentences", sentences)
        rows = self._rows(sentences)
        shape = len(rows), max(len(pieces) for _, pieces in rows), self.num_labels
        if scores.ndim != 3 or scores.shape[::2] != shape[::2] or scores.shape[1] < shape[1]:
            raise ValueError(
                f"Expected scores of shape {shape}, for each word of each row one column for each "
                f"of {self.label_names}. Received: shape {scores.shape}."
            )
        found = [[] for _ in sentences]
        for (i, pieces), best in zip(rows, scores.argmax(axis=-1), strict=True):
            found[i] += [self.label_names[k] for k in best[: len(pieces)]]
        return found

    def _rows(self, sentences):
        """Pairs of the number of a sentence and the pieces of its words, as many as have room."""
        for i, words in enumerate(sentences):
            if isinstance(words, str) or not all(isinstance(w, str) for w in check_words(i, words)):
                raise TypeError(
                    "A sentence must be a list of words, strings; for single characters, "
                    f"list(text). Received: sentence {i} is {words!r:.60}."
                )
            if not len(words):
                raise ValueError(f"Sentence {i} has no words. Leave it out.")
        found = iter(self.tokenizer.token_ids(list(itertools.chain(*sentences))))
        rows = []
        for i, words in enumerate(sentences):
            room = 0
            for _ in words:
                # The first of its pieces is all that is read of a word.
                pieces = (next(found) or [self.tokenizer.unk_id])[: self._room]
                if len(pieces) > room:
                    rows.append((i, []))
                    room = self._room
                rows[-1][1].append(pieces)
                room -= len(pieces)
        return rows

    def _encode(self, sentences, tags):
        """An `Example` for each row, and the numbers of its tags, if there are any."""
        sentences = as_list("sentences", sentences)
        rows = self._rows(sentences)
        examples = []
        for _, pieces in rows:
            around = (self.tokenizer.start_id, self.tokenizer.end_id)
            start, end = ([] if i is None else [i] for i in around)
            ids = [*start, *itertools.chain(*pieces), *end]
            starts = np.cumsum([len(start), *map(len, pieces[:-1])], dtype="int32")
            zeros = np.zeros(len(ids), "int32")
            examples.append(Example(np.array(ids, "int32"), zeros, starts, zeros.astype("bool")))
        if tags is None:
            return examples, None
        texts = [example.token_ids[1:-1].tolist() for example in examples]
        warn_of_unknown(texts, self.tokenizer, stacklevel=4)
        tag_ids = iter(np.concatenate(self._tag_ids(sentences, tags)))
        return examples, [np.array([next(tag_ids) for _ in pieces]) for _, pieces in rows]

    def _tag_ids(self, sentences, tags):
        tags = as_list("tags", tags)
        if len(tags) != len(sentences):
            raise ValueError(
                "There must be a list of tags for each sentence. Received: "
                f"{len(sentences)} sentences and {len(tags)} lists."
            )
        found = []
        for i, (words, own) in enumerate(zip(sentences, tags, strict=True)):
            if len(check_words(i, own)) != len(words):
                raise ValueError(
                    f"Each word needs a tag. Received: sentence {i} has {len(words)} words and "
                    f"{len(own)} tags."
                )
            own = [tag.item() if isinstance(tag, np.generic) else tag for tag in own]
            for j, tag in enumerate(own):
                if not is_label(tag) or tag not in self._label_index:
                    raise ValueError(
                        f"Tag {j} of sentence {i} is {tag!r}. Expected one of {self.label_names}."
                    )
            found.append(np.array([self._label_index[tag] for tag in own], "int32"))
        return found

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments, as scikit-learn asks for them."""
        return {"tags": self.label_names, "tokenizer": self.tokenizer, "maxlen": self.maxlen}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes one from what `get_config` returned.

        Raises:
            ValueError: if it has entries of other types.
        """
        check_entries("a tagged text", config, {"tags": (list, tuple), "maxlen": int})
        return cls(**{**config, "tokenizer": tokenizer_of(config)})


class TagDataset(ClozeDataset):
    """Batches of sentences with a tag for each word; made by `TaggedText.dataset`.

    Attributes:
        width: Integer, for how many words there are positions in each batch; `None` for as many as
            its length has tokens.
    """

    width = None
    has_unlabeled = False

    def _batch(self, index):
        rows = self.batches[index]
        examples = [self.examples[i] for i in rows]
        step = COMPILED_LENGTH_STEP if compiles_each_shape() else LENGTH_STEP
        length = self._padded_length(self.lengths[rows].max(), step)
        x = model_inputs(examples, length, padding_of(self.template))
        x["mask_positions"] = pad([e.mask_positions for e in examples], self.width or length)
        if self.label_ids is None:
            return (x,)
        return x, pad([self.label_ids[i] for i in rows], length, UNLABELED)

    def by_length(self, multiple=1):
        dataset, order = super().by_length(multiple)
        # Keras puts what it predicts of all batches into one array.
        dataset.width = max(len(e.mask_positions) for e in self.examples)
        return dataset, order


def check_words(i, words):
    """The words or tags of a sentence, if they are a list."""
    try:
        return check_list("sentence", words)
    except TypeError as error:
        raise TypeError(f"Sentence {i}: {error}") from None


def template_from_config(config):
    """Makes a `Template`, a `PlainText` or a `TaggedText` from what `get_config` returned.

    Raises:
        ValueError: if it has entries of other types.
    """
    kind = Template if "pattern" in config else TaggedText if "tags" in config else PlainText
    return kind.from_config(config)
