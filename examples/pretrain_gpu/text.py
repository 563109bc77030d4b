"""The texts behind packed tokens, as the teacher reads them."""

import numpy as np


def join(rows, vocab):
    """The texts of packed sequences, in their order.

    Args:
        rows: Integer array of shape `(sequences, length)`; each text is `[CLS] text [SEP]`.
        vocab: List of tokens.

    Returns:
        A list of strings, without unknown tokens. Between two Latin words is a space.
    """
    flat = rows.ravel()
    begins = np.flatnonzero(flat == vocab.index("[CLS]")) + 1
    ends = np.flatnonzero(flat == vocab.index("[SEP]"))
    vocab = ["" if token[0] == "[" and len(token) > 1 else token for token in vocab]
    tokens = np.array(vocab, object)[flat].tolist()
    latin = np.array([token.isascii() for token in vocab])[flat]
    return [
        _spell(tokens[begin:end]) if latin[begin:end].any() else "".join(tokens[begin:end])
        for begin, end in zip(begins, ends, strict=True)
    ]


def _spell(tokens):
    text = ""
    for token in tokens:
        if len(token) > 2 and token.startswith("##"):
            text += token[2:]
        else:
            both = text[-1:] + token[:1]
            text += " " * (len(both) == 2 and both.isascii() and both.isalnum()) + token
    return text
