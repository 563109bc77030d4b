"""Text -> token ids, with the `tokenizers` library doing the work."""

import importlib.util
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal, Self

import numpy as np
import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

from keras_ptuning.assets import NAMES
from keras_ptuning.checks import (
    Path,
    Vocabulary,
    as_texts,
    check_entries,
    check_integer,
    check_list,
    check_path,
    check_text,
)
from keras_ptuning.files import (
    check_file,
    find_local,
    find_one,
    iterate_lines,
    read_json,
    replacing,
)

_DROPPED = r"[\x{0}\x{FFFD}\p{Cf}[\p{Cc}&&[^\t\n\r]]]+"
_SPACES = r"[\t\n\r\p{Zs}\p{Zl}\p{Zp}]+"
_CHINESE = (
    r"\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2CEAF}"
    r"\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}"
)
_SINGLE = r"[!-/:-@\[-`{-~\p{P}" + _CHINESE + "]"
# The same in the language of Python's expressions.
_CHINESE_WORD = re.compile(
    "[" + re.sub(r"\\x\{(\w+)\}", lambda code: chr(int(code[1], 16)), _CHINESE) + "]{2,}"
)
# Share of Chinese words that makes a vocabulary one of words: those of characters have next to
# none, and WoBERT's and RoFormer's more than half.
_WORDS = 0.01
# Share of words with a capital letter, among those of Latin letters, that makes a vocabulary cased.
_CASED = 0.05
# The configuration of a tokenizer, in the folder of its vocabulary.
TOKENIZER_CONFIG = "tokenizer_config.json"
# Share of tokens that the vocabulary lacks from which on a warning says so.
_UNKNOWN = 1 / 3


def find_vocab(path):
    """Finds the vocabulary of a checkpoint.

    Args:
        path: Name of an embedded checkpoint; or the folder of one, or the path of a file in it.

    Returns:
        Path of its `vocab.txt`, or else of its one `vocab*.txt`, or else of its `tokenizer.json`,
        or else of its `spiece.model`, or another model of SentencePiece.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if there are several, and none is called `vocab.txt`.

    Example:

    >>> find_vocab("bert-mini-zh").split("/")[-1]
    'vocab.txt'
    """
    patterns = (r"vocab\.txt", r"vocab.*\.txt", r"tokenizer\.json", r"spiece\.model", r".*\.model")
    return find_one(path, patterns, "vocab.txt, tokenizer.json or spiece.model")


def load_vocab(path):
    """Reads a vocabulary into a list of tokens.

    Args:
        path: Path of a `vocab.txt`, in UTF-8, or of a `tokenizer.json` of Hugging Face, which must
            be of the kind WordPiece. A `vocab.txt` has one token a line, or on all lines
            `token<TAB>number`, where the numbers are the ids, or counts, which are left out. Empty
            lines at its end are left out.

    Returns:
        A list of strings; the position of a token is its id.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is empty, is not UTF-8 text, or has another kind of vocabulary.
    """
    check_file(
        path,
        f"There is no vocabulary at {str(path)!r}. A Google-format BERT has it in `vocab.txt`, "
        "next to `bert_config.json`; the embedded checkpoints are called "
        f"{', '.join(NAMES)}; a name on Hugging Face's hub has its owner in front, such as "
        "google-bert/bert-base-chinese.",
    )
    if str(path).endswith(".json"):
        return _load_json_vocab(path)
    if str(path).endswith(".model"):
        raise _of_another_kind(path, "SentencePiece")
    lines = [line.rstrip("\r\n") for line in iterate_lines(path)]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ValueError(f"The vocabulary {str(path)!r} is empty. Expected one token a line.")
    numbered = [re.fullmatch(r"(.+)\t([0-9]+)", line) for line in lines]
    if all(numbered):
        numbers = [int(match[2]) for match in numbered]
        lines = [match[1] for match in numbered]
        if sorted(numbers) == list(range(len(lines))):
            lines = [lines[i] for i in np.argsort(numbers)]
    # A token may itself be a kind of space, so an all-space line stays.
    return [line.strip() or line for line in lines]


