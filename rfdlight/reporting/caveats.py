"""The caveats of a report: facts that limit how its numbers may be read or compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rfdlight.records.runs import Run
from rfdlight.reporting.details import common_budget
from rfdlight.reporting.grid import Grid
from rfdlight.reporting.settings import is_white_box
from rfdlight.reporting.tables import COMPARE_ONE_KIND, FACT_NAMES, incomplete, run_warnings

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
    caveats = [*warnings_of(runs), *_settings(runs), *_doubtful(runs), *grid.caveats]
    caveats += [*_budgets(runs, grid), *dict.fromkeys(_worst_cases(grid))]
    if all(run.facts.attack != "random_noise" for run in runs):
        caveats.append("No random_noise run is included; it would show how many images random points make adversarial.")
    caveats.append(f"Brackets hold 95% intervals. {COMPARE_ONE_KIND}")
    if not all(run.facts.deterministic for run in runs):
        caveats.append("A run against a random victim is reproducible in distribution only.")
    return caveats


def _settings(runs: Sequence[Run]) -> Iterator[str]:
    differing = [
        FACT_NAMES.get(name, name) for name in _COMPARED if len({getattr(run.facts, name) for run in runs}) > 1
    ]
    if differing:
        yield f"The runs differ in {', '.join(differing)}."
    rounded = [run.label for run in runs if run.facts.precision == "bfloat16"]
    if rounded:
        yield (
            f"Attacked in bfloat16: {', '.join(rounded)}. Rounding hides small changes of the scores, so score-based "
            "attacks are weaker than in float32."
        )


def _doubtful(runs: Sequence[Run]) -> Iterator[str]:
    """Yield one caveat per consistency check that warns: the finding of one run, and the names of the other runs."""
    doubted: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        explained = run.facts.failed or incomplete(run.summary)
        for finding in run.diagnostics:
            if finding.state == "warn" and not (finding.check == "images" and explained):
                doubted.setdefault(finding.check, []).append((run.label, finding.found))
    for check, [(label, found), *others] in doubted.items():
        also = f" The same check warns for {', '.join(other for other, _ in others)}." if others else ""
        yield f"{label}: the consistency check {check} warns: {found}.{also}"


def _budgets(runs: Sequence[Run], grid: Grid) -> Iterator[str]:
    below = {run.label: run for _, _, cell in grid.filled for run in cell.below_own}
    planned = "an attack that plans with its budget may be stronger when run with the smaller budget."
    if len({run.facts.budget for run in runs}) > 1:
        yield f"Budgets differ: compare at {common_budget(runs):,} queries; {planned}"
    elif below:
        yield f"Numbers below a run's own budget are computed from its records; {planned}"
    late = {label: run.summary.counts["late"] for label, run in below.items()}
    named = ", ".join(f"{label} ({count:,})" for label, count in late.items() if count)
    if named:
        yield (
            "Robust accuracy below a run's own budget is too high: images found adversarial by the final evaluation "
            f"only count as robust there: {named}. Run smaller budgets separately."
        )


def _worst_cases(grid: Grid) -> Iterator[str]:
    columns = [column for column in grid.columns if column.worst]
    for column in columns:
        cells = [(row, cell) for row, of, cell in grid.filled if of is column]
        if len({frozenset(cell.runs) for _, cell in cells}) > 1:
            yield "The worst cases cover different attacks: compare only worst cases of the same attacks."
        for row, cell in cells:
            every, common = set[str]().union(*(run.by_id for run in cell.runs.values())), cell.robust.total
            if common < len(every):
                yield (
                    f"The worst case of {row.defense} is over the images that all its runs have: "
                    f"{common:,} of {len(every):,}."
                )
    runs = (run for _, _, cell in grid.filled for run in cell.runs.values())
    white_box = dict.fromkeys(run.facts.attack for run in runs if is_white_box(run))
    if white_box and columns:
        yield f"Excluded from the worst case, as white-box attacks: {', '.join(white_box)}."
