"""Words that something starts from."""

import numpy as np


def text_ids(texts, tokenizer):
    """The tokens of texts, in order.

    Raises:
        ValueError: if one of them is not in the vocabulary, or there are none.
    """
    found = tokenizer.token_ids(list(texts))
    for text, ids in zip(texts, found, strict=True):
        if tokenizer.unk_id in ids:
            raise ValueError(
                f"The words {text!r} are not all in the vocabulary: they become "
                f"{tokenizer.tokenize(text)}. Start from other words."
            )
    if not any(found):
        raise ValueError(f"There are no words to start from. Received: start={texts!r}.")
    return np.concatenate(found).astype("int32")
