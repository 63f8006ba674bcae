"""The cells of a sweep: the check of each before the first runs, and the run of its command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from rfdlight._io import write_file
from rfdlight.analysis.insertion_points import check_acts
from rfdlight.cli.launcher import BOUND
from rfdlight.cli.sweep.experiment import Cell, Resources
from rfdlight.data.sources import ImageSource
from rfdlight.defenses.base import Defense
from rfdlight.errors import ResumeError, UserError, one_line
from rfdlight.evaluation import fingerprint
from rfdlight.evaluation.config import settle_eps
from rfdlight.evaluation.standard import StandardAttack
from rfdlight.evaluation.standard_evaluation import check_standard, is_standard
from rfdlight.evaluation.surrogate import settle_surrogate
from rfdlight.records import standard
from rfdlight.records.result import Size
from rfdlight.victims.resolve import resolve_victim

OUTPUT = "output.txt"
"""File in the folder of a cell with the output of `rfdlight test`."""
INTERRUPTED = 130
"""Exit status of a run that was interrupted before its attack began."""

_SMALL = 2_000_000
"""Number of parameters below which two cells share a GPU; chosen without a measurement on one."""

Run = Callable[[list[str]], int]
"""Runs a command line and returns its exit status."""
Make = Callable[[list[str]], Any]
"""Makes the components of a command line: its model, datamodule and trainer."""


@dataclass(frozen=True)
class Checked:
    """A cell whose components were made."""

    size: Size
    victim: nn.Module
    images: ImageSource
    num_classes: int
    device: torch.device
    processes: int
    random: bool  # whether a defense is
    loads: str  # names its victim and its data

    def resources(self, given: Resources, has_gpus: bool) -> Resources:
        """Return the GPUs and cores of the cell, by default a core per process, and a GPU or half of one."""
        size = sum(parameter.numel() for parameter in self.victim.parameters())
        share = 0.5 if size < _SMALL and self.processes == 1 else float(self.processes)
        return Resources(
            gpus=given.gpus if given.gpus is not None else share * has_gpus,
            cpus=given.cpus if given.cpus is not None else float(self.processes),
        )


class Attempt(NamedTuple):
    """The end of one run of a command line."""

    status: int
    reason: str  # of a failure, or ""
    output: str
    anew: str = ""  # why an earlier attempt could not be resumed


def check_cells(cells: list[Cell], scratch: Path, make: Make) -> dict[str, Checked]:
    """Make the components of cells and load their victims, each once, so that errors are found before the first run."""
    checked = {}
    loaded: dict[str, tuple[nn.Module, ImageSource, int]] = {}
    for cell in cells:
        with _naming(cell):
            cell.file(scratch).write_text(cell.as_yaml())
            made = make(["test", "-c", str(cell.file(scratch))])
            model, data = made.model, made.datamodule
            if is_standard(model):
                check_standard(model.config)
            key = json.dumps([cell.config.get("data"), model.victim_spec, model.checkpoint], default=str)
            if key not in loaded:
                data.setup("test")
                found = resolve_victim(model.victim_spec, model.checkpoint, data, model.config.given_rows)
                loaded[key] = found.module, data.images("test"), data.num_images
            victim, images, count = loaded[key]
            settle_surrogate(settle_eps(model.attack, data), data)
            callbacks = made.trainer.callbacks if model.defended else []
            defenses = [callback for callback in callbacks if isinstance(callback, Defense)]
            for defense in defenses:
                check_acts(defense, victim, images)
            stages = model.attack.stages if isinstance(model.attack, StandardAttack) else (model.attack,)
            size, trainer = Size(count, model.config.budget * len(stages)), made.trainer
            device, processes = trainer.strategy.root_device, trainer.world_size
            random = any(defense.is_random for defense in defenses)
            checked[cell.name] = Checked(size, victim, images, data.num_classes, device, processes, random, key)
    return checked


@contextlib.contextmanager
def _naming(cell: Cell) -> Iterator[None]:
    """Put the name of a cell in front of an error; a user's own class may raise any exception."""
    try:
        yield
    except Exception as error:
        reason = error if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"cell {cell.name}: {reason}") from error


def run_cell(folder: Path, cell: Cell, run: Run | None) -> Attempt:
    """Run or resume a cell, in a new process without `run`, and write its output into its folder."""
    run = run or _run_apart
    place, anew = folder / cell.name, ""
    done: Attempt | None = None
    if any((place / begun).is_file() for begun in (fingerprint.FILE, standard.FILE)):
        done = _attempt(["test", "--resume", str(place)], run)
        if done.status == ResumeError.exit_status:
            anew, done = done.reason, None
    if done is None:
        shutil.rmtree(place, ignore_errors=True)
        done = _attempt(["test", "-c", str(cell.file(folder)), "--run", str(place)], run)
    if place.is_dir():
        write_file(place / OUTPUT, done.output)
    return done._replace(anew=anew)


def _attempt(line: list[str], run: Run) -> Attempt:
    """Run a command line without printing its output."""
    output, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = run(line)
    except SystemExit:  # Lightning's trainer ends so at Ctrl-C
        return Attempt(INTERRUPTED, "interrupted", output.getvalue())
    except Exception as error:  # a user's own victim or attack may raise any exception
        return Attempt(2, f"{type(error).__name__}: {one_line(error)}", output.getvalue())
    lines = [line for line in errors.getvalue().splitlines() if line.strip()]
    last = one_line(lines[-1]).removeprefix("rfdlight: ") if lines else f"it ended with exit status {status}"
    return Attempt(status, last if status else "", output.getvalue())


def _run_apart(line: list[str]) -> int:
    """Run a command line in a new process, from which Lightning starts the others by the same command line."""
    environment = {**os.environ, BOUND: "1"}
    command = [sys.executable, "-m", "rfdlight", *line]
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    sys.stdout.write(process.stdout)
    sys.stderr.write(process.stderr)
    return process.returncode
