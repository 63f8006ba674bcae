"""What a reader must know before believing a report."""

from __future__ import annotations

from rfdlight.records.runs import Run
from rfdlight.reporting.grid import Grid
from rfdlight.reporting.settings import is_white_box
from rfdlight.reporting.side_by_side import common_budget
from rfdlight.reporting.tables import incomplete, percent

COMPARED = ("norm", "eps", "targeted", "criterion", "query_counting", "eot", "precision")
"""The facts whose difference makes two numbers answers to different questions."""


def warnings_of(runs: list[Run]) -> list[str]:
    """Return those notes that say that numbers are wrong, of other images, or not of all of them."""
    return [*_wrong(runs), *_images(runs), *_stopped(runs), *_failed(runs)]


def notes_of(runs: list[Run], grid: Grid) -> list[str]:
    """Return the notes, the gravest first."""
    notes = [*warnings_of(runs), *_biased(runs), *_rules(runs), *_rounding(runs), *_smaller(runs), *_doubtful(runs)]
    notes += [*grid.notes, *_budgets(runs, grid), *_late(grid), *_worst_cases(grid)]
    if all(run.facts.attack != "random_noise" for run in runs):
        notes.append("No run of random_noise is among these: it says what a ball of this size breaks by itself.")
    notes.append("Brackets hold 95% intervals. Take gaps within one pair only: mean logits or single answers.")
    if not all(run.facts.deterministic for run in runs):
        notes.append("A run against a random victim can be repeated in distribution only.")
    return notes


def _images(runs: list[Run]) -> list[str]:
    notes = []
    first = runs[0]
    for run in runs[1:]:
        if run.facts.data != first.facts.data:
            notes.append(f"NOT COMPARABLE: the data of {run.label} and {first.label} differ.")
        elif run.by_id.keys() != first.by_id.keys():
            common = len(run.by_id.keys() & first.by_id.keys())
            notes.append(f"NOT COMPARABLE: {run.label} and {first.label} have only {common:,} images in common.")
    return notes


def _wrong(runs: list[Run]) -> list[str]:
    return [
        f"WRONG: {run.label} contradicts itself, in its {finding.check}: {finding.found}."
        for run in runs
        for finding in run.diagnostics
        if finding.state == "fail"
    ]


def _doubtful(runs: list[Run]) -> list[str]:
    """Name the runs whose audit warns, with what each warning found; of many runs, what the first one found."""
    doubted: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        for finding in run.diagnostics:
            if finding.state == "warn" and not (finding.check == "images" and _says_what_it_lacks(run)):
                doubted.setdefault(finding.check, []).append((run.label, finding.found))
    notes = []
    for check, found in doubted.items():
        (label, text), *others = found
        also = f" The same check warns of {', '.join(other for other, _ in others)}." if others else ""
        notes.append(f"The audit warns of {label}, {check}: {text}.{also}")
    return notes


def _says_what_it_lacks(run: Run) -> bool:
    """Return whether the missing images of a run have a note of their own."""
    return bool(run.facts.failed or incomplete(run.summary))


def _stopped(runs: list[Run]) -> list[str]:
    return [f"{lack} of {run.label}." for run in runs if (lack := incomplete(run.summary))]


def _biased(runs: list[Run]) -> list[str]:
    """Name the stopped runs, with their robust accuracy over all images begun."""
    stopped = [f"{run.label} {percent(so_far)}" for run in runs if (so_far := run.summary.so_far) is not None]
    if not stopped:
        return []
    return [
        "Too low where a run was stopped, since images that break finish first. Robust so far over all images begun: "
        f"{', '.join(stopped)}."
    ]


def _failed(runs: list[Run]) -> list[str]:
    return [
        f"FAILED: {len(run.facts.failed):,} of {run.facts.num_images:,} images of {run.label}, in no number."
        for run in runs
        if run.facts.failed
    ]


def _rules(runs: list[Run]) -> list[str]:
    differing = [name for name in COMPARED if len({run.facts.as_dict()[name] for run in runs}) > 1]
    return [f"The runs differ in {', '.join(differing)}."] if differing else []


def _rounding(runs: list[Run]) -> list[str]:
    rounded = [run.label for run in runs if run.facts.precision == "bfloat16"]
    if not rounded:
        return []
    return [
        f"Attacked in bfloat16: {', '.join(rounded)}. Its rounding hides small changes from attacks that read scores, "
        "which are weaker than in float32."
    ]


def _smaller(runs: list[Run]) -> list[str]:
    shrunk = [run for run in runs if run.facts.shrunk_to is not None]
    return [
        f"Memory ran out in {run.label}: its forward passes shrank from {run.facts.batch_size} to "
        f"{run.facts.shrunk_to} images, which may change last digits of the scores."
        for run in shrunk
    ]


def _budgets(runs: list[Run], grid: Grid) -> list[str]:
    caution = "an attack that plans with its budget may do better there when that is its budget."
    if len({run.facts.budget for run in runs}) > 1:
        return [f"Budgets differ: compare at {common_budget(runs):,} queries; {caution}"]
    if any(cell.below_own for cell in grid.cells):
        return [f"Numbers below a run's own budget are read from its records; {caution}"]
    return []


def _late(grid: Grid) -> list[str]:
    """Name the runs whose numbers at smaller budgets lack what only their last draws have found broken."""
    late = {cell.run.label: cell.run.summary.counts["late"] for cell in grid.cells if cell.below_own}
    told = ", ".join(f"{label} ({count:,})" for label, count in late.items() if count)
    if not told:
        return []
    return [
        "Too high below their own budget, since images that the final draws alone found broken stand there: "
        f"{told}. Run smaller budgets by themselves."
    ]


def _worst_cases(grid: Grid) -> list[str]:
    notes = []
    for i in range(len(grid.worst_columns)):
        cases = [(row, row.worst[i]) for row in grid.rows]
        shown = [(row, worst) for row, worst in cases if worst is not None]
        if len({frozenset(worst.attacks) for _, worst in shown}) > 1:
            notes.append("The worst cases are of different attacks, see their number: compare those of the same ones.")
        notes += [
            f"The worst case of {row.method.defense} is over the images that all its runs have: "
            f"{worst.robust.total:,} of {worst.all_images:,}."
            for row, worst in shown
            if worst.robust.total < worst.all_images
        ]
    left_out = list(dict.fromkeys(cell.run.facts.attack for cell in grid.cells if is_white_box(cell.run)))
    if left_out and grid.worst_columns:
        notes.append(f"Not in the worst case, since they are given gradients: {', '.join(left_out)}.")
    return list(dict.fromkeys(notes))
