"""Paired comparison of evaluations on their common images."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import overload

from rfdlight.core.statistics import holm, mcnemar, paired_interval
from rfdlight.errors import UserError
from rfdlight.evaluation.run import Run
from rfdlight.records.summary import is_robust_at


@dataclass(frozen=True)
class Comparison:
    """Robust accuracy of two runs on their common images.

    Attributes:
        first: Label of the first run.
        second: Label of the second run.
        queries: Billed queries at which both are compared.
        both: Images robust in both runs.
        only_first: Images robust in the first run alone.
        only_second: Images robust in the second run alone.
        neither: Images robust in no run.
        p_holm: p value with Holm's adjustment over all comparisons of the call.
    """

    first: str
    second: str
    queries: int
    both: int
    only_first: int
    only_second: int
    neither: int
    p_holm: float = math.nan

    @property
    def images(self) -> int:
        """Number of common images."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Robust accuracy of the second run less that of the first, in [-1, 1]."""
        return (self.only_second - self.only_first) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference (Agresti and Min, 2005)."""
        return paired_interval(self.only_first, self.only_second, self.images)

    @property
    def p(self) -> float:
        """Two-sided p value of McNemar's exact test."""
        return mcnemar(self.only_first, self.only_second)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.second} - {self.first}: {100 * self.difference:+.1f} points of robust accuracy (95 % interval "
            f"{100 * low:+.1f} to {100 * high:+.1f}) on {self.images} images at {self.queries} queries, "
            f"p = {self.p:.3g}, Holm p = {self.p_holm:.3g}"
        )


@overload
def compare(first: Run, second: Run, /) -> Comparison: ...
@overload
def compare(first: Run, second: Run, third: Run, /, *more: Run) -> list[Comparison]: ...


def compare(first: Run, second: Run, /, *more: Run) -> Comparison | list[Comparison]:
    """Compare runs pairwise on their common images, at the smaller budget of each pair.

    Args:
        first: A run.
        second: Another run on the same images.
        *more: Further runs; then all pairs are compared, and `p_holm` is adjusted for their number.

    Returns:
        The comparison of two runs, or the list of those of all pairs.

    Raises:
        UserError: If two runs have no common image.
    """
    pairs = [_compared(one, other) for one, other in itertools.combinations((first, second, *more), 2)]
    adjusted = holm([pair.p for pair in pairs])
    pairs = [replace(pair, p_holm=p) for pair, p in zip(pairs, adjusted, strict=True)]
    return pairs if more else pairs[0]


def _compared(first: Run, second: Run) -> Comparison:
    queries = min(first.facts.budget, second.facts.budget)
    common = [name for name in first.by_id if name in second.by_id]
    if not common:
        raise UserError(f"runs: expected common images, got none in {first.label} and {second.label}")
    counts = dict.fromkeys(itertools.product((True, False), repeat=2), 0)
    for name in common:
        counts[is_robust_at(first.by_id[name], queries), is_robust_at(second.by_id[name], queries)] += 1
    return Comparison(
        first.label, second.label, queries, counts[True, True], counts[True, False], counts[False, True],
        counts[False, False],
    )  # fmt: skip
