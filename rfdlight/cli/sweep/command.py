"""`rfdlight sweep`: run a grid of evaluations cell by cell and report on all of them."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rfdlight import _io
from rfdlight._io import plain_console
from rfdlight.cli.launcher import started_processes
from rfdlight.cli.report import report_runs
from rfdlight.cli.sweep.cell_files import Size, headline, size_of
from rfdlight.cli.sweep.cells import INTERRUPTED, Checked, Make, Run, check_cells, run_cell
from rfdlight.cli.sweep.experiment import Cell, merged, read_cells
from rfdlight.data.given import GivenImages
from rfdlight.errors import UserError
from rfdlight.evaluation.evaluate import evaluate
from rfdlight.records import run_directory
from rfdlight.reporting.tables import duration

_PROBE = Size(images=64, budget=8)
"""Size of the short evaluation that measures the speed of a victim."""


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
        num_images: Number of images per cell, for a quick look at a long experiment.
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
        checked = check_cells(missing, Path(scratch), make)
    if dry_run:
        console.print(_plan({cell: size or checked[cell].size for cell, size in done.items()}, checked))
        console.print(Text("An attack that succeeds ends early, and takes a fraction of its time.", style="dim"))
        return 0
    run_directory.create(folder)
    failed = _run_missing(folder, missing, checked, run, console)
    if failed is None:
        console.print("stopped; the same command goes on from here")
        return 1
    finished = [str(folder / cell.name) for cell in cells if size_of(folder / cell.name)]
    if finished:
        report_runs(finished, str(folder / f"report-{name}"))
    if failed:
        console.print(Text(f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed)}", style="red"))
    return 1 if failed else 0


def _resized(cell: Cell, num_images: int | None) -> Cell:
    """Return the cell with another number of images, which then decides the size of forward passes too."""
    if num_images is None:
        return cell
    fewer = merged({"data": cell.config.get("data", {})}, {"data": {"init_args": {"num_images": num_images}}})
    if isinstance(cell.config.get("model"), dict):
        fewer["model"] = {key: value for key, value in cell.config["model"].items() if key != "batch_size"}
    return replace(cell, config={**cell.config, **fewer})


def _size_if_complete(folder: Path, cell: Cell) -> Size | None:
    """Return the size of a complete cell, None if the cell has to be run; refuse a folder of other settings."""
    config = cell.file(folder)
    if not (folder / cell.name).exists():
        return None
    if not config.is_file() or config.read_bytes() != cell.as_yaml().encode():
        raise UserError(
            f"{folder / cell.name} was not made from this experiment's settings; give --output another folder, or "
            f"remove that one and {config.name}"
        )
    return size_of(folder / cell.name)


def _plan(sizes: dict[str, Size], checked: dict[str, Checked]) -> Table:
    """Return a table of all cells: images, queries, and the time of the missing cells if no attack succeeds."""
    rates: dict[int, float] = {}
    minutes: dict[str, float] = {}
    for name, cell in checked.items():
        if id(cell.victim) not in rates:
            rates[id(cell.victim)] = _rows_per_second(cell)
        minutes[name] = cell.size.images * cell.size.budget / rates[id(cell.victim)] / 60
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    table.add_column("cell", f"{len(checked)} of {len(sizes)} to run", overflow="fold")
    for column, footer in (("images", ""), ("queries", ""), ("if all robust", f"{sum(minutes.values()):,.1f} min")):
        table.add_column(column, footer, justify="right")
    for name, size in sizes.items():
        cost = f"{minutes[name]:,.1f} min" if name in minutes else "done"
        table.add_row(name, f"{size.images:,}", f"{size.budget:,}", cost)
    return table


def _rows_per_second(cell: Checked) -> float:
    """Measure the speed of a victim without its defense, in a short evaluation."""
    images = cell.images.take(list(range(min(_PROBE.images, len(cell.images)))))
    data = GivenImages(images, cell.num_classes)
    run = evaluate(
        cell.victim,
        data,
        "random_noise",
        eps=0.1,
        budget=_PROBE.budget,
        sanity_checks=False,
        device=cell.device,
        progress=False,
    )
    return run.facts.totals.total / run.facts.wall_seconds


def _run_missing(
    folder: Path, missing: list[Cell], checked: dict[str, Checked], run: Run, console: Console
) -> list[str] | None:
    """Run cells and print a line for each; return the names of the cells that failed, None if the sweep was stopped."""
    failed: list[str] = []
    begun = last = time.monotonic()
    queries = [checked[cell.name].size.images * checked[cell.name].size.budget for cell in missing]
    for number, cell in enumerate(missing, 1):
        place = folder / cell.name
        summaries = _summaries(place)
        done = run_cell(folder, cell, None if checked[cell.name].apart else run, console)
        complete = size_of(place) is not None
        # A run that is stopped writes the summary of its first images, a standard evaluation in the folder of a stage.
        stopped = done.status == 1 and _summaries(place) - summaries
        if not complete and (stopped or done.status == INTERRUPTED):
            return None
        result = headline(place) if complete else "no result"
        now = time.monotonic()
        line = f"cell {number} of {len(missing)}, {cell.name}: {result}; {duration(now - last)}, all "
        line += duration(now - begun)
        if number < len(missing):
            left = (now - begun) * sum(queries[number:]) / max(1, sum(queries[:number]))
            line += f", about {duration(left)} left"
        console.print(Text(line), soft_wrap=True)
        last = now
        if done.reason:
            console.print(Text(f"{cell.name} failed: {done.reason}", style="red"), soft_wrap=True)
            failed.append(cell.name)
    return failed


def _summaries(place: Path) -> set[tuple[Path, int]]:
    """Return the summaries of the runs in and below a folder, with the times of their changes."""
    return {(path, path.stat().st_mtime_ns) for path in place.rglob("summary.json")}
