"""Tokenizers of other kinds than BERT's: byte-level BPE, SentencePiece."""

import functools
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Self

import numpy as np
import tokenizers

from keras_ptuning.assets import NAMES
from keras_ptuning.checks import Path, check_entries, check_path
from keras_ptuning.files import check_file, find_local, read_json, replacing
from keras_ptuning.text.sentencepiece import cut, read_sentencepiece
from keras_ptuning.text.tokenizers import TOKENIZER_CONFIG, Tokenizer, find_vocab

# The roles of tokens, and what Hugging Face's files call the tokens that have them.
ROLES = {
    "pad_id": ("pad_token", "eos_token"),
    "eos_id": ("eos_token", "pad_token"),
    "unk_id": ("unk_token",),
    "mask_id": ("mask_token",),
}
# Files that name them; what an earlier one says counts.
_FILES = (TOKENIZER_CONFIG, "special_tokens_map.json")
_SPACE = "▁"
# Rows without a token, and those that wait for one.
_EMPTY = re.compile(r"\[(none|unused)[0-9]+\]")
# Steps of a normalizer, for any white space.
_ONE_SPACE = [
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
]
_SENTENCEPIECE = ".model"


class PieceTokenizer(Tokenizer):
    """The tokenizer of a `tokenizer.json` of Hugging Face, of any kind: Qwen's, LLaMA's, T5's.

    A text cannot contain special tokens: the characters `<|endoftext|>` in a review stay
    characters. The tokens around a text are those that the file puts there.

    Args:
        vocab: Path of a `tokenizer.json`, or of a `spiece.model` of SentencePiece (Unigram), which
            needs the package `sentencepiece`; or of a folder with one of these; or the name of a
            model of Hugging Face's hub. `tokenizer_config.json` or `special_tokens_map.json` in the
            same folder says which tokens are for padding, unknown tokens and masks.
        add_prefix_space: Whether a text begins with a space. SentencePiece puts one before each
            text. A template is made of parts, which follow each other without a space. Defaults to
            `False`.

    Attributes:
        vocab: List of the tokens. Those that are whole characters are readable text.
        pad_id, unk_id, mask_id, start_id, end_id: The ids of the tokens for padding, for unknown
            tokens, for masks, and for the start and the end of a text. `None` if there is no such
            token. If no token is for padding, it is the one that ends documents.
        eos_id: The id of the token that ends documents in pretraining, whether or not the file puts
            it after a text. If none is named, it is the one for padding.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is one of SentencePiece, and the package is not installed.
        ValueError: if the file is damaged, or a SentencePiece model of another kind.

    Example:

    ```python
    tokenizer = PieceTokenizer("Qwen2.5-0.5B")
    tokenizer.tokenize("很满意")  # ["很", "满意"]
    ```

    Reference:
        - [Sennrich et al., 2015](https://arxiv.org/abs/1508.07909), section 3.2.
        - [Kudo and Richardson, 2018](https://arxiv.org/abs/1808.06226), section 3.
    """

    do_lower_case = False
    pre_tokenize = False
    # Large models round the size of their embedding up.
    most_spare = 1024
    _split_words = None

    def __init__(self, vocab: Path, add_prefix_space: bool = False) -> None:
        check_path("vocab", vocab)
        path = find_local(vocab)
        path = find_vocab(path) if os.path.isdir(path) else path
        check_file(path, f"There is no `tokenizer.json` at {str(path)!r}.")
        names = _read_roles(os.path.dirname(path))
        if str(path).endswith(_SENTENCEPIECE):
            content, own = read_sentencepiece(path)
            names = {**own, **names}
        else:
            with open(path, "rb") as file:
                content = file.read()
        self._read(content, names, add_prefix_space, f"The tokenizer {str(path)!r}")

    def _read(self, content, names, add_prefix_space, what):
        self._names, self.add_prefix_space = names, add_prefix_space
        try:
            # Some editors begin a file with a byte order mark.
            if isinstance(content, bytes):
                content = content.decode("utf-8-sig")
            settings = json.loads(content)
            # What no template needs, so that the same tokens have the same fingerprint.
            settings |= {"truncation": None, "padding": None}
            self._content = json.dumps(settings, ensure_ascii=False)
            if not add_prefix_space:
                _drop_prefix_space(settings)
            self._backend = tokenizers.Tokenizer.from_str(json.dumps(settings))
        except Exception as error:  # The library raises a plain one.
            raise ValueError(
                f"{what} cannot be read; it is damaged, or not a `tokenizer.json` of Hugging Face. "
                f"Copy it again. The library says: {error}"
            ) from None
        self._backend.encode_special_tokens = True
        self._backend.no_truncation()
        self._backend.no_padding()
        self._ids = self._backend.get_vocab(with_added_tokens=True)
        size = max(self._ids.values()) + 1
        tokens = [f"[none{i}]" for i in range(size)]
        for token, i in self._ids.items():
            tokens[i] = token
        for token, i in list(self._ids.items()):
            if token.startswith("▁<extra_id_"):
                # mT5 writes its sentinels so.
                self._ids.setdefault(token[1:], i)
        added = self._backend.get_added_tokens_decoder()
        self._special = {i for i, token in added.items() if token.special}
        byte_level = "ByteLevel" in json.dumps(settings.get("decoder"))
        self.vocab = [
            token if i in added else _as_text(token, byte_level) for i, token in enumerate(tokens)
        ]
        for role, kinds in ROLES.items():
            found = (self._ids.get(names.get(kind)) for kind in kinds)
            setattr(self, role, next((i for i in found if i is not None), None))
        if self.unk_id is None:
            # Each kind of model says it in its own way.
            model = settings["model"]
            self.unk_id = model.get("unk_id", self._ids.get(model.get("unk_token")))
        # What the file puts around a text.
        plain, whole = (self._backend.encode("a", add_special_tokens=t).ids for t in (False, True))
        start = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
        before, after = whole[:start], whole[start + len(plain) :]
        self.start_id, self.end_id = (next(iter(part), None) for part in (before, after))

    @property
    def ordinary_ids(self) -> list[int]:
        return [
            i
            for i, token in enumerate(self.vocab)
            if i not in self._special and not _EMPTY.fullmatch(token)
        ]

    def token_to_id(self, token: str) -> int:
        """The id of `token`, as the file writes it; or `unk_id` if there is no such token."""
        return self._ids.get(token, self.unk_id)

    def decode(self, token_ids: Iterable[int]) -> str:
        """Turns ids back into readable text, without the special tokens."""
        # Arrays have -1 where there is no token.
        ordinary = [int(i) for i in token_ids if i >= 0 and int(i) not in self._special]
        return self._backend.decode(ordinary)

    def word_numbers(
        self, texts: Collection[str], split_words: Callable[[str], Sequence[str]]
    ) -> list[np.ndarray]:
        raise ValueError("Whole words are masked with vocabularies of BERT's kind only.")

    def token_ids(self, texts: Collection[str]) -> list[list[int]]:
        found = super().token_ids(texts)
        special = self._special - {self.unk_id}
        return [self._spell_out(ids) if special.intersection(ids) else ids for ids in found]

    def _spell_out(self, ids):
        """Special tokens that a text has spelled, by the tokens of their characters."""
        spelled = []
        for i in ids:
            characters = [i]
            if i in self._special and i != self.unk_id:
                characters = [j for ids in self._inside.token_ids([*self.vocab[i]]) for j in ids]
            for piece in characters:
                # Unknown characters next to each other are one token.
                if piece != self.unk_id or spelled[-1:] != [piece]:
                    spelled.append(piece)
        return spelled

    @functools.cached_property
    def _inside(self):
        """The tokenizer of what is inside of a text, and not its beginning."""
        if not self.add_prefix_space:
            return self
        return type(self).from_config({**self.get_config(), "add_prefix_space": False})

    def keep(self, texts: Collection[str]) -> tuple[Self, list[int]]:
        """A smaller tokenizer, with the tokens that some texts need, and the special ones.

        A multilingual vocabulary has many tokens that your texts never use, and a model computes a
        logit for each. If the smaller tokenizer lacks a token, it splits it into shorter ones, or
        takes the unknown token.

        Args:
            texts: List of strings, with all that the model reads and writes: the texts of your
                task, the words of the template, and the label words.

        Returns:
            `(tokenizer, keep_tokens)`: a `PieceTokenizer`, and the ids that its tokens have in this
            tokenizer, in order. Pass them to `build_ptuning_model(..., keep_tokens=keep_tokens)`.

        Raises:
            TypeError: if `texts` is not a list of strings.
            ValueError: if the vocabulary is not a SentencePiece vocabulary of the kind Unigram.

        Example:

        ```python
        tokenizer, keep_tokens = PieceTokenizer("mt5-base").keep([*texts, "负面", "正面"])
        template = Template("[u1]{text}[DECODER][MASK]", labels, tokenizer)
        model = build_ptuning_model("mt5-base", template=template, keep_tokens=keep_tokens)
        ```
        """
        used = {i for ids in self.token_ids(texts) for i in ids}
        roles = {self.pad_id, self.unk_id, self.mask_id, self.start_id, self.end_id} - {None}
        # The score of the unknown token depends on the lowest of all scores.
        pieces = json.loads(self._content)["model"].get("vocab")
        scores = [score for _, score in pieces] if isinstance(pieces, list) else [0]
        kept = sorted(used | roles | self._special | {int(np.argmin(scores))})
        config = {**self.get_config(), "vocab": [cut(self._content, kept)]}
        return type(self).from_config(config), kept

    def save(self, path: Path) -> None:
        """Writes a `tokenizer.json`, and the roles into the `tokenizer_config.json` next to it.

        Other entries of such a file stay.
        """
        check_path("path", path)
        config = os.path.join(os.path.dirname(path), TOKENIZER_CONFIG)
        names = {**_read_entries(config), **self._names} if os.path.isfile(config) else self._names
        for name, content in ((path, self._content), (config, json.dumps(names))):
            with replacing(name) as temporary, open(temporary, "w", encoding="utf-8") as file:
                file.write(content)

    def get_config(self) -> dict[str, Any]:
        """Everything needed to make the same tokenizer again, ready for JSON."""
        return {
            # In a list, as the tokens of the other kind.
            "vocab": [self._content],
            "names": self._names,
            "add_prefix_space": self.add_prefix_space,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a tokenizer from what `get_config` returned."""
        kinds = {"vocab": (list, tuple), "names": dict, "add_prefix_space": bool}
        check_entries("a tokenizer", config, kinds)
        tokenizer = cls.__new__(cls)
        (content,) = config["vocab"]
        tokenizer._read(content, config["names"], config["add_prefix_space"], "The tokenizer")
        return tokenizer


def as_tokenizer(vocab):
    """The tokenizer of a vocabulary: BERT's, or that of a `tokenizer.json` of another kind.

    Args:
        vocab: A tokenizer, which is returned as it is; or what `Tokenizer` or `PieceTokenizer` take
            as their vocabulary.

    Example:

    >>> type(as_tokenizer("bert-mini-zh")).__name__
    'Tokenizer'
    """
    if isinstance(vocab, Tokenizer):
        return vocab
    if isinstance(vocab, str | os.PathLike) and vocab not in NAMES:
        path = find_local(vocab)
        path = find_vocab(path) if os.path.isdir(path) else path
        is_other = str(path).endswith(".json") and _kind(path) not in (None, "WordPiece")
        if is_other or str(path).endswith(_SENTENCEPIECE):
            return PieceTokenizer(path)
    return Tokenizer(vocab)


def tokenizer_from_config(config):
    """The tokenizer of what `get_config` of either kind returned."""
    kind = PieceTokenizer if isinstance(config, dict) and "names" in config else Tokenizer
    return kind.from_config(config)


def _kind(path):
    """The kind of a `tokenizer.json`; `None` if it cannot be read."""
    try:
        return read_json(path, path)["model"]["type"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_entries(path):
    """What a file of a tokenizer's settings has."""
    try:
        found = read_json(path, path)
        if isinstance(found, dict):
            return found
    except ValueError as error:
        found = error
    raise ValueError(
        f"The file {path!r} is damaged, or not one of Hugging Face's. Copy it again, or move it "
        f"away. Received: {found!r:.80}."
    )


def _read_roles(folder):
    """What the files in a folder call tokens that have a role: `{"pad_token": "<pad>"}`."""
    names, known = {}, {kind for kinds in ROLES.values() for kind in kinds}
    for file_name in _FILES:
        path = os.path.join(folder, file_name)
        if not os.path.isfile(path):
            continue
        found = _read_entries(path)
        for kind in known & set(found):
            token = found[kind]
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                names.setdefault(kind, token)
    return names


def _drop_prefix_space(settings):
    """Leaves out, in place, the space that a tokenizer puts before each text."""
    for part in ("normalizer", "pre_tokenizer"):
        own = settings.get(part) or {}
        # The steps of a sequence are its "normalizers", or its "pretokenizers".
        key = part.replace("_", "") + "s"
        steps = own.get(key, [own])
        if {"WhitespaceSplit", "Metaspace"} <= {step.get("type") for step in steps}:
            # The first drops the spaces between words, and without a prefix the second does not
            # put them back. What the first does with other white space, the normalizer does.
            own[key] = [step for step in steps if step.get("type") != "WhitespaceSplit"]
            before = [settings["normalizer"]] if settings.get("normalizer") else []
            settings["normalizer"] = {"type": "Sequence", "normalizers": before + _ONE_SPACE}
        for step in own.get(key, [own]):
            if step.get("type") == "Metaspace":
                step |= {"prepend_scheme": "never"}
                step.pop("add_prefix_space", None)
            if step.get("type") == "ByteLevel":
                step["add_prefix_space"] = False
            if step.get("type") == "Prepend":
                step["prepend"] = ""


def _as_text(token, byte_level):
    """A token as it reads: bytes that are no whole characters stay as the file writes them."""
    if not byte_level:
        return token.replace(_SPACE, " ")
    try:
        return bytes(_BYTES[c] for c in token).decode()
    except (KeyError, UnicodeDecodeError):
        return token


def _byte_alphabet():
    """The byte that each character of a byte-level vocabulary means, as in GPT-2."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [i for i in range(256) if i not in printable]
    codes = {**{i: i for i in printable}, **{i: 256 + n for n, i in enumerate(others)}}
    return {chr(code): byte for byte, code in codes.items()}


_BYTES = _byte_alphabet()
