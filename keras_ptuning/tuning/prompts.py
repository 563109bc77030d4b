"""Where a prompt starts, and the file of a tuned one: vectors, template, what they belong to."""

import hashlib
import itertools
import json

import numpy as np
import safetensors
import safetensors.numpy

from keras_ptuning.files import replacing

FORMAT = "keras_ptuning prompt 1"
STARTS = ("unused", "random", "vocabulary", "labels")
# Among how many of the most frequent tokens a start is sampled.
FREQUENT = 5000


def start_vectors(start, template, table, log_frequency, rng, stddev=0.02):
    """Values for the trainable rows of a template to start from.

    Args:
        start: Where the virtual tokens start:
            `"unused"`: the table's own rows, as pretraining left them; random beyond the table.
            `"random"`: a normal distribution, without values beyond two standard deviations.
            `"vocabulary"`: the rows of different tokens, sampled from the 5000 most frequent.
            `"labels"`: the label words, the first of each label and then the second of each; a
            word of several tokens is their mean. Where the words end, as `"vocabulary"`.
            A list of strings: their tokens in order, and from the beginning again.
        template: A `Template`.
        table: Array of shape `(vocabulary, hidden)`, the token embedding.
        log_frequency: Array of shape `(vocabulary,)` that is greater for more frequent tokens. A
            masked language model has one in the bias of its head, which learns how often each token
            is the answer. With `None`, the vocabulary is taken to begin with the frequent ones.
        rng: A `numpy.random.Generator`.
        stddev: Float. Of random rows. Defaults to `0.02`.

    Returns:
        A float32 array with a row for each of `template.virtual_ids` and then for each of
        `template.label_token_ids`. A label token starts as the mean of its label's other words
        (a second one of the same label a little beside it), or else, whatever `start` says, as
        `"unused"`.

    Raises:
        ValueError: if `start` is none of these, a list has no tokens or ones that the vocabulary
            lacks, or the template has no label words of the vocabulary to start from.

    Example:

    ```python
    table = keras.ops.convert_to_numpy(model.get_layer("Embedding-Token").embeddings)
    bias = keras.ops.convert_to_numpy(model.get_layer("MLM-Bias").bias)
    rng = np.random.default_rng(0)
    start_vectors("vocabulary", template, table, bias, rng)  # (virtual tokens, hidden)
    start_vectors(["这句话的情感是"], template, table, bias, rng)
    ```

    Reference:
        - [Lester et al., 2021](https://arxiv.org/abs/2104.08691), section 3.2.
    """
    table = np.asarray(table, "float32")
    label_ids = template.label_token_ids
    virtual = _virtual_rows(start, template, table, log_frequency, rng, stddev)
    labels = _own_rows(label_ids, table, rng, stddev)
    for words in template.word_ids or []:
        frozen = _frozen_words(words, label_ids)
        own = [i for i, token_id in enumerate(label_ids) if any(token_id in w for w in words)]
        if frozen and own:
            labels[own] = np.mean([table[word].mean(axis=0) for word in frozen], axis=0)
            # Several tokens that start alike would stay one and the same.
            labels[own[1:]] += _random_rows((len(own) - 1, table.shape[1]), rng, stddev)
    return np.concatenate([virtual, labels])


def _virtual_rows(start, template, table, log_frequency, rng, stddev):
    count = len(template.virtual_ids)
    if isinstance(start, list | tuple) and all(isinstance(text, str) for text in start):
        return table[np.resize(_text_ids(start, template.tokenizer), count)]
    if not isinstance(start, str) or start not in STARTS:
        raise ValueError(
            f"A prompt starts from one of {STARTS}, or from the words of a list of strings, e.g. "
            f"['这句话的情感是']. Received: prompt_start={start!r}."
        )
    if start == "unused":
        return _own_rows(template.virtual_ids, table, rng, stddev)
    if start == "random":
        return _random_rows((count, table.shape[1]), rng, stddev)
    words = _label_rows(template, table) if start == "labels" else table[:0]
    frequent = np.asarray(template.ordinary_ids)
    if log_frequency is not None:
        order = np.argsort(-np.asarray(log_frequency)[frequent], kind="stable")
        frequent = frequent[order]
    # No token comes twice, unless there are more virtual tokens than tokens.
    sampled = np.resize(rng.permutation(frequent[:FREQUENT]), max(count - len(words), 0))
    return np.concatenate([words[:count], table[sampled]])


