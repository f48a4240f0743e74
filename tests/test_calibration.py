"""Calibration against scikit-learn and against data whose errors are known."""

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import log_loss

from mnist_fastai.calibration import HIGHEST, LOWEST, calibration, coverage, cross_fit, fit_temperature


@pytest.fixture(scope="module")
def sure():
    """Logits of 20,000 images that are three times as large as the probabilities that drew the labels have them."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 10)) * 2
    labels = np.array([rng.choice(10, p=p) for p in np.exp(log_softmax(logits, axis=1))])
    return 3 * logits, labels


def test_the_temperature_is_the_factor_by_which_logits_are_too_large(sure):
    assert fit_temperature(*sure) == pytest.approx(3, rel=0.02)
    after, temperatures = cross_fit(*sure)
    assert temperatures == pytest.approx([3, 3], rel=0.03)
    assert temperatures[0] != temperatures[1]  # of other images
    before, after = calibration(log_softmax(sure[0], axis=1), sure[1]), calibration(after, sure[1])
    assert before["ece"] > 0.2
    assert after["ece"] < 0.015
    assert after["nll"] < before["nll"]
    assert after["brier"] < before["brier"]


def test_no_image_has_a_part_in_its_own_temperature(sure):
    logits, labels = sure[0][:200], sure[1][:200]
    other = labels.copy()
    other[::2] = (other[::2] + 1) % 10
    before, after = cross_fit(logits, labels)[0], cross_fit(logits, other)[0]
    np.testing.assert_array_equal(before[::2], after[::2])
    assert not np.allclose(before[1::2], after[1::2])


def test_the_scores_are_scikit_learns(sure):
    logs, labels = log_softmax(sure[0], axis=1)[:500], sure[1][:500]
    scores = calibration(logs, labels)
    assert scores["nll"] == pytest.approx(log_loss(labels, np.exp(logs), labels=range(10)))
    assert scores["brier"] == pytest.approx(np.mean(((np.exp(logs) - np.eye(10)[labels]) ** 2).sum(1)))


def test_the_calibration_error_is_the_mean_gap_by_hand():
    p = np.array([[0.95, 0.05], [0.94, 0.06], [0.6, 0.4], [0.5, 0.5]])
    scores = calibration(np.log(p), np.array([0, 1, 0, 1]))
    # bins of 1/15: 0.95 and 0.94 share the last one, 0.6 is in the ninth with its upper limit, 0.5 in the eighth
    assert scores["ece"] == pytest.approx((2 * (0.945 - 0.5) + (1 - 0.6) + 0.5) / 4)
    assert [(i, b["images"]) for i, b in enumerate(scores["bins"]) if b["images"]] == [(7, 1), (8, 1), (14, 2)]
    assert scores["bins"][0]["accuracy"] is None


def test_coverage_is_the_accuracy_of_the_most_confident():
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
    points = coverage(p, np.array([0, 1, 1, 0]))
    assert [(c["coverage"], c["threshold"], c["accuracy"]) for c in points] == [
        (0.25, 0.9, 1), (0.5, 0.8, 1), (0.75, 0.7, pytest.approx(2 / 3)), (1, 0.6, 0.75),
    ]  # fmt: skip


def test_one_image_and_images_that_are_all_right_have_scores_as_well():
    logits = np.array([[5.0, 0.0]])
    after, temperatures = cross_fit(logits, np.array([0]))
    assert temperatures[0] == 1
    assert np.isfinite(after).all()
    assert LOWEST * 0.99 < fit_temperature(np.repeat(logits, 9, 0), np.zeros(9, int)) < HIGHEST
    assert coverage(np.exp(after), np.array([0]))[-1]["coverage"] == 1
