"""The folder that holds one run and never another."""

from __future__ import annotations

import time
from pathlib import Path

from rfdlight.errors import UserError


def plan(path: str | None, label: str) -> Path:
    """Decide where a run will go, without making the folder.

    Args:
        path: What the user asked for; by default `runs/<time>-<label>`.
        label: What the run is.

    Raises:
        UserError: If something is already there.
    """
    planned = Path(path) if path else Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{label}"
    if planned.exists() and (not planned.is_dir() or any(planned.iterdir())):
        raise UserError(f"{planned} already holds another run; give --run another folder, or move that one")
    return planned


def create(planned: Path) -> Path:
    """Make the folder.

    Raises:
        UserError: If it cannot be made.
    """
    try:
        planned.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run directory {planned}: {error.strerror}") from error
    return planned
