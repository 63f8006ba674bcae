"""Environment variables of torchrun and SLURM for runs of several processes.

Lightning reads them at every start; variables left over from another job make it wait for processes that never start.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
from collections.abc import Iterable, Mapping

from rfdlight.records.diagnostic import Diagnostic, State

_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_MEETING = ("MASTER_ADDR", "MASTER_PORT")
_TASK = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
_INTERACTIVE = ("bash", "interactive")
"""Names of SLURM jobs that Lightning treats as one process."""

_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux."""

_Rule = tuple[object, State, str, str]
"""Condition, and the state, finding and remedy if it holds."""


def started_by_lightning(environ: Mapping[str, str]) -> bool:
    """Return whether Lightning has started this process, as one of the others of a run."""
    return "NODE_RANK" in environ and "RANK" not in environ and environ.get("LOCAL_RANK", "0") != "0"


def end_with_parent() -> None:
    """Let the kernel send SIGTERM to this process when its parent ends; on Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def started_processes(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """Return the number of processes per machine, and of machines, that torchrun or srun has started.

    Returns:
        None if neither has started this process, or srun sets no number.
    """
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


def check_launcher(environ: Mapping[str, str], terminal: bool) -> list[Diagnostic]:
    """Compare the variables of torchrun and of SLURM with one another, by Lightning's rules.

    Args:
        environ: The environment.
        terminal: Whether the process has a terminal, as in a shell and not in a batch job.
    """
    found = [*_torchrun(environ), *_slurm(environ, terminal)]
    return found or [Diagnostic("launcher", "ok", "no variables of torchrun or SLURM")]


def _torchrun(environ: Mapping[str, str]) -> list[Diagnostic]:
    given = _given(environ, (*_RANKS, *_MEETING))
    if not given or (not _given(environ, _RANKS) and "SLURM_NTASKS" in environ):
        return []
    lacks = " ".join(name for name in _RANKS if name not in given)
    no_address = " ".join(name for name in _MEETING if name not in given)
    numbers, wrong = _whole_numbers(given, (*_RANKS, "MASTER_PORT"))
    rank, size, local = (numbers.get(name, 0) for name in _RANKS)
    text = _text(given)
    unset = f"unset {' '.join(given)}; or start with torchrun"
    rules: list[_Rule] = [
        (wrong, "fail", f"{wrong} is no whole number", unset),
        (not _given(environ, _RANKS), "warn", f"{text}, no {lacks}", unset),
        (lacks, "fail", f"{text}, no {lacks}", unset),
        (rank >= size, "fail", f"{text}: RANK must be below WORLD_SIZE", unset),
        (local > rank, "fail", f"{text}: LOCAL_RANK must be at most RANK", unset),
        (
            not 1 <= numbers.get("MASTER_PORT", 1) <= 65535,
            "fail",
            f"{text}: MASTER_PORT must lie between 1 and 65535",
            unset,
        ),
        (no_address, "warn", f"{text}, no {no_address}", f"set {no_address}; or start with torchrun"),
    ]
    return [_first("torchrun", rules, text)]


def _slurm(environ: Mapping[str, str], terminal: bool) -> list[Diagnostic]:
    given = _given(environ, ("SLURM_NTASKS", *_TASK))
    if not given:
        return []
    text = _text(given)
    if environ.get("SLURM_JOB_NAME") in _INTERACTIVE:
        return [Diagnostic("SLURM", "ok", f"{text}, an interactive job")]
    lacks = " ".join(name for name in _TASK if name not in given)
    numbers, wrong = _whole_numbers(given, given)
    tasks, task = numbers.get("SLURM_NTASKS"), numbers.get("SLURM_PROCID", 0)
    several = tasks is not None and tasks > 1
    alone = terminal or "SLURM_STEP_ID" not in environ
    unset = f"unset {' '.join(given)}; or start with srun"
    rules: list[_Rule] = [
        (wrong, "fail", f"{wrong} is no whole number", unset),
        (tasks is None and task > 0, "fail", f"{text}, no SLURM_NTASKS", unset),
        (tasks is None, "ok", text, ""),
        (
            several and "SLURM_NTASKS_PER_NODE" not in environ,
            "fail",
            f"{text}: Lightning refuses several tasks without SLURM_NTASKS_PER_NODE",
            "unset SLURM_NTASKS for one process; for several give srun --ntasks-per-node",
        ),
        (lacks, "fail" if several else "warn", f"{text}, no {lacks}", unset),
        (tasks is not None and task >= tasks, "fail", f"{text}: SLURM_PROCID must be below SLURM_NTASKS", unset),
        (
            several and alone,
            "warn",
            f"{text}, but not started by srun as one of {tasks}: Lightning may wait for the others",
            unset,
        ),
    ]
    return [_first("SLURM", rules, text)]


def _first(check: str, rules: list[_Rule], text: str) -> Diagnostic:
    """Return the diagnostic of the first rule that applies, or that everything is fine."""
    failing = (Diagnostic(check, state, found, remedy) for applies, state, found, remedy in rules if applies)
    return next(failing, Diagnostic(check, "ok", text))


def _given(environ: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    return {name: environ[name] for name in names if name in environ}


def _text(given: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in given.items())


def _whole_numbers(given: Mapping[str, str], names: Iterable[str]) -> tuple[dict[str, int], str]:
    """Return the numbers among the variables, and the first that is no number."""
    chosen = _given(given, names)
    wrong = next((f"{name}={value}" for name, value in chosen.items() if not value.isdecimal()), "")
    return {name: int(value) for name, value in chosen.items() if value.isdecimal()}, wrong
