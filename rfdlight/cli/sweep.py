"""`rfdlight sweep`: a grid of evaluations, run cell by cell and reported together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from torch import nn

from rfdlight import _io
from rfdlight._io import plain_console, write_file
from rfdlight.analysis.acting import check_acts
from rfdlight.cli.launcher import started_processes
from rfdlight.cli.report import report
from rfdlight.cli.sweep_cells import (
    INTERRUPTED,
    Attempt,
    Facts,
    Size,
    as_yaml,
    attempt,
    config_file,
    facts_of,
    headline,
    is_finished,
    naming,
    size_of,
)
from rfdlight.cli.sweep_config import Cell, merged, read_cells
from rfdlight.cli.sweep_estimate import Clock, plan, speeds_of
from rfdlight.data.base import ImageSource
from rfdlight.defenses.base import Defense
from rfdlight.engine.passes import rows_per_pass
from rfdlight.errors import UserError
from rfdlight.evaluation import fingerprint
from rfdlight.evaluation.exit_reason import STOPPED
from rfdlight.evaluation.short_attack import settle_eps
from rfdlight.records import run_directory
from rfdlight.victims.resolve import resolve_victim

ESTIMATE = (
    "An image that breaks ends early, so a strong attack takes a fraction of these times; the criterion's votes on a "
    "random victim, and other work on this machine, take more."
)
OUTPUT = "output.txt"
"""In the folder of a cell: what `rfdlight test` printed."""


def sweep(
    experiment: str,
    make: Callable[[list[str]], Any],
    run: Callable[[list[str]], int],
    output: str | None = None,
    num_images: int | None = None,
    dry_run: bool = False,
) -> int:
    """Run a grid of evaluations, those that are not there yet, and report on all of them.

    Every cell is a run of `rfdlight test` in a folder of its own, beside the configuration that it was made from; if it
    says `trainer.devices`, in so many processes, which the sweep starts.
    A cell that is complete is not run again, and one that was cut off goes on, so the same command goes on where it
    was stopped or killed. A cell that fails is told, and the others go on. One line is printed for each cell as it
    ends; the output of its `rfdlight test` is in `output.txt` in its folder.

    Args:
        experiment: A file, or the name of one that comes with rfdlight, such as "experiment/table4".
        make: Makes what a command line names, and runs nothing: returns its model, datamodule and trainer.
        run: Runs a command line and returns its exit status.
        output: Folder of the cells and of their report (default: below runs/, with the experiment's name). Experiments
            with cells of one name and the same settings may share it.
        num_images: Attack so many images in every cell, for a quick look at a long experiment; in forward passes of
            at most half of them.
        dry_run: Only list the cells, and about how long those that are missing take if no image breaks, by a short run
            against each of their victims.

    Returns:
        The exit status: 0, or 1 if the sweep was stopped or a cell failed.

    Raises:
        UserError: If the experiment or a cell of it cannot be used.
    """
    if started_processes(os.environ) not in (None, (1, 1)):
        raise UserError(
            "rfdlight sweep starts the processes of its cells itself: start it once, and give trainer.devices in the "
            "experiment"
        )
    path = _io.config_path(experiment)
    name = path.stem if num_images is None else f"{path.stem}-{num_images}"
    cells = [_resized(cell, num_images) for cell in read_cells(path)]
    folder = Path(output) if output is not None else Path("runs") / name
    done = {cell.name: _size_if_complete(folder, cell) for cell in cells}
    missing = [cell for cell in cells if done[cell.name] is None]
    console = plain_console()
    with tempfile.TemporaryDirectory() as scratch:
        facts = _checked(missing, Path(scratch), make)
        if dry_run:
            sizes = {name: size or facts[name].size for name, size in done.items()}
            console.print(plan(sizes, facts, speeds_of(missing, facts, Path(scratch), run)))
            console.print(Text(ESTIMATE, style="dim"), soft_wrap=True)
            return 0
    run_directory.create(folder)
    failed = _run_missing(folder, missing, facts, run, console)
    if failed is None:
        console.print("stopped; the same command goes on from here")
        return 1
    finished = [str(folder / cell.name) for cell in cells if is_finished(folder / cell.name)]
    if finished:
        report(finished, str(folder / f"report-{name}"))
    if failed:
        console.print(Text(f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed)}", style="red"))
    return 1 if failed else 0


def _run_missing(
    folder: Path, missing: list[Cell], facts: dict[str, Facts], run: Callable[[list[str]], int], console: Console
) -> list[str] | None:
    """Run cells, with one line for each that has ended; return the names of those that failed, None if stopped."""
    failed, clock = [], Clock(missing, facts)
    for number, cell in enumerate(missing, 1):
        place = folder / cell.name
        done = _run(folder, cell, _starter(facts[cell.name], run), console)
        # Not by the exit status 1 alone: Python ends with it too, after an exception that nobody caught.
        if (done.status == INTERRUPTED or done.reason == STOPPED) and not is_finished(place):
            return None
        result = headline(place) if is_finished(place) else "no result"
        line = f"cell {number} of {len(missing)}, {cell.name}: {result}; {clock.passed(cell)}"
        console.print(Text(line), soft_wrap=True)
        if done.reason:
            console.print(Text(f"{cell.name} failed: {done.reason}", style="red"), soft_wrap=True)
            failed.append(cell.name)
    return failed


def _resized(cell: Cell, num_images: int | None) -> Cell:
    """Return the cell with so many images, in forward passes that so many keep full."""
    if num_images is None:
        return cell
    fewer = merged({"data": cell.config.get("data", {})}, {"data": {"init_args": {"num_images": num_images}}})
    model = cell.config.get("model") or {}
    if not isinstance(model, dict):
        return cell  # the parser says what is wrong with it
    batch_size, eot = model.get("batch_size"), model.get("eot", 1)
    if isinstance(batch_size, int) and isinstance(eot, int):  # else it is chosen by the number of images
        fewer["model"] = {
            **model,
            "batch_size": max(min(batch_size, rows_per_pass(max(1, num_images), max(1, eot))), eot),
        }
    return replace(cell, config={**cell.config, **fewer})


def _size_if_complete(folder: Path, cell: Cell) -> Size | None:
    """Return the size of a cell that was run to its end, None if it has to be run.

    Raises:
        UserError: If it was run, or begun, with other settings.
    """
    config = config_file(folder, cell)
    if not (folder / cell.name).exists():
        return None
    if not config.is_file() or config.read_bytes() != as_yaml(cell).encode():
        raise UserError(
            f"{folder / cell.name} was not made from this experiment's settings; give --output another folder, or "
            f"remove that one and {config.name}"
        )
    return size_of(folder / cell.name)


def _checked(cells: list[Cell], scratch: Path, make: Callable[[list[str]], Any]) -> dict[str, Facts]:
    """Make what the cells name and load what they attack: what is wrong is found before the first runs.

    Cells with the same victim come one after another, so that it is loaded once, and one at a time.
    """
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(_victim_settings(cell), []).append(cell)
    facts = {}
    for group in alike.values():
        loaded, count = None, 0
        for cell in group:
            with naming(cell):
                config_file(scratch, cell).write_text(as_yaml(cell))
                made = make(["test", "-c", str(config_file(scratch, cell))])
                if loaded is None:
                    loaded, count = _loaded(made), made.datamodule.num_images
                _fit(made, *loaded)
                facts[cell.name] = facts_of(made, count)
    return facts


def _victim_settings(cell: Cell) -> str:
    model = cell.config.get("model")
    own = {key: model.get(key) for key in ("victim", "checkpoint")} if isinstance(model, dict) else None
    return json.dumps([cell.config.get("data"), own], default=str)


def _loaded(made: Any) -> tuple[nn.Module, ImageSource]:
    """Load a cell's victim, and the test images at the size that the victim takes."""
    made.datamodule.setup("test")
    model = made.model
    victim, _, _ = resolve_victim(model.victim_spec, model.checkpoint, made.datamodule, model.batch_size)
    return victim, made.datamodule.images("test")


def _fit(made: Any, victim: nn.Module, images: ImageSource) -> None:
    """Try the attack's radius on the data and the defenses on the victim."""
    made.model.attack = settle_eps(made.model.attack, made.datamodule)
    for callback in made.trainer.callbacks:
        if isinstance(callback, Defense) and made.model.defended:
            check_acts(callback, victim, images)


def _run(folder: Path, cell: Cell, run: Callable[[list[str]], int], console: Console) -> Attempt:
    """Run a cell, or go on with it; its folder gets its output."""
    place = folder / cell.name
    if (place / fingerprint.FILE).is_file():
        resumed = attempt(["test", "--resume", str(place)], run)
        if not resumed.reason.startswith(fingerprint.REFUSAL):
            return _kept(place, resumed)
        console.print(Text(f"{resumed.reason}; it begins anew", style="yellow"), soft_wrap=True)
    shutil.rmtree(place, ignore_errors=True)
    config_file(folder, cell).write_text(as_yaml(cell))
    return _kept(place, attempt(["test", "-c", str(config_file(folder, cell)), "--run", str(place)], run))


def _kept(place: Path, done: Attempt) -> Attempt:
    """Write the output of a run into its folder."""
    if place.is_dir():
        write_file(place / OUTPUT, done.output)
    return done


def _starter(facts: Facts, run: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
    """Return what runs a cell's command line: this process, unless the cell asks for several.

    Lightning starts the others by the command line that it finds itself in.
    """
    if not facts.apart:
        return run

    def apart(line: list[str]) -> int:
        process = subprocess.run([sys.executable, "-m", "rfdlight", *line], capture_output=True, text=True)
        sys.stdout.write(process.stdout)
        sys.stderr.write(process.stderr)
        return process.returncode

    return apart
