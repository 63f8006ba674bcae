"""`rfdlight sweep`: a grid of evaluations, run cell by cell and reported together."""

from __future__ import annotations

import contextlib
import io
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

import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rfdlight import packaged
from rfdlight.commands.report import report
from rfdlight.documents import parse_json, read_text
from rfdlight.environment.launcher import started_processes
from rfdlight.errors import UserError, one_line
from rfdlight.modules.complaint import STOPPED
from rfdlight.modules.evaluation import BATCH_SIZE
from rfdlight.protocol import identity
from rfdlight.protocol.experiment import Cell, merged, read_cells
from rfdlight.results import run_directory

_PROBE = {"images": 64, "budget": 8}
"""Of the short run that tells how many rows a second a victim answers."""

_IMAGES_PER_ROW = 4
"""Of a forward pass, in a sweep with fewer images: so many that passes stay full while images break one by one."""

_INTERRUPTED = 130
"""Exit status of a run that was told to stop before its attack."""


def sweep(
    experiment: str,
    parse: Callable[[list[str]], Any],
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
        parse: Parses a command line and returns its settings.
        run: Runs a command line and returns its exit status.
        output: Folder of the cells and of their report (default: below runs/, with the experiment's name). Experiments
            with cells of one name and the same settings may share it.
        num_images: Attack so many images in every cell, for a quick look at a long experiment; in forward passes of
            at most a quarter of them.
        dry_run: Only list the cells, and how long those that are missing take at most, by a short run against each
            of their victims.

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
    missing = [cell for cell in cells if not _is_complete(folder, cell)]
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        settings = {cell.name: _parsed(cell, Path(scratch), parse) for cell in cells}
        if dry_run:
            rates = _rates(missing, settings, Path(scratch), run)
            console.print(_plan(cells, settings, rates))
            return 0
    run_directory.create(folder)
    failed = []
    for number, cell in enumerate(missing, 1):
        console.print(Text(f"\ncell {number} of {len(missing)} to run: {cell.name}", style="bold"))
        status, reason = _run(folder, cell, _starter(settings[cell.name], run), console)
        # Not by the exit status 1 alone: Python ends with it too, after an exception that nobody caught.
        if (status == _INTERRUPTED or reason == STOPPED) and not _is_finished(folder / cell.name):
            console.print("stopped; the same command goes on from here")
            return 1
        if reason:
            console.print(Text(f"{cell.name} failed: {reason}", style="red"), soft_wrap=True)
            failed.append(cell.name)
    done = [str(folder / cell.name) for cell in cells if cell.name not in failed or _is_finished(folder / cell.name)]
    if done:
        report(done, str(folder / f"report-{name}"))
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


def _config(folder: Path, cell: Cell) -> Path:
    return folder / f"{cell.name}.yaml"


def _written(cell: Cell) -> str:
    return yaml.safe_dump(cell.config, sort_keys=False)


def _is_complete(folder: Path, cell: Cell) -> bool:
    """Return whether a cell was run to its end.

    Raises:
        UserError: If it was run, or begun, with other settings.
    """
    config = _config(folder, cell)
    if not (folder / cell.name).exists():
        return False
    if not config.is_file() or config.read_text() != _written(cell):
        raise UserError(
            f"{folder / cell.name} was not made from this experiment's settings; give --output another folder, or "
            f"remove that one and {config.name}"
        )
    return _is_finished(folder / cell.name)


def _is_finished(place: Path) -> bool:
    """Return whether a run directory holds a run to the end, if only without the images that failed."""
    try:
        return bool(parse_json(read_text(place / "summary.json"))["run"]["complete"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _parsed(cell: Cell, scratch: Path, parse: Callable[[list[str]], Any]) -> Any:
    """Return a cell's settings, all of them, and find what is wrong with them before the first one runs."""
    config = _config(scratch, cell)
    config.write_text(_written(cell))
    try:
        return parse(["test", "-c", str(config)])
    except UserError as error:
        raise UserError(f"cell {cell.name}: {error}") from error


def _run(folder: Path, cell: Cell, run: Callable[[list[str]], int], console: Console) -> tuple[int, str]:
    """Run a cell, or go on with it; return its exit status, and in words what failed."""
    place = folder / cell.name
    if (place / identity.FILE).is_file():
        status, reason = _attempt(["test", "--resume", str(place)], run)
        if not reason.startswith(identity.REFUSAL):
            return status, reason
        console.print(Text(f"{reason}; it begins anew", style="yellow"), soft_wrap=True)
    shutil.rmtree(place, ignore_errors=True)
    _config(folder, cell).write_text(_written(cell))
    return _attempt(["test", "-c", str(_config(folder, cell)), "--run", str(place)], run)


def _starter(settings: Any, run: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
    """Return what runs a cell's command line: this process, unless the cell asks for several.

    Lightning starts the others by the command line that it finds itself in.
    """
    if settings.trainer.devices in ("auto", 1, "1") and settings.trainer.num_nodes == 1:
        return run

    def apart(line: list[str]) -> int:
        process = subprocess.run([sys.executable, "-m", "rfdlight", *line], stderr=subprocess.PIPE, text=True)
        sys.stderr.write(process.stderr)
        return process.returncode

    return apart


def _attempt(line: list[str], run: Callable[[list[str]], int]) -> tuple[int, str]:
    """Run a command line; return its exit status, and what it said of its failure."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            status = run(line)
    except SystemExit:  # how Lightning's trainer ends at Ctrl-C
        return _INTERRUPTED, "interrupted"
    except Exception as error:  # a victim or an attack of the user's own may raise anything
        return 2, f"{type(error).__name__}: {one_line(error)}"
    return status, _reason(status, errors.getvalue()) if status else ""


def _reason(status: int, errors: str) -> str:
    """Return what a run said of its failure: the last line, which a traceback has for its exception."""
    if STOPPED in errors:
        return STOPPED
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), f"it ended with exit status {status}")
    return one_line(last).removeprefix("rfdlight: ")


def _rates(
    cells: list[Cell], settings: dict[str, Any], scratch: Path, run: Callable[[list[str]], int]
) -> dict[str, float]:
    """Return for each cell how many rows its victim answers per second, measured once for cells of one victim."""
    known: dict[str, float] = {}
    rates = {}
    for cell in cells:
        victim = json.dumps({key: value for key, value in cell.config.items() if key != "attack"}, sort_keys=True)
        if victim not in known:
            known[victim] = _rate(cell, settings[cell.name], scratch, run)
        rates[cell.name] = known[victim]
    return rates


def _rate(cell: Cell, settings: Any, scratch: Path, run: Callable[[list[str]], int]) -> float:
    place = scratch / "probe"
    options = {
        "attack": "random_noise",
        "attack.eps": settings.attack.init_args.eps,
        "attack.norm": settings.attack.init_args.norm,
        "model.budget": _PROBE["budget"],
        "data.num_images": min(_PROBE["images"], settings.data.init_args.num_images),
        "trainer.devices": 1,
        "trainer.num_nodes": 1,
        "run": place,
    }
    line = [f"--{name}={value}" for name, value in options.items() if value is not None]
    with contextlib.redirect_stdout(io.StringIO()):
        status, reason = _attempt(["test", "-c", str(_config(scratch, cell)), *line], run)
    if status and not _is_finished(place):
        raise UserError(f"cell {cell.name}: {reason}")
    summary = json.loads((place / "summary.json").read_text())
    shutil.rmtree(place)
    return float(summary["ledger"]["rows"] / summary["run"]["wall_seconds"])


def _plan(cells: list[Cell], settings: dict[str, Any], rates: dict[str, float]) -> Table:
    """Show every cell: what it asks at most, and how long that takes; the judge's rows come on top."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    table.add_column("cell", f"{len(rates)} of {len(cells)} to run", overflow="fold")
    lines, total = [], 0.0
    for cell in cells:
        images, budget = settings[cell.name].data.init_args.num_images, settings[cell.name].model.budget
        seconds = images * budget / rates[cell.name] if cell.name in rates else None
        total += seconds or 0.0
        rate = f"{rates[cell.name]:,.0f}" if cell.name in rates else ""
        lines.append((cell.name, f"{images:,}", f"{budget:,}", rate, "done" if seconds is None else _minutes(seconds)))
    for column, footer in (("images", ""), ("queries", ""), ("rows/s", ""), ("at most", _minutes(total))):
        table.add_column(column, footer, justify="right")
    for line in lines:
        table.add_row(*line)
    return table


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f} min"