def _load_json_vocab(path):
    try:
        content = read_json(path, f"There is no vocabulary at {str(path)!r}.")
        model = content.get("model", {})
        kind = model.get("type"), model.get("continuing_subword_prefix", "##")
        if kind == ("WordPiece", "##"):
            added = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
            return _fill_holes({**model["vocab"], **added})
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"The vocabulary {str(path)!r} cannot be read; it is damaged, or not a "
            f"`tokenizer.json` of Hugging Face. Received: {type(error).__name__}: {error}"
        ) from None
    raise _of_another_kind(path, kind[0])


def _of_another_kind(path, kind):
    return ValueError(
        "A `Tokenizer` reads vocabularies of BERT's kind: WordPiece, whose pieces of a word "
        f"continue with '##'. Received: {str(path)!r} of the kind {kind!r}. Use "
        f"`PieceTokenizer({str(path)!r})`."
    )


def _fill_holes(ids):
    """The tokens of `{token: id}` by their ids; the few ids without one get one of their own."""
    numbers = list(ids.values())
    if not all(type(i) is int and i >= 0 for i in numbers) or len(set(numbers)) != len(numbers):
        raise ValueError("its tokens must have different ids, which are integers from 0 on")
    size = max(numbers, default=-1) + 1
    if size > 1.1 * len(ids):
        return _in_order(ids)
    tokens = [f"[none{i}]" for i in range(size)]
    for token, i in ids.items():
        tokens[i] = token
    return tokens


def _in_order(ids):
    """The tokens of `{token: id}` by their ids."""
    tokens = sorted(ids, key=ids.get)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError(
            "The ids of a vocabulary given as a dictionary must be 0, 1, 2... without "
            f"gaps. Received {len(tokens)} tokens with ids from "
            f"{min(ids.values(), default=None)} to {max(ids.values(), default=None)}."
        )
    return tokens


