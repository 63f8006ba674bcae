"""`rfdlight sweep`: run a grid of evaluations, on one device, many devices or a cluster, and report on all of them."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from rfdlight import _io
from rfdlight._io import plain_console
from rfdlight.cli.launcher import started_processes
from rfdlight.cli.sweep import stored
from rfdlight.cli.sweep.experiment import Cell, merged, read_cells
from rfdlight.cli.sweep.ray_cluster import connected
from rfdlight.cli.sweep.status import states, status_lines, status_table
from rfdlight.errors import UserError, expect
from rfdlight.records import run_directory
from rfdlight.records.result import Size, size_of

LauncherName = Literal["local", "ray", "slurm"]
View = Literal["table", "json"]


def sweep(
    experiment: str,
    output: str | None = None,
    num_images: int | None = None,
    dry_run: bool = False,
    launcher: LauncherName = "local",
    jobs: int | None = None,
    retries: int = 0,
    slurm: dict[str, Any] | None = None,
    upload: str | None = None,
    status: View | None = None,
) -> int:
    """Run the missing cells of a grid of evaluations and report on all of them.

    Each cell is a run of `rfdlight test` in its own folder, beside its configuration; the setting `trainer.devices`
    starts several processes. A complete cell is not run again and a partial cell is resumed, so the same command
    continues a sweep that was stopped or killed. If a cell fails, its reason is printed and the next cell is run.
    One line is printed per cell; the output of its `rfdlight test` is in `output.txt` in its folder.

    Args:
        experiment: A file, or the name of a shipped experiment, such as "experiment/table4".
        output: Folder of the cells and of the report (default: below runs/, named after the experiment). Experiments
            that share cells of the same name and settings may share a folder.
        num_images: Number of images per cell, for a quick look at a long experiment.
        dry_run: List the cells and the estimated time of the missing cells if no attack succeeds, and run none.
        launcher: Where the cells run: on this machine, on a Ray cluster, or as array jobs of SLURM.
        jobs: Number of cells that run at the same time (default: 1 on this machine, as many as fit on a cluster).
        retries: How often a cell that failed is run again. A cell whose process was killed is always resumed.
        slurm: Options of sbatch for every job: `--slurm.time 240` (minutes; needed), `--slurm.partition gpu`, or
            all in one as `--slurm '{time: 240, partition: gpu, mem: 16G}'`.
        upload: Place such as s3://bucket/folder that gets a copy of each finished cell; cells that are finished there
            are not run again.
        status: Show the state of every cell as a table or as JSON lines, and run none.

    Returns:
        The exit status: 0, or 1 if the sweep was stopped or a cell failed.

    Raises:
        UserError: If the experiment or one of its cells cannot be used, or the launcher cannot run them.
    """
    path = _io.config_path(experiment)
    name = path.stem if num_images is None else f"{path.stem}-{num_images}"
    cells = [_resized(cell, num_images) for cell in read_cells(path)]
    folder = Path(output) if output is not None else Path("runs") / name
    console = plain_console()
    if status is not None:
        _show(folder, cells, status, console)
        return 0
    if started_processes(os.environ) not in (None, (1, 1)):
        raise UserError(
            "rfdlight sweep starts the processes of its cells itself: start it once, and give trainer.devices in the "
            "experiment"
        )
    expect(jobs is None or jobs >= 1, "jobs", "at least 1", jobs)
    expect(retries >= 0, "retries", "at least 0", retries)
    expect(slurm is None or launcher == "slurm", "slurm", "options for --launcher slurm", f"--launcher {launcher}")
    if upload is not None and not dry_run:
        stored.fetch(upload, folder, cells)
    done = {cell.name: _size_if_complete(folder, cell) for cell in cells}
    missing = [cell for cell in cells if done[cell.name] is None]
    if dry_run:
        from rfdlight.cli.sweep import running  # imports torch

        checked = running.check(missing)
        console.print(running.plan({cell: size or checked[cell].size for cell, size in done.items()}, checked))
        console.print(Text("An attack that succeeds ends early, and takes a fraction of its time.", style="dim"))
        return 0
    if upload is not None:
        stored.send(upload, folder, [name for name, size in done.items() if size is not None])
    failed: list[str] | None = []
    if missing:
        with connected(jobs, len(missing)) if launcher == "ray" else nullcontext() as ray:
            from rfdlight.cli.sweep import running

            checked = running.check(missing)
            run_directory.create(folder)
            options = (slurm or {}) if launcher == "slurm" else None
            chosen = running.launcher_of(folder, checked, jobs, options, ray)
            chosen.upload = upload or ""
            failed = running.run(chosen, missing, checked, cells, retries, console)
    if failed is None:
        console.print("stopped; the same command goes on from here")
        return 1
    finished = [str(folder / cell.name) for cell in cells if size_of(folder / cell.name)]
    if finished:
        from rfdlight.cli.report import report_runs

        report_runs(finished, str(folder / f"report-{name}"))
    if failed:
        console.print(Text(f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed)}", style="red"))
    return 1 if failed else 0


def _show(folder: Path, cells: list[Cell], view: View, console: Console) -> None:
    """Print the state of every cell."""
    found = states(folder, [cell.name for cell in cells])
    if view == "table":
        console.print(status_table(found))
        return
    for line in status_lines(found):
        print(line)  # noqa: T201  the output of the command


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
