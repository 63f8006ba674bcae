"""`rfdlight sweep`: a grid of evaluations, run cell by cell and reported together."""

from __future__ import annotations

import contextlib
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

from rfdlight import packaged
from rfdlight.commands.report import report
from rfdlight.commands.sweep_cells import (
    INTERRUPTED,
    Facts,
    Size,
    as_yaml,
    attempt,
    config_file,
    facts_of,
    is_finished,
    naming,
    size_of,
)
from rfdlight.commands.sweep_estimate import plan, speeds_of
from rfdlight.defenses.base import Defense
from rfdlight.environment.launcher import started_processes
from rfdlight.errors import UserError
from rfdlight.modules.complaint import STOPPED
from rfdlight.modules.evaluation import BATCH_SIZE
from rfdlight.protocol import identity
from rfdlight.protocol.experiment import Cell, merged, read_cells
from rfdlight.protocol.short_attack import settle_eps
from rfdlight.results import run_directory
from rfdlight.victims.resolve import resolve_victim

_IMAGES_PER_ROW = 4
"""Of a forward pass, in a sweep with fewer images: so many that passes stay full while images break one by one."""


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
    was stopped or killed. A cell that fails is told, and the others go on.

    Args:
        experiment: A file, or the name of one that comes with rfdlight, such as "experiment/table4".
        make: Makes what a command line names, and runs nothing: returns its model, datamodule and trainer.
        run: Runs a command line and returns its exit status.
        output: Folder of the cells and of their report (default: below runs/, with the experiment's name). Experiments
            with cells of one name and the same settings may share it.
        num_images: Attack so many images in every cell, for a quick look at a long experiment; in forward passes of
            at most a quarter of them.
        dry_run: Only list the cells, and about how long those that are missing take, by a short run against each of
            their victims.

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
    path = packaged.config_path(experiment)
    name = path.stem if num_images is None else f"{path.stem}-{num_images}"
    cells = [_resized(cell, num_images) for cell in read_cells(path)]
    folder = Path(output) if output is not None else Path("runs") / name
    done = {cell.name: _size_if_complete(folder, cell) for cell in cells}
    missing = [cell for cell in cells if done[cell.name] is None]
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        facts = _checked(missing, Path(scratch), make)
        if dry_run:
            sizes = {name: size or facts[name].size for name, size in done.items()}
            console.print(plan(sizes, facts, speeds_of(missing, facts, Path(scratch), run)))
            return 0
    run_directory.create(folder)
    failed = []
    for number, cell in enumerate(missing, 1):
        console.print(Text(f"\ncell {number} of {len(missing)} to run: {cell.name}", style="bold"))
        status, reason = _run(folder, cell, _starter(facts[cell.name], run), console)
        # Not by the exit status 1 alone: Python ends with it too, after an exception that nobody caught.
        if (status == INTERRUPTED or reason == STOPPED) and not is_finished(folder / cell.name):
            console.print("stopped; the same command goes on from here")
            return 1
        if reason:
            console.print(Text(f"{cell.name} failed: {reason}", style="red"), soft_wrap=True)
            failed.append(cell.name)
    finished = [str(folder / cell.name) for cell in cells if is_finished(folder / cell.name)]
    if finished:
        report(finished, str(folder / f"report-{name}"))
    if failed:
        console.print(Text(f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed)}", style="red"))
    return 1 if failed else 0


def _resized(cell: Cell, num_images: int | None) -> Cell:
    """Return the cell with so many images, in forward passes that so many keep full."""
    if num_images is None:
        return cell
    fewer = merged({"data": cell.config.get("data", {})}, {"data": {"init_args": {"num_images": num_images}}})
    model = cell.config.get("model") or {}
    if not isinstance(model, dict):
        return cell  # the parser says what is wrong with it
    batch_size, eot = model.get("batch_size", BATCH_SIZE), model.get("eot", 1)
    if not isinstance(batch_size, int) or not isinstance(eot, int):
        return cell
    rows = max(min(batch_size, max(1, num_images // _IMAGES_PER_ROW)), eot)
    return replace(cell, config={**cell.config, **fewer, "model": {**model, "batch_size": rows}})


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
        victim = None
        for cell in group:
            with naming(cell):
                config_file(scratch, cell).write_text(as_yaml(cell))
                made = make(["test", "-c", str(config_file(scratch, cell))])
                if victim is None:
                    victim = _loaded(made)
                _fit(made, victim)
                facts[cell.name] = facts_of(made)
    return facts


def _victim_settings(cell: Cell) -> str:
    model = cell.config.get("model")
    own = {key: model.get(key) for key in ("victim", "checkpoint")} if isinstance(model, dict) else None
    return json.dumps([cell.config.get("data"), own], default=str)


def _loaded(made: Any) -> nn.Module:
    made.datamodule.setup("test")
    model = made.model
    victim, _, _ = resolve_victim(model.victim_spec, model.checkpoint, made.datamodule, model.batch_size)
    return victim


def _fit(made: Any, victim: nn.Module) -> None:
    """Try the attack's radius on the data and the defenses on the victim."""
    settle_eps(made.model.attack, made.datamodule)
    with contextlib.ExitStack() as attached:
        for callback in made.trainer.callbacks:
            if isinstance(callback, Defense) and made.model.defended:
                attached.enter_context(callback.on(victim))


def _run(folder: Path, cell: Cell, run: Callable[[list[str]], int], console: Console) -> tuple[int, str]:
    """Run a cell, or go on with it; return its exit status, and in words what failed."""
    place = folder / cell.name
    if (place / identity.FILE).is_file():
        status, reason = attempt(["test", "--resume", str(place)], run)
        if not reason.startswith(identity.REFUSAL):
            return status, reason
        console.print(Text(f"{reason}; it begins anew", style="yellow"), soft_wrap=True)
    shutil.rmtree(place, ignore_errors=True)
    config_file(folder, cell).write_text(as_yaml(cell))
    return attempt(["test", "-c", str(config_file(folder, cell)), "--run", str(place)], run)


def _starter(facts: Facts, run: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
    """Return what runs a cell's command line: this process, unless the cell asks for several.

    Lightning starts the others by the command line that it finds itself in.
    """
    if not facts.apart:
        return run

    def apart(line: list[str]) -> int:
        process = subprocess.run([sys.executable, "-m", "rfdlight", *line], stderr=subprocess.PIPE, text=True)
        sys.stderr.write(process.stderr)
        return process.returncode

    return apart
