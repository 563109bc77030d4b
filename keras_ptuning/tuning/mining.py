"""Mining of templates: words that a corpus has around label words."""

import collections
import re
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from keras_ptuning.checkpoints import find_vocab
from keras_ptuning.checks import (
    Label,
    LabelsWithWords,
    Path,
    Texts,
    as_list,
    as_texts,
    check_integer,
    check_verbose,
)
from keras_ptuning.text import as_tokenizer
from keras_ptuning.text.templates import _PARTS, Template
from keras_ptuning.tuning.cloze import ClozeModel
from keras_ptuning.tuning.label_words import (
    check_labeled,
    is_causal,
    open_cloze,
    progress_bar,
    word_splitter,
)
from keras_ptuning.tuning.search import TRIGGER, _open_template, _scores

# What ends a sentence, beyond which nothing is looked for.
SENTENCE_END = re.compile(r"[。！？；!?;\n\r\u2028\u2029]+")
# What may take a place. Numbers are too much about one text, and brackets mean something there.
WORDS = re.compile(r"[^\W\d_]+(\s+[^\W\d_]+)*")
# Characters beyond which nothing is looked for.
SPAN = 30


def mine_templates(
    checkpoint: Path | ClozeModel,
    pattern: str,
    words: LabelsWithWords | None,
    texts: Texts,
    labels: Collection[Label],
    corpus: Collection[str],
    top: int = 10,
    candidates: int = 100,
    longest: int = 4,
    batch_size: int = 32,
    maxlen: int = 128,
    verbose: int | str = "auto",
    **kwargs: Any,
) -> list[Template]:
    """Finds templates in a corpus: words that people wrote around label words.

    The places to fill are `[T]` in the pattern, next to the masks. The words that fill them come
    from one sentence of the corpus, so templates read well:

    - `"{text}[T][MASK]。"`, or `"[MASK][T]{text}"`: what is between a text and a word of its label.
      This is for facts, where a text is a subject and its label the object.
    - `"[T][MASK][T]，{text}"`: what is before and after a label word. The texts themselves need not
      be in the corpus.

    Templates that occur with words of more labels are tried first. Of those with as many labels,
    the more frequent ones are tried first. The best templates give the right labels of the texts
    the greatest probability among the labels. The model does not change. `weigh_templates` learns
    how much each of the templates counts.

    Args:
        checkpoint: Name of an embedded checkpoint or folder of one, as `build_ptuning_model` takes
            it; or a `ClozeModel`, also a tuned one. The label words of that have no effect.
        pattern: String, a pattern of `Template` with one or two `[T]`, and without virtual tokens.
        words: Dictionary from each label to its words, as `Template` takes them. `None` where each
            label is its own word, as in facts.
        texts: List of strings; of pairs of strings if the pattern has `{text_b}`.
        labels: List of labels, one for each text.
        corpus: List of strings, e.g. what `datasets.read_documents` returns.
        top: Integer, how many templates to return at most. Defaults to `10`.
        candidates: Integer, how many templates are tried on the texts. Defaults to `100`.
        longest: Integer, the most words for one `[T]`. jieba finds the words. They have only
            letters. Defaults to `4`.
        batch_size: Integer. Defaults to `32`.
        maxlen: Integer, that of the `Template`. A `ClozeModel` has its own. Defaults to `128`.
        verbose: `"auto"`, `0`, `1` or `2`, as in `keras.Model.fit`. Defaults to `"auto"`.
        **kwargs: Other arguments of `build_transformer_model`, if this function builds the model.

    Returns:
        A list of `Template`, the best first. The attribute `history` of each is a list of one
        dictionary: its `pattern`; its `count`, how often the corpus has it with a label word; and
        its `loss` and `accuracy` on the texts.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ImportError: if there is no jieba.
        TypeError: if the pattern is not a string, or `texts`, `labels` or `corpus` are no lists.
        ValueError: if the pattern has no `[T]`, or has one that is not next to the masks, or has
            virtual tokens; if a label word learns, or `Template` refuses something; if there are
            more or fewer labels than texts, or fewer than two labels; if the corpus has no words
            for a `[T]`.

    Example:

    >>> corpus = ["法国的首都巴黎很美。", "英国的首都伦敦", "伦敦是英国最大的城市"]
    >>> countries, capitals = ["法国", "英国"], ["巴黎", "伦敦"]
    >>> templates = mine_templates(
    ...     "bert-mini-zh", "{text}[T][MASK][MASK]。", None, countries, capitals, corpus, verbose=0
    ... )
    >>> [template.pattern for template in templates]
    ['{text}的首都[MASK][MASK]。']
    >>> templates[0].history[0]["count"]
    2

    Reference:
        - [Jiang et al., 2019](https://arxiv.org/abs/1911.12543), section 3.1, mining-based
          generation, and 4.1, selection.
    """
    for name, value in (("top", top), ("candidates", candidates), ("longest", longest)):
        check_integer(name, value, 1)
    check_integer("batch_size", batch_size, 1)
    check_verbose(verbose)
    texts, labels = check_labeled(texts, labels)
    corpus = as_texts(as_list("corpus", corpus))
    if words is None:
        words = {label: str(label) for label in labels}
    if isinstance(checkpoint, ClozeModel):
        own = checkpoint.template
        tokenizer, maxlen, causal = own.tokenizer, own.maxlen, own.causal
    else:
        tokenizer, causal = as_tokenizer(find_vocab(checkpoint)), is_causal(checkpoint, kwargs)
    opened = _open_template(pattern, words, tokenizer, maxlen, causal)
    y = opened.label_ids(labels)
    frame = _read_frame(pattern, opened.slots)
    joined = "\n".join(part for text in corpus for part in SENTENCE_END.split(text))
    found, counts = _rank(frame, joined, zip(texts, labels, strict=True), opened.labels, longest)
    templates = []
    for spoken in found:
        try:
            templates.append(Template(spoken, words, tokenizer, maxlen, causal))
        except ValueError:
            # The vocabulary lacks some of the words.
            continue
        if len(templates) == candidates:
            break
    if not templates:
        what = "a text and a word of its label" if frame.link else "a label word"
        apart = (
            f" If the texts are not subjects of facts, put '，' between {TRIGGER} and {{text}}, so "
            "that label words alone are looked for."
        )
        raise ValueError(
            f"Nothing in the corpus can take the place of {TRIGGER} in {pattern!r}. Of "
            f"{len(corpus):,} texts, none has a sentence with {what} and up to {longest} words of "
            "the vocabulary at this place. Give a larger corpus, other `words`, or raise `longest`."
            f"{apart if frame.link else ''}"
        )
    model, _ = open_cloze(checkpoint, templates[0].pattern, maxlen, kwargs)
    bar = progress_bar(len(templates), verbose, "template")
    for i, template in enumerate(templates):
        (scores,) = _scores(model, [template], texts, batch_size, verbose=0)
        measured = {
            "pattern": template.pattern,
            "count": counts[template.pattern],
            "loss": -float(scores[np.arange(len(y)), y].mean()),
            "accuracy": float((scores.argmax(axis=1) == y).mean()),
        }
        template.history = [measured]
        bar.update(i + 1)
    return sorted(templates, key=lambda template: template.history[0]["loss"])[:top]


