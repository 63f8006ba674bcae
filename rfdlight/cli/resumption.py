"""The settings of a resumed run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rfdlight._io import read_config
from rfdlight.evaluation.fingerprint import cannot_go_on, mixed
from rfdlight.records import run_directory

CONFIG = "config.yaml"
"""File of a run directory with the settings of the run."""

_FREE = ("trainer", "run", "resume", "model.pool_size", "model.memory", "data.init_args.workers", "data.init_args.root")
"""Settings that a resumed run may change, since no result depends on them."""


def config_of(run: str, in_place: bool) -> Path:
    """Return the config of a run that is to be resumed.

    Args:
        run: Its directory.
        in_place: Whether the resumed run stays in that directory.

    Raises:
        ResumeError: If there is no such run, or it would not stay in its directory.
        UserError: If its config cannot be read.
    """
    config = Path(run, CONFIG)
    if not config.is_file():
        raise cannot_go_on(run, f"there is no {config}")
    if not in_place:
        raise cannot_go_on(run, "a run stays in its folder; leave --run out")
    run_directory.refuse_links(Path(run))
    read_config(config)
    return config


def check_unchanged(run: Path, settings: dict[str, Any]) -> None:
    """Compare the settings of a resumed run with those that it was begun with.

    Raises:
        ResumeError: Names the first setting that differs and may not.
    """
    before, now = (dict(_flat(each)) for each in (read_config(run / CONFIG), settings))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name) and not any(f"{name}.".startswith(f"{free}.") for free in _FREE):
            raise mixed(run, f"{name} is {now.get(name)}, was {before.get(name)}")


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
