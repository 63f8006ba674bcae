"""Which runs share a column of a report: those of one attack under one set of settings."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rfdlight.records.runs import Run
from rfdlight.reporting.tables import attack_name

SETTINGS = ("attack", "targeted", "options", "norm", "eps", "criterion", "query_counting", "eot")
"""The facts that runs of one column have in common."""

TIEBREAKS = ("budget", "seed", "selection", "num_images", "precision", "batch_size")
"""The facts that tell apart two runs of one method that have all of `SETTINGS` in common."""


@dataclass(frozen=True)
class Method:
    """What was attacked, as the runs' facts say it."""

    victim: str
    defense: str
    data: str


@dataclass(frozen=True)
class Setting:
    """An attack with its settings, and the runs that have it, at most one of each method."""

    label: str
    runs: dict[Method, Run]


def method_of(run: Run) -> Method:
    """Return what a run attacked."""
    return Method(run.facts.victim, run.facts.defense or "none", run.facts.data)


def is_white_box(run: Run) -> bool:
    """Return whether the attack was given gradients."""
    return run.summary.ledger["gradient"] > 0


def settings_of(runs: Sequence[Run]) -> tuple[list[Setting], list[str]]:
    """Sort runs into columns.

    Runs that agree in all of `SETTINGS` share a column. Where that would put two runs of one method into
    one place, the column is split by those `TIEBREAKS` in which these runs differ, and, if they differ in
    none, by the order in which they were given.

    Returns:
        The columns, in the order of their first runs, and a note for each pair of runs that differ in nothing.
    """
    shown = [name for name in SETTINGS[3:] if len({run.facts.as_dict()[name] for run in runs}) > 1]
    settings, notes = [], []
    for alike, apart in _alike(runs):
        label = _label(alike[0], [*shown, *apart])
        repeats = _grouped(alike, method_of)
        for i in range(max(map(len, repeats))):
            again = [same[i] for same in repeats if len(same) > i]
            settings.append(Setting(f"{label}, run {i + 1}" if i else label, {method_of(run): run for run in again}))
        notes += [
            f"{' and '.join(run.label for run in same)} differ in no recorded setting; each has its own column."
            for same in repeats
            if len(same) > 1
        ]
    return settings, notes


def _alike(runs: Sequence[Run]) -> Iterator[tuple[list[Run], list[str]]]:
    """Yield the runs that agree in all settings, and in the tie-breaks that come with them."""
    for group in _grouped(runs, _values_of(SETTINGS)):
        apart = _telling_apart(group)
        for alike in _grouped(group, _values_of(apart)):
            yield alike, apart


def _values_of(names: Sequence[str]) -> Callable[[Run], Hashable]:
    return lambda run: tuple(run.facts.as_dict()[name] for name in names)


def _grouped(runs: Iterable[Run], key: Callable[[Run], Hashable]) -> list[list[Run]]:
    groups: dict[Hashable, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(groups.values())


def _telling_apart(group: list[Run]) -> list[str]:
    """Return the tie-breaks in which runs of one method differ."""
    methods = _grouped(group, method_of)
    return [name for name in TIEBREAKS if any(len({run.facts.as_dict()[name] for run in same}) > 1 for same in methods)]


def _label(run: Run, shown: Sequence[str]) -> str:
    """Return the attack's name, its options, and the facts that have to be said, as text."""
    facts = run.facts
    ball = f"{facts.norm} {facts.eps:g}"
    said = {
        "norm": ball,
        "eps": ball,
        "criterion": f"criterion {facts.criterion}",
        "query_counting": f"{facts.query_counting} query counting",
        "eot": f"eot {facts.eot}",
        "budget": f"run for {facts.budget:,}",
        "seed": f"seed {facts.seed}",
        "selection": str(facts.selection),
        "num_images": f"{facts.num_images:,} images",
        "precision": facts.precision,
        "batch_size": f"batches of {facts.batch_size}",
    }
    options = [] if facts.options == "defaults" else [facts.options]
    return ", ".join([attack_name(facts), *options, *dict.fromkeys(said[name] for name in shown)])
