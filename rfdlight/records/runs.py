"""Run directories, read back."""

from __future__ import annotations

import difflib
import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rfdlight._io import parse_json, read_text
from rfdlight.core.field_types import (
    Kind,
    is_count,
    is_flag,
    is_number,
    is_positive_count,
    is_text,
    or_none,
    wrong_field,
)
from rfdlight.errors import UserError, shown
from rfdlight.records import consistency_checks
from rfdlight.records.diagnostic import Diagnostic
from rfdlight.records.records import Record, clean_right, read_records
from rfdlight.records.run_directory import refuse_links
from rfdlight.records.summary import ABSENT, ROWS, RUN_FIELDS, summarize

FILES = ("config.yaml", "records.jsonl", "summary.json")
"""What a run directory holds."""


def _is_in_progress(value: Any) -> bool:
    counts = isinstance(value, dict) and wrong_field(value, {"begun": is_count, "robust": is_count}) is None
    return counts and value.keys() == {"begun", "robust"} and value["robust"] <= value["begun"]


KINDS: dict[str, Kind] = {
    **dict.fromkeys(RUN_FIELDS, is_text),
    "norm": lambda value: value in ("linf", "l2"),
    "eps": lambda value: is_number(value) and value > 0,
    "budget": is_count,
    "eot": is_positive_count,
    "targeted": is_flag,
    "defense": or_none(is_text),
    "seed": is_number,
    "totals": lambda value: isinstance(value, dict) and all(is_count(value.get(kind)) for kind in ROWS),
    "wall_seconds": lambda value: is_number(value) and value >= 0,
    "deterministic": is_flag,
    "complete": is_flag,
    "failed": lambda value: isinstance(value, dict) and all(map(is_text, value.values())),
    "num_images": is_count,
    "in_progress": _is_in_progress,
    "selection": or_none(is_text),
    "batch_size": or_none(is_count),
    "batch_size_used": or_none(is_count),
    "classes": or_none(lambda value: isinstance(value, list) and all(map(is_text, value))),
    **consistency_checks.KINDS,
}
"""What the facts of a run are."""


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
    def findings(self) -> list[Diagnostic]:
        """What the run's checks of itself find."""
        return consistency_checks.audit(self.records, self.facts)

    @cached_property
    def by_id(self) -> dict[str, Record]:
        """The records by image id."""
        return {record["id"]: record for record in self.records}

    def as_declared(self) -> Run:
        """Return the run with every image counted by the criterion's call while the attack ran, not by its final draws."""
        records = [_as_declared(record) for record in self.records]
        facts = {**self.facts, "criterion": f"{self.facts['criterion']} (as declared)"}
        return replace(self, records=records, summary=summarize(records, facts))

    @property
    def config(self) -> str:
        """The text of its resolved configuration."""
        path = self.folder / "config.yaml"
        try:
            return read_text(path, errors="replace")
        except OSError as error:
            raise UserError(f"cannot read the configuration {path}: {error.strerror}") from error


def _as_declared(record: Record) -> Record:
    declared = "robust" if record["success_query"] is None else "adversarial"
    return {**record, "verdict": declared if clean_right(record) else record["verdict"]}


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
    refuse_links(folder)
    try:
        facts = ABSENT | parse_json(read_text(folder / "summary.json"))["run"]
        lacking = RUN_FIELDS.keys() - facts.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'summary.json'} is no summary of a run") from error
    if lacking:
        raise UserError(f"{folder / 'summary.json'} lacks run.{min(lacking)}")
    wrong = wrong_field(facts, KINDS)
    if wrong is not None:
        raise UserError(f"{folder / 'summary.json'}: run.{wrong} cannot be {facts[wrong]!r:.40}")
    facts = {name: shown(fact) if isinstance(fact, str) else fact for name, fact in facts.items()}
    records = read_records(folder / "records.jsonl")
    run = Run(shown(label), folder, records, summarize(records, facts))
    if len(run.by_id) < len(records):
        twice = next(one["id"] for one, next_ in itertools.pairwise(records) if one["id"] == next_["id"])
        raise UserError(f"{folder / 'records.jsonl'} holds the image {twice} twice")
    if len(records) > facts["num_images"]:
        raise UserError(
            f"{folder / 'records.jsonl'} holds {len(records):,} images, of a run of {facts['num_images']:,}"
        )
    return run


def load_all(paths: list[str]) -> list[Run]:
    """Read run directories, labelled by their names, or by their paths where two have one name.

    Args:
        paths: Run directories, and folders of finished runs, at any depth.

    Raises:
        UserError: If there is none, one is given twice, or a folder is no run directory and holds none.
    """
    if not paths:
        raise UserError("expected at least one run directory, got none")
    folders = [folder for path in paths for folder in _runs_in(Path(path))]
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise UserError(f"the run {folder} is given twice")
        seen.add(folder.resolve())
    names = [folder.resolve().name for folder in folders]
    unique = len(set(names)) == len(names)
    return [load(folder, name if unique else str(folder)) for folder, name in zip(folders, names, strict=True)]


def _runs_in(folder: Path) -> list[Path]:
    """Return the finished runs in a folder of runs, in order of their paths; a run itself, or nothing of one, as it is.

    Runs without a summary, which are going on or were killed, are left out.
    """
    if any((folder / name).exists() for name in FILES):
        return [folder]
    try:
        found = sorted(path.parent for path in folder.rglob("summary.json"))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    return [run for run in found if all((run / name).is_file() for name in FILES)] or [folder]


def _nearest(folder: Path) -> str:
    siblings = [path.parent.name for path in folder.parent.glob("*/records.jsonl")]
    near = difflib.get_close_matches(folder.name, siblings, n=1)
    return f"; did you mean {folder.parent / near[0]}?" if near else ""
