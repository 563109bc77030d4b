"""Calibration of a cloze, which favours some label words whatever the text says."""

import numpy as np
from numpy.typing import ArrayLike

from keras_ptuning.checks import check_finite
from keras_ptuning.tuning.own_tokens import NEVER


def calibrate(scores: ArrayLike, reference: ArrayLike) -> np.ndarray:
    """Corrects the scores of a cloze, which favours some label words whatever the text says.

    The log-probability of each label, among the labels, is reduced by the logarithm of its mean
    probability over reference texts. Two kinds of reference texts are usual:

    - texts without content, `["", "[MASK]", "N/A"]`: contextual calibration;
    - unlabelled texts of the task, or the texts to predict themselves: prior correction. It
      assumes that the labels are about equally frequent.

    Args:
        scores: Array of shape `(n, num_labels)`, as `ClozeModel.predict` returns it for a template
            with labels. Candidates that each text has for itself cannot be calibrated.
        reference: Array of shape `(m, num_labels)`, the same for the reference texts.

    Returns:
        An array of shape `(n, num_labels)`, log-probabilities among the labels.

    Raises:
        ValueError: if the shapes do not fit, there are no reference texts, or a number is not
            finite; or if some texts have fewer candidates than others.

    Example:

    >>> import numpy as np
    >>> # The first word is always the likelier one, but less so for the second text:
    >>> scores = np.log([[0.08, 0.02], [0.06, 0.04]])
    >>> calibrate(scores, scores).argmax(axis=1).tolist()
    [0, 1]

    ```python
    scores = model.predict(template.dataset(texts))
    contextual = calibrate(scores, model.predict(template.dataset(["", "[MASK]", "N/A"])))
    prior = calibrate(scores, model.predict(template.dataset(unlabeled_texts)))
    ```

    Reference:
        - Contextual: [Zhao et al., 2021](https://arxiv.org/abs/2102.09690), section 5.
        - Prior: [Hu et al., 2021](https://arxiv.org/abs/2108.02035), section 3.3.
    """
    scores, reference = np.asarray(scores), np.asarray(reference)
    fits = scores.ndim == reference.ndim == 2 and scores.shape[1] == reference.shape[1]
    if not fits or not reference.size:
        raise ValueError(
            "Expected scores of shape (n, num_labels) and (m, num_labels), with at least one label "
            f"and m at least 1. Received: shapes {scores.shape} and {reference.shape}."
        )
    arrays = [("`scores`", scores), ("`reference`", reference)]
    check_finite(arrays, "The model that predicted them is damaged.")
    scores, reference = scores.astype("float64"), reference.astype("float64")
    if min(scores.min(initial=0), reference.min()) <= NEVER:
        raise ValueError(
            "Some texts have fewer candidates than others. Each text has candidates of its own, "
            "which cannot be calibrated: use the scores of a template with labels."
        )
    # In logarithms: a label may be too unlikely for a number.
    log_prior = np.logaddexp.reduce(_log_softmax(reference), axis=0) - np.log(len(reference))
    return _log_softmax(_log_softmax(scores) - log_prior)


def _log_softmax(scores):
    scores = np.asarray(scores, "float64")
    scores = scores - scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