class Frame(NamedTuple):
    """What a pattern says about the places next to its masks."""

    # The pattern before and after the masks and the places.
    head: str
    tail: str
    masks: str
    # Whether there is a place before the masks, and after them.
    before: bool
    after: bool
    # "before" or "after", if this place is between the masks and the text; or `None`.
    link: str | None


def _read_frame(pattern, slots):
    parts = list(filter(None, _PARTS.split(pattern)))
    masks = [i for i, part in enumerate(parts) if part == "[MASK]"]
    first, last = masks[0], masks[-1]
    before = first > 0 and parts[first - 1] == TRIGGER
    after = parts[last + 1 : last + 2] == [TRIGGER]
    if len(masks) != last - first + 1 or parts.count(TRIGGER) != before + after:
        raise ValueError(
            f"In mining, each {TRIGGER} must be next to the masks, which are side by side: "
            "'{text}[T][MASK]。', or '[T][MASK][MASK][T]，{text}'. Received: "
            f"{pattern!r}."
        )
    head, tail = parts[: first - before], parts[last + 1 + after :]
    link = "before" if before and head and head[-1].startswith("{text") else None
    link = "after" if after and tail and tail[0].startswith("{text") else link
    if link and len(slots) == 2:
        raise ValueError(
            f"A {TRIGGER} between a text and the masks is for single texts. Put other words "
            f"between {TRIGGER} and the text. Received: {pattern!r}, for pairs of texts."
        )
    return Frame("".join(head), "".join(tail), "[MASK]" * len(masks), before, after, link)


def _rank(frame, joined, labeled, words, longest):
    """The patterns that sentences of a corpus make, those of most labels and counts first.

    Returns:
        A list of patterns, and how often each was found.
    """
    split = word_splitter()
    counts, owners = collections.Counter(), collections.defaultdict(set)

    def choices(side, context):
        if not getattr(frame, side):
            return [""]
        tokens = split(context)
        if side == frame.link:
            chosen = [context] if len(tokens) <= longest else []
        elif side == "before":
            chosen = ["".join(tokens[-n:]) for n in range(1, min(longest, len(tokens)) + 1)]
        else:
            chosen = ["".join(tokens[:n]) for n in range(1, min(longest, len(tokens)) + 1)]
        return dict.fromkeys(filter(WORDS.fullmatch, map(str.strip, chosen)))

    for label, before, after in _occurrences(frame, joined, labeled, words):
        for first in choices("before", before):
            for last in choices("after", after):
                pattern = f"{frame.head}{first}{frame.masks}{last}{frame.tail}"
                counts[pattern] += 1
                owners[pattern].add(label)
    return sorted(counts, key=lambda p: (-len(owners[p]), -counts[p], p)), counts


def _occurrences(frame, joined, labeled, words):
    """The label of each label word in a corpus, and what is before and after it.

    Where the text of the label is linked to it, one of the two is all that is in between.
    """
    if not frame.link:
        for label, own in words.items():
            for word in own:
                for before, after in _surroundings(joined, word):
                    yield label, before, after
        return
    for text, label in dict.fromkeys(labeled):
        for before, after in _surroundings(joined, text):
            for word in words[label]:
                if frame.link == "before" and word in after:
                    between, _, rest = after.partition(word)
                    yield label, between, rest
                elif frame.link == "after" and word in before:
                    rest, _, between = before.rpartition(word)
                    yield label, rest, between


def _surroundings(joined, part):
    """What is before and after each occurrence of a part, in the same sentence."""
    place = joined.find(part) if part else -1
    while place >= 0:
        end = place + len(part)
        before = joined[max(0, place - SPAN) : place].rpartition("\n")[2]
        after = joined[end : end + SPAN].partition("\n")[0]
        yield before, after
        place = joined.find(part, end)
