"""Groups the runs of a report by attack and settings: one column of the grid for each group."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from msgspec.structs import replace

from rfdlight.records.runs import Run
from rfdlight.reporting.tables import attack_name, ball

SETTINGS = ("attack", "targeted", "surrogate", "options", "norm", "eps", "criterion", "query_counting", "eot")
"""The facts that all runs of one column share."""

TIEBREAKS = ("budget", "seed", "selection", "num_images", "precision")
"""The facts that split a column which would hold two runs of one method."""

LAST_TIEBREAK = "batch_size"
"""The fact that splits it where no other does: it changes rounding alone, and a run may choose it for itself."""


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


def settings_of(runs: Sequence[Run]) -> list[Setting]:
    """Group runs into columns, in the order of their first runs.

    Attacks with a surrogate have another threat model and come last. Runs that agree in all of `SETTINGS` share a
    column. A column that would hold two runs of one method is split by the `TIEBREAKS` in which these runs differ, and,
    if they differ in none, by the order in which the runs were given.
    """
    shown = _differing(SETTINGS[4:], runs)
    settings: list[Setting] = []
    ordered = sorted(runs, key=lambda run: run.facts.surrogate is not None)
    for group in _grouped(ordered, _facts(SETTINGS)):
        methods = _grouped(group, method_of)
        split = [name for name in (*TIEBREAKS, LAST_TIEBREAK) if any(_differing([name], same) for same in methods)]
        apart = [name for name in split if name in TIEBREAKS] or split
        for alike in _grouped(group, _facts(apart)):
            label = _label(alike[0], [*shown, *apart])
            for i, repeat in enumerate(zip_longest(*_grouped(alike, method_of)), 1):
                once = {method_of(run): run for run in repeat if run is not None}
                settings.append((label if i == 1 else f"{label}, run {i}", once))
    return settings


def _differing(names: Iterable[str], runs: Sequence[Run]) -> list[str]:
    return [name for name in names if len({getattr(run.facts, name) for run in runs}) > 1]


def _grouped(runs: Iterable[Run], key: Callable[[Run], Hashable]) -> list[list[Run]]:
    groups: dict[Hashable, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(groups.values())


def _facts(names: Iterable[str]) -> Callable[[Run], Hashable]:
    return lambda run: tuple(getattr(run.facts, name) for name in names)


def _label(run: Run, shown: Sequence[str]) -> str:
    facts = run.facts
    options = [] if facts.options == "defaults" else [facts.options]
    differing = [
        ball(facts) if name in ("norm", "eps") else f"{name.replace('_', ' ')} {getattr(facts, name)}" for name in shown
    ]
    name = attack_name(facts)
    if facts.surrogate is not None:
        name = attack_name(replace(facts, surrogate=None))  # the options name it
    return ", ".join([name, *options, *dict.fromkeys(differing)])
