"""Filling in: the likeliest tokens at the masks of a template."""

import numpy as np
from keras import ops

from keras_ptuning.checks import check_finite


def learned_ids(template):
    """The ids of the tokens that learn, in the order of the template's `tuned_names`."""
    return np.array(template.virtual_ids + template.label_token_ids, "int32")


def token_names(template, ids, size):
    """What the columns of the logits are called: a token that learns as in the template.

    Args:
        template: A `Template`.
        ids: The columns of the tokens that learn, in the order of `learned_ids`.
        size: Integer, the number of the columns that are no tokens of their own.

    Returns:
        A list of strings.
    """
    vocab = template.tokenizer.vocab
    # Some checkpoints have spare rows behind their vocabulary, which have no name.
    rows = range(len(vocab), max([size, *(i + 1 for i in ids)]))
    names = [*vocab, *(f"[row {i}]" for i in rows)]
    for i, name in zip(ids, template.tuned_names, strict=True):
        names[i] = name
    return names


def likeliest_tokens(probabilities, templates, names, top):
    """The likeliest tokens of each text of a batch.

    Args:
        probabilities: Float tensor of shape `(batch, positions, columns)`.
        templates: List of the template of each text.
        names: For each text the list that `token_names` returned.
        top: Integer, how many tokens.

    Returns:
        For each text a list, one for each mask, of pairs `(token, probability)`.

    Raises:
        ValueError: if a probability is not finite.
    """
    found, columns = map(ops.convert_to_numpy, ops.top_k(probabilities, int(top)))
    advice = "The weights are damaged, or overflow in half precision: load good ones."
    check_finite([("The probabilities of the tokens", found)], advice)
    texts = []
    for row, own, template, called in zip(found, columns, templates, names, strict=True):
        # What follows the first mask depends on the word there, so a causal model has one position.
        count = 1 if template.causal else template.num_masks
        texts.append(
            [
                [(called[i], p) for i, p in zip(ids, values, strict=True)]
                for ids, values in zip(own[:count].tolist(), row[:count].tolist(), strict=True)
            ]
        )
    return texts
