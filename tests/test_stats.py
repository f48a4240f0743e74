"""Intervals and tests against SciPy, and against numbers worked out by hand."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from mnist_fastai.stats import holm, mcnemar, mean_interval, verdict, welch, wilson

A, B = [0.9796, 0.9782, 0.9774, 0.9777, 0.9785], [0.9804, 0.9811, 0.9807]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_interval_of_a_mean_is_students(level):
    wanted = stats.t.interval(level, len(A) - 1, loc=np.mean(A), scale=stats.sem(A))
    assert mean_interval(A, level) == pytest.approx(wanted)
    assert mean_interval([1, 3])[1] == pytest.approx(2 + 12.7062)  # t of one degree of freedom, standard error 1


@pytest.mark.parametrize(("a", "b"), [(A, B), (B, A), (A, [x + 1e-5 for x in A]), (A, [0.98] * 3), ([0, 1], [0, 5, 9])])
def test_welch_equals_scipys(a, b):
    with warnings.catch_warnings(action="ignore"):  # of SciPy, where one side has no variance
        wanted = stats.ttest_ind(b, a, equal_var=False)
    interval = wanted.confidence_interval(0.95)
    test = welch(a, b)
    assert test.p == pytest.approx(wanted.pvalue, rel=1e-9)
    assert (test.low, test.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert test.difference == pytest.approx(np.mean(b) - np.mean(a))


def test_welch_by_hand():
    # means 2 and 5, variances of the means 1/3 and 4/3: t = 3 / sqrt(5/3), degrees of freedom 25/9 / (1/18 + 16/18)
    test = welch([1, 2, 3], [3, 5, 7])
    assert test.p == pytest.approx(2 * stats.t.sf(3 / (5 / 3) ** 0.5, 50 / 17))
    assert (test.low + test.high) / 2 == pytest.approx(3)


@pytest.mark.parametrize("n", [2, 3, 5, 7])
def test_without_variance_equal_means_have_p_1_and_others_0(n):
    same, other = welch([0.1] * n, [0.1] * 4), welch([0.1] * n, [0.3] * 4)  # a sum of 0.1s is not a multiple of it
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert other.low == other.difference == other.high == pytest.approx(0.2)
    assert other.p == 0
    assert mean_interval([0.1] * n) == (0.1, 0.1)


@pytest.mark.parametrize(("a", "b"), [([], A), (A, []), ([0.9], A), (A, [0.9]), ([], [])])
def test_fewer_than_two_values_are_untested(a, b):
    test = welch(a, b)
    assert np.isnan([test.low, test.high, test.p]).all()
    assert np.isnan(test.difference) == (not a or not b)
    assert verdict(test.difference, test.p) == "untested"
    assert np.isnan(mean_interval([0.9])).all()
    assert np.isnan(mean_interval([])).all()


def test_holm_by_hand():
    # 0.01 × 4, 0.02 × 3, 0.03 × 2, and 0.2
    assert holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert holm([0.04, 0.03]) == pytest.approx([0.06, 0.06])  # never below one that is smaller
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert len(holm([])) == 0


def test_holm_does_not_count_what_was_not_tested():
    nan = float("nan")
    assert holm([nan, 0.02, nan, 0.01]) == pytest.approx([nan, 0.02, nan, 0.02], nan_ok=True)


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(0)
    for ps in rng.beta(0.3, 2, (50, 6)):
        order, rejected = np.argsort(ps), np.zeros(6, bool)
        for i, j in enumerate(order):  # as in the paper: stop at the first that is not below alpha / (n - i)
            if ps[j] >= 0.05 / (6 - i):
                break
            rejected[j] = True
        assert ((holm(ps) < 0.05) == rejected).all()


@pytest.mark.parametrize(
    ("difference", "p", "word"),
    [(0.01, 0.049, "better"), (-0.01, 0.049, "worse"), (0.01, 0.05, "not resolved"), (-0.01, 1, "not resolved")],
)
def test_verdicts(difference, p, word):
    assert verdict(difference, p) == word


def test_wilson_is_the_published_interval():
    # Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17, 1998, table I
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert np.isnan(wilson(0, 0)).all()


def test_mcnemar_is_the_exact_binomial_test_of_what_only_one_has_right():
    a, b = np.ones(100, bool), np.ones(100, bool)
    a[:10] = False
    b[8:12] = False
    test = mcnemar(a, b)
    assert (test.only_a, test.only_b) == (2, 8)
    assert test.p == pytest.approx(2 * sum(math.comb(10, k) for k in range(3)) / 2**10)
    assert test.difference == pytest.approx(0.06)
    assert test.low < 0.06 < test.high
    assert mcnemar(a, a).p == 1
    other = mcnemar(b, a)
    assert (other.low, other.high) == pytest.approx((-test.high, -test.low))


def test_the_interval_of_a_paired_difference_has_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        kind = rng.choice(4, size=300, p=[0.85, 0.06, 0.03, 0.06])
        test = mcnemar((kind == 0) | (kind == 1), (kind == 0) | (kind == 2))
        hits += test.low <= -0.03 <= test.high
    assert 0.92 <= hits / 500 <= 0.98
