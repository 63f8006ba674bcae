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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from rfdlight import packaged
from rfdlight.commands.report import report
from rfdlight.defenses.base import Defense
from rfdlight.documents import parse_json, read_text
from rfdlight.environment.launcher import started_processes
from rfdlight.errors import UserError, one_line
from rfdlight.modules.complaint import STOPPED
from rfdlight.modules.evaluation import BATCH_SIZE
from rfdlight.norms import Norm
from rfdlight.protocol import identity
from rfdlight.protocol.experiment import Cell, merged, read_cells
from rfdlight.protocol.short_attack import settle_eps
from rfdlight.results import run_directory
from rfdlight.victims.resolve import resolve_victim

_PROBE = {"images": 64, "budget": 8}
"""Of the short run that tells how many rows a second a victim answers."""

_IMAGES_PER_ROW = 4
"""Of a forward pass, in a sweep with fewer images: so many that passes stay full while images break one by one."""

_INTERRUPTED = 130
"""Exit status of a run that was told to stop before its attack."""


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
    missing = [cell for cell in cells if not _is_complete(folder, cell)]
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        facts = _checked(cells, missing, Path(scratch), make)
        if dry_run:
            console.print(_plan(cells, facts, _rates(missing, facts, Path(scratch), run)))
            return 0
    run_directory.create(folder)
    failed = []
    for number, cell in enumerate(missing, 1):
        console.print(Text(f"\ncell {number} of {len(missing)} to run: {cell.name}", style="bold"))
        status, reason = _run(folder, cell, _starter(facts[cell.name], run), console)
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
    if not config.is_file() or config.read_bytes() != _written(cell).encode():
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


@dataclass(frozen=True)
class _Facts:
    """What a sweep has to know of a cell.

    Attributes:
        images: That are attacked.
        probed: Of them, in the short run that tells how fast the victim is; None if the data have no say in it.
        budget: Queries for each.
        draws: At each image, before the attack and at its end, if the victim is random.
        fill: Rows that a forward pass has for each that is used, while no image is done: at least 1.
        eps: Of the attack; None in a cell that is not run.
        norm: Of the attack.
        apart: Whether the cell asks for several processes.
    """

    images: int
    probed: int | None
    budget: int
    draws: int
    fill: float
    eps: float | None
    norm: Norm
    apart: bool


def _checked(
    cells: list[Cell], missing: list[Cell], scratch: Path, make: Callable[[list[str]], Any]
) -> dict[str, _Facts]:
    """Make what every cell names, and load what the missing ones attack: what is wrong is found before the first runs.

    Cells with the same victim come one after another, so that it is loaded once, and one at a time.
    """
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(_victim_settings(cell), []).append(cell)
    facts = {}
    for group in alike.values():
        victim = None
        for cell in group:
            with _naming(cell):
                _config(scratch, cell).write_text(_written(cell))
                made = make(["test", "-c", str(_config(scratch, cell))])
                if cell in missing:
                    if victim is None:
                        victim = _loaded(made)
                    _fit(made, victim)
                facts[cell.name] = _facts(made)
    return facts


def _victim_settings(cell: Cell) -> str:
    model = cell.config.get("model")
    own = {key: model.get(key) for key in ("victim", "checkpoint")} if isinstance(model, dict) else None
    return json.dumps([cell.config.get("data"), own], default=str)


@contextlib.contextmanager
def _naming(cell: Cell) -> Iterator[None]:
    """Say of which cell something is wrong; what a user's own class raises may be anything."""
    try:
        yield
    except UserError as error:
        raise UserError(f"cell {cell.name}: {error}") from error
    except Exception as error:
        raise UserError(f"cell {cell.name}: {type(error).__name__}: {one_line(error)}") from error


def _loaded(made: Any) -> nn.Module:
    made.datamodule.setup("test")
    victim, _, _ = resolve_victim(made.model.victim_spec, made.model.checkpoint, made.datamodule)
    return victim


