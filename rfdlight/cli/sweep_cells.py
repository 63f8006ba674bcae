"""The cells of a sweep: the files of a cell, its facts, and a run of its command line."""

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
from rfdlight.engine.config import MOST_ROWS
from rfdlight.engine.criteria import criterion_named
from rfdlight.errors import UserError, one_line
from rfdlight.records.runs import load_run
from rfdlight.reporting.tables import interval, percent

INTERRUPTED = 130
"""Exit status of a run that was interrupted before its attack began."""

Run = Callable[[list[str]], int]
"""Runs a command line and returns its exit status."""


@dataclass(frozen=True)
class Size:
    """The number of images that a cell attacks, and of queries per image."""

    images: int
    budget: int


@dataclass(frozen=True)
class Facts:
    """The facts of a cell that are known before it is run.

    Attributes:
        size: Size of its run.
        resizable: Whether the number of images is an argument of its data.
        draws: Evaluations per image before and after the attack, if the victim is random.
        fill: Rows of a forward pass per row that is used, while no image has ended; at least 1.
        eps: Radius of the attack; None if it has none.
        norm: Norm of the attack.
        apart: Whether the cell is run by several processes.
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


@dataclass(frozen=True)
class Attempt:
    """The end of one run of a command line.

    Attributes:
        status: Exit status.
        reason: Why the run failed, in one line; empty if it did not.
        output: The standard output.
    """

    status: int
    reason: str
    output: str


def config_file(folder: Path, cell: Cell) -> Path:
    """Return the path of a cell's configuration, beside the folder of its run."""
    return folder / f"{cell.name}.yaml"


def as_yaml(cell: Cell) -> str:
    """Return the content of a cell's configuration file."""
    return yaml.safe_dump(cell.config, sort_keys=False)


def size_of(place: Path) -> Size | None:
    """Return the size of the complete run in a directory, None if there is none; images that failed count as done."""
    try:
        run = parse_json(read_text(place / "summary.json"))["run"]
        return Size(int(run["num_images"]), int(run["budget"])) if run["complete"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def headline(place: Path) -> str:
    """Return the clean and robust accuracy of a finished run as text."""
    accuracies = load_run(place).summary.mean_logits
    robust = accuracies.robust
    return f"robust {percent(robust)} ({interval(robust)}), clean {percent(accuracies.clean)}"


@contextlib.contextmanager
def naming(cell: Cell) -> Iterator[None]:
    """Put the name of a cell in front of an error; a user's own class may raise any exception."""
    try:
        yield
    except Exception as error:
        reason = error if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"cell {cell.name}: {reason}") from error


def facts_of(made: Any, images: int) -> Facts:
    """Return the facts of a cell.

    Args:
        made: The command line of the cell with its components made.
        images: Number of images that the cell attacks.
    """
    model, config = made.model, made.model.config
    rows = config.rows_for(images, made.trainer.world_size)
    arguments = made.config[made.subcommand].data.get("init_args") or {}  # a user's own class may have others
    return Facts(
        size=Size(images, config.budget),
        resizable="num_images" in arguments,
        draws=criterion_named(config.criterion).clean_evaluations + config.final_evaluations,
        fill=max(1.0, rows / (config.eot * min(images, config.pool_size_for(rows)))),
        eps=model.attack.eps,
        norm=model.attack.norm,
        apart=made.trainer.world_size > 1,
        checked=2 * min(images, max(rows, min(2 * rows, MOST_ROWS))) if config.sanity_checks else 0,
    )


def attempt(line: list[str], run: Run) -> Attempt:
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
