"""Confidence intervals of shares and of means."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import norm, ttest_1samp

Z = float(norm.ppf(0.975))
"""Half the width of an interval of 95 %, in standard errors."""


def wilson(successes: float, total: int) -> tuple[float, float]:
    """Return Wilson's score interval of 95 % of a share.

    `successes` need not be whole: for the mean of values in [0, 1] the variance is at most that of
    a share with the same mean, so the interval is then a conservative one.

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, Journal
    of the American Statistical Association 22, 1927. scipy's `binomtest` gives the same for whole
    counts and takes no others.

    Args:
        successes: Between 0 and `total`.
        total: At least 0; with 0 nothing is known.

    Example:
        >>> low, high = wilson(9125, 10000)
        >>> print(f"{low:.4f} {high:.4f}")
        0.9068 0.9179
    """
    if total == 0:
        return 0.0, 1.0
    share = successes / total
    centre = (share + Z * Z / (2 * total)) / (1 + Z * Z / total)
    half = Z / (1 + Z * Z / total) * math.sqrt(share * (1 - share) / total + Z * Z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def wald(total: float, squares: float, count: int) -> tuple[float, float]:
    """Return Wald's interval of 95 % of a mean of values in [-1, 1], inside that range.

    Args:
        total: The sum of the values, with what an adjustment adds to them.
        squares: The sum of their squares.
        count: How many they are, at least 1.

    Example:
        >>> wald(0.0, 2.0, 2)[1] == 1.0, round(wald(0.0, 4.0, 100)[1], 4)
        (True, 0.0392)
    """
    centre = total / count
    half = Z * math.sqrt(squares - count * centre**2) / count
    return max(-1.0, centre - half), min(1.0, centre + half)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Return Student's interval of 95 % of a mean; of equal values it has no width.

    Args:
        values: At least 2.

    Example:
        >>> mean_interval(np.array([1.0, 1.0]))
        (1.0, 1.0)
    """
    if np.ptp(values) <= 1e-12 * np.abs(values).max():  # scipy warns of equal values
        return float(values[0]), float(values[0])
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    return float(low), float(high)
