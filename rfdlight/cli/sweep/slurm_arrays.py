"""Array jobs of SLURM, submitted by submitit."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from rfdlight.cli.sweep.cell_files import FOLDER
from rfdlight.cli.sweep.experiment import Resources
from rfdlight.cli.sweep.launchers import Ended, Launcher
from rfdlight.cli.sweep.packs import Job, Pack
from rfdlight.cli.sweep.worker import run_assignment
from rfdlight.core.extras import imported
from rfdlight.errors import UserError, expect, one_line, unknown_name

_PROCESSES = 64
"""Jobs that are assumed to run at the same time, for the size of packs, where --jobs does not say it."""

_LOOK = 5.0
"""Seconds between two calls of squeue."""

_APPEARS = 15.0
"""Seconds after its submission in which squeue may not show a job yet."""


def run_in_job(assignment: dict[str, Any]) -> None:
    """Run cells in a job of SLURM; at the end of its time the run stops and keeps its finished images."""
    # submitit would raise an exception anywhere in the evaluation, which stops at SIGTERM as anywhere else.
    signal.signal(signal.SIGUSR2, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    os.environ["SLURM_JOB_NAME"] = "interactive"  # Lightning then starts the processes of a cell itself
    run_assignment(assignment)


@dataclass
class _Submitted:
    """A job of submitit, its pack, and when it was submitted or seen last."""

    job: Any
    pack: Pack
    seen: float


class SlurmArrays(Launcher):
    """Runs packs as jobs of SLURM, in one array per kind of resources, at most `jobs` of an array at a time.

    The jobs go on when this process ends, and a later sweep in the same folder watches them again. `options` are those
    of sbatch, as submitit names them: `time` in minutes is needed; `partition`, `account`, `mem_gb`, `gres`, ...
    """

    def __init__(self, folder: Path, apart: Iterable[str], jobs: int | None, options: Mapping[str, Any]) -> None:
        super().__init__(folder, apart)
        self._submitit = imported("submitit", "slurm", "--launcher slurm")
        self._jobs = jobs
        self._options = dict(options)
        self._own = self.folder / FOLDER / "slurm"
        self._submitted: list[_Submitted] = []
        self._looked = -math.inf
        self.processes = _PROCESSES if jobs is None else max(2, jobs)

    def check(self, needs: Mapping[str, Resources]) -> None:
        expect("time" in self._options, "slurm", "time, the minutes that a job may take", "none", "--slurm.time 240")
        for need in needs.values():
            self._executor(need)

    def _executor(self, need: Resources) -> Any:
        """Return an executor of submitit for jobs with these resources."""
        try:
            executor = self._submitit.SlurmExecutor(folder=self._own, max_num_timeout=0)
        except RuntimeError as error:
            raise UserError("--launcher slurm: expected srun and sbatch on the PATH, got none") from error
        parameters: dict[str, Any] = {"job_name": "rfdlight", "cpus_per_task": math.ceil(need.cpus or 1)}
        if need.gpus:
            parameters["gpus_per_node"] = math.ceil(need.gpus)  # a job has whole GPUs
        if self._jobs is not None:
            parameters["array_parallelism"] = self._jobs
        known = {*executor._valid_parameters(), *executor._equivalence_dict()}
        for name in self._options:
            if name not in known:
                raise unknown_name("option of slurm", name, known)
        names = executor._equivalence_dict()
        parameters |= {names.get(name, name): value for name, value in self._options.items()}
        try:
            executor.update_parameters(**parameters)
        except (ValueError, TypeError) as error:
            raise UserError(f"slurm: {one_line(error)}") from error
        return executor

    def adopted(self) -> list[Pack]:
        try:
            lines = (self._own / "jobs.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        queued = self._queue()
        found = []
        for line in lines:
            name, cells = json.loads(line)
            if queued is not None and name in queued:
                pack = Pack(tuple(Job(cell, 0.0) for cell in cells))
                job = self._submitit.SlurmJob(folder=self._own, job_id=name)
                self._submitted.append(_Submitted(job, pack, time.monotonic()))
                found.append(pack)
        return found

    @property
    def capacity(self) -> int:
        return 1_000_000

    def submit(self, packs: Sequence[Pack]) -> None:
        for need in {pack.resources: None for pack in packs}:
            alike = [pack for pack in packs if pack.resources == need]
            messages = [msgspec.to_builtins(self.assignment(pack)) for pack in alike]
            try:
                jobs = self._executor(need).map_array(run_in_job, messages)
            except (self._submitit.core.utils.FailedJobError, subprocess.CalledProcessError, OSError) as error:
                raise UserError(f"sbatch refuses the job: {_said(error)}") from error
            now = time.monotonic()
            self._submitted += [_Submitted(job, pack, now) for job, pack in zip(jobs, alike, strict=True)]
            with (self._own / "jobs.jsonl").open("a") as file:
                file.writelines(
                    json.dumps([job.job_id, pack.names]) + "\n" for job, pack in zip(jobs, alike, strict=True)
                )

    def wait(self, seconds: float) -> list[Ended]:
        time.sleep(seconds)
        if time.monotonic() - self._looked < _LOOK:
            return []
        self._looked = time.monotonic()
        queued = self._queue()
        ended = [each for each in self._submitted if self._has_ended(each, queued)]
        self._submitted = [each for each in self._submitted if each not in ended]
        return [Ended(each.pack, self._death(each.job)) for each in ended]

    def _has_ended(self, submitted: _Submitted, queued: set[str] | None) -> bool:
        """Return whether a job has left its result, or has left the queue without one."""
        if submitted.job.paths.result_pickle.exists():
            return True
        if queued is None or submitted.job.job_id in queued:
            submitted.seen = time.monotonic()
        return time.monotonic() - submitted.seen > _APPEARS

    def _death(self, job: Any) -> str:
        """Return how an ended job died, "" if it did not."""
        if not job.paths.result_pickle.exists():
            if not job.paths.stdout.exists():
                self._cancel()
                raise UserError(
                    f"output: expected a folder that all nodes see, got {self.folder}, in which job {job.job_id} wrote "
                    "nothing"
                )
            return f"job {job.job_id} ended without a result; {job.paths.stderr} may say why"
        error = job.exception()
        return "" if error is None else f"job {job.job_id} failed; {job.paths.stderr} says why"

    def _queue(self) -> set[str] | None:
        """Return the jobs that are queued or running, None if SLURM does not answer now."""
        command = ["squeue", "--noheader", "--array", "--me", "--format=%i"]
        try:
            listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        except (subprocess.SubprocessError, OSError):
            return None
        return set(listed.stdout.split())

    def _cancel(self) -> None:
        for submitted in self._submitted:
            submitted.job.cancel(check=False)
        self._submitted = []

    def close(self) -> str:
        names = sorted({submitted.job.job_id.partition("_")[0] for submitted in self._submitted})
        if not names:
            return ""
        return (
            f"{len(self._submitted)} jobs go on in SLURM, and the same command watches them again; "
            f"scancel {' '.join(names)} ends them"
        )


def _said(error: Exception) -> str:
    """Return what sbatch printed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("sbatch:")), one_line(error))
