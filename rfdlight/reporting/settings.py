"""Groups the runs of a report by attack and settings: one column of the grid for each group."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rfdlight.records.runs import Run
from rfdlight.reporting.tables import attack_name, ball

SETTINGS = ("attack", "targeted", "options", "norm", "eps", "criterion", "query_counting", "eot")
"""The facts that all runs of one column share."""

TIEBREAKS = ("budget", "seed", "selection", "num_images", "precision", "batch_size")
"""The facts that split a column which would hold two runs of one method."""


@dataclass(frozen=True)
class Method:
    """The evaluated model: a victim behind a defense, and its data."""

    victim: str
    defense: str
    data: str


Setting = tuple[str, dict[Method, Run]]
"""The label of an attack with its settings, and its runs, at most one of each method."""


def method_of(run: Run) -> Method:
    """Return the method that a run evaluated."""
    return Method(run.facts.victim, run.facts.defense or "none", run.facts.data)


def is_white_box(run: Run) -> bool:
    """Return whether the attack used gradients of the victim."""
    return run.summary.ledger["gradient"] > 0


def settings_of(runs: Sequence[Run]) -> tuple[list[Setting], list[str]]:
    """Group runs into columns.

    Runs that agree in all of `SETTINGS` share a column. A column that would hold two runs of one method is split by
    the `TIEBREAKS` in which these runs differ, and, if they differ in none, by the order in which the runs were given.

    Returns:
        The columns, in the order of their first runs, and a caveat for runs of one method that do not differ.
    """
    shown = [name for name in SETTINGS[3:] if len({getattr(run.facts, name) for run in runs}) > 1]
    settings: list[Setting] = []
    caveats: list[str] = []
    for group in _grouped(runs, _facts(SETTINGS)):
        methods = _grouped(group, method_of)
        apart = [
            name for name in TIEBREAKS if any(len({getattr(run.facts, name) for run in same}) > 1 for same in methods)
        ]
        for alike in _grouped(group, _facts(apart)):
            label = _label(alike[0], [*shown, *apart])
            by_method = _grouped(alike, method_of)
            for i, repeat in enumerate(zip_longest(*by_method), 1):
                once = {method_of(run): run for run in repeat if run is not None}
                settings.append((label if i == 1 else f"{label}, run {i}", once))
            caveats += [
                f"{' and '.join(run.label for run in same)} differ in no recorded setting; each has its own column."
                for same in by_method
                if len(same) > 1
            ]
    return settings, caveats


def _grouped(runs: Iterable[Run], key: Callable[[Run], Hashable]) -> list[list[Run]]:
    groups: dict[Hashable, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(groups.values())


def _facts(names: Iterable[str]) -> Callable[[Run], Hashable]:
    return lambda run: tuple(getattr(run.facts, name) for name in names)


def _label(run: Run, shown: Sequence[str]) -> str:
    facts = run.facts
    names = {
        "norm": ball(facts),
        "eps": ball(facts),
        "criterion": f"criterion {facts.criterion}",
        "query_counting": f"{facts.query_counting} query counting",
        "budget": f"budget {facts.budget:,}",
        "selection": str(facts.selection),
        "num_images": f"{facts.num_images:,} images",
        "precision": facts.precision,
        "batch_size": f"batch size {facts.batch_size}",
    }
    options = [] if facts.options == "defaults" else [facts.options]
    differing = dict.fromkeys(names.get(name, f"{name} {getattr(facts, name)}") for name in shown)
    return ", ".join([attack_name(facts), *options, *differing])
