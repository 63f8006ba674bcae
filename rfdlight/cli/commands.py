"""The commands by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

COMMANDS = {
    "analyze": "rfdlight.cli.analyze.analyze",
    "calibrate": "rfdlight.cli.calibrate.calibrate",
    "completion": "rfdlight.cli.completion.completion",
    "doctor": "rfdlight.cli.doctor.doctor",
    "export": "rfdlight.cli.export.export_network",
    "layers": "rfdlight.cli.layers.layers",
    "recommend": "rfdlight.cli.recommend.recommend",
    "reevaluate": "rfdlight.cli.reevaluate.reevaluate_run",
    "report": "rfdlight.cli.report.report_runs",
    "scales": "rfdlight.cli.scales.scales",
    "sweep": "rfdlight.cli.sweep.command.sweep",
}
"""Import paths of the commands without a trainer."""

KNOWN = ("fit", "test", *COMMANDS)
"""All commands, in the order in which they are listed."""

WITHOUT_TORCH = ("completion", "report", "sweep")
"""The commands that start without torch and Lightning; a sweep imports them for the cells that it runs."""

TEXTS = Path(__file__).with_name("help_texts")
"""The help of the program and of every command, and the options of every command, written by `make help-texts`."""

DEFAULTS = {"fit": ("data", "digits"), "test": ("data", "digits"), "recommend": ("attack", "standard")}
"""The component that a command uses if none is named, by command."""


def written_options() -> dict[str, dict[str, Any]]:
    """Return the options of every command, and what each expects; see `rfdlight.cli.parser.expected_values`."""
    return json.loads((TEXTS / "options.json").read_text("utf-8"))


def function_of(command: str) -> Callable[..., int | None]:
    """Import the function of a command without a trainer; it returns the exit status, or None for 0."""
    return resolve_name(COMMANDS[command])
