"""The command line of a run that is gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rfdlight._io import read_config
from rfdlight.cli.short_names import option_at
from rfdlight.evaluation.fingerprint import cannot_go_on, mixed
from rfdlight.records import run_directory

CONFIG = "config.yaml"
"""In a run directory: the settings that the run was begun with."""

_FREE = ("trainer", "run", "resume", "model.pool_size", "model.memory", "data.init_args.workers", "data.init_args.root")
"""Settings that no number of a run depends on."""


def with_settings(args: list[str]) -> list[str]:
    """Put the settings of the run that `--resume` names in front of what else a command line says.

    Raises:
        UserError: If there are none.
    """
    for position in range(len(args) if args[:1] == ["test"] else 0):
        flag, run, _ = option_at(args, position)
        if flag == "--resume" and run:
            config = Path(run, CONFIG)
            if not config.is_file():
                raise cannot_go_on(run, f"there is no {config}")
            if any(option_at(args, other)[0] == "--run" for other in range(len(args))):
                raise cannot_go_on(run, "a run stays in its folder; leave --run out")
            run_directory.refuse_links(Path(run))
            read_config(config)
            return [args[0], f"--config={config}", *args[1:]]
    return args


def check_unchanged(run: Path, settings: dict[str, Any]) -> None:
    """Refuse settings that are not the run's own.

    Raises:
        UserError: Names the first that differs.
    """
    before, now = (dict(_flat(each)) for each in (read_config(run / CONFIG), settings))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name) and not any(name == free or name.startswith(f"{free}.") for free in _FREE):
            raise mixed(run, f"{name} is {now.get(name)}, was {before.get(name)}")


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
