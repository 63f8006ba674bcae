"""The commands without a trainer, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rfdlight.cli.analyze import analyze
from rfdlight.cli.calibrate import calibrate
from rfdlight.cli.doctor import doctor
from rfdlight.cli.layers import layers
from rfdlight.cli.recommend import recommend
from rfdlight.cli.report import report
from rfdlight.cli.scales import scales
from rfdlight.cli.sweep import sweep

COMMANDS: dict[str, Callable[..., int | None]] = {
    "analyze": analyze,
    "calibrate": calibrate,
    "doctor": doctor,
    "layers": layers,
    "recommend": recommend,
    "report": report,
    "scales": scales,
    "sweep": sweep,
}
"""Functions that return the exit status, or None for 0."""

_VICTIM = {"dest": "victim", "help": "A shipped victim, a card's path, timm:NAME, or an import path of a network."}

POSITIONALS: dict[str, dict[str, Any]] = {
    "analyze": _VICTIM,
    "calibrate": _VICTIM,
    "layers": {**_VICTIM, "dest": "model"},
    "recommend": _VICTIM,
    "report": {"dest": "runs", "metavar": "RUN", "nargs": "+", "help": "Run directories, or folders of finished runs."},
    "scales": {"dest": "victim", "help": "A shipped victim, or a card's path."},
    "sweep": {"dest": "experiment", "help": "A file, or the name of a shipped experiment."},
}
"""The positional argument of a command, as keyword arguments of argparse."""

INJECTED = {"parsed", "make", "run"}
"""Parameters of commands that are no options: the parsed settings, and the functions that make the components of a
command line and that run it."""
