"""Which tokens training hides and predicts."""

import math

import numpy as np

# In place of a token's id, where there is none. Every id from 0 on is a token of some vocabulary.
NONE = -1


def mask_tokens(token_ids, maskable, rate, mask_id, random_ids, rng, words=None):
    """Masks a share of the tokens at random, as BERT's pretraining does.

    In each row exactly `round(rate * number of maskable tokens)` tokens are chosen, at least one
    where there is one.
    Of these 80% become `[MASK]`, 10% a random token, and 10% stay as they are.

    Args:
        token_ids: Integer array of shape `(batch, length)`.
        maskable: Boolean array of the same shape.
        rate: Float between 0 and 1.
        mask_id: The id of `[MASK]`.
        random_ids: Integer array, the ids to choose random tokens from.
        rng: A `numpy.random.Generator`.
        words: Optional integer array of the shape of `token_ids`, below `length`: the number of
            the word that each token belongs to. Whole words are masked then; only the last one
            chosen in a row may be cut, to keep the number of tokens exact.

    Returns:
        `(masked_ids, positions, target_ids)`: the changed copy of `token_ids`, and two arrays of
        shape `(batch, ceil(rate * length))`, the chosen positions and the tokens that stood
        there. Rows with fewer are filled up with position 0 and id -1.

    Example:

    >>> import numpy as np
    >>> ids = np.array([[2, 7, 8, 9, 3, 0]])
    >>> maskable = np.array([[False, True, True, True, False, False]])
    >>> rng = np.random.default_rng(0)
    >>> _, _, targets = mask_tokens(ids, maskable, 0.3, mask_id=4, random_ids=[7, 8], rng=rng)
    >>> int((targets >= 0).sum())
    1

    Reference:
        - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805), appendix A.1.
        - Whole words: [Cui et al., 2019](https://arxiv.org/abs/1906.08101), section 2.2.
    """
    positions, chosen = _choose(maskable, rate, rng, words)
    rows, columns = np.nonzero(chosen)
    cells = rows, positions[rows, columns]
    originals = token_ids[cells]
    dice = rng.random(len(rows))
    replacements = np.where(dice < 0.8, mask_id, originals)
    replacements = np.where(dice >= 0.9, rng.choice(random_ids, len(rows)), replacements)
    masked_ids = token_ids.copy()
    masked_ids[cells] = replacements
    target_ids = np.full_like(positions, NONE)
    target_ids[chosen] = originals
    return masked_ids, np.where(chosen, positions, 0), target_ids


def next_tokens(token_ids, predictable, rate, rng):
    """Where a causal model predicts a share of the tokens, each from the one before it.

    Args:
        token_ids: Integer array of shape `(batch, length)`.
        predictable: Boolean array of the same shape.
        rate: Float between 0 and 1; as in `mask_tokens`.
        rng: A `numpy.random.Generator`.

    Returns:
        `(positions, target_ids)`, two arrays of shape `(batch, ceil(rate * (length - 1)))`. Rows
        with fewer are filled up with position 0 and id -1.

    Example:

    >>> ids = np.array([[2, 7, 8, 3]])
    >>> positions, targets = next_tokens(ids, ids > 3, 1.0, np.random.default_rng(0))
    >>> sorted(zip(positions[0].tolist(), targets[0].tolist()))
    [(0, -1), (0, 7), (1, 8)]
    """
    positions, chosen = _choose(predictable[:, 1:], rate, rng)
    targets = np.take_along_axis(token_ids, positions + 1, axis=1)
    return np.where(chosen, positions, 0), np.where(chosen, targets, NONE)


def _choose(available, rate, rng, words=None):
    """Chooses a share of the available places of each row: the places, and which are real."""
    batch, length = available.shape
    count = available.sum(axis=1)
    wanted = np.maximum(np.round(rate * count), 1).astype("int32")
    wanted = np.minimum(wanted, count)
    dice = rng.random((batch, length))
    if words is not None:
        dice = np.take_along_axis(dice, words, axis=1)
    order = np.argsort(np.where(available, dice, 2.0), axis=1, kind="stable")
    positions = order[:, : math.ceil(rate * length)].astype("int32")
    return positions, np.arange(positions.shape[1]) < wanted[:, None]
