"""Making a vocabulary out of texts."""

import collections
import itertools
import re
import string
from collections.abc import Iterable

from keras_ptuning.checks import as_texts, check_integer, check_list
from keras_ptuning.text.tokenizers import Tokenizer


def build_vocab(
    texts: Iterable[str],
    min_count: int = 10,
    max_size: int | None = None,
    unused: int = 99,
    do_lower_case: bool = True,
) -> list[str]:
    """Makes a vocabulary for texts of one's own, to pretrain a model on them.

    It has what the usual Chinese vocabularies have: `[PAD]`, `[unused1]`, `[unused2]`..., the
    other special tokens, and then the most frequent first: characters, and words of Latin letters
    and numbers, with their `##` forms for inside of a word. Letters and digits are always there, so
    that any Latin word can be spelled.

    Args:
        texts: Iterable of strings.
        min_count: Integer. How often a token must occur. Defaults to `10`.
        max_size: Integer, the most tokens the vocabulary may have. Defaults to no limit.
        unused: Integer, the number of `[unused]` tokens. Defaults to `99`.
        do_lower_case: Whether the tokenizer will lower-case. Defaults to `True`.

    Returns:
        A list of tokens, for `Tokenizer`; one a line, it is a `vocab.txt`.

    Raises:
        TypeError: if `texts` is one string, a table, a set or a dictionary, or one of them is not
            a string; its number is named.
        ValueError: if `max_size` has no room for what is always there.

    Example:

    >>> vocab = build_vocab(["很好很好", "好 ok"], min_count=2, unused=1)
    >>> vocab[:8]
    ['[PAD]', '[unused1]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '好', '很']

    Reference:
        - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805), section 3, and its release of
          `chinese_L-12_H-768_A-12`.
    """
    check_integer("min_count", min_count, 1)
    check_integer("unused", unused, 0)
    special = ["[PAD]", *(f"[unused{i}]" for i in range(1, unused + 1))]
    special += ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(special, do_lower_case)._backend
    words = collections.Counter()
    texts, done = iter(check_list("texts", texts)), 0
    while batch := list(itertools.islice(texts, 1000)):
        # A line break ends a word, as the end of a text does.
        text = backend.normalizer.normalize_str("\n".join(as_texts(batch, done)))
        done += len(batch)
        words.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text))
    letters = string.digits + string.ascii_lowercase
    letters += "" if do_lower_case else string.ascii_uppercase
    counts = collections.Counter({form: 0 for c in letters for form in (c, f"##{c}")})
    always = set(counts)
    for word, count in words.items():
        pieces = re.findall(r"[A-Za-z]+|[0-9]+|.", word)
        for piece in [pieces[0], *(f"##{piece}" for piece in pieces[1:])]:
            counts[piece] += count
    tokens = [t for t, n in counts.items() if n >= min_count and t not in always]
    tokens.sort(key=lambda token: (-counts[token], token))
    if max_size is not None:
        check_integer("max_size", max_size, 1)
        if max_size < len(special) + len(always):
            raise ValueError(
                f"`max_size` must be at least {len(special) + len(always)}: special tokens, "
                f"letters and digits. Received: max_size={max_size}."
            )
        tokens = tokens[: max_size - len(special) - len(always)]
    tokens = sorted([*tokens, *always], key=lambda token: (-counts[token], token))
    return special + tokens