class Tokenizer:
    """BERT's tokenizer: characters for Chinese, WordPiece for the rest.

    It follows `bert4keras.tokenizers.Tokenizer` and gives the same ids. Special tokens are never
    read out of a text: a review that contains the characters `[MASK]` is tokenized as those
    characters, so no text can reach into a template.

    What differs from bert4keras 0.11.5, by decision:

    - `do_lower_case` is on unless switched off;
    - a vocabulary that lacks a special token raises at once;
    - `encode` raises where `maxlen` has no room for `[CLS]` and `[SEP]`;
    - `tokenize` returns the text's own tokens, without `[CLS]` and `[SEP]`;
    - `decode` puts spaces between words of letters and digits only;
    - half of a surrogate pair is dropped, the Greek final sigma is lower-cased to a plain one, and
      characters newer than Python's tables of Unicode are known.

    There is a warning where a cased vocabulary is lower-cased, and where a `tokenizer_config.json`
    in the vocabulary's folder says that texts are to be read otherwise than here.

    Args:
        vocab: Path of a `vocab.txt`, or of a `tokenizer.json` of Hugging Face (WordPiece only), or
            of a folder with one of these; the name of an embedded checkpoint (`"bert-mini-zh"`,
            `"bert-small-zh"`, `"gpt-mini-zh"`, `"t5-mini-zh"`), or of a model of Hugging Face's
            hub; a list of tokens; or a dictionary `{token: id}` whose ids are 0, 1, 2... A token
            that is there twice, as in some of ERNIE's, has its last id.
        do_lower_case: Whether to lower-case the text and strip accents. Defaults to `True`,
            since the usual Chinese checkpoints have no upper-case letters in their vocabulary.
            Other files in its folder do not set it: that of `bert-base-chinese` says the
            opposite, of a vocabulary in lower case.
        pre_tokenize: How to split a text into words first, for vocabularies of words (RoFormer,
            WoBERT). Words of the vocabulary become one token; others are tokenized as
            usual. `"jieba"` for `jieba.lcut(text, HMM=False)`, as those models were trained, or
            a function from a string to a list of words, or `False` for no words. Defaults to
            `"jieba"` where at least 1% of the vocabulary is words of several Chinese
            characters, and to `False` elsewhere.

    Attributes:
        pad_id, unk_id, mask_id, start_id, end_id: The ids of the tokens for padding, for what the
            vocabulary lacks, for what is to be predicted (`None` without `[MASK]`), and around a
            text.

    Raises:
        FileNotFoundError: if `vocab` names a file that does not exist, or a folder without one.
        TypeError: if `vocab` is none of these, or a token not a string.
        ValueError: if `vocab` lacks `[PAD]` (as id 0), `[UNK]`, `[CLS]` or `[SEP]`, is a
            dictionary with gaps, or a file of another kind of vocabulary; if a token has half of a
            surrogate pair; or if `pre_tokenize` is something else.
        ImportError: if `pre_tokenize` is `"jieba"`, and jieba is not installed.

    Example:

    >>> vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "很", "满", "意", "ok", "##ay"]
    >>> tokenizer = Tokenizer(vocab)
    >>> tokenizer.tokenize("很满意 OKAY")
    ['很', '满', '意', 'ok', '##ay']
    >>> tokenizer.encode("很满意")
    ([2, 5, 6, 7, 3], [0, 0, 0, 0, 0])
    >>> tokenizer.encode("很满意", "ok", maxlen=6)
    ([2, 5, 6, 3, 8, 3], [0, 0, 0, 0, 1, 1])

    Reference:
        - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805), section 3.
    """

    # Rows that an embedding may have beyond the vocabulary.
    most_spare = 128

    def __init__(
        self,
        vocab: Vocabulary,
        do_lower_case: bool = True,
        pre_tokenize: Literal["jieba", False] | Callable[[str], Sequence[str]] | None = None,
    ) -> None:
        if isinstance(vocab, dict):
            tokens = _in_order(vocab)
        elif isinstance(vocab, str | os.PathLike):
            check_path("vocab", vocab)
            path = find_local(vocab)
            path = find_vocab(path) if os.path.isdir(path) else path
            tokens = load_vocab(path)
            _warn_of_config(path, do_lower_case)
        else:
            tokens = list(check_list("vocab", vocab))
        for i, token in enumerate(tokens):
            check_text(f"Token {i} of the vocabulary", token)
        if do_lower_case:
            _warn_of_capitals(tokens)
        if pre_tokenize is None:
            words = sum(_CHINESE_WORD.fullmatch(token) is not None for token in tokens)
            pre_tokenize = "jieba" if words >= max(1, _WORDS * len(tokens)) else False
        self.vocab = tokens
        self.do_lower_case = do_lower_case
        self.pre_tokenize = pre_tokenize
        self._split_words = _find_splitter(pre_tokenize)
        self._ids = {token: i for i, token in enumerate(tokens)}
        missing = [t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if t not in self._ids]
        if missing:
            raise ValueError(
                f"The vocabulary lacks {', '.join(missing)}. Is this the `vocab.txt` of a BERT? "
                "For a `tokenizer.json` with special tokens of other names, use `PieceTokenizer`. "
                f"Received: {len(tokens)} tokens, beginning with {tokens[:5]}."
            )
        self.pad_id, self.unk_id = self._ids["[PAD]"], self._ids["[UNK]"]
        self.start_id, self.end_id = self._ids["[CLS]"], self._ids["[SEP]"]
        self.mask_id = self._ids.get("[MASK]")
        if self.pad_id != 0:
            raise ValueError(
                "[PAD] must be the first token (id 0) of a `vocab.txt`. For a `tokenizer.json` "
                "with another id, use `PieceTokenizer`. "
                f"Received: [PAD] with id {self._ids['[PAD]']}."
            )
        self._backend = tokenizers.Tokenizer(
            tokenizers.models.WordPiece(
                vocab=self._ids, unk_token="[UNK]", max_input_chars_per_word=200
            )
        )
        # Spelled out, since the library's ready-made BertNormalizer also drops private-use
        # characters, which reviews do contain, and knows fewer Chinese characters.
        steps = [normalizers.Replace(Regex(_DROPPED), "")]
        if do_lower_case:
            accents = normalizers.Replace(Regex(r"\p{Mn}+"), "")
            steps = [normalizers.Lowercase(), normalizers.NFD(), accents, *steps]
        self._backend.normalizer = normalizers.Sequence(steps)
        self._backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPACES), "removed"),
                pre_tokenizers.Split(Regex(_SINGLE), "isolated"),
            ]
        )

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    @property
    def ordinary_ids(self) -> list[int]:
        """The ids of the tokens that texts may have: no special, unused or virtual ones."""
        return [i for i, token in enumerate(self.vocab) if not is_special(token)]

    def token_to_id(self, token: str) -> int:
        """The id of `token`; the id of `[UNK]` where the vocabulary lacks it."""
        return self._ids.get(token, self.unk_id)

    def id_to_token(self, token_id: int) -> str:
        """The token with the id `token_id`."""
        return self.vocab[token_id]

    def __contains__(self, token: object) -> bool:
        return token in self._ids

    def token_ids(self, texts: Collection[str]) -> list[list[int]]:
        """Ids of many texts at once, without `[CLS]` and `[SEP]`.

        Args:
            texts: List of strings.

        Returns:
            A list of lists of integers.

        Raises:
            TypeError: if `texts` is not a list, or one of them not a string; its index is named.
        """
        texts = as_texts(texts)
        if self._split_words is not None:
            return [self._word_ids(text) for text in texts]
        return [e.ids for e in self._backend.encode_batch(texts, add_special_tokens=False)]

    def word_numbers(
        self, texts: Collection[str], split_words: Callable[[str], Sequence[str]]
    ) -> list[np.ndarray]:
        """For each token of `token_ids(texts)`, the number of the word it belongs to.

        Args:
            texts: List of strings.
            split_words: Function from a string to the list of its words, all of its characters in
                order, e.g. `jieba.lcut`.

        Returns:
            A list of integer arrays, each counting up from 0. Pieces of one token that was split
            (`"ok"`, `"##ay"`) are one word, whatever `split_words` says.

        Raises:
            TypeError: if `texts` is not a list, or one of them not a string; its index is named.
            ValueError: if the tokenizer has `pre_tokenize`; if the words are not all of a text.

        Example:

        >>> tokenizer = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"很满意", "ok", "##ay"])
        >>> words = tokenizer.word_numbers(["很满意 okay"], lambda _: ["很", "满意", " ", "okay"])
        >>> words[0].tolist()
        [0, 1, 1, 2, 2]
        """
        if self._split_words is not None:
            raise ValueError(
                "The tokens of a tokenizer with `pre_tokenize` are words already; leave out "
                "`split_words`."
            )
        texts = as_texts(texts)
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        numbers = []
        for text, encoding in zip(texts, encodings, strict=True):
            pieces = list(check_list("split_words(text)", split_words(text)))
            if "".join(pieces) != text:
                raise ValueError(
                    "`split_words` must return all characters of a text, in order, spaces too, as "
                    f"`jieba.lcut` does. Received: {pieces!r:.80} of the text {text!r:.60}."
                )
            ends = np.cumsum([len(piece) for piece in pieces])
            starts = np.array([start for start, _ in encoding.offsets], "int64")
            words = np.searchsorted(ends, starts, side="right")
            for i, token in enumerate(encoding.tokens):
                if token.startswith("##") and len(token) > 2 and i:
                    words[i] = words[i - 1]
            # Words without tokens, such as spaces, do not count.
            numbers.append(np.cumsum(np.diff(words, prepend=words[:1]) != 0))
        return numbers

    def _word_ids(self, text):
        if self.do_lower_case:
            text = unicodedata.normalize("NFD", text.lower())
            text = "".join(c for c in text if unicodedata.category(c) != "Mn")
        ids = []
        for word in self._split_words(text):
            if word in self._ids and not is_special(word):
                ids.append(self._ids[word])
            else:
                ids.extend(self._backend.encode(word, add_special_tokens=False).ids)
        return ids

    def tokenize(self, text: str) -> list[str]:
        """Splits a text into tokens, without `[CLS]` and `[SEP]`.

        Args:
            text: A string.

        Returns:
            A list of strings.
        """
        return [self.vocab[i] for i in self.token_ids([text])[0]]

    def encode(
        self, text: str, second_text: str | None = None, maxlen: int | None = None
    ) -> tuple[list[int], list[int]]:
        """Turns a text, or a pair of texts, into token ids and segment ids.

        Args:
            text: A string.
            second_text: Optional second string, which gets segment id 1.
            maxlen: Optional greatest number of ids. The longer of the two texts is cut, at its
                end; `[CLS]` and `[SEP]` always stay.

        Returns:
            Two lists of integers of the same length: token ids `[CLS] text [SEP]` (or
            `[CLS] text [SEP] second_text [SEP]`), and segment ids.

        Raises:
            TypeError: if a text is not a string.
            ValueError: if `maxlen` has no room for `[CLS]` and `[SEP]`.
        """
        parts = self.token_ids([text] if second_text is None else [text, second_text])
        start, end = ([] if i is None else [i] for i in (self.start_id, self.end_id))
        if maxlen is not None:
            check_integer("maxlen", maxlen, 0)
            around = len(start) + len(end) * len(parts)
            if maxlen < around:
                raise ValueError(
                    "`maxlen` must leave room for what begins and ends a text, such as [CLS] and "
                    f"[SEP]: at least {around}. Received: maxlen={maxlen}."
                )
            truncate_longest(parts, maxlen - around)
        token_ids, segment_ids = [*start], [0] * len(start)
        for segment, part in enumerate(parts):
            token_ids += [*part, *end]
            segment_ids += [segment] * len([*part, *end])
        return token_ids, segment_ids

    def decode(self, token_ids: Iterable[int]) -> str:
        """Turns ids back into readable text, without the special tokens.

        Args:
            token_ids: List of integers. Those below 0, which say that there is no token, are left
                out.

        Returns:
            A string: Chinese without spaces, one space between other words.

        Raises:
            ValueError: if the vocabulary has no token of such an id.
        """
        text = ""
        # Arrays have -1 where there is no token.
        ids = [int(i) for i in token_ids if i >= 0]
        if ids and max(ids) >= len(self.vocab):
            raise ValueError(
                f"Token ids must be below {len(self.vocab)}, the size of the vocabulary. Received: "
                f"{max(ids)}."
            )
        for token in (self.vocab[i] for i in ids):
            if is_special(token):
                continue
            if token.startswith("##") and len(token) > 2:
                text += token[2:]
            elif text and token and _is_latin(text[-1]) and _is_latin(token[0]):
                text += " " + token
            else:
                text += token
        return text

    def save(self, path: Path) -> None:
        """Writes a `tokenizer.json`, for the library `tokenizers` and for `transformers`.

        It has the vocabulary and the rules for splitting a text. It does not have `pre_tokenize`,
        and not `[CLS]` and `[SEP]` around a text: `transformers.BertTokenizer` adds them. A
        `Tokenizer` of this file needs `do_lower_case` again.

        Args:
            path: Path of the file to write.

        Raises:
            OSError: if it cannot be written.

        Example:

        ```python
        tokenizer.save("tokenizer.json")
        tokenizers.Tokenizer.from_file("tokenizer.json").encode("很满意").ids
        ```
        """
        check_path("path", path)
        with replacing(path) as temporary:
            self._backend.save(str(temporary))

    def get_config(self) -> dict[str, Any]:
        """Everything needed to make the same tokenizer again, ready for JSON.

        Raises:
            ValueError: if `pre_tokenize` is a function other than `jieba.lcut`, which cannot be
                written into a file.
        """
        pre_tokenize = self.pre_tokenize
        if callable(pre_tokenize):
            jieba = sys.modules.get("jieba")
            if jieba is None or pre_tokenize != jieba.lcut:
                raise ValueError(
                    "Of the functions for `pre_tokenize` only `jieba.lcut` can be saved with a "
                    f"model, and 'jieba'. Received: {pre_tokenize!r}. Save the weights alone with "
                    "`model.save_weights(...)`, and build the model in code."
                )
            pre_tokenize = "jieba.lcut"
        return {
            "vocab": self.vocab,
            "do_lower_case": self.do_lower_case,
            "pre_tokenize": pre_tokenize,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a tokenizer from what `get_config` returned.

        Raises:
            ValueError: if the vocabulary is not a list: a configuration may come out of a file,
                and a path in it would be opened.
        """
        check_entries("a tokenizer", config, {"vocab": (list, tuple)})
        config = dict(config)
        # A name out of a file is never imported: only this one function is known by name.
        if config.get("pre_tokenize") == "jieba.lcut":
            import jieba

            config["pre_tokenize"] = jieba.lcut
        elif config.get("pre_tokenize") is None:
            # As files say that were written before there was a default that looks.
            config["pre_tokenize"] = False
        return cls(**config)


def _warn_of_capitals(tokens):
    """Warns where a vocabulary is cased, for texts that are lower-cased."""
    latin = [t for t in tokens if not is_special(t) and re.search("[A-Za-z]", t)]
    cased = [token for token in latin if re.search("[A-Z]", token)]
    if len(cased) > _CASED * len(latin):
        warnings.warn(
            f"{len(cased)} of the {len(latin)} words of Latin letters in the vocabulary have "
            f"capital letters, such as {cased[:3]}, and texts are lower-cased, so that these are "
            "never found. If the checkpoint is a cased one, use `Tokenizer(..., "
            "do_lower_case=False)`.",
            stacklevel=3,
        )


def _warn_of_config(path, do_lower_case):
    """Warns where the configuration in a vocabulary's folder says that texts are read otherwise."""
    path = os.path.join(os.path.dirname(path), TOKENIZER_CONFIG)
    if not os.path.isfile(path):
        return
    try:
        found = read_json(path, path)
    except (OSError, ValueError):
        return
    # Lower-casing is left to the vocabulary: whether it is cased is seen there.
    ours = {"tokenize_chinese_chars": True, "strip_accents": bool(do_lower_case)}
    ours |= {} if do_lower_case else {"do_lower_case": False}
    says = {
        key: found[key]
        for key, value in ours.items()
        if isinstance(found, dict) and isinstance(found.get(key), bool) and found[key] != value
    }
    if says:
        warnings.warn(
            f"The file {path!r} says {says}, and texts are read with "
            f"{ {key: ours[key] for key in says} }. This file is not followed: see "
            "`do_lower_case` of `Tokenizer`.",
            stacklevel=3,
        )


def warn_of_unknown(token_ids, tokenizer, stacklevel=3):
    """Warns where the vocabulary lacks many of the tokens of texts, which is no good to learn from.

    Args:
        token_ids: Iterable of lists of integers, one for each text.
        tokenizer: The `Tokenizer` that made them.
        stacklevel: As in `warnings.warn`. Defaults to `3`.
    """
    counts = [(ids.count(tokenizer.unk_id), len(ids)) for ids in token_ids]
    unknown, total = (sum(column) for column in zip(*counts, strict=True))
    if total and unknown >= _UNKNOWN * total:
        warnings.warn(
            f"The vocabulary lacks {unknown} of the {total} tokens of these texts: they become "
            "[UNK]. Is it the vocabulary of another language or script, e.g. of simplified "
            "characters for traditional ones, or cased?",
            stacklevel=stacklevel,
        )


def truncate_longest(sequences, room):
    """Shortens lists in place, always the longest, until `room` items are left in all."""
    excess = sum(map(len, sequences)) - room
    while excess > 0:
        longest = max(sequences, key=len)
        others = [len(s) for s in sequences if s is not longest]
        cut = min(excess, max(1, len(longest) - max(others, default=0)))
        del longest[len(longest) - cut :]
        excess -= cut


def _find_splitter(pre_tokenize):
    """The function from a string to its words; `None` for none."""
    if callable(pre_tokenize):
        return pre_tokenize
    if pre_tokenize is False:
        return None
    if pre_tokenize != "jieba":
        raise ValueError(
            "Unknown `pre_tokenize`. Expected 'jieba', a function from a string to a list of "
            f"words, False, or None. Received: {pre_tokenize!r}."
        )
    if importlib.util.find_spec("jieba") is None:
        raise ImportError(
            "A vocabulary of words needs jieba, to find them in a text: `pip install jieba`. To "
            "read single characters all the same, give `pre_tokenize=False`."
        )
    return _jieba_words


def _jieba_words(text):
    import jieba

    return jieba.lcut(text, HMM=False)


def is_special(token):
    return len(token) > 2 and token[0] == "[" and token[-1] == "]"


def _is_latin(char):
    return char.isalnum() and not "\u2e80" <= char <= "\uffdc" and ord(char) < 0x20000
