"""Runs: the result of an evaluation, in memory and in run directories."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec
from msgspec.structs import asdict, astuple

from rfdlight._io import read_text
from rfdlight.errors import UserError, shown
from rfdlight.records.consistency_checks import check_run
from rfdlight.records.diagnostic import Diagnostic
from rfdlight.records.facts import RunFacts
from rfdlight.records.records import Record, in_order, read_records
from rfdlight.records.run_directory import refuse_links
from rfdlight.records.schema import OLDEST, SCHEMA, read_versioned
from rfdlight.records.summary import Estimate, Summary, summarize

if TYPE_CHECKING:
    import pandas as pd

FILES = ("config.yaml", "records.jsonl", "summary.json")
"""The files of a finished run directory."""


@dataclass(frozen=True)
class Run:
    """The result of an evaluation: one record per image, in order of image id, and the facts of the run.

    `label` is the name of the run in reports, `folder` its directory, None for a run in memory.
    """

    records: tuple[Record, ...]
    facts: RunFacts
    label: str = ""
    folder: Path | None = None

    @classmethod
    def of(cls, records: Iterable[Record], facts: RunFacts, folder: Path | None = None) -> Self:
        """Return a run of records in any order, labelled by its name."""
        return cls(tuple(in_order(records)), facts, shown(facts.name), folder)

    @classmethod
    def load(cls, folder: str | Path, label: str | None = None) -> Self:
        """Read a finished run directory; its label is by default the name of the folder."""
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"expected a run directory, got {folder}, which is no folder")
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise UserError(f"{folder} is no run directory: it lacks {', '.join(missing)}")
        refuse_links(folder)
        facts = read_versioned(folder / "summary.json", _SummaryFile, OLDEST).run
        # Texts of a stranger's file may hold control characters.
        facts = msgspec.structs.replace(facts, **{k: shown(v) for k, v in asdict(facts).items() if isinstance(v, str)})
        path = folder / "records.jsonl"
        run = cls(tuple(read_records(path)), facts, shown(folder.resolve().name if label is None else label), folder)
        if len(run.by_id) < len(run.records):
            raise UserError(f"{path} holds an image twice")
        if len(run.records) > facts.num_images:
            raise UserError(f"{path} holds {len(run.records):,} images, of a run of {facts.num_images:,}")
        return run

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

    def __iter__(self) -> Iterator[Estimate]:
        return iter((self.clean_accuracy, self.robust_accuracy))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a pandas DataFrame with one row per image id and the columns of `records.jsonl`; null is NaN."""
        import pandas as pd

        rows = [[math.nan if v is None else v for v in astuple(record)] for record in self.records]
        return pd.DataFrame(rows, columns=list(Record.__struct_fields__))

    def as_declared(self) -> Self:
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
    verdict = "robust" if record.success_query is None else "adversarial"
    return msgspec.structs.replace(record, clean_verdict="right", verdict=verdict, interim=())


class _SummaryFile(msgspec.Struct):
    """The part of `summary.json` that is read: all other numbers are computed again."""

    run: RunFacts


def load_run(folder: str | Path, label: str | None = None) -> Run:
    """Read a finished run directory; its label is by default the name of the folder."""
    return Run.load(folder, label)
