"""Runs: the result of an evaluation, in memory and in run directories."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch
from msgspec.structs import asdict, astuple
from torch import Tensor

from rfdlight._io import read_text
from rfdlight.errors import UserError, shown
from rfdlight.records.consistency_checks import check_run
from rfdlight.records.diagnostic import Diagnostic
from rfdlight.records.facts import RunFacts
from rfdlight.records.records import Record, in_order, read_records
from rfdlight.records.run_directory import refuse_links
from rfdlight.records.schema import SCHEMA, read_versioned
from rfdlight.records.summary import Estimate, Summary, summarize

if TYPE_CHECKING:
    import pandas as pd

FILES = ("config.yaml", "records.jsonl", "summary.json")
"""The files of a finished run directory."""


@dataclass(frozen=True)
class Run:
    """The result of an evaluation: one record per image, and the facts of the run.

    Iterating gives the clean and the robust accuracy: `clean, robust = run`.

    Attributes:
        records: One per finished image, in order of image id.
        facts: The facts of the run that its records do not hold.
        label: Name of the run in reports.
        folder: The run directory, None for a run in memory.
    """

    records: tuple[Record, ...]
    facts: RunFacts
    label: str = ""
    folder: Path | None = None

    @classmethod
    def of(cls, records: Iterable[Record], facts: RunFacts, folder: Path | None = None) -> Run:
        """Return a run of records in any order, labelled by its name."""
        return cls(tuple(in_order(records)), facts, shown(facts.name), folder)

    @cached_property
    def summary(self) -> Summary:
        """Every number of the run, computed from its records."""
        return summarize(self.records, self.facts)

    @cached_property
    def diagnostics(self) -> list[Diagnostic]:
        """The outcomes of the consistency checks."""
        return check_run(self.records, self.facts)

    @cached_property
    def by_id(self) -> dict[str, Record]:
        """The records by image id."""
        return {record.id: record for record in self.records}

    @property
    def clean_accuracy(self) -> Estimate:
        """Accuracy of the mean logits on the clean images."""
        return self.summary.mean_logits.clean

    @property
    def robust_accuracy(self) -> Estimate:
        """Accuracy of the mean logits at the final points of the attack."""
        return self.summary.mean_logits.robust

    @property
    def attack_success_rate(self) -> Estimate:
        """Adversarial share of the images that are classified correctly before the attack."""
        return self.summary.attack_success

    @property
    def ids(self) -> tuple[str, ...]:
        """Image ids in the order of `queries` and `success`."""
        return tuple(record.id for record in self.records)

    @property
    def queries(self) -> Tensor:
        """Queries billed per image, (N,) int64, in order of `ids`; 0 for an image without a record."""
        found = map(self.by_id.get, self.ids)
        return torch.tensor([record.billed if record else 0 for record in found], dtype=torch.int64)

    @property
    def success(self) -> Tensor:
        """Whether the attack succeeded on each image, (N,) bool, in order of `ids`; not on one without a record."""
        found = map(self.by_id.get, self.ids)
        adversarial = [record is not None and record.verdict == "adversarial" for record in found]
        return torch.tensor(adversarial, dtype=torch.bool)

    def __iter__(self) -> Iterator[Estimate]:
        """Return the clean and the robust accuracy."""
        return iter((self.clean_accuracy, self.robust_accuracy))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a pandas DataFrame with one row per image id and the columns of `records.jsonl`; null is NaN."""
        import pandas as pd

        rows = [[math.nan if v is None else v for v in astuple(record)] for record in self.records]
        return pd.DataFrame(rows, columns=list(Record.__struct_fields__))

    def as_declared(self) -> Run:
        """Return the run with the verdicts of the success criterion during the attack, without the final evaluation."""
        return replace(
            self,
            records=tuple(map(_as_declared, self.records)),
            facts=msgspec.structs.replace(self.facts, criterion=f"{self.facts.criterion} (as declared)"),
        )

    def summary_json(self) -> bytes:
        """Return the content of `summary.json`."""
        content = {"schema": SCHEMA, **asdict(self.summary), "consistency_checks": self.diagnostics}
        return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"

    @property
    def config(self) -> str:
        """The text of the resolved configuration, empty for a run in memory."""
        if self.folder is None:
            return ""
        path = self.folder / "config.yaml"
        try:
            return read_text(path, errors="replace")
        except OSError as error:
            raise UserError(f"cannot read the configuration {path}: {error.strerror}") from error


def _as_declared(record: Record) -> Record:
    if not record.clean_correct:
        return record
    return msgspec.structs.replace(record, verdict="robust" if record.success_query is None else "adversarial")


def load_run(folder: str | Path, label: str | None = None) -> Run:
    """Read a run directory.

    Args:
        folder: The run directory.
        label: Name of the run in reports; by default the name of the folder.

    Raises:
        UserError: The folder holds no finished run, or a run of another schema version.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"expected a run directory, got {folder}, which is no folder{_nearest(folder)}")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} is no run directory: it lacks {', '.join(missing)}")
    refuse_links(folder)
    facts = read_versioned(folder / "summary.json", _SummaryFile).run
    # Texts of a stranger's file may hold control characters.
    facts = msgspec.structs.replace(facts, **{k: shown(v) for k, v in asdict(facts).items() if isinstance(v, str)})
    path = folder / "records.jsonl"
    records = read_records(path)
    twice = next((one.id for one, other in itertools.pairwise(records) if one.id == other.id), None)
    if twice is not None:
        raise UserError(f"{path} holds the image {twice} twice")
    if len(records) > facts.num_images:
        raise UserError(f"{path} holds {len(records):,} images, of a run of {facts.num_images:,}")
    return Run(tuple(records), facts, shown(folder.resolve().name if label is None else label), folder)


class _SummaryFile(msgspec.Struct):
    """The part of `summary.json` that is read: all other numbers are computed again."""

    run: RunFacts


def load_runs(paths: Iterable[str | Path]) -> list[Run]:
    """Read run directories, labelled by their names, or by their paths where two names are equal.

    Args:
        paths: Run directories, and folders with finished runs at any depth.

    Raises:
        UserError: A folder holds no finished run, or a run is given twice.
    """
    folders = [folder for path in paths for folder in _runs_in(Path(path))]
    if not folders:
        raise UserError("expected at least one run directory, got none")
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise UserError(f"the run {folder} is given twice")
        seen.add(folder.resolve())
    unique = len({folder.resolve().name for folder in folders}) == len(folders)
    return [load_run(folder, None if unique else str(folder)) for folder in folders]


def _runs_in(folder: Path) -> list[Path]:
    """Return the finished runs in a folder, in order of their paths; the folder itself if it holds no finished run.

    Runs without a summary, which are unfinished or were killed, are left out.
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
