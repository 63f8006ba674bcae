"""A cell of a sweep: what it is, where it lies, and a try at running it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rfdlight._io import parse_json, read_text
from rfdlight.cli.sweep_config import Cell
from rfdlight.core.norms import Norm
from rfdlight.engine.passes import MOST_ROWS
from rfdlight.errors import UserError, one_line
from rfdlight.evaluation.exit_reason import STOPPED
from rfdlight.records.runs import load_run
from rfdlight.reporting.tables import interval, percent

INTERRUPTED = 130
"""Exit status of a run that was told to stop before its attack."""


def config_file(folder: Path, cell: Cell) -> Path:
    """Return where a cell's configuration lies, beside the folder of its run."""
    return folder / f"{cell.name}.yaml"


def as_yaml(cell: Cell) -> str:
    """Return a cell's configuration as it is written."""
    return yaml.safe_dump(cell.config, sort_keys=False)


def is_finished(place: Path) -> bool:
    """Return whether a run directory holds a run to the end, if only without the images that failed."""
    return size_of(place) is not None


def size_of(place: Path) -> Size | None:
    """Return the size of the run that a directory holds to the end, None if there is none."""
    try:
        run = parse_json(read_text(place / "summary.json"))["run"]
        return Size(int(run["num_images"]), int(run["budget"])) if run["complete"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def headline(place: Path) -> str:
    """Return the clean and robust accuracy of the run that a directory holds, in words."""
    accuracies = load_run(place).summary.mean_logits
    robust = accuracies.robust
    return f"robust {percent(robust)} ({interval(robust)}), clean {percent(accuracies.clean)}"


@contextlib.contextmanager
def naming(cell: Cell) -> Iterator[None]:
    """Say of which cell something is wrong; what a user's own class raises may be anything."""
    try:
        yield
    except UserError as error:
        raise UserError(f"cell {cell.name}: {error}") from error
    except Exception as error:
        raise UserError(f"cell {cell.name}: {type(error).__name__}: {one_line(error)}") from error


@dataclass(frozen=True)
class Size:
    """How many images a cell attacks, and with how many queries each."""

    images: int
    budget: int


@dataclass(frozen=True)
class Facts:
    """What a sweep has to know of a cell before it is run.

    Attributes:
        size: Of its run.
        resizable: Whether its data can be told to have fewer images.
        draws: At each image, before the attack and at its end, if the victim is random.
        fill: Rows that a forward pass has for each that is used, while no image is done: at least 1.
        eps: Of the attack; None if it has none.
        norm: Of the attack.
        apart: Whether the cell asks for several processes.
        checked: Images that its sanity checks attack, over all of these.
    """

    size: Size
    resizable: bool
    draws: int
    fill: float
    eps: float | None
    norm: Norm
    apart: bool
    checked: int


def facts_of(made: Any, images: int) -> Facts:
    """Return the facts of a cell from what its command line names and the number of its images."""
    model = made.model
    rows = model.rows_for(images, made.trainer.world_size)
    arguments = made.config[made.subcommand].data.get("init_args") or {}  # a class of the user's own may have others
    return Facts(
        size=Size(images, model.budget),
        resizable="num_images" in arguments,
        draws=model.criterion.clean_evaluations + model.criterion.final_evaluations,
        fill=max(1.0, rows / (model.eot * min(images, model.pool_size_for(rows)))),
        eps=model.attack.eps,
        norm=model.attack.norm,
        apart=made.trainer.world_size > 1,
        checked=2 * min(images, max(rows, min(2 * rows, MOST_ROWS))) if model.sanity_checks else 0,
    )


@dataclass(frozen=True)
class Attempt:
    """One run of a command line.

    Attributes:
        status: Its exit status.
        reason: Why it failed, in one line; empty if it did not.
        output: Everything that it printed on the standard output.
    """

    status: int
    reason: str
    output: str


def attempt(line: list[str], run: Callable[[list[str]], int]) -> Attempt:
    """Run a command line, and print nothing."""
    output, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = run(line)
        reason = _reason(status, errors.getvalue()) if status else ""
    except SystemExit:  # how Lightning's trainer ends at Ctrl-C
        status, reason = INTERRUPTED, "interrupted"
    except Exception as error:  # a victim or an attack of the user's own may raise anything
        status, reason = 2, f"{type(error).__name__}: {one_line(error)}"
    return Attempt(status, reason, output.getvalue())


def _reason(status: int, errors: str) -> str:
    """Return what a run said of its failure: the last line, which a traceback has for its exception."""
    if STOPPED in errors:
        return STOPPED
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), f"it ended with exit status {status}")
    return one_line(last).removeprefix("rfdlight: ")
