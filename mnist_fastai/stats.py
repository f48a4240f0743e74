"""Intervals and tests of means. Arrays in, numbers out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm
from scipy.stats import t as student

ALPHA = 0.05  # significance level of `verdict`


@dataclass(frozen=True)
class Welch:
    """Welch's test of two means. All but `difference` are NaN with fewer than two values on a side."""

    difference: float  # mean of b - mean of a
    low: float  # interval of the difference
    high: float
    p: float  # two-sided


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean of `values`, float [n]; NaN for fewer than two values."""
    mean, variance = _moments(values)
    half = student.ppf((1 + level) / 2, len(values) - 1) * variance**0.5 if len(values) > 1 else np.nan
    return float(mean - half), float(mean + half)


def welch(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Welch:
    """Compare the means of two independent samples, float [n] and float [m], of unequal variances.

    Without any variance p is 1 for equal means and 0 for others, and the interval is the difference.
    Source: Welch, The generalization of "Student's" problem when several different population variances are
    involved, Biometrika 34, 1947.
    """
    (mean_a, var_a), (mean_b, var_b) = _moments(a), _moments(b)
    difference, variance = mean_b - mean_a, var_a + var_b
    if np.isnan(variance):
        return Welch(difference, np.nan, np.nan, np.nan)
    if variance == 0:
        return Welch(difference, difference, difference, float(difference == 0))
    share = var_a / variance
    freedom = 1 / (share**2 / (len(a) - 1) + (1 - share) ** 2 / (len(b) - 1))
    half = student.ppf((1 + level) / 2, freedom) * variance**0.5
    p = 2 * student.sf(abs(difference) / variance**0.5, freedom)
    return Welch(difference, float(difference - half), float(difference + half), float(p))


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a proportion, `successes` of `n`; NaN for n = 0.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, Journal of the American
    Statistical Association 22, 1927.
    """
    if not n:
        return np.nan, np.nan
    interval = binomtest(successes, n).proportion_ci(level, "wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two classifiers on the same images."""

    difference: float  # accuracy of b - accuracy of a
    low: float  # interval of the difference
    high: float
    p: float  # two-sided, exact
    only_a: int  # images that only a has right
    only_b: int


def mcnemar(a: np.ndarray, b: np.ndarray, level: float = 0.95) -> McNemar:
    """Compare which images two classifiers have right, bool [n] each, n at least 1.

    Sources: McNemar, Note on the sampling error of the difference between correlated proportions or percentages,
    Psychometrika 12, 1947. The interval is the adjusted Wald one of Bonett & Price, Adjusted Wald confidence interval
    for a difference of binomial proportions based on paired data, Journal of Educational and Behavioral Statistics 37,
    2012.
    """
    n, only_a, only_b = len(a), int((a & ~b).sum()), int((b & ~a).sum())
    p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    share_a, share_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    center = share_b - share_a
    half = norm.ppf((1 + level) / 2) * ((share_a + share_b - center**2) / (n + 2)) ** 0.5
    return McNemar(
        (only_b - only_a) / n, max(-1.0, float(center - half)), min(1.0, float(center + half)), float(p), only_a, only_b
    )


def holm(ps: Sequence[float]) -> np.ndarray:
    """The p values of one family, float [n], adjusted for multiple tests. NaNs stay NaN and do not count.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
    """
    ps = np.asarray(ps, float)
    n = np.count_nonzero(~np.isnan(ps))
    order = np.argsort(ps)[:n]  # NaNs come last
    adjusted = np.full_like(ps, np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate((n - np.arange(n)) * ps[order]))
    return adjusted


def verdict(difference: float, p: float) -> str:
    """ "better" or "worse" where p is below ALPHA, else "not resolved"; "untested" where p is NaN."""
    if np.isnan(p):
        return "untested"
    return "not resolved" if p >= ALPHA else "better" if difference > 0 else "worse"


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its variance, NaN with too few values; the variance of equal values is exactly 0."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return (float(values[0]) if len(values) else np.nan), np.nan
    shifted = values - values[0]
    return float(values[0] + shifted.mean()), float(shifted.var(ddof=1) / len(values))
