"""Pattern + labels: text -> arrays, and scores -> labels."""

import copy
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self, overload

import numpy as np
from numpy.typing import ArrayLike

from keras_ptuning.checks import (
    Candidates,
    Label,
    LabelsWithWords,
    Texts,
    Vocabulary,
    as_list,
    as_weights,
    check_entries,
    check_finite,
    check_list,
    check_text,
)
from keras_ptuning.text.batches import (
    UNLABELED,
    ClozeDataset,
    Example,
    model_inputs,
    pad_words,
    padding_of,
)
from keras_ptuning.text.masking import NONE
from keras_ptuning.text.piece_tokenizer import as_tokenizer, tokenizer_from_config
from keras_ptuning.text.tokenizers import Tokenizer, truncate_longest, warn_of_unknown

_PARTS = re.compile(r"(\[[A-Za-z0-9_]+\]|\{[^{}]*\}|<extra_id_[0-9]+>)")
_SENTINEL = re.compile(r"<extra_id_[0-9]+>")
_VIRTUAL = re.compile(r"\[u([1-9][0-9]*)\]")
_LABEL_TOKEN = re.compile(r"(\[v[1-9][0-9]*\])")
_UNUSED = re.compile(r"\[unused[0-9]+\]")
_SLOT = re.compile(r"\{(text|text_b)(?::(-?[1-9][0-9]*))?\}")
# Reach of a token that all later ones see.
EVERYWHERE = 2**30


def lay_out_continuations(words):
    """Lays the words that may follow a text into one sequence, each beginning written once.

    A causal model reads the text and these tokens in one pass: the next token after the text, and
    after each token laid out, is all that scoring the words needs.

    Args:
        words: List of words, each a list of token ids.

    Returns:
        `(token_ids, reach, slots)`. The tokens are the last ones of all proper beginnings of the
        words; each is seen by those up to its `reach`, which continue it. For each word, `slots`
        has the places to predict its tokens at: 0 is the end of the text, `i` the token `i - 1`.

    Example:

    >>> lay_out_continuations([[7], [5, 6], [5, 8, 9]])
    ([5, 8], [1, 1], [[0], [0, 1], [0, 1, 2]])
    """
    # In this order what continues a beginning comes right after it.
    beginnings = sorted({tuple(word[:i]) for word in words for i in range(1, len(word))})
    places = {beginning: i for i, beginning in enumerate(beginnings)}
    reach = list(range(len(beginnings)))
    for i, beginning in enumerate(beginnings):
        for n in range(1, len(beginning)):
            reach[places[beginning[:n]]] = i
    slots = [[0, *(places[tuple(word[:i])] + 1 for i in range(1, len(word)))] for word in words]
    return [beginning[-1] for beginning in beginnings], reach, slots


