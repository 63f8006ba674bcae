"""The commands that need no trainer, by their names."""

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
"""What they return is the exit status, None for 0."""

POSITIONALS: dict[str, dict[str, Any]] = {
    "analyze": {"dest": "victim", "help": "As --model.victim of rfdlight test."},
    "calibrate": {"dest": "victim", "help": "As --model.victim of rfdlight test."},
    "layers": {"dest": "model", "help": "A shipped victim, a card's path, timm:NAME, or an import path."},
    "recommend": {"dest": "victim", "help": "As --model.victim of rfdlight test."},
    "report": {"dest": "runs", "metavar": "RUN", "nargs": "+", "help": "Run directories, or folders of finished runs."},
    "scales": {"dest": "victim", "help": "A shipped victim, or a card's path."},
    "sweep": {"dest": "experiment", "help": "A file, or the name of one that comes with rfdlight."},
}
"""The one argument that is not a flag, as argparse takes it, of the commands that have one."""

INJECTED = {"parsed", "make", "run"}
"""Their arguments that are no flags: the command line as a configuration, the function that makes what a command line
names and the one that runs it."""
