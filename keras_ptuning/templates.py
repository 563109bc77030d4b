"""Pattern + labels: text -> arrays, and scores -> labels."""

import re
from collections.abc import Mapping

import numpy as np

from keras_ptuning.data import ClozeDataset, Example, model_inputs
from keras_ptuning.tokenizers import Tokenizer, is_special, truncate_longest

_PARTS = re.compile(r"(\[[A-Za-z0-9_]+\]|\{[^{}]*\})")
_VIRTUAL = re.compile(r"\[u([1-9][0-9]*)\]")
_SLOT = re.compile(r"\{(text|text_b)(?::([1-9][0-9]*))?\}")


class Template:
    """A cloze template and its label words; the only place that knows positions.

    The pattern is a string of

    - `{text}`, where the text goes, and `{text_b}`, where the second text of a pair goes.
      `{text:64}` gives it at most 64 tokens;
    - `[MASK]`, a position to predict. Label words have as many tokens as the pattern has masks;
    - `[u1]`, `[u2]`..., trainable virtual tokens; the same number is the same vector. They start
      as the vocabulary's `[unused1]`, `[unused2]`..., or as new random vectors where the
      vocabulary has no such token;
    - `[SEP]`, after which the segment id is 1;
    - any other token of the vocabulary in brackets, such as `[unused9]`, which stays fixed;
    - everything else: literal words, which stay fixed.

    `[CLS]` in front and `[SEP]` at the end are added.

    Args:
        pattern: The pattern, e.g. `"[MASK]满意。{text}"`.
        labels: Dictionary from each label to its word, or to a list of words, e.g.
            `{"负面": "不", "正面": ["很", "挺"]}`. Labels are strings or integers.
        tokenizer: A `Tokenizer`, or what `Tokenizer` takes as its vocabulary.
        maxlen: Integer, the greatest number of tokens of an encoded text, template included.
            Longer texts are cut, the longer one of a pair first; the template never is.
            Defaults to `128`.

    Raises:
        TypeError: if the pattern or a word is not a string, or `maxlen` not an integer.
        ValueError: if the pattern has no `[MASK]`, no `{text}`, or an unknown part; if a label
            word is not in the vocabulary, differs in length from the masks, or stands for two
            labels; or if `maxlen` leaves no room for text.

    Example:

    >>> vocab = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"很不满意好。"]
    >>> template = Template("[u1][MASK]满意。{text}", {"负面": "不", "正面": "很"}, vocab)
    >>> x, y = template.encode(["很好", "不好。"], ["正面", "负面"])
    >>> x["token_ids"].shape, x["mask_positions"].tolist(), y.tolist()
    ((2, 10), [[2], [2]], [1, 0])
    >>> template.decode([[-3.1, -0.2]])
    ['正面']

    Reference:
        - Templates of words: [Schick and Schütze, 2020](https://arxiv.org/abs/2001.07676),
          section 3, and [Su, 2020](https://kexue.fm/archives/7764).
        - Of virtual tokens: [Liu et al., 2021](https://arxiv.org/abs/2103.10385), section 3,
          and [Su, 2021](https://kexue.fm/archives/8295).
    """

    def __init__(self, pattern, labels, tokenizer, maxlen=128):
        if not isinstance(tokenizer, Tokenizer):
            tokenizer = Tokenizer(tokenizer)
        if "[MASK]" not in tokenizer:
            raise ValueError(
                "A cloze needs a vocabulary with [MASK]. Received one of "
                f"{tokenizer.vocab_size} tokens without it."
            )
        if not isinstance(pattern, str):
            raise TypeError(f"The pattern must be a string. Received: {pattern!r}.")
        if not isinstance(maxlen, int | np.integer):
            raise TypeError(f"`maxlen` must be an integer. Received: {maxlen!r}.")
        self.pattern = pattern
        self.tokenizer = tokenizer
        self.maxlen = int(maxlen)
        self.mask_id = tokenizer.token_to_id("[MASK]")
        self._parse(pattern)
        self._read_labels(labels)
        # What random masking may put in place of a word: no special, unused or virtual token.
        self.ordinary_ids = np.array(
            [i for i, token in enumerate(tokenizer.vocab) if not is_special(token)]
        )

    def _parse(self, pattern):
        """Turns the pattern into pieces: `(token ids, segment, maskable)` or `(slot, segment)`."""
        tokenizer, segment = self.tokenizer, 0
        numbers = sorted({int(n) for n in _VIRTUAL.findall(pattern)})
        new_ids = iter(range(tokenizer.vocab_size, tokenizer.vocab_size + len(numbers)))
        virtual_ids = {}
        for n in numbers:
            unused = f"[unused{n}]"
            known = unused in tokenizer
            virtual_ids[n] = tokenizer.token_to_id(unused) if known else next(new_ids)
        self.virtual_ids = list(virtual_ids.values())
        self.slots, self._slot_limits = [], []
        self._pieces = [([tokenizer.token_to_id("[CLS]")], 0, False)]
        for part in filter(None, _PARTS.split(pattern)):
            slot, virtual = _SLOT.fullmatch(part), _VIRTUAL.fullmatch(part)
            if slot:
                self._pieces.append((slot[1], segment))
                self.slots.append(slot[1])
                self._slot_limits.append(int(slot[2]) if slot[2] else None)
            elif virtual:
                self._pieces.append(([virtual_ids[int(virtual[1])]], segment, False))
            elif part[0] == "[" and part in tokenizer and part not in ("[PAD]", "[UNK]", "[CLS]"):
                token_id = tokenizer.token_to_id(part)
                if token_id in self.virtual_ids:
                    raise ValueError(
                        f"{part!r} in the template {pattern!r} is also the row of a virtual token, "
                        "which learns. Give the virtual token another number."
                    )
                self._pieces.append(([token_id], segment, False))
                segment = 1 if part == "[SEP]" else segment
            elif part[0] in "{[":
                raise ValueError(
                    f"Unknown {part!r} in the template {pattern!r}. A template has the slots "
                    "{text} and {text_b} (or {text:64} to limit it to 64 tokens), [MASK], virtual "
                    "tokens [u1], [u2]..., [SEP], and other tokens of the vocabulary in brackets."
                )
            else:
                ids = tokenizer.token_ids([part])[0]
                if tokenizer.token_to_id("[UNK]") in ids:
                    raise ValueError(
                        f"The words {part!r} of the template are not all in the vocabulary: they "
                        f"become {tokenizer.tokenize(part)}. Choose other words."
                    )
                self._pieces.append((ids, segment, True))
        self._pieces.append(([tokenizer.token_to_id("[SEP]")], segment, False))
        fixed = [i for piece in self._pieces if len(piece) == 3 for i in piece[0]]
        self.num_masks = fixed.count(self.mask_id)
        if not self.num_masks:
            raise ValueError(
                "A template needs at least one [MASK], where the label word is predicted. "
                f"Received: {pattern!r}."
            )
        if "text" not in self.slots or len(set(self.slots)) != len(self.slots):
            raise ValueError(
                "A template needs the slot {text} once, and may have {text_b} once. "
                f"Received: {pattern!r}."
            )
        self._room = self.maxlen - len(fixed)
        if self._room < len(self.slots):
            raise ValueError(
                f"`maxlen` leaves no room for the text: the template alone takes {len(fixed)} "
                f"tokens ([CLS] and [SEP] included). Received: maxlen={self.maxlen}; expected at "
                f"least {len(fixed) + len(self.slots)}."
            )

    def _read_labels(self, labels):
        if not isinstance(labels, dict) or len(labels) < 2:
            raise ValueError(
                "`labels` must be a dictionary of at least two labels and their words, e.g. "
                f'{{"负面": "不", "正面": "很"}}. Received: {labels!r}.'
            )
        self.labels, self.word_ids = {}, []
        owners = {}
        for label, words in labels.items():
            label = label.item() if isinstance(label, np.generic) else label
            if not isinstance(label, str | int):
                raise ValueError(f"Labels must be strings or integers. Received: {label!r}.")
            words = [words] if isinstance(words, str) else words
            if not isinstance(words, list | tuple) or not all(isinstance(w, str) for w in words):
                raise TypeError(
                    f"The label {label!r} needs a word, or a list of words. Received: {words!r}."
                )
            if not words:
                raise ValueError(f"The label {label!r} has no word.")
            self.labels[label] = list(words)
            self.word_ids.append([self._word_to_ids(word, label, owners) for word in words])
        self.label_names = list(self.labels)
        self._label_index = {label: i for i, label in enumerate(self.label_names)}

    def _word_to_ids(self, word, label, owners):
        ids = self.tokenizer.token_ids([word])[0]
        tokens = [self.tokenizer.id_to_token(i) for i in ids]
        if not ids or "[UNK]" in tokens:
            raise ValueError(
                f"The word {word!r} of the label {label!r} is not in the vocabulary: it becomes "
                f"{tokens}. Choose a word whose characters are all in it."
            )
        if len(ids) != self.num_masks:
            raise ValueError(
                f"The word {word!r} of the label {label!r} has {len(ids)} tokens ({tokens}), and "
                f"the template {self.pattern!r} has {self.num_masks} masks. Use one [MASK] for "
                "each token, and words of one length."
            )
        if tuple(ids) in owners:
            raise ValueError(
                f"The word {word!r} stands for {owners[tuple(ids)]!r} and again for {label!r}. "
                "Each word can stand for one label, once."
            )
        owners[tuple(ids)] = label
        return ids

    @property
    def num_labels(self):
        return len(self.label_names)

    def label_ids(self, labels):
        """Turns labels into their numbers, in the order of `label_names`.

        Args:
            labels: List of labels.

        Returns:
            An integer array of shape `(len(labels),)`.

        Raises:
            ValueError: if one of them is not a label of this template; its index is named.
        """
        ids = []
        for i, label in enumerate(labels):
            label = label.item() if isinstance(label, np.generic) else label
            if not isinstance(label, str | int) or label not in self._label_index:
                raise ValueError(
                    f"Label {i} is {label!r} of type {type(label).__name__}, which the template "
                    f"does not have. Expected one of {self.label_names}."
                )
            ids.append(self._label_index[label])
        return np.array(ids, dtype="int32")

    def _examples(self, texts):
        """Encodes texts, or pairs of texts, to a list of `Example`."""
        if isinstance(texts, str):
            raise TypeError(f"Expected a list of texts. Received: the one string {texts!r}.")
        # A table iterates over its column names; one column of it is fine.
        if texts is None or isinstance(texts, Mapping) or hasattr(texts, "columns"):
            raise TypeError(
                "Expected a list of texts, e.g. one column of a table. Received: "
                f"{'None' if texts is None else type(texts).__name__}."
            )
        texts = list(texts)
        if not texts:
            raise ValueError("There are no texts to encode. Received: an empty list.")
        if "text_b" in self.slots:
            for i, pair in enumerate(texts):
                if not isinstance(pair, tuple | list | np.ndarray) or len(pair) != 2:
                    raise TypeError(
                        "The template has {text} and {text_b}, so texts must be pairs "
                        f"(text, text_b). Received: text {i} is {pair!r}."
                    )
            columns = {"text": [p[0] for p in texts], "text_b": [p[1] for p in texts]}
        else:
            columns = {"text": texts}
        encoded = [self.tokenizer.token_ids(columns[slot]) for slot in self.slots]
        return [self._example(slot_ids) for slot_ids in zip(*encoded, strict=True)]

    def _example(self, slot_ids):
        parts = [ids[:limit] for ids, limit in zip(slot_ids, self._slot_limits, strict=True)]
        truncate_longest(parts, self._room)
        filled = dict(zip(self.slots, parts, strict=True))
        token_ids, segment_ids, maskable, mask_positions = [], [], [], []
        for piece in self._pieces:
            if len(piece) == 3:
                ids, segment, is_words = piece
                # Only the template's own masks are answers, whatever a text may contain.
                if ids == [self.mask_id]:
                    mask_positions.append(len(token_ids))
            else:
                (slot, segment), is_words = piece, True
                ids = filled[slot]
            token_ids += ids
            segment_ids += [segment] * len(ids)
            maskable += [is_words] * len(ids)
        return Example(
            np.array(token_ids, "int32"),
            np.array(segment_ids, "int32"),
            np.array(mask_positions, "int32"),
            np.array(maskable, "bool"),
        )

    def encode(self, texts, labels=None):
        """Encodes texts (and labels) to arrays, padded to the longest.

        Args:
            texts: List of strings; of pairs of strings if the template has `{text_b}`.
            labels: Optional list of labels.

        Returns:
            A dictionary of integer arrays, the inputs of the model: `token_ids` and
            `segment_ids` of shape `(len(texts), length)`, and `mask_positions` of shape
            `(len(texts), number of masks)`. With `labels`, a tuple of this and an integer array
            of shape `(len(texts),)`.

        Raises:
            TypeError: if `texts` is not a list of strings (or pairs).
            ValueError: if a label is unknown, there are more or fewer labels than texts, or no
                texts at all.
        """
        examples = self._examples(texts)
        length = max(len(e.token_ids) for e in examples)
        x = model_inputs(examples, length)
        return x if labels is None else (x, self._checked_label_ids(labels, examples))

    def dataset(self, texts, labels=None, batch_size=32, shuffle=None, seed=0, mask_rate=0.15):
        """Makes batches for `fit`, `evaluate` and `predict`.

        Args:
            texts: List of strings; of pairs of strings if the template has `{text_b}`.
            labels: Optional list of labels.
            batch_size: Integer. Defaults to `32`.
            shuffle: Whether to shuffle, with texts of similar length together. Defaults to
                `True` where there are labels. `predict` returns the order of `texts` either way.
            seed: Integer. The same seed gives the same batches and masks. Defaults to `0`.
            mask_rate: With labels, the share of the ordinary words to mask at random for the
                auxiliary task. Only training uses it. Defaults to `0.15`.

        Returns:
            A `ClozeDataset`.

        Raises:
            TypeError: if `texts` is not a list of strings (or pairs).
            ValueError: if a label is unknown, there are more or fewer labels than texts, or no
                texts at all; if `batch_size`, `seed` or `mask_rate` make no sense.
        """
        examples = self._examples(texts)
        return ClozeDataset(
            examples,
            self,
            None if labels is None else self._checked_label_ids(labels, examples),
            batch_size=batch_size,
            shuffle=labels is not None if shuffle is None else shuffle,
            seed=seed,
            mask_rate=mask_rate,
        )

    def _checked_label_ids(self, labels, examples):
        label_ids = self.label_ids(labels)
        if len(label_ids) != len(examples):
            raise ValueError(
                "There must be one label for each text. Received: "
                f"{len(examples)} texts and {len(label_ids)} labels."
            )
        return label_ids

    def decode(self, scores):
        """The best label for each row of scores.

        Args:
            scores: Array of shape `(n, num_labels)`, as the model predicts it.

        Returns:
            A list of `n` labels.

        Raises:
            ValueError: if `scores` has another shape.
        """
        scores = np.asarray(scores)
        if scores.ndim != 2 or scores.shape[1] != self.num_labels:
            raise ValueError(
                f"Expected scores of shape (n, {self.num_labels}), one column for each of "
                f"{self.label_names}. Received: shape {scores.shape}."
            )
        return [self.label_names[i] for i in scores.argmax(axis=1)]

    def get_config(self):
        """Everything needed to make the same template again, ready for JSON."""
        return {
            "pattern": self.pattern,
            # Pairs, since JSON would turn integer labels into strings.
            "labels": [[label, words] for label, words in self.labels.items()],
            "tokenizer": self.tokenizer.get_config(),
            "maxlen": self.maxlen,
        }

    @classmethod
    def from_config(cls, config):
        """Makes a template from what `get_config` returned."""
        tokenizer = config["tokenizer"]
        if isinstance(tokenizer, dict):
            tokenizer = Tokenizer.from_config(tokenizer)
        return cls(config["pattern"], dict(config["labels"]), tokenizer, config["maxlen"])
