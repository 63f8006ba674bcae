"""Array jobs of SLURM, submitted by submitit."""

from __future__ import annotations

import contextlib
import io
import math
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from rfdlight._io import read_bytes, write_file
from rfdlight.cli.sweep.cell_files import FOLDER
from rfdlight.cli.sweep.experiment import Resources
from rfdlight.cli.sweep.launchers import Ended, Launcher
from rfdlight.cli.sweep.packs import Job, Pack
from rfdlight.cli.sweep.worker import run_assignment
from rfdlight.core.extras import imported
from rfdlight.errors import UserError, expect, one_line

_PROCESSES = 64
"""Jobs that are assumed to run at the same time, for the size of packs, where --jobs does not say it."""

_LARGEST = 1000
"""Jobs in one array; SLURM's own limit, MaxArraySize, is 1001 unless a cluster sets it."""

_LOOK = 15.0
"""Seconds between two calls of squeue; the end of a job that was not killed is read from the files of the job."""

_APPEARS = 45.0
"""Seconds after which a job that squeue does not show counts as ended."""

_STOPPING = 90
"""Seconds before the end of its time at which a job gets SIGTERM."""

_DEAD = {"BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}
"""States of SLURM in which a job has ended without its last line."""

_OURS = {"array", "error", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "signal"}
"""Options of sbatch that the launcher sets."""


def run_in_job(assignment: dict[str, Any]) -> None:
    """Run cells in a job of SLURM; a signal keeps the finished images and ends the job."""

    def stop(number: int, frame: Any) -> None:
        raise SystemExit

    # Beside the signals that an evaluation takes itself. submitit ignores SIGTERM.
    signal.signal(signal.SIGTERM, stop)
    os.environ["SLURM_JOB_NAME"] = "interactive"  # Lightning then starts the processes of a cell itself
    with contextlib.suppress(SystemExit):
        run_assignment(assignment)


class _Queued(NamedTuple):
    """A line of squeue."""

    state: str
    title: str


@dataclass
class _Submitted:
    """A job, the folder of its array, its pack, its last state, and when squeue showed it alive."""

    name: str
    folder: Path
    pack: Pack
    seen: float
    state: str = ""


class SlurmArrays(Launcher):
    """Runs packs as jobs of SLURM, in one array per kind of resources, at most `jobs` of an array at a time.

    The jobs go on when this process ends, and a later sweep in the same folder watches them again: the name of an array
    ends in a token, and a folder of that name lists the packs of its jobs before the array is submitted.

    `options` are those of sbatch, for every job. `time`, in minutes, is needed.
    """

    def __init__(self, folder: Path, apart: Iterable[str], jobs: int | None, options: Mapping[str, Any]) -> None:
        super().__init__(folder, apart)
        self._submitit = imported("submitit", "slurm", "--launcher slurm")
        self._jobs = jobs
        self._options = {name.replace("_", "-"): value for name, value in options.items()}
        self._own = self.folder / FOLDER / "slurm"
        self._submitted: list[_Submitted] = []
        self._looked = -math.inf
        self.processes = _PROCESSES if jobs is None else max(2, jobs)

    def check(self, needs: Mapping[str, Resources]) -> None:
        tools = ("sbatch", "srun", "squeue", "scancel")
        lacks = [tool for tool in tools if shutil.which(tool) is None]
        hint = "start the sweep on a login node"
        expect(not lacks, "--launcher slurm", f"{', '.join(tools)} on the PATH", f"no {', '.join(lacks)}", hint)
        minutes = self._options.get("time", "none")
        whole = isinstance(minutes, int) and not isinstance(minutes, bool) and minutes >= 1
        expect(whole, "slurm.time", "the minutes that a job may take", minutes, "such as --slurm.time 240")
        for name, value in self._options.items():
            expect(name not in _OURS, "slurm", "other options of sbatch than those that rfdlight sets", name)
            expect(isinstance(value, str | int | float), f"slurm.{name}", "text, a number or true", value)

    @cached_property
    def has_gpus(self) -> bool:
        """Whether the partition of the jobs has GPUs; a login node mostly has none."""
        partition = self._options.get("partition")
        command = ["sinfo", "--noheader", "--format=%G %P"] + ([f"--partition={partition}"] if partition else [])
        try:
            lines = _answer(command).splitlines()
        except (subprocess.SubprocessError, OSError):
            return False
        found = [line.split() for line in lines]
        return any("gpu" in generic and (partition or name.endswith("*")) for generic, name in found)

    def adopted(self) -> list[Pack]:
        records = list(self._own.glob("*/packs.json"))
        if not records:
            return []
        arrays = {path.parent.name: msgspec.json.decode(read_bytes(path), type=list[list[str]]) for path in records}
        try:
            queue = self._queue()
        except (subprocess.SubprocessError, OSError) as error:
            raise UserError(f"--launcher slurm: squeue does not answer: {_said(error)}") from error
        for name, (state, title) in queue.items():
            token = title.rpartition("-")[2]
            if token in arrays and _is_alive(state):
                cells = arrays[token][int(name.partition("_")[2] or 0)]
                self._note(name, token, Pack(tuple(Job(cell, 0.0) for cell in cells)))
        return [submitted.pack for submitted in self._submitted]

    def _note(self, name: str, token: str, pack: Pack) -> None:
        self._submitted.append(_Submitted(name, self._own / token, pack, time.monotonic()))

    @property
    def capacity(self) -> int:
        return 1_000_000

    def submit(self, packs: Sequence[Pack]) -> None:
        before = len(self._submitted)
        try:
            for need in {pack.resources: None for pack in packs}:
                alike = [pack for pack in packs if pack.resources == need]
                for first in range(0, len(alike), _LARGEST):
                    self._submit(need, alike[first : first + _LARGEST])
        except UserError:
            self._cancel(self._submitted[before:])
            raise

    def _submit(self, need: Resources, packs: Sequence[Pack]) -> None:
        """Submit packs with the same resources as one array."""
        token = secrets.token_hex(4)
        folder = self._own / token
        folder.mkdir(parents=True)
        write_file(folder / "packs.json", msgspec.json.encode([pack.names for pack in packs]))
        messages = [msgspec.to_builtins(self.assignment(pack)) for pack in packs]
        within_job = self._submitit.helpers.clean_env() if "SLURM_JOB_ID" in os.environ else contextlib.nullcontext()
        try:
            # submitit prints what sbatch says, and raises it too.
            with within_job, contextlib.redirect_stderr(io.StringIO()):
                jobs = self._executor(need, token).map_array(run_in_job, messages)
        except (RuntimeError, OSError) as error:
            raise UserError(f"sbatch refuses the job: {_said(error)}") from error
        for job, pack in zip(jobs, packs, strict=True):
            self._note(job.job_id, token, pack)

    def _executor(self, need: Resources, token: str) -> Any:
        """Return an executor of submitit for jobs with these resources."""
        # The signal goes to all processes of a job, as that of scancel does: one that they do not know would end them.
        minutes = self._options["time"]
        options = {"cpus-per-task": math.ceil(need.cpus or 1), "signal": f"TERM@{min(_STOPPING, 15 * minutes)}"}
        if need.gpus and not any(name.startswith(("gpus", "gres")) for name in self._options):
            options["gpus-per-node"] = math.ceil(need.gpus)  # a job has whole GPUs
        options |= self._options
        cpus = options["cpus-per-task"]
        executor = self._submitit.SlurmExecutor(folder=self._own / token)
        executor.update_parameters(
            job_name=f"rfdlight-{token}",
            wckey=None,
            array_parallelism=self._jobs or _LARGEST,
            setup=[f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{cpus}}}"],
            srun_args=[f"--cpus-per-task={cpus}"],  # srun does not take it from sbatch since SLURM 22.05
            additional_parameters=options,
        )
        return executor

    def wait(self, seconds: float) -> list[Ended]:
        time.sleep(seconds)
        if time.monotonic() - self._looked >= _LOOK:
            self._look()
        # A listing shows new files of other nodes sooner than a look at each file does.
        files = {name for folder in {each.folder for each in self._submitted} for name in os.listdir(folder)}
        ended = [each for each in self._submitted if self._has_ended(each, files)]
        self._submitted = [each for each in self._submitted if each not in ended]
        return [Ended(each.pack, self._death(each, files)) for each in ended]

    def _look(self) -> None:
        """Note the states of all jobs."""
        self._looked = time.monotonic()
        try:
            queue = self._queue()
        except (subprocess.SubprocessError, OSError):  # SLURM may not answer for hours
            queue = {each.name: _Queued("UNKNOWN", "") for each in self._submitted}
        for each in self._submitted:
            if each.name in queue:
                each.state = queue[each.name].state
                if _is_alive(each.state):
                    each.seen = time.monotonic()

    def _has_ended(self, job: _Submitted, files: set[str]) -> bool:
        overdue = time.monotonic() - job.seen > _APPEARS
        return self._paths(job).result_pickle.name in files or job.state in _DEAD or overdue

    def _paths(self, job: _Submitted) -> Any:
        return self._submitit.core.utils.JobPaths(job.folder, job.name)

    def _death(self, job: _Submitted, files: set[str]) -> str:
        """Return how an ended job died, "" if it did not."""
        paths = self._paths(job)
        if paths.result_pickle.name in files:
            outcome, result = self._submitit.core.utils.pickle_load(paths.result_pickle)
            return "" if outcome == "success" else f"job {job.name}: {one_line(result.strip().splitlines()[-1])}"
        if job.state == "FAILED" and not any(self._own.glob("*/*_log.out")):
            self._cancel(self._submitted)
            expected = "output: expected a folder that all nodes see"
            raise UserError(f"{expected}, got {self.folder}, in which job {job.name} wrote nothing")
        return f"job {job.name} ended as {job.state or 'unknown'}; {paths.stderr} may say why"

    def _queue(self) -> dict[str, _Queued]:
        """Return the user's jobs, also those that have ended in the last minutes, by their numbers."""
        lines = _answer(["squeue", "--noheader", "--array", "--me", "--states=all", "--format=%i %T %j"]).splitlines()
        found = (line.split(maxsplit=2) for line in lines if line.strip())
        return {name: _Queued(state, title) for name, state, title in found}

    def _cancel(self, jobs: Iterable[_Submitted]) -> None:
        names = [job.name for job in jobs]
        if names:
            subprocess.run(["scancel", *names], capture_output=True)
        self._submitted = [job for job in self._submitted if job.name not in names]

    def close(self) -> str:
        names = sorted({job.name.partition("_")[0] for job in self._submitted}, key=int)
        if not names:
            return ""
        return (
            f"{len(self._submitted)} jobs go on in SLURM, and the same command watches them again; "
            f"scancel {' '.join(names)} ends them"
        )


def _is_alive(state: str) -> bool:
    return state not in _DEAD and state != "COMPLETED"


def _answer(command: list[str]) -> str:
    """Return what a command of SLURM prints."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def _said(error: Exception) -> str:
    """Return what a command of SLURM complained of, in one line."""
    text = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
    return "; ".join(line.strip().removeprefix("sbatch: error: ") for line in text.splitlines() if line.strip())
