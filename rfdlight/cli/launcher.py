"""Environment variables of torchrun and SLURM for runs of several processes.

Lightning reads them at every start; variables left over from another job make it wait for processes that never start.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
from collections.abc import Mapping

from rfdlight.errors import UserError
from rfdlight.records.diagnostic import Diagnostic

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_SLURM = ("SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
_INTERACTIVE = ("bash", "interactive")
"""Names of SLURM jobs that Lightning treats as one process."""

_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux."""


BOUND = "RFDLIGHT_BOUND_TO_PARENT"
"""Environment variable of a process that a sweep has started to run a cell."""


def is_bound(environ: Mapping[str, str]) -> bool:
    """Return whether this process has to end when its parent does."""
    return BOUND in environ or started_by_lightning(environ)


def started_by_lightning(environ: Mapping[str, str]) -> bool:
    """Return whether Lightning has started this process, as one of the others of a run."""
    return "NODE_RANK" in environ and "RANK" not in environ and environ.get("LOCAL_RANK", "0") != "0"


def end_with_parent() -> None:
    """Let the kernel send SIGTERM to this process when its parent ends; on Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def started_processes(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """Return the processes per machine, and the machines, of torchrun or srun; None if neither sets them."""
    if "TORCHELASTIC_RUN_ID" in environ:
        here = int(environ["LOCAL_WORLD_SIZE"])
        return here, int(environ["WORLD_SIZE"]) // here
    if under_slurm(environ) and "SLURM_NTASKS_PER_NODE" in environ:
        here = int(environ["SLURM_NTASKS_PER_NODE"])
        return here, max(1, int(environ["SLURM_NTASKS"]) // here)
    return None


def under_slurm(environ: Mapping[str, str]) -> bool:
    """Return whether Lightning treats this process as a task of SLURM."""
    return "SLURM_NTASKS" in environ and environ.get("SLURM_JOB_NAME") not in _INTERACTIVE


def check_launcher(environ: Mapping[str, str]) -> list[Diagnostic]:
    """Check that the variables of torchrun, and those of SLURM for several tasks, are all there."""
    found = []
    several = under_slurm(environ) and environ["SLURM_NTASKS"] != "1"
    begun = any(name in environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    for launcher, start, applies, names in (
        ("torchrun", "torchrun", begun, _TORCHRUN),
        ("SLURM", "srun --ntasks-per-node", several, ("SLURM_NTASKS", *_SLURM)),
    ):
        given = [name for name in names if name in environ]
        lacks = [name for name in names if name not in environ]
        text = " ".join(f"{name}={environ[name]}" for name in given)
        if applies and lacks:
            remedy = f"unset {' '.join(given)}; or start with {start}"
            found.append(Diagnostic(launcher, "fail", f"{text}, no {' '.join(lacks)}", remedy))
        elif applies:
            found.append(Diagnostic(launcher, "ok", text))
    return found or [Diagnostic("launcher", "ok", "no variables of torchrun or SLURM for several processes")]


def check_remains(environ: Mapping[str, str]) -> None:
    """Raise a UserError if variables of torchrun or SLURM seem to be left over from another job."""
    if started_by_lightning(environ):
        return
    for diagnostic in check_launcher(environ):
        if diagnostic.state == "fail":
            raise UserError(f"{diagnostic.found}; {diagnostic.remedy}")
