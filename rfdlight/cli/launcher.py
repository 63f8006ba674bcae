"""The variables by which torchrun and SLURM tell a process that it is one of several.

Lightning reads them at every start; remains of another job make it wait for processes that nobody starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
from collections.abc import Iterable, Mapping

from rfdlight.records.diagnostic import Finding, State

_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_MEETING = ("MASTER_ADDR", "MASTER_PORT")
_TASK = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
_INTERACTIVE = ("bash", "interactive")
"""Names of SLURM jobs that Lightning leaves aside."""

_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux."""

_Rule = tuple[object, State, str, str]
"""When it applies, and then the state, what was found and what to do."""


def started_by_lightning(environ: Mapping[str, str]) -> bool:
    """Return whether a run of Lightning has started this process, as one of its others."""
    return "NODE_RANK" in environ and "RANK" not in environ and environ.get("LOCAL_RANK", "0") != "0"


def end_with_parent() -> None:
    """Have this process get SIGTERM when its parent ends, however that ends; on Linux alone."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def started_processes(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """Return how many processes torchrun or srun has started on each machine, and on how many machines.

    Returns:
        None where neither has started this process, or srun did not say how many.
    """
    if "TORCHELASTIC_RUN_ID" in environ:
        here = int(environ["LOCAL_WORLD_SIZE"])
        return here, int(environ["WORLD_SIZE"]) // here
    if under_slurm(environ) and "SLURM_NTASKS_PER_NODE" in environ:
        here = int(environ["SLURM_NTASKS_PER_NODE"])
        return here, max(1, int(environ["SLURM_NTASKS"]) // here)
    return None


def under_slurm(environ: Mapping[str, str]) -> bool:
    """Return whether Lightning takes this process for a task of SLURM."""
    return "SLURM_NTASKS" in environ and environ.get("SLURM_JOB_NAME") not in _INTERACTIVE


def check_launcher(environ: Mapping[str, str], terminal: bool) -> list[Finding]:
    """Compare the variables of torchrun and of SLURM with one another, by Lightning's rules.

    Args:
        environ: The environment.
        terminal: Whether someone types here, as in a shell and not in a batch job.
    """
    found = [*_torchrun(environ), *_slurm(environ, terminal)]
    return found or [Finding("launcher", "ok", "no variables of torchrun or SLURM")]


def _torchrun(environ: Mapping[str, str]) -> list[Finding]:
    there = _set(environ, (*_RANKS, *_MEETING))
    if not there or (not _set(environ, _RANKS) and "SLURM_NTASKS" in environ):
        return []
    lacks = [name for name in _RANKS if name not in there]
    meeting = [name for name in _MEETING if name not in there]
    numbers, wrong = _whole_numbers(environ, (*_RANKS, "MASTER_PORT"))
    rank, size, local = (numbers.get(name, 0) for name in _RANKS)
    told = _told(environ, there)
    unset = f"unset {' '.join(there)}; or start with torchrun"
    rules: list[_Rule] = [
        (wrong, "fail", f"{wrong} is no whole number", unset),
        (len(lacks) == 3, "warn", f"{told}, no {' '.join(lacks)}", unset),
        (lacks, "fail", f"{told}, no {' '.join(lacks)}", unset),
        (rank >= size, "fail", f"{told}: RANK must be below WORLD_SIZE", unset),
        (local > rank, "fail", f"{told}: LOCAL_RANK must be at most RANK", unset),
        (
            "MASTER_PORT" in numbers and not 1 <= numbers["MASTER_PORT"] <= 65535,
            "fail",
            f"{told}: MASTER_PORT must lie between 1 and 65535",
            unset,
        ),
        (meeting, "warn", f"{told}, no {' '.join(meeting)}", f"set {' '.join(meeting)}; or start with torchrun"),
        (True, "ok", told, ""),
    ]
    return [_first("torchrun", rules)]


def _slurm(environ: Mapping[str, str], terminal: bool) -> list[Finding]:
    there = _set(environ, ("SLURM_NTASKS", *_TASK))
    if not there:
        return []
    lacks = [name for name in _TASK if name not in there]
    numbers, wrong = _whole_numbers(environ, there)
    tasks, task = numbers.get("SLURM_NTASKS"), numbers.get("SLURM_PROCID", 0)
    several = tasks is not None and tasks > 1
    alone = terminal or "SLURM_STEP_ID" not in environ
    told = _told(environ, there)
    unset = f"unset {' '.join(there)}; or start with srun"
    rules: list[_Rule] = [
        (wrong, "fail", f"{wrong} is no whole number", unset),
        (environ.get("SLURM_JOB_NAME") in _INTERACTIVE, "ok", f"{told}, an interactive job", ""),
        (tasks is None and task > 0, "fail", f"{told}, no SLURM_NTASKS", unset),
        (tasks is None, "ok", told, ""),
        (
            several and "SLURM_NTASKS_PER_NODE" not in environ,
            "fail",
            f"{told}: Lightning refuses several tasks without SLURM_NTASKS_PER_NODE",
            "unset SLURM_NTASKS for one process; for several give srun --ntasks-per-node",
        ),
        (lacks, "fail" if several else "warn", f"{told}, no {' '.join(lacks)}", unset),
        (tasks is not None and task >= tasks, "fail", f"{told}: SLURM_PROCID must be below SLURM_NTASKS", unset),
        (
            several and alone,
            "warn",
            f"{told}, but not started by srun as one of {tasks}: Lightning may wait for the others",
            unset,
        ),
        (True, "ok", told, ""),
    ]
    return [_first("SLURM", rules)]


def _first(check: str, rules: list[_Rule]) -> Finding:
    """Return what the first rule that applies says; the last always does."""
    return next(Finding(check, state, found, remedy) for applies, state, found, remedy in rules if applies)


def _set(environ: Mapping[str, str], names: Iterable[str]) -> list[str]:
    return [name for name in names if name in environ]


def _told(environ: Mapping[str, str], names: Iterable[str]) -> str:
    return " ".join(f"{name}={environ[name]}" for name in names)


def _whole_numbers(environ: Mapping[str, str], names: Iterable[str]) -> tuple[dict[str, int], str]:
    """Return the numbers, and the first setting that is none."""
    there = _set(environ, names)
    numbers = {name: int(environ[name]) for name in there if environ[name].isdecimal()}
    return numbers, next((f"{name}={environ[name]}" for name in there if name not in numbers), "")
