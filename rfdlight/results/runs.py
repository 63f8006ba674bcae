"""Run directories, read back."""

from __future__ import annotations

import difflib
import itertools
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rfdlight.errors import UserError
from rfdlight.results.records import Record, read_records
from rfdlight.results.summary import ABSENT, RUN_FIELDS, summarize

FILES = ("config.yaml", "records.jsonl", "summary.json")
"""What a run directory holds."""

_NUMBER = int | float
_MOST = 2**53
"""From here on, not every whole number is a float."""

_KINDS: dict[str, Any] = {
    **dict.fromkeys(("attack", "norm", "judge", "accounting", "precision", "victim", "data", "defense"), str),
    **dict.fromkeys(("budget", "eot", "num_images"), int),
    **dict.fromkeys(("targeted", "complete"), bool),
    **dict.fromkeys(("eps", "wall_seconds"), _NUMBER),
    "totals": (str, int),
    "failed": (str, str),
}
"""Types of the facts that a report computes with."""


@dataclass(frozen=True)
class Run:
    """A finished run: its label in a report, its folder, its records by id, and its summary, computed from them."""

    label: str
    folder: Path
    records: list[Record]
    summary: dict[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        """What the records do not hold."""
        return self.summary["run"]

    @cached_property
    def by_id(self) -> dict[str, Record]:
        """The records by image id."""
        return {record["id"]: record for record in self.records}

    def as_declared(self) -> Run:
        """Return the run with every image counted by the judge's call while the attack ran, not by its final draws."""
        records = [{**r, "verdict": "robust" if r["broken_at"] is None else "broken"} for r in self.records]
        facts = {**self.facts, "judge": f"{self.facts['judge']} (as declared)"}
        return replace(self, records=records, summary=summarize(records, facts))

    @property
    def config(self) -> str:
        """The text of its resolved configuration."""
        path = self.folder / "config.yaml"
        try:
            return path.read_text(errors="replace")
        except OSError as error:
            raise UserError(f"cannot read the configuration {path}: {error.strerror}") from error


def load(folder: Path, label: str) -> Run:
    """Read a run directory.

    Raises:
        UserError: If it is none.
    """
    if not folder.is_dir():
        raise UserError(f"expected a run directory, got {folder}, which is no folder{_nearest(folder)}")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} is no run directory: it lacks {', '.join(missing)}")
    try:
        facts = ABSENT | json.loads((folder / "summary.json").read_text())["run"]
        lacking = RUN_FIELDS.keys() - facts.keys()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder / 'summary.json'} is no summary of a run") from error
    if lacking:
        raise UserError(f"{folder / 'summary.json'} lacks run.{min(lacking)}")
    for name, kind in _KINDS.items():
        if not _is(facts[name], kind):
            raise UserError(f"{folder / 'summary.json'}: run.{name} is no fact of a run: {facts[name]!r:.60}")
    records = read_records(folder / "records.jsonl")
    run = Run(label, folder, records, summarize(records, facts))
    if len(run.by_id) < len(records):
        twice = next(one["id"] for one, next_ in itertools.pairwise(records) if one["id"] == next_["id"])
        raise UserError(f"{folder / 'records.jsonl'} holds the image {twice} twice")
    return run


def load_all(paths: list[str]) -> list[Run]:
    """Read run directories, labelled by their names, or by their paths where two have one name.

    Raises:
        UserError: If there is none, one is given twice, or a folder is no run directory.
    """
    if not paths:
        raise UserError("expected at least one run directory, got none")
    folders = [Path(path) for path in paths]
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise UserError(f"the run {folder} is given twice")
        seen.add(folder.resolve())
    names = [folder.resolve().name for folder in folders]
    unique = len(set(names)) == len(names)
    return [load(folder, name if unique else str(folder)) for folder, name in zip(folders, names, strict=True)]


def _is(value: Any, kind: Any) -> bool:
    """Return whether a fact is of a kind: a type, or of a mapping those of its keys and values."""
    if isinstance(kind, tuple):
        return isinstance(value, dict) and all(_is(k, kind[0]) and _is(v, kind[1]) for k, v in value.items())
    if kind in (int, _NUMBER):
        return isinstance(value, kind) and not isinstance(value, bool) and 0 <= value < _MOST
    return isinstance(value, kind)


def _nearest(folder: Path) -> str:
    siblings = [path.parent.name for path in folder.parent.glob("*/records.jsonl")]
    near = difflib.get_close_matches(folder.name, siblings, n=1)
    return f"; did you mean {folder.parent / near[0]}?" if near else ""
