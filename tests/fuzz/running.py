"""Command lines in this process, and what must hold of any of them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Verbosity, settings

from rfdlight.cli import main as cli
from rfdlight.cli.sweep import estimate

VICTIMS = Path(__file__).parents[1] / "cli"
"""Where the module of the victim lies, which answers fast."""

FAST = ("--model.victim", "nearest_mean.NearestMean")
SMALL = (
    *FAST, "--data.num_images", "4", "--model.budget", "3", "--model.batch_size", "8",
    "--model.final_evaluations", "40",
)  # fmt: skip
"""Options of a run that takes a fraction of a second."""

# Commands that would take minutes when a line happens to be right: they are parsed in full, and nothing is run.
SLOW = ("fit", "analyze", "calibrate", "recommend", "scales")


def bounded(examples: int) -> settings:
    """Settings for a test of everyday: the same examples every time, and no clock."""
    return settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


def many(examples: int) -> settings:
    """Settings for a test that may take its time: other examples every time."""
    return settings(
        max_examples=examples, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.normal,
    )  # fmt: skip


@dataclass
class Outcome:
    """What a command line came to, and the files of its folder before and after."""

    args: tuple[str, ...]
    status: int
    out: str
    err: str
    before: dict[str, bytes | None] = field(repr=False)
    after: dict[str, bytes | None] = field(repr=False)


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A new folder to work in, the fast victim at hand, no data root, and afterwards everything as it was."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(VICTIMS), *sys.path])
        patch.delenv("RFDLIGHT_DATA", raising=False)
        run_subcommand = cli.RFDLightCLI._run_subcommand
        patch.setattr(
            cli.RFDLightCLI,
            "_run_subcommand",
            lambda self, subcommand: None if subcommand in SLOW else run_subcommand(self, subcommand),
        )
        # All of a dry run but what it measures.
        patch.setattr(estimate, "_rows_per_second", lambda cell: 1.0)
        yield folder
    sys.modules.pop("nearest_mean", None)


def files(folder: Path) -> dict[str, bytes | None]:
    """The content of every file, None for a folder."""
    found: dict[str, bytes | None] = {}
    for path in folder.rglob("*"):
        if "__pycache__" not in path.parts:
            found[os.fsdecode(path.relative_to(folder))] = path.read_bytes() if path.is_file() else None
    return found


def run(folder: Path, *args: str) -> Outcome:
    """Run a command line in a folder; an exception that reaches the user is raised.

    The streams take what those of a terminal take: the one for errors anything, the other what UTF-8 has.
    """
    before = files(folder)
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            status = cli.main(list(args))
        except SystemExit as end:  # how argparse ends after --help
            status = end.code or 0
    said = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return Outcome(args, status, *said, before, files(folder))


def check(outcome: Outcome) -> None:
    """Hold an outcome against what must be true of any."""
    assert outcome.status in (0, 1, 2, 3, 130), outcome
    assert "Traceback" not in outcome.err, outcome
    if outcome.status in (2, 3):
        check_refused(outcome)
        assert outcome.after == outcome.before, outcome
    if outcome.status == 1:
        assert outcome.err or outcome.out, outcome  # rfdlight doctor answers with a table
    for name in outcome.after.keys() - outcome.before.keys():
        if name.endswith("summary.json"):
            check_run(outcome, name.removesuffix("summary.json"))


def check_refused(outcome: Outcome) -> None:
    """One line says why a command did not do what it was asked."""
    assert outcome.status in (2, 3), outcome
    assert outcome.err.startswith("rfdlight: "), outcome
    assert outcome.err.splitlines(keepends=True) == [outcome.err], outcome
    assert outcome.err.endswith("\n"), outcome


def check_run(outcome: Outcome, run: str) -> None:
    """A run that looks complete is complete, and one that is not says so."""
    summary = json.loads(outcome.after[f"{run}summary.json"])["run"]
    records = outcome.after[f"{run}records.jsonl"].splitlines()
    complete = len(records) + len(summary["failed"]) == summary["num_images"]
    assert summary["complete"] == complete, outcome
    assert (outcome.status == 0) == (complete and not summary["failed"]), outcome
    assert f"{run}config.yaml" in outcome.after, outcome
