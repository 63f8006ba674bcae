"""Confidence intervals and tests for proportions, means and paired proportions. All intervals are 95 %."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # which imports scipy.stats where it is used first: that takes a second
from scipy.special import ndtri

Z = float(ndtri(0.975))
"""Half the width of a 95 % interval, in standard errors."""


def wilson(successes: float, total: int) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion; that of no observation is (0, 1).

    `successes` may be fractional, unlike in scipy: the variance of values in [0, 1] is at most that of a proportion
    with the same mean, so the interval of their mean is conservative.

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, Journal of the American
    Statistical Association 22, 1927.
    """
    if total == 0:
        return 0.0, 1.0
    share = successes / total
    centre = (share + Z * Z / (2 * total)) / (1 + Z * Z / total)
    half = Z / (1 + Z * Z / total) * math.sqrt(share * (1 - share) / total + Z * Z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def wald(total: float, squares: float, count: int) -> tuple[float, float]:
    """Return Wald's interval of the mean of `count` values in [-1, 1] from their sum and sum of squares, clipped."""
    centre = total / count
    half = Z * math.sqrt(squares - count * centre**2) / count
    return max(-1.0, centre - half), min(1.0, centre + half)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Return Student's interval of the mean of at least 2 values; its width is 0 if all values are equal."""
    if np.ptp(values) <= 1e-12 * np.abs(values).max():  # scipy warns of equal values
        return float(values[0]), float(values[0])
    low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return float(low), float(high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p value of McNemar's exact test, from the discordant pairs with a success of one side.

    Source: McNemar, Note on the sampling error of the difference between correlated proportions or percentages,
    Psychometrika 12, 1947; exact, by the binomial distribution.
    """
    discordant = only_first + only_second
    return float(scipy.stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0


def paired_interval(only_first: int, only_second: int, pairs: int) -> tuple[float, float]:
    """Return the interval of Agresti and Min for a difference of paired proportions, second minus first.

    It is Wald's interval after half an observation is added to each of the four cells of the table.

    Source: Agresti and Min, Simple improved confidence intervals for comparing matched proportions, Statistics in
    Medicine 24, 2005.
    """
    return wald(only_second - only_first, only_first + only_second + 1, pairs + 2)


def holm(ps: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values, which control the family-wise error rate.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
    """
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True, kw_only=True)
class PairedCounts:
    """Numbers of images with a success of both sides, of one or of neither, and the tests of their difference."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def images(self) -> int:
        """Number of images."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Share of the second side less that of the first, in [-1, 1]."""
        return (self.only_second - self.only_first) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference, of Agresti and Min."""
        return paired_interval(self.only_first, self.only_second, self.images)

    @property
    def p(self) -> float:
        """Two-sided p value of McNemar's exact test."""
        return mcnemar(self.only_first, self.only_second)


def count_pairs(first: Iterable[bool], second: Iterable[bool]) -> dict[str, int]:
    """Return the fields of `PairedCounts` for the successes of two sides, in one order of the images."""
    counts = Counter(zip(first, second, strict=True))
    names = {"both": (True, True), "only_first": (True, False), "only_second": (False, True), "neither": (False, False)}
    return {name: counts[pair] for name, pair in names.items()}