def _random_rows(shape, rng, stddev):
    values = rng.normal(size=shape)
    while (far := np.abs(values) > 2).any():
        values[far] = rng.normal(size=far.sum())
    return (stddev * values).astype("float32")


def _own_rows(token_ids, table, rng, stddev):
    rows = _random_rows((len(token_ids), table.shape[1]), rng, stddev)
    for row, token_id in zip(rows, token_ids, strict=True):
        if token_id < len(table):
            row[:] = table[token_id]
    return rows


def _text_ids(texts, tokenizer):
    found = tokenizer.token_ids(list(texts))
    for text, ids in zip(texts, found, strict=True):
        if tokenizer.token_to_id("[UNK]") in ids:
            raise ValueError(
                f"The words {text!r} are not all in the vocabulary: they become "
                f"{tokenizer.tokenize(text)}. Start from other words."
            )
    if not any(found):
        raise ValueError(f"There are no words to start from. Received: prompt_start={texts!r}.")
    return np.concatenate(found).astype("int32")


def _frozen_words(words, label_ids):
    """The words without trainable label tokens."""
    return [word for word in words if not set(word) & set(label_ids)]


def _label_rows(template, table):
    if template.word_ids is None:
        raise ValueError(
            "prompt_start='labels' needs label words, and those of this template come with each "
            f"text, as candidates. Choose another of {STARTS}, or a list of words."
        )
    label_ids = template.label_token_ids
    labels = [_frozen_words(words, label_ids) for words in template.word_ids]
    # The first word of each label, then the second of those that have one...
    turns = itertools.zip_longest(*labels)
    rows = [table[word].mean(axis=0) for turn in turns for word in turn if word]
    if not rows:
        raise ValueError(
            "prompt_start='labels' needs label words of the vocabulary, and those of this template "
            f"are all trainable tokens. Choose another of {STARTS}, or a list of words."
        )
    return np.array(rows)


def vocabulary_fingerprint(vocab):
    """A SHA-256 of a vocabulary: the same tokens with the same ids."""
    return hashlib.sha256("\n".join(vocab).encode()).hexdigest()


def write_prompt(filepath, vectors, metadata, start=None):
    """Writes a prompt file (safetensors, with the rest as JSON in its header).

    Args:
        filepath: Path of the file to write.
        vectors: Array of shape `(virtual tokens, hidden)`.
        metadata: Dictionary with the `template`'s configuration, and the fingerprint of the
            `backbone`.
        start: Optional array of the same shape, what the vectors were before training.

    Raises:
        ValueError: if `start` has another shape than `vectors`.
    """
    tensors = {"prompt": vectors} if start is None else {"prompt": vectors, "start": start}
    if start is not None and start.shape != vectors.shape:
        raise ValueError(
            f"`start` must have the shape of `vectors`, {vectors.shape}. Received: {start.shape}."
        )
    tokenizer = dict(metadata["template"]["tokenizer"])
    # A vocabulary is larger than a prompt, and stands beside the checkpoint anyway.
    tokenizer["vocab"] = vocabulary_fingerprint(tokenizer["vocab"])
    template = {**metadata["template"], "tokenizer": tokenizer}
    content = json.dumps({**metadata, "template": template}, ensure_ascii=False)
    header = {"format": FORMAT, "content": content, "sha256": _checksum(tensors, content)}
    # Not `save_file`, whose files only their owner may read.
    with replacing(filepath) as temporary, open(temporary, "wb") as file:
        file.write(safetensors.numpy.save(tensors, metadata=header))


def read_prompt(filepath):
    """Reads a prompt file.

    Args:
        filepath: Path of a file that `ClozeModel.save_prompt` wrote.

    Returns:
        `(vectors, metadata, start)`, as `write_prompt` took them, with a fingerprint in place of
        the vocabulary; `start` is `None` for a file without it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or not a prompt file.
    """
    try:
        with safetensors.safe_open(filepath, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(f"its format is {header.get('format')!r}, not {FORMAT!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            content, start = header["content"], tensors.get("start")
            if header["sha256"] != _checksum(tensors, content):
                raise ValueError("its checksum is wrong")
            return tensors["prompt"], json.loads(content), start
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no prompt file {str(filepath)!r}.") from None
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ValueError(
            f"The prompt file {str(filepath)!r} is damaged or not a prompt file ({error}). "
            "Expected a whole file written by `model.save_prompt(...)`."
        ) from None


def _checksum(tensors, content):
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].tobytes())
    digest.update(content.encode())
    return digest.hexdigest()
