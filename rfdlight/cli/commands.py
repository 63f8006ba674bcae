"""The commands without a trainer, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rfdlight._io import shipped_names
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

_SHIPPED = f"A shipped victim ({', '.join(shipped_names('checkpoints', '.json'))})"
_VICTIM = {"dest": "victim", "help": f"{_SHIPPED}, a card's path, timm:NAME, or an import path of a network."}
_EXPERIMENTS = [name.rpartition("/")[2] for name in shipped_names("configs", ".yaml") if "experiment/" in name]

POSITIONALS: dict[str, dict[str, Any]] = {
    "analyze": _VICTIM,
    "calibrate": _VICTIM,
    "layers": {**_VICTIM, "dest": "model"},
    "recommend": _VICTIM,
    "report": {"dest": "runs", "metavar": "RUN", "nargs": "+", "help": "Run directories, or folders of finished runs."},
    "scales": {"dest": "victim", "help": f"{_SHIPPED}, or a card's path."},
    "sweep": {"dest": "experiment", "help": f"A file, or experiment/NAME with a NAME of {', '.join(_EXPERIMENTS)}."},
}
"""The positional argument of a command, as keyword arguments of argparse."""

INJECTED = {"parsed", "make", "run"}
"""Parameters of commands that are no options: the parsed settings, and the functions that make the components of a
command line and that run it."""
