"""`rfdlight sweep`: run a grid of evaluations cell by cell and report on all of them."""

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

from rfdlight import _io
from rfdlight._io import plain_console, write_file
from rfdlight.analysis.acting import check_acts
from rfdlight.cli.launcher import started_processes
from rfdlight.cli.report import report
from rfdlight.cli.sweep_cells import (
    INTERRUPTED,
    Attempt,
    Facts,
    Run,
    Size,
    as_yaml,
    attempt,
    config_file,
    facts_of,
    headline,
    naming,
    size_of,
)
from rfdlight.cli.sweep_config import Cell, merged, read_cells
from rfdlight.cli.sweep_estimate import Clock, plan, speeds_of
from rfdlight.defenses.base import Defense
from rfdlight.engine.passes import rows_per_pass
from rfdlight.errors import ResumeError, UserError
from rfdlight.evaluation import fingerprint
from rfdlight.evaluation.config import settle_eps
from rfdlight.records import run_directory
from rfdlight.victims.resolve import resolve_victim

ESTIMATE = (
    "An attack that succeeds ends early, so a strong attack takes a fraction of these times; the success criterion's "
    "votes on a random victim, and other work on this machine, take more."
)
OUTPUT = "output.txt"
"""File in the folder of a cell with the output of `rfdlight test`."""

Make = Callable[[list[str]], Any]
"""Makes the components of a command line: its model, datamodule and trainer."""


def sweep(
    experiment: str,
    make: Make,
    run: Run,
    output: str | None = None,
    num_images: int | None = None,
    dry_run: bool = False,
) -> int:
    """Run the missing cells of a grid of evaluations and report on all of them.

    Each cell is a run of `rfdlight test` in its own folder, beside its configuration; the setting `trainer.devices`
    starts several processes. A complete cell is not run again and a partial cell is resumed, so the same command
    continues a sweep that was stopped or killed. If a cell fails, its reason is printed and the next cell is run.
    One line is printed per cell; the output of its `rfdlight test` is in `output.txt` in its folder.

    Args:
        experiment: A file, or the name of a shipped experiment, such as "experiment/table4".
        make: Makes the components of a command line.
        run: Runs a command line and returns its exit status.
        output: Folder of the cells and of the report (default: below runs/, named after the experiment). Experiments
            that share cells of the same name and settings may share a folder.
        num_images: Number of images per cell, for a quick look at a long experiment; the forward passes are reduced to
            at most half of them.
        dry_run: List the cells and the estimated time of the missing cells if no attack succeeds, and run none.

    Returns:
        The exit status: 0, or 1 if the sweep was stopped or a cell failed.

    Raises:
        UserError: If the experiment or one of its cells cannot be used.
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
    finished = [str(folder / cell.name) for cell in cells if size_of(folder / cell.name)]
    if finished:
        report(finished, str(folder / f"report-{name}"))
    if failed:
        console.print(Text(f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed)}", style="red"))
    return 1 if failed else 0


def _resized(cell: Cell, num_images: int | None) -> Cell:
    """Return the cell with another number of images, in forward passes that so many images fill."""
    if num_images is None:
        return cell
    fewer = merged({"data": cell.config.get("data", {})}, {"data": {"init_args": {"num_images": num_images}}})
    model = cell.config.get("model") or {}
    if not isinstance(model, dict):
        return cell  # the parser reports it
    batch_size, eot = model.get("batch_size"), model.get("eot", 1)
    if isinstance(batch_size, int) and isinstance(eot, int):  # otherwise the number of images decides
        rows = max(min(batch_size, rows_per_pass(max(1, num_images), max(1, eot))), eot)
        fewer["model"] = {**model, "batch_size": rows}
    return replace(cell, config={**cell.config, **fewer})


def _size_if_complete(folder: Path, cell: Cell) -> Size | None:
    """Return the size of a complete cell, None if the cell has to be run.

    Raises:
        UserError: If the folder of the cell was made with other settings.
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


def _checked(cells: list[Cell], scratch: Path, make: Make) -> dict[str, Facts]:
    """Make the components of all cells and load their victims, so that errors are found before the first cell runs.

    Cells of the same victim are checked one after another, so that each victim is loaded once.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        model = cell.config.get("model")
        own = {key: model.get(key) for key in ("victim", "checkpoint")} if isinstance(model, dict) else None
        groups.setdefault(json.dumps([cell.config.get("data"), own], default=str), []).append(cell)
    facts = {}
    for group in groups.values():
        loaded, count = None, 0
        for cell in group:
            with naming(cell):
                config_file(scratch, cell).write_text(as_yaml(cell))
                made = make(["test", "-c", str(config_file(scratch, cell))])
                if loaded is None:
                    made.datamodule.setup("test")
                    model, count = made.model, made.datamodule.num_images
                    victim = resolve_victim(
                        model.victim_spec, model.checkpoint, made.datamodule, model.config.batch_size
                    )[0]
                    loaded = victim, made.datamodule.images("test")
                made.model.attack = settle_eps(made.model.attack, made.datamodule)
                for defense in made.trainer.callbacks if made.model.defended else ():
                    if isinstance(defense, Defense):
                        check_acts(defense, *loaded)
                facts[cell.name] = facts_of(made, count)
    return facts


def _run_missing(
    folder: Path, missing: list[Cell], facts: dict[str, Facts], run: Run, console: Console
) -> list[str] | None:
    """Run cells and print a line for each; return the names of the cells that failed, None if the sweep was stopped."""
    failed, clock = [], Clock(missing, facts)
    for number, cell in enumerate(missing, 1):
        place = folder / cell.name
        summary = _modified(place / "summary.json")
        done = _run(folder, cell, _run_apart if facts[cell.name].apart else run, console)
        complete = size_of(place) is not None
        # A run that is stopped writes the summary of its first images; one that crashes writes none.
        if not complete and (done.status == INTERRUPTED or _modified(place / "summary.json") != summary):
            return None
        result = headline(place) if complete else "no result"
        line = f"cell {number} of {len(missing)}, {cell.name}: {result}; {clock.passed(cell)}"
        console.print(Text(line), soft_wrap=True)
        if done.reason:
            console.print(Text(f"{cell.name} failed: {done.reason}", style="red"), soft_wrap=True)
            failed.append(cell.name)
    return failed


def _modified(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _run(folder: Path, cell: Cell, run: Run, console: Console) -> Attempt:
    """Run or resume a cell, and write its output into its folder."""
    place, done = folder / cell.name, None
    if (place / fingerprint.FILE).is_file():
        done = attempt(["test", "--resume", str(place)], run)
        if done.status == ResumeError.exit_status:
            console.print(Text(f"{done.reason}; it begins anew", style="yellow"), soft_wrap=True)
            done = None
    if done is None:
        shutil.rmtree(place, ignore_errors=True)
        config_file(folder, cell).write_text(as_yaml(cell))
        done = attempt(["test", "-c", str(config_file(folder, cell)), "--run", str(place)], run)
    if place.is_dir():
        write_file(place / OUTPUT, done.output)
    return done


def _run_apart(line: list[str]) -> int:
    """Run a command line in a new process, from which Lightning starts the others by the same command line."""
    process = subprocess.run([sys.executable, "-m", "rfdlight", *line], capture_output=True, text=True)
    sys.stdout.write(process.stdout)
    sys.stderr.write(process.stderr)
    return process.returncode
