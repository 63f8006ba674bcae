"""The caveats of a report: facts that limit how its numbers may be read or compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rfdlight.records.records import interim_queries
from rfdlight.records.runs import Run
from rfdlight.records.standard import CombinedRun
from rfdlight.reporting.grid import Grid
from rfdlight.reporting.tables import COMPARE_ONE_KIND, run_warnings

_COMPARED = ("norm", "eps", "targeted", "criterion", "query_counting", "eot", "precision")
"""The facts that two numbers should share to be comparable."""


def warnings_of(runs: Sequence[Run]) -> list[str]:
    """Return the gravest caveats: wrong numbers, different images, missing images."""
    warnings = [
        f"{run.label}: WRONG: the consistency check {finding.check} fails: {finding.found}."
        for run in runs
        for finding in run.diagnostics
        if finding.state == "fail"
    ]
    first = runs[0]
    for run in runs[1:]:
        common = len(run.by_id.keys() & first.by_id.keys())
        if run.facts.data != first.facts.data:
            warnings.append(f"NOT COMPARABLE: the data of {run.label} and {first.label} differ.")
        elif not common == len(run.by_id) == len(first.by_id):
            warnings.append(f"NOT COMPARABLE: {run.label} and {first.label} have only {common:,} images in common.")
    return warnings + [f"{run.label}: {warning}." for run in runs for warning in run_warnings(run.summary)]


def caveats_of(runs: Sequence[Run], grid: Grid) -> list[str]:
    """Return all caveats of a report, the gravest first."""
    caveats = [*warnings_of(runs), *_settings(runs)]
    caveats += [
        f"{run.label}: the consistency check {finding.check} warns: {finding.found}."
        for run in runs
        for finding in run.diagnostics
        if finding.state == "warn"
    ]
    caveats += [*_budgets(grid), *dict.fromkeys(_worst_cases(grid)), f"Brackets hold 95% intervals. {COMPARE_ONE_KIND}"]
    if not all(run.facts.deterministic for run in runs):
        caveats.append("A run against a random victim is reproducible in distribution only.")
    return caveats


def _settings(runs: Sequence[Run]) -> Iterator[str]:
    differing = [name.replace("_", " ") for name in _COMPARED if len({getattr(run.facts, name) for run in runs}) > 1]
    if differing:
        yield f"The runs differ in {', '.join(differing)}."
    rounded = [run.label for run in runs if run.facts.precision == "bfloat16"]
    if rounded:
        yield f"Attacked in bfloat16, which weakens score-based attacks: {', '.join(rounded)}."


def _budgets(grid: Grid) -> Iterator[str]:
    below = [(run, cell.budget) for _, _, cell in grid.filled for run in cell.below_own]
    if below:
        yield (
            "Numbers below a run's own budget are computed from its records; an attack that plans with its budget may "
            "be stronger when run with the smaller budget."
        )
    if any(isinstance(run, CombinedRun) for run, _ in below):
        yield (
            "Below its own budget the number of a standard evaluation is an upper bound of that of stages with so many "
            "queries each: later stages did not attack an image that an earlier one found adversarial after more."
        )
    late = {run.label: run.summary.counts["late"] for run, budget in below if not _has_interim(run, budget)}
    named = ", ".join(f"{label} ({count:,})" for label, count in late.items() if count)
    if named:
        yield (
            "Robust accuracy below a run's own budget is too high without interim evaluations at these queries: images "
            f"found adversarial by the final evaluation only count as robust there: {named}. Run smaller budgets "
            "separately."
        )


def _has_interim(run: Run, queries: int | None) -> bool:
    """Return whether the points that the attack would submit after a number of queries were evaluated."""
    return queries in interim_queries(run.facts.budget) and any(record.interim for record in run.records)


def _worst_cases(grid: Grid) -> Iterator[str]:
    if any(column.worst and len({frozenset(runs) for runs in column.runs.values()}) > 1 for column in grid.columns):
        yield "The worst cases cover different attacks: compare only worst cases of the same attacks."
    for row, _, cell in grid.filled:
        every = set[str]().union(*(run.by_id for run in cell.runs.values()))
        if cell.robust.total < len(every):
            yield (
                f"The worst case of {row.defense} is over the images that all its runs have: {cell.robust.total:,} of "
                f"{len(every):,}."
            )
