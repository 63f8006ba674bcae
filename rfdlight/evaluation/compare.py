"""Paired comparison of evaluations on their common images."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import overload

from rfdlight.core.statistics import PairedCounts, count_pairs, holm
from rfdlight.errors import UserError
from rfdlight.records.runs import Run
from rfdlight.reporting.grid import standing


@dataclass(frozen=True, kw_only=True)
class Comparison(PairedCounts):
    """Robust accuracy of two runs on their common images.

    `first` and `second` are the labels of the runs, both are compared at `queries` billed queries, and `p_holm` is the
    p value with Holm's adjustment over all comparisons of the call.
    """

    first: str
    second: str
    queries: int
    p_holm: float = math.nan

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

    Of more than two runs all pairs are compared, as a list, and `p_holm` is adjusted for their number.

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
    robust = (standing([run], common, queries) for run in (first, second))
    return Comparison(first=first.label, second=second.label, queries=queries, **count_pairs(*robust))