def _fit(made: Any, victim: nn.Module) -> None:
    """Try the attack's radius on the data and the defenses on the victim."""
    settle_eps(made.model.attack, made.datamodule)
    with contextlib.ExitStack() as attached:
        for callback in made.trainer.callbacks:
            if isinstance(callback, Defense) and made.model.defended:
                attached.enter_context(callback.on(victim))


def _facts(made: Any) -> _Facts:
    model, images = made.model, made.datamodule.num_images
    arguments = made.config[made.subcommand].data.get("init_args") or {}  # a class of the user's own may have others
    return _Facts(
        images=images,
        probed=min(_PROBE["images"], images) if "num_images" in arguments else None,
        budget=model.budget,
        draws=model.judge.clean_draws + model.judge.final_draws,
        fill=max(1.0, model.batch_size / (model.eot * min(images, model.slots))),
        eps=model.attack.eps,
        norm=model.attack.norm,
        apart=made.trainer.world_size > 1,
    )


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


def _starter(facts: _Facts, run: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
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


@dataclass(frozen=True)
class _Speed:
    """How many rows a victim answers per second, and whether it answers the same every time."""

    rate: float
    deterministic: bool


def _rates(
    cells: list[Cell], facts: dict[str, _Facts], scratch: Path, run: Callable[[list[str]], int]
) -> dict[str, _Speed]:
    """Return how fast the victim of each cell is, measured once for cells of one victim."""
    known: dict[str, _Speed] = {}
    rates = {}
    for cell in cells:
        victim = json.dumps({key: value for key, value in cell.config.items() if key != "attack"}, sort_keys=True)
        if victim not in known:
            with _naming(cell):
                known[victim] = _rate(cell, facts[cell.name], scratch, run)
        rates[cell.name] = known[victim]
    return rates


def _rate(cell: Cell, facts: _Facts, scratch: Path, run: Callable[[list[str]], int]) -> _Speed:
    place = scratch / "probe"
    options = {
        "attack": "random_noise",
        "attack.eps": facts.eps,
        "attack.norm": facts.norm,
        "model.budget": _PROBE["budget"],
        "data.num_images": facts.probed,
        "trainer.devices": 1,
        "trainer.num_nodes": 1,
        "run": place,
    }
    line = [f"--{name}={value}" for name, value in options.items() if value is not None]
    with contextlib.redirect_stdout(io.StringIO()):
        status, reason = _attempt(["test", "-c", str(_config(scratch, cell)), *line], run)
    if status and not _is_finished(place):
        raise UserError(reason)
    summary = json.loads((place / "summary.json").read_text())
    shutil.rmtree(place)
    return _Speed(summary["ledger"]["rows"] / summary["run"]["wall_seconds"], summary["run"]["deterministic"])


def _seconds(facts: _Facts, speed: _Speed) -> float:
    """Return about how long a cell's images take, if none breaks."""
    draws = 2 if speed.deterministic else facts.draws
    return facts.images * (facts.budget * facts.fill + draws) / speed.rate


def _plan(cells: list[Cell], facts: dict[str, _Facts], rates: dict[str, _Speed]) -> Table:
    """Show every cell: what it asks at most, and about how long that takes."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    table.add_column("cell", f"{len(rates)} of {len(cells)} to run", overflow="fold")
    lines, total = [], 0.0
    for cell in cells:
        fact, speed = facts[cell.name], rates.get(cell.name)
        seconds = _seconds(fact, speed) if speed else 0.0
        total += seconds
        told = (f"{speed.rate:,.0f}", _minutes(seconds)) if speed else ("", "done")
        lines.append((cell.name, f"{fact.images:,}", f"{fact.budget:,}", *told))
    for column, footer in (("images", ""), ("queries", ""), ("rows/s", ""), ("about", _minutes(total))):
        table.add_column(column, footer, justify="right")
    for line in lines:
        table.add_row(*line)
    return table


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f} min"
