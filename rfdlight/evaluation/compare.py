"""Paired comparison of evaluations on their common images."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import overload

from rfdlight.core.statistics import PairedCounts, count_pairs, holm
from rfdlight.errors import expect
from rfdlight.evaluation.interface import LOGGER
from rfdlight.records.runs import Run
from rfdlight.reporting.grid import standing
from rfdlight.reporting.paired import ONE_THREAT


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
    """Compare runs of two defenses, attacks or victims pairwise, on their common images.

    Of more than two runs all pairs are compared, as a list, and `p_holm` is adjusted for their number.

    Runs with different budgets are compared at the smaller one, by what the records say of the larger run after so many
    queries. A warning on the logger `rfdlight` says so: an attack that plans with its budget may be stronger when run
    with the smaller one.

    Raises:
        UserError: If two runs have no common image, other data or labels, or other values of norm, eps, targeted,
            criterion or query counting.
    """
    pairs = [_compared(one, other) for one, other in itertools.combinations((first, second, *more), 2)]
    adjusted = holm([pair.p for pair in pairs])
    pairs = [replace(pair, p_holm=p) for pair, p in zip(pairs, adjusted, strict=True)]
    return pairs if more else pairs[0]


def _compared(first: Run, second: Run) -> Comparison:
    common = _comparable_images(first, second)
    queries = min(first.facts.budget, second.facts.budget)
    for run in (first, second):
        if run.facts.budget > queries:
            LOGGER.warning(
                f"{run.label} has a budget of {run.facts.budget:,} queries and is compared at {queries:,}: an attack "
                "that plans with its budget may be stronger when run with the smaller one"
            )
    robust = (standing([run], common, queries) for run in (first, second))
    return Comparison(first=first.label, second=second.label, queries=queries, **count_pairs(*robust))


def _comparable_images(first: Run, second: Run) -> list[str]:
    """Return the ids of the common images; raise a UserError if robust accuracies of the runs are not comparable."""
    between = f"in {first.label} and {second.label}"
    for name in ("data", *ONE_THREAT):
        one, other = getattr(first.facts, name), getattr(second.facts, name)
        hint = "compare defenses, attacks or victims at the same setting"
        expect(one == other, "runs", f"the same {name.replace('_', ' ')}", f"{one} and {other} {between}", hint)
    common = [name for name in first.by_id if name in second.by_id]
    expect(bool(common), "runs", "common images", f"none {between}")
    other_labels = sum(first.by_id[name].label != second.by_id[name].label for name in common)
    expect(not other_labels, "runs", "the same images", f"other labels of {other_labels:,} image ids {between}")
    return common
