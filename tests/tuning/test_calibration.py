import numpy as np
import pytest

from keras_ptuning import calibrate


def test_contextual():
    """One text without content: its probabilities divide the others', as in the paper."""
    scores, empty = np.log([[0.3, 0.1, 0.1], [0.02, 0.04, 0.04]]), np.log([[0.5, 0.25, 0.25]])
    expected = np.array([[0.6, 0.2, 0.2], [0.2, 0.4, 0.4]]) / [0.5, 0.25, 0.25]
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(calibrate(scores, empty)), expected, rtol=1e-6)


def test_the_mean_is_of_probabilities_among_the_labels():
    """Not of logarithms, nor of what a text gives to all label words together."""
    reference = np.log([[0.9, 0.1], [0.004, 0.006]])
    expected = np.log([0.5, 0.5]) - np.log([(0.9 + 0.4) / 2, (0.1 + 0.6) / 2])
    found = calibrate(np.log([[0.5, 0.5]]), reference)[0]
    assert found[1] - found[0] == pytest.approx(expected[1] - expected[0])


def test_no_word_is_favoured():
    rng = np.random.default_rng(0)
    scores = rng.normal([5.0, 0.0, -2.0], size=(50, 3))
    assert (scores.argmax(axis=1) == 0).all()
    found = calibrate(scores, scores)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
    assert set(found.argmax(axis=1)) == {0, 1, 2}
    # What a text gives to all label words together makes no difference.
    weight = rng.normal(size=(50, 1))
    np.testing.assert_allclose(calibrate(scores + weight, scores - weight), found)


def test_a_label_that_is_too_unlikely_for_a_number():
    np.testing.assert_allclose(calibrate([[-1.0, -900.0]], [[-1.0, -900.0]]), np.log([[0.5, 0.5]]))


def test_candidates_are_not_calibrated():
    """Where a text has fewer of them than others, a column has no score."""
    with pytest.raises(ValueError, match="which cannot be calibrated"):
        calibrate([[-1.0, -2.0]], [[-1.0, -1e9]])
    with pytest.raises(ValueError, match="which cannot be calibrated"):
        calibrate([[-1.0, -1e9]], [[-1.0, -2.0]])


@pytest.mark.parametrize(
    ("scores", "reference"),
    [
        ([1.0, 2.0], [[1.0, 2.0]]),
        ([[1.0, 2.0]], 3.0),
        ([[1.0, 2.0]], [[1.0, 2.0, 3.0]]),
        ([[1.0, 2.0]], []),
        ([[], []], [[], []]),
    ],
)
def test_bad_shapes(scores, reference):
    with pytest.raises(ValueError, match=r"Expected scores of shape \(n, num_labels\).*Received"):
        calibrate(scores, reference)