class Template:
    """A cloze template and its label words. It turns texts into arrays, and scores into labels.

    The pattern is a string of

    - `{text}`, where the text goes, and `{text_b}`, where the second text of a pair goes.
      `{text:64}` gives it at most 64 tokens, the first ones; `{text:-64}` the last ones;
    - `[MASK]`, a position to predict: as many of them as the longest label word has tokens;
    - `[u1]`, `[u2]`..., trainable virtual tokens; the same number is the same vector. They start
      as the vocabulary's `[unused1]`, `[unused2]`..., or as new random vectors where the
      vocabulary has no such token;
    - `[SEP]`, after which the segment id is 1;
    - `[DECODER]`, for a model that reads a text and writes another, such as a T5. The encoder reads
      what comes before it. The decoder's text begins with what follows;
    - any other token of the vocabulary in brackets, such as `[unused9]`, or T5's `<extra_id_0>`.
      It stays fixed;
    - everything else: literal words, which stay fixed.

    `[CLS]` in front and `[SEP]` at the end are added. Words may differ in their number of tokens.
    A shorter word takes the first masks. `Verbalizer` says how the words are compared.

    With `[DECODER]` the masks come last, because the decoder writes them, as in
    `"{text}[DECODER][MASK]"`. The decoder's text begins with `[CLS]`. If the vocabulary has no
    token to begin with, as T5's, it begins with the padding token. Another token in brackets, right
    after `[DECODER]`, takes the place of these. There is no auxiliary task.

    Args:
        pattern: The pattern, e.g. `"[MASK]满意。{text}"`.
        labels: Dictionary from each label to its word, or to a list of words, e.g.
            `{"负面": "不", "正面": ["很", "挺"]}`. Labels are strings or integers. A word may also
            be a token that learns: `[v1]`, `[v2]`... Such a token takes an `[unused]` row of the
            vocabulary, counted from the last, or a new row if there are too few. `None` if each
            text comes with candidates.
        tokenizer: A `Tokenizer` or `PieceTokenizer`, or what they take as their vocabulary.
        maxlen: Integer, the greatest number of tokens of an encoded text, template included.
            Longer texts are cut, the longer one of a pair first. The template is never cut.
            Defaults to `128`.
        causal: Whether the model is a causal language model (GPT, Qwen, LLaMA). Then the masks
            come last. They say where the model continues, and the model does not read them.
            Defaults to `False`, or to `True` with `[DECODER]`.

    A grid search of scikit-learn can change its arguments, e.g. `template__pattern`. `set_params`
    changes the datasets that it makes afterwards. Models that have this template do not change.

    Raises:
        TypeError: if the pattern or a word is not a string, or `maxlen` not an integer.
        ValueError: if the pattern has no `[MASK]`, no `{text}`, an unknown part, words that the
            vocabulary lacks, or masks that no word needs; if the template is causal, and something
            follows a mask, or `[DECODER]` does; if there are fewer than two labels; if a label word
            is not in the vocabulary, has more tokens than there are masks, or means two labels; if
            the same token is to learn and to stay fixed; if `maxlen` leaves no room for text; or if
            the pattern, a label or a word has half of a surrogate pair.

    Example:

    >>> vocab = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"很不满意好。"]
    >>> template = Template("[u1][MASK]满意。{text}", {"负面": "不", "正面": "很"}, vocab)
    >>> x, y = template.encode(["很好", "不好。"], ["正面", "负面"])
    >>> x["token_ids"].shape, x["mask_positions"].tolist(), y.tolist()
    ((2, 10), [[2], [2]], [1, 0])
    >>> template.decode([[-3.1, -0.2]])
    ['正面']

    Candidates that differ from text to text, such as the idioms that may fill a gap:

    >>> template = Template("{text}[MASK]{text_b}", None, vocab)
    >>> x, y = template.encode([("很", "。")], ["好"], candidates=[["不", "好"]])
    >>> template.decode([[-2.0, -0.1]], candidates=[["不", "好"]])
    ['好']

    Reference:
        - Templates of words: [Schick and Schütze, 2020](https://arxiv.org/abs/2001.07676),
          section 3, and [Su, 2020](https://kexue.fm/archives/7764).
        - Of virtual tokens: [Liu et al., 2021](https://arxiv.org/abs/2103.10385), section 3,
          and [Su, 2021](https://kexue.fm/archives/8295).
    """

    is_cloze = True
    # What a search measured on its way to this template; only its results have it.
    history: list[dict[str, Any]]

    def __init__(
        self,
        pattern: str,
        labels: LabelsWithWords | None,
        tokenizer: Tokenizer | Vocabulary,
        maxlen: int = 128,
        causal: bool = False,
    ) -> None:
        tokenizer = as_tokenizer(tokenizer)
        self.text_to_text = isinstance(pattern, str) and "[DECODER]" in pattern
        causal = causal or self.text_to_text
        if tokenizer.mask_id is None and not causal:
            hint = " For a causal language model, use Template(..., causal=True)."
            raise ValueError(
                "Expected a vocabulary with [MASK], that of a masked language model. Received one "
                f"of {tokenizer.vocab_size} tokens without it.{hint if self.is_cloze else ''}"
            )
        check_text("The pattern", pattern)
        if not isinstance(maxlen, int | np.integer) or isinstance(maxlen, bool):
            raise TypeError(f"`maxlen` must be an integer. Received: {maxlen!r}.")
        self.pattern = pattern
        self.tokenizer = tokenizer
        self.maxlen = int(maxlen)
        self.causal = causal
        self._unused = [i for i, t in enumerate(tokenizer.vocab) if _UNUSED.fullmatch(t)]
        # A causal model continues where the masks are, and never sees one.
        self.mask_id = NONE if tokenizer.mask_id is None else tokenizer.mask_id
        # Label words that learn come first among the additional tokens: they are predicted.
        label_numbers = _label_numbers(labels)
        beyond = sum(n > len(self._unused) for n in label_numbers)
        self._parse(pattern, tokenizer.vocab_size + beyond)
        self._read_labels(labels)
        # What random masking may put in place of a word: no special, unused or virtual token.
        self.ordinary_ids = np.array(tokenizer.ordinary_ids)

    def _parse(self, pattern, first_new_id):
        """Turns the pattern into pieces: `(token ids, segment, maskable)` or `(slot, segment)`."""
        tokenizer, segment = self.tokenizer, 0
        numbers = sorted({int(n) for n in _VIRTUAL.findall(pattern)})
        new_ids = iter(range(first_new_id, first_new_id + len(numbers)))
        virtual_ids = {}
        for n in numbers:
            unused = f"[unused{n}]"
            known = unused in tokenizer
            virtual_ids[n] = tokenizer.token_to_id(unused) if known else next(new_ids)
        self.virtual_ids = list(virtual_ids.values())
        self.tuned_names = [f"[u{n}]" for n in numbers]
        self.slots, self._slot_limits = [], []
        # The first piece that the decoder reads.
        self._decoder_piece = None
        self._pieces = [] if tokenizer.start_id is None else [([tokenizer.start_id], 0, False)]
        parts = [*filter(None, _PARTS.split(pattern)), ""]
        for part, following in itertools.pairwise(parts):
            slot, virtual = _SLOT.fullmatch(part), _VIRTUAL.fullmatch(part)
            if slot:
                self._pieces.append((slot[1], segment))
                self.slots.append(slot[1])
                self._slot_limits.append(int(slot[2]) if slot[2] else None)
            elif virtual:
                self._pieces.append(([virtual_ids[int(virtual[1])]], segment, False))
            elif part == "[DECODER]":
                if self._decoder_piece is not None:
                    raise ValueError(
                        "A template has one decoder at most. Received: [DECODER] twice in "
                        f"{pattern!r}."
                    )
                self._begin_decoder(segment, following)
                segment = 0
            elif part == "[MASK]":
                self._pieces.append(([self.mask_id], segment, False))
            elif _SENTINEL.fullmatch(part) and part in tokenizer:
                self._pieces.append(([tokenizer.token_to_id(part)], segment, False))
            elif (
                part[0] == "["
                and part in tokenizer
                # The decoder's text may begin with one of these.
                and (
                    part not in ("[PAD]", "[UNK]", "[CLS]")
                    or len(self._pieces) == self._decoder_piece
                )
            ):
                token_id = tokenizer.token_to_id(part)
                if token_id in self.virtual_ids:
                    raise ValueError(
                        f"{part!r} in the template {pattern!r} is also the row of a virtual token, "
                        "which learns. Give the virtual token another number."
                    )
                self._pieces.append(([token_id], segment, False))
                segment = 1 if part == "[SEP]" else segment
            elif _PARTS.fullmatch(part):
                raise ValueError(
                    f"Unknown {part!r} in the template {pattern!r}. A template has the slots "
                    "{text} and {text_b} (or {text:64} to limit it to 64 tokens), [MASK], virtual "
                    "tokens [u1], [u2]..., [SEP], [DECODER] of a T5, and other tokens of the "
                    "vocabulary in brackets."
                )
            else:
                ids = tokenizer.token_ids([part])[0]
                if tokenizer.unk_id in ids:
                    raise ValueError(
                        f"The words {part!r} of the template are not all in the vocabulary: they "
                        f"become {tokenizer.tokenize(part)}. Choose other words."
                    )
                # A space has none.
                self._pieces += [(ids, segment, True)] if ids else []
        if not self.causal and tokenizer.end_id is not None:
            self._pieces.append(([tokenizer.end_id], segment, False))
        self._check_places(pattern)

    def _begin_decoder(self, segment, following):
        """Ends the text of the encoder. A token right after `[DECODER]` begins the decoder's."""
        tokenizer = self.tokenizer
        if tokenizer.end_id is not None:
            self._pieces.append(([tokenizer.end_id], segment, False))
        self._decoder_piece = len(self._pieces)
        start_id = tokenizer.pad_id if tokenizer.start_id is None else tokenizer.start_id
        if following[:1] == "[" and following != "[MASK]" and following in tokenizer:
            start_id = tokenizer.token_to_id(following)
        elif start_id is None:
            raise ValueError(
                "The decoder begins with the token for padding, and nothing says which one that "
                "is. Put the `tokenizer_config.json` of the checkpoint next to its "
                f"`tokenizer.json`. Received: the template {self.pattern!r}."
            )
        else:
            self._pieces.append(([start_id], 0, False))
        self.decoder_start_id = start_id

    def _check_places(self, pattern):
        """Counts the masks, and the room for texts; refuses what no model can read."""
        fixed = [i for piece in self._pieces if len(piece) == 3 for i in piece[0]]
        self.num_masks = fixed.count(self.mask_id)
        if self.is_cloze and not self.num_masks:
            raise ValueError(
                "A template needs at least one [MASK], where the label word is predicted. "
                f"Received: {pattern!r}."
            )
        masks = [piece[0] == [self.mask_id] for piece in self._pieces]
        if self.text_to_text and not all(masks[-self.num_masks :]):
            raise ValueError(
                "The decoder writes its answer at the end, so in a template with [DECODER] the "
                "[MASK] must come last, as in '[u1][u2]{text}[DECODER][MASK]'. "
                f"Received: {pattern!r}."
            )
        if self.causal and not all(masks[-self.num_masks :]):
            raise ValueError(
                "A causal language model continues where the text ends, so in a template for one "
                "[MASK] must come last, as in '[u1][u2]{text}[u3][u4][MASK]'. "
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
        self.labels = self.label_names = self.num_labels = None
        self.word_ids = self.word_slots = None
        self.label_token_ids = []
        self._continuations = [], [], []
        if labels is None:
            return
        if not isinstance(labels, Mapping) or len(labels) < 2:
            raise ValueError(
                "`labels` must be a dictionary of at least two labels and their words, e.g. "
                f'{{"负面": "不", "正面": "很"}}. Received: {labels!r:.60} of type '
                f"{type(labels).__name__}."
            )
        self.labels = {}
        for label, words in labels.items():
            label = _as_label(label)
            words = [words] if isinstance(words, str) else words
            if not isinstance(words, Sequence) or not all(isinstance(w, str) for w in words):
                raise TypeError(
                    f"The label {label!r} needs a word, or a list of words. Received: {words!r}."
                )
            if not words:
                raise ValueError(f"The label {label!r} has no word.")
            for word in words:
                check_text(f"The word of the label {label!r}", word)
            self.labels[label] = list(words)
        label_tokens = self._label_tokens()
        self.label_token_ids = list(label_tokens.values())
        self.tuned_names += label_tokens
        self.word_ids = []
        owners = {}
        for label, words in self.labels.items():
            owner = f"of the label {label!r}"
            self.word_ids.append([self._word_to_ids(word, owner, label_tokens) for word in words])
            for word, ids in zip(words, self.word_ids[-1], strict=True):
                if tuple(ids) in owners:
                    raise ValueError(
                        f"The word {word!r} means {owners[tuple(ids)]!r} and again "
                        f"{label!r}. Each word can mean one label, once."
                    )
                owners[tuple(ids)] = label
        longest = max(len(ids) for ids in owners)
        if longest < self.num_masks:
            raise ValueError(
                f"The template {self.pattern!r} has {self.num_masks} masks, and the longest word "
                f"has {longest} tokens. Leave out the masks that no word needs."
            )
        self.label_names = list(self.labels)
        self.num_labels = len(self.label_names)
        self._label_index = {label: i for i, label in enumerate(self.label_names)}
        # Where the tokens of the words are read, among the answer positions.
        self._continuations = lay_out_continuations(list(owners))
        slots = iter(self._continuations[2])
        self.word_slots = [
            [next(slots) if self.causal else list(range(len(word))) for word in words]
            for words in self.word_ids
        ]

    def _label_tokens(self):
        """The ids of `[v1]`, `[v2]`...: `[unused]` rows, from the last on, and then new ones."""
        taken = {i for piece in self._pieces if len(piece) == 3 for i in piece[0]}
        new_ids = itertools.count(self.tokenizer.vocab_size)
        found = {}
        for n in _label_numbers(self.labels):
            name, known = f"[v{n}]", n <= len(self._unused)
            if known and self._unused[-n] in taken:
                raise ValueError(
                    f"The label token {name} takes the row of "
                    f"{self.tokenizer.vocab[self._unused[-n]]}, and the template uses that row. "
                    "Give the label token another number. Received: the template "
                    f"{self.pattern!r}."
                )
            found[name] = self._unused[-n] if known else next(new_ids)
        return found

    def _word_to_ids(self, word, owner, label_tokens=None):
        ids = []
        for part in filter(None, _LABEL_TOKEN.split(word)):
            known = label_tokens and part in label_tokens
            ids += [label_tokens[part]] if known else self.tokenizer.token_ids([part])[0]
        names = {i: token for token, i in (label_tokens or {}).items()}
        tokens = [names[i] if i in names else self.tokenizer.id_to_token(i) for i in ids]
        # Candidates are nobody's choice: of these some tokens may be unknown.
        unknown = all if label_tokens is None else any
        if unknown(i == self.tokenizer.unk_id for i in ids) or not ids:
            raise ValueError(
                f"The word {word!r} {owner} is not in the vocabulary: it becomes "
                f"{tokens}. Choose a word whose characters are all in it. Only [v1], [v2]... are "
                "read as tokens, ones that learn; other brackets are characters."
            )
        if len(ids) > self.num_masks:
            raise ValueError(
                f"The word {word!r} {owner} has {len(ids)} tokens ({tokens}), and "
                f"the template {self.pattern!r} has {self.num_masks} masks. Use one [MASK] for "
                "each token of the longest word."
            )
        return ids

    def label_ids(
        self, labels: Collection[Label], candidates: Candidates | None = None
    ) -> np.ndarray:
        """Turns labels into their numbers, in the order of `label_names` or of the candidates.

        Args:
            labels: List of labels.
            candidates: For a template without labels, a list of candidates for each of them.

        Returns:
            An integer array of shape `(len(labels),)`.

        Raises:
            TypeError: if `labels` is not a list.
            ValueError: if one of them is not a label of this template, or not among its
                candidates. The error names its index.
        """
        if candidates is None and self.labels is None:
            raise ValueError("The template has no labels of its own: give `candidates` too.")
        ids, own = [], None if self.labels else candidates
        labels = list(check_list("labels", labels))
        if own is not None and len(own) != len(labels):
            raise ValueError(
                f"Each label needs candidates. Received: {len(labels)} labels, and candidates of "
                f"{len(own)} texts."
            )
        for i, label in enumerate(labels):
            label = label.item() if isinstance(label, np.generic) else label
            names = self.label_names if own is None else list(own[i])
            index = self._label_index if self.labels else {n: k for k, n in enumerate(names)}
            if not is_label(label) or label not in index:
                owner = "the template" if self.labels else "its text"
                raise ValueError(
                    f"Label {i} is {label!r} of type {type(label).__name__}, which {owner} "
                    f"does not have. Expected one of {names}."
                )
            ids.append(index[label])
        return np.array(ids, dtype="int32")

    def _examples(self, texts, candidates=None, to_learn=False, to_score=True):
        """Encodes texts, or pairs of texts, to a list of `Example`.

        If they are `to_learn` from, there is a warning where the vocabulary lacks much of them. If
        they are not `to_score`, they need no candidates.
        """
        if candidates is not None and self.labels:
            raise ValueError(
                f"The template has its own labels, {self.label_names}; for candidates make it with "
                "`labels=None`."
            )
        texts = as_list("texts", texts)
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
        if to_learn:
            warn_of_unknown(itertools.chain(*encoded), self.tokenizer, stacklevel=4)
        words = [None] * len(texts)
        if not self.labels and (to_score or candidates is not None):
            words = self._read_candidates(candidates, texts)
        return [
            self._example(slot_ids, own_words)
            for *slot_ids, own_words in zip(*encoded, words, strict=True)
        ]

    def _read_candidates(self, candidates, texts):
        if candidates is None:
            raise ValueError(
                "The template has no labels of its own, so each text needs candidates: "
                "`candidates=[['很', '不'], ...]`. Received: candidates=None."
            )
        if len(candidates) != len(texts):
            raise ValueError(
                "There must be one list of candidates for each text. Received: "
                f"{len(texts)} texts and {len(candidates)} lists."
            )
        words = []
        for i, own in enumerate(candidates):
            is_list = isinstance(own, Sequence | np.ndarray) and not isinstance(own, str)
            if not is_list or not all(isinstance(word, str) for word in own):
                raise TypeError(
                    f"The candidates of text {i} must be a list of strings. Received: {own!r}."
                )
            if len(set(own)) < 2 or len(set(own)) != len(own):
                raise ValueError(
                    f"Text {i} needs at least two candidates, each once. Received: {list(own)}."
                )
            ids = [self._word_to_ids(word, f"among the candidates of text {i}") for word in own]
            alike = {}
            for word, word_ids in zip(own, ids, strict=True):
                # Unknown tokens do not count, and those in front move no others.
                key = tuple(word_ids)
                while key[-1] == self.tokenizer.unk_id:
                    key = key[:-1]
                if key in alike:
                    raise ValueError(
                        f"The candidates {alike[key]!r} and {word!r} of text {i} become the "
                        "same tokens, so that no model tells them apart: "
                        f"{[self.tokenizer.id_to_token(n) for n in word_ids]}."
                    )
                alike[key] = word
            words.append(ids)
        return words

    def _token_before(self):
        """What an answer continues where nothing comes before it, as after a document's end."""
        token_id = getattr(self.tokenizer, "eos_id", None)
        if token_id is None:
            raise ValueError(
                "A text without tokens leaves nothing to continue, and the vocabulary does not say "
                "which token ends a document. Leave such texts out, or put words before {text}. "
                f"Received: an empty text, for the template {self.pattern!r}."
            )
        return token_id

    def _example(self, slot_ids, own_words):
        parts = []
        for ids, limit in zip(slot_ids, self._slot_limits, strict=True):
            parts.append(ids[limit:][::-1] if limit is not None and limit < 0 else ids[:limit])
        truncate_longest(parts, self._room)
        for part, limit in zip(parts, self._slot_limits, strict=True):
            # Cut at its beginning, so the end came first so far.
            if limit is not None and limit < 0:
                part.reverse()
        filled = dict(zip(self.slots, parts, strict=True))
        token_ids, segment_ids, maskable, mask_positions = [], [], [], []
        for i, piece in enumerate(self._pieces):
            if i == self._decoder_piece:
                start = len(token_ids)
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
        reach, slots = None, own_words and [range(len(word)) for word in own_words]
        if self.causal:
            end = mask_positions[0]
            if not end:
                # The answer is read at the token before it, and here is none.
                token_ids.insert(0, self._token_before())
                segment_ids.insert(0, segment)
                maskable.insert(0, False)
                end = 1
            tokens, relative_reach, slots = (
                lay_out_continuations(own_words) if own_words else self._continuations
            )
            token_ids[end:] = tokens
            segment_ids[end:] = [segment] * len(tokens)
            maskable[end:] = [False] * len(tokens)
            reach = np.array([EVERYWHERE] * end + [end + i for i in relative_reach], "int32")
            mask_positions = range(end - 1, end + len(tokens))
        decoder_ids = None
        if self.text_to_text:
            decoder_ids = np.array(token_ids[start:], "int32")
            reach, mask_positions = reach[start:] - start, np.array(mask_positions) - start
            token_ids, segment_ids, maskable = (
                column[:start] for column in (token_ids, segment_ids, maskable)
            )
        candidate_ids = candidate_slots = None
        if own_words:
            candidate_ids = pad_words(own_words, self.num_masks, NONE)
            if self.tokenizer.unk_id is not None:
                candidate_ids[candidate_ids == self.tokenizer.unk_id] = NONE
            candidate_slots = pad_words(slots, self.num_masks)
        return Example(
            np.array(token_ids, "int32"),
            np.array(segment_ids, "int32"),
            np.array(mask_positions, "int32"),
            np.array(maskable, "bool"),
            reach,
            candidate_ids,
            candidate_slots,
            decoder_ids,
        )

    @overload
    def encode(
        self, texts: Texts, labels: None = None, candidates: Candidates | None = None
    ) -> dict[str, np.ndarray]: ...

    @overload
    def encode(
        self, texts: Texts, labels: Collection[Label], candidates: Candidates | None = None
    ) -> tuple[dict[str, np.ndarray], np.ndarray]: ...

    def encode(
        self,
        texts: Texts,
        labels: Collection[Label] | None = None,
        candidates: Candidates | None = None,
    ) -> dict[str, np.ndarray] | tuple[dict[str, np.ndarray], np.ndarray]:
        """Encodes texts (and labels) to arrays, padded to the longest.

        Args:
            texts: List of strings; of pairs of strings if the template has `{text_b}`.
            labels: Optional list of labels.
            candidates: For a template without labels, a list of words for each text. If the
                vocabulary lacks a token of a word, this token does not count.

        Returns:
            A dictionary of integer arrays, the inputs of the model: `token_ids` and
            `segment_ids` of shape `(len(texts), length)`, and `mask_positions` of shape
            `(len(texts), number of answer positions)`. A causal template adds `reach`, one with
            `[DECODER]` also `decoder_token_ids`, and candidates add `candidate_ids` and
            `candidate_slots`. With `labels`, a tuple of this and an integer array of shape
            `(len(texts),)`.

        With labels, there is a warning if the vocabulary lacks a third of the texts' tokens.

        Raises:
            TypeError: if `texts` is not a list of strings (or pairs), or `labels` not a list.
            ValueError: if a label is unknown, there are more or fewer labels than texts, no
                texts at all, or candidates are missing or alike.
        """
        candidates = candidates if candidates is None else as_list("candidates", candidates)
        examples = self._examples(texts, candidates, to_learn=labels is not None)
        length = max(len(e.token_ids) for e in examples)
        x = model_inputs(examples, length, padding_of(self))
        if labels is None:
            return x
        return x, self._checked_label_ids(labels, examples, candidates)

    def dataset(
        self,
        texts: Texts | None = None,
        labels: Collection[Label] | np.ndarray | None = None,
        batch_size: int = 32,
        shuffle: bool | None = None,
        seed: int = 0,
        mask_rate: float | None = None,
        candidates: Candidates | None = None,
        unlabeled: Texts | None = None,
        sample_weight: Collection[float] | None = None,
    ) -> ClozeDataset:
        """Makes batches for `fit`, `evaluate` and `predict`.

        Args:
            texts: List of strings; of pairs of strings if the template has `{text_b}`. You can
                leave it out if there are `unlabeled` texts.
            labels: Optional list of labels; or their probabilities ("soft labels"), a float array
                of shape `(len(texts), num_labels)`.
            batch_size: Integer. Defaults to `32`.
            shuffle: Whether to shuffle, with texts of similar length together. Defaults to `True`
                if there are labels. `predict` returns the order of `texts` in both cases.
            seed: Integer. The same seed gives the same batches and masks. Defaults to `0`.
            mask_rate: With labels, the share of the ordinary words that the auxiliary task
                predicts. Only training uses it. Defaults to `0.15`, masked at random. For a causal
                template it defaults to `1.0`, the whole text. With `[DECODER]` there is no such
                task.
            candidates: For a template without labels, a list of words for each text.
            unlabeled: Optional list of further texts. Only the auxiliary task learns from them.
                They come without the template's words, as in PET. If the template is causal, or has
                tokens that learn, they come with the whole template, and these tokens learn from
                them too.
            sample_weight: Optional list of numbers from 0 on, one for each of `texts`: how much
                its label counts in the loss.

        Returns:
            A `ClozeDataset`. If it is for training, there is a warning if the vocabulary lacks a
            third of the texts' tokens.

        Raises:
            TypeError: if `texts` is not a list of strings (or pairs), or `labels` not a list.
            ValueError: if a label is unknown, there are more or fewer labels than texts, no
                texts at all, or candidates are missing or alike; if soft labels are no
                probabilities; if `batch_size`, `seed`, `mask_rate` or `sample_weight` are out of
                range; if there are unlabelled texts, and nothing learns from them.

        Example, the regimes of PET with `model = build_ptuning_model(..., tune="all")`:

        ```python
        model.predict(template.dataset(texts))  # zero-shot
        model.fit(template.dataset(unlabeled=reviews))  # unsupervised, then predict
        model.fit(template.dataset(texts, labels))  # few-shot
        model.fit(template.dataset(texts, labels, unlabeled=reviews))  # semi-supervised
        ```

        Reference:
            - [Su, 2020](https://kexue.fm/archives/7764), the four regimes.
        """
        if self.text_to_text and mask_rate:
            raise ValueError(
                "A template with [DECODER] has no auxiliary task: leave out `mask_rate`. Received: "
                f"mask_rate={mask_rate!r}."
            )
        if not self.is_cloze or self.text_to_text:
            mask_rate = 0.0
        elif mask_rate is None:
            mask_rate = 1.0 if self.causal else 0.15
        candidates = candidates if candidates is None else as_list("candidates", candidates)
        unlabeled = [] if unlabeled is None else list(check_list("unlabeled", unlabeled))
        if unlabeled and texts is None:
            if labels is not None or candidates is not None:
                raise ValueError(
                    "There are labels or candidates, and no `texts` that they belong to. Received: "
                    f"texts=None, labels={labels!r:.60}."
                )
            examples, label_ids = [], np.zeros(0, "int32")
        else:
            examples = self._examples(texts, candidates, to_learn=labels is not None)
            label_ids = None
            if labels is not None:
                label_ids = self._checked_label_ids(labels, examples, candidates)
        if sample_weight is not None:
            if label_ids is None:
                raise ValueError(
                    "`sample_weight` is how much labels count, and there are no `labels`."
                )
            sample_weight = as_weights(sample_weight, len(examples))
        if unlabeled:
            learned = mask_rate or not self.is_cloze
            if label_ids is None or label_ids.ndim > 1 or not learned or not self.labels:
                raise ValueError(
                    "Unlabelled texts go with labelled ones or alone, with the auxiliary task "
                    "(`mask_rate`), and a template with labels of its own. Received: "
                    f"labels={labels!r:.60}, mask_rate={mask_rate!r}."
                )
            further = self._unlabeled_examples(unlabeled)
            examples = examples + further
            label_ids = np.concatenate([label_ids, np.full(len(further), UNLABELED, "int32")])
            if sample_weight is not None:
                sample_weight = np.pad(sample_weight, (0, len(further)), constant_values=1)
        return ClozeDataset(
            examples,
            # Later changes of the template by `set_params` are not for these texts.
            copy.copy(self),
            label_ids,
            sample_weight,
            batch_size=batch_size,
            shuffle=label_ids is not None if shuffle is None else shuffle,
            seed=seed,
            mask_rate=mask_rate,
        )

    @property
    def asks_unlabeled(self):
        """Whether unlabelled texts come with the whole template, and what it asks."""
        return self.causal or bool(self.tuned_names) or not self.is_cloze

    def _unlabeled_examples(self, texts):
        if self.asks_unlabeled:
            return self._examples(texts, to_learn=True)
        plain = PlainText(self.label_names, self.tokenizer, self.maxlen, "text_b" in self.slots)
        limits = dict(zip(self.slots, self._slot_limits, strict=True))
        plain._slot_limits = [limits[slot] for slot in plain.slots]
        # The batches have answer positions, though nothing is asked here.
        nowhere = np.zeros(self.num_masks, "int32")
        examples = plain._examples(texts, to_learn=True)
        return [e._replace(mask_positions=nowhere) for e in examples]

    def _checked_label_ids(self, labels, examples, candidates):
        soft = isinstance(labels, np.ndarray) and labels.ndim == 2
        labels = labels if soft else as_list("labels", labels)
        if len(labels) != len(examples):
            raise ValueError(
                "There must be one label for each text. Received: "
                f"{len(examples)} texts and {len(labels)} labels."
            )
        if not soft:
            return self.label_ids(labels, candidates)
        fits = self.labels and labels.shape[1] == self.num_labels and labels.dtype.kind == "f"
        if not fits or not (labels >= 0).all() or not np.allclose(labels.sum(axis=1), 1, atol=1e-3):
            raise ValueError(
                "Soft labels must be probabilities of the template's labels, a float array of "
                f"shape (n, {self.num_labels}) whose rows add up to 1. Received: shape "
                f"{labels.shape}, beginning with {labels[:1].tolist()}."
            )
        return labels.astype("float32")

    def decode(self, scores: ArrayLike, candidates: Candidates | None = None) -> list[Any]:
        """The best label for each row of scores.

        Args:
            scores: Array of shape `(n, num_labels)`, as the model predicts it.
            candidates: For a template without labels, the candidates of each of the `n` texts.

        Returns:
            A list of `n` labels.

        Raises:
            ValueError: if `scores` has another shape, or numbers that are not finite.
        """
        scores = np.asarray(scores)
        check_finite([("`scores`", scores)], "The model that predicted them is damaged.")
        if self.labels is None:
            names = [] if candidates is None else as_list("candidates", candidates)
            most = max(map(len, names), default=0)
            if scores.ndim != 2 or len(names) != len(scores) or scores.shape[1] != most:
                raise ValueError(
                    "Expected scores of shape (n, candidates), and n lists of candidates. "
                    f"Received: shape {scores.shape} and {len(names)} lists."
                )
            # Rows with fewer candidates than others are filled up at the end.
            return [own[row[: len(own)].argmax()] for row, own in zip(scores, names, strict=True)]
        if scores.ndim != 2 or scores.shape[1] != self.num_labels:
            raise ValueError(
                f"Expected scores of shape (n, {self.num_labels}), one column for each of "
                f"{self.label_names}. Received: shape {scores.shape}."
            )
        return [self.label_names[i] for i in scores.argmax(axis=1)]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of this template, as scikit-learn asks for them."""
        return {
            "pattern": self.pattern,
            "labels": self.labels,
            "tokenizer": self.tokenizer,
            "maxlen": self.maxlen,
            "causal": self.causal,
        }

    def set_params(self, **params: Any) -> Self:
        """Changes arguments, as scikit-learn does. A model that has this template does not change.

        Args:
            **params: Arguments of the class, by name.

        Returns:
            The template itself.

        Raises:
            ValueError: if there is no such argument; or as the class raises. Then nothing has
                changed.

        Example:

        ```python
        grid = {"template__pattern": ["[MASK]满意。{text}", "{text}总之很[MASK]。"]}
        search = GridSearchCV(PromptClassifier(template), grid).fit(texts, labels)
        search.best_params_  # {'template__pattern': '[MASK]满意。{text}'}
        ```
        """
        unknown = params.keys() - self.get_params().keys()
        if unknown:
            raise ValueError(
                f"A {type(self).__name__} has no {sorted(unknown)}. Expected some of "
                f"{list(self.get_params())}."
            )
        self.__dict__ = type(self)(**{**self.get_params(), **params}).__dict__
        return self

    def __sklearn_clone__(self):
        # `set_params` replaces what they share, and changes none of it.
        return copy.copy(self)

    def __repr__(self):
        words = self.labels if self.is_cloze else self.label_names
        causal = ", causal=True" if self.causal else ""
        return (
            f"{type(self).__name__}({self.pattern!r}, {_shortened(words)}, "
            f"maxlen={self.maxlen}{causal})"
        )

    def get_config(self) -> dict[str, Any]:
        """Everything needed to make the same template again, ready for JSON."""
        return {
            **self.get_params(),
            # Pairs, since JSON would turn integer labels into strings.
            "labels": self.labels and [[label, words] for label, words in self.labels.items()],
            "tokenizer": self.tokenizer.get_config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a template from what `get_config` returned.

        Raises:
            ValueError: if it has entries of other types.
        """
        kinds = {"pattern": str, "labels": (list, tuple, type(None)), "maxlen": int}
        check_entries("a template", config, kinds)
        tokenizer = tokenizer_of(config)
        labels = config.get("labels") and dict(config["labels"])
        causal = config.get("causal", False)
        return cls(config["pattern"], labels, tokenizer, config["maxlen"], causal)


def tokenizer_of(config):
    """The tokenizer of a template's configuration, which may have it ready."""
    tokenizer = config.get("tokenizer")
    return tokenizer if isinstance(tokenizer, Tokenizer) else tokenizer_from_config(tokenizer)


def _label_numbers(labels):
    """The numbers of `[v1]`, `[v2]`... in the words of labels, in order."""
    words = labels.values() if isinstance(labels, Mapping) else []
    text = " ".join(str(word) for word in words)
    return sorted({int(token[2:-1]) for token in _LABEL_TOKEN.findall(text)})


def is_label(label):
    """Whether something may be a label: a string or an integer."""
    return isinstance(label, str | int) and not isinstance(label, bool)


def _as_label(label):
    """A label of a template, checked."""
    label = label.item() if isinstance(label, np.generic) else label
    if not is_label(label):
        raise ValueError(
            f"Labels must be strings or integers. Received: {label!r} of type "
            f"{type(label).__name__}."
        )
    check_text("A label", str(label))
    return label


def _shortened(value, most=60):
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


class PlainText(Template):
    """Texts as they are, `[CLS] text [SEP]`, for a classifier without a cloze.

    Has the methods of `Template`; nothing is masked.

    Args:
        labels: List of at least two labels, strings or integers, in this order.
        tokenizer: A `Tokenizer`, or what `Tokenizer` takes as its vocabulary.
        maxlen: Integer, the greatest number of tokens of an encoded text. Defaults to `128`.
        pairs: Whether each text is a pair, `[CLS] text [SEP] text_b [SEP]`. Defaults to `False`.

    Raises:
        TypeError: if `labels` is not a list, or `maxlen` not an integer.
        ValueError: if there are fewer than two labels, one of them twice or of another type; or
            if `maxlen` leaves no room for text.

    Example:

    >>> vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"很不满意好"]
    >>> plain = PlainText(["负面", "正面"], vocab)
    >>> x, y = plain.encode(["很好"], ["正面"])
    >>> x["token_ids"].tolist(), y.tolist()
    ([[2, 5, 9, 3]], [1])

    Reference:
        - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805), section 4.
    """

    is_cloze = False

    def __init__(
        self,
        labels: Collection[Label],
        tokenizer: Tokenizer | Vocabulary,
        maxlen: int = 128,
        pairs: bool = False,
    ) -> None:
        # It reads the labels in its own way.
        words: Any = labels
        super().__init__("{text}[SEP]{text_b}" if pairs else "{text}", words, tokenizer, maxlen)

    def _read_labels(self, labels):
        labels = [_as_label(label) for label in check_list("labels", labels)]
        if len(set(labels)) != len(labels) or len(labels) < 2:
            raise ValueError(
                f"Expected a list of at least two labels, each once. Received: {labels!r}."
            )
        self.label_names = labels
        self.num_labels = len(labels)
        self.labels = {label: [] for label in labels}
        self._label_index = {label: i for i, label in enumerate(labels)}
        self.label_token_ids = []

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments, as scikit-learn asks for them."""
        return {
            "labels": self.label_names,
            "tokenizer": self.tokenizer,
            "maxlen": self.maxlen,
            "pairs": "text_b" in self.slots,
        }

    def get_config(self) -> dict[str, Any]:
        """Everything needed to make the same one again, ready for JSON."""
        return {**self.get_params(), "tokenizer": self.tokenizer.get_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes one from what `get_config` returned.

        Raises:
            ValueError: if it has entries of other types.
        """
        check_entries("a plain text", config, {"labels": (list, tuple), "maxlen": int})
        return cls(**{**config, "tokenizer": tokenizer_of(config)})
