"""The test of two paired shares."""

from __future__ import annotations

from scipy.stats import binomtest


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p of McNemar's exact test: whether both sides are equally likely among the discordant pairs.

    Source: McNemar, Note on the sampling error of the difference between correlated proportions or percentages,
    Psychometrika 12, 1947; exact, by the binomial distribution.

    Example:
        >>> mcnemar(0, 5)
        0.0625
        >>> mcnemar(0, 0)
        1.0
    """
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
