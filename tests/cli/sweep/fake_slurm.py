"""SLURM as far as a sweep uses it: its commands, which run the jobs of arrays as processes of this machine.

`install` puts the commands into a folder. The folder in the environment variable FAKE_SLURM holds, for each job, its
state and the requests to end it. Further variables: FAKE_SLURM_MINUTE, the seconds of a minute of a job's time;
FAKE_SLURM_GPUS, the GPUs of the only node; FAKE_SLURM_BLIND, set if the node does not see the folders of jobs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "sinfo")
CORES = 2
PARTITION = "debug"
KILL_WAIT = 30.0  # seconds between SIGTERM and SIGKILL
ENDED = ("CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "TIMEOUT")
OPTIONS = {
    "array", "cpus-per-task", "error", "gpus-per-node", "gres", "job-name", "mem", "nodes", "open-mode", "output",
    "partition", "signal", "time",
}  # fmt: skip


def install(folder: Path) -> None:
    """Write the commands into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMMANDS:
        command = shlex.join([sys.executable, "-S", "-E", __file__, name])
        (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / name).chmod(0o755)


class State:
    """The files of the fake, of which a test may read the states and write requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def submitted(self) -> list[dict[str, str]]:
        """Return the options of every accepted sbatch."""
        path = self.folder / "submitted.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def states(self) -> dict[str, str]:
        """Return the state of every job."""
        return {path.stem: path.read_text() for path in sorted(self.folder.glob("*.state"))}

    def set_state(self, job: str, state: str) -> None:
        partial = self.folder / f"{job}.partial"
        partial.write_text(state)
        partial.rename(self.folder / f"{job}.state")

    def request(self, job: str, state: str) -> None:
        """Have a job end as CANCELLED, NODE_FAIL or TIMEOUT."""
        (self.folder / f"{job}.request").write_text(state)

    def requested(self, job: str) -> str:
        path = self.folder / f"{job}.request"
        return path.read_text() if path.exists() else ""


def fail(message: str) -> None:
    sys.stderr.write("".join(f"sbatch: error: {line}\n" for line in message.splitlines()))
    sys.exit(1)


def sbatch(state: State, script: str) -> None:
    lines = [line for line in Path(script).read_text().splitlines() if line.startswith("#SBATCH ")]
    options = {}
    for line in lines:
        (word,) = shlex.split(line.removeprefix("#SBATCH "))
        name, _, value = word.removeprefix("--").partition("=")
        if name not in OPTIONS:
            sys.stderr.write(f"sbatch: unrecognized option '{word}'\n")
            sys.exit(1)
        options[name] = value
    if options.get("partition", PARTITION) != PARTITION:
        fail("invalid partition specified\nBatch job submission failed: Invalid partition name specified")
    gpus = int(os.environ.get("FAKE_SLURM_GPUS", "0"))
    if int(options.get("cpus-per-task", "1")) > CORES or int(options.get("gpus-per-node", "0")) > gpus:
        fail("Batch job submission failed: Requested node configuration is not available")
    with (state.folder / "submitted.jsonl").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        number = len(file.readlines()) + 1
        jobs = [f"{number}_{index}" for index in range(last_of(options) + 1)] if "array" in options else [str(number)]
        (state.folder / f"{number}.array").write_text(
            json.dumps({"script": str(Path(script).resolve()), "options": options, "jobs": jobs})
        )
        for job in jobs:
            state.set_state(job, "PENDING")
        file.write(json.dumps(options) + "\n")
    quiet = subprocess.DEVNULL
    subprocess.Popen(
        [sys.executable, "-S", "-E", __file__, "array", str(number)],
        stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True,
    )  # fmt: skip
    sys.stdout.write(f"Submitted batch job {number}\n")


def last_of(options: dict[str, str]) -> int:
    return int(options["array"].partition("%")[0].partition("-")[2])


class Running:
    """A job that runs, and what has been done to end it."""

    def __init__(self, state: State, job: str, array: dict) -> None:
        self.state, self.job, self.options = state, job, array["options"]
        self.begun, self.told = time.monotonic(), 0.0
        number, _, index = job.partition("_")
        environment = os.environ | {
            "SLURM_JOB_ID": str(1000 * int(number) + int(index)) if index else number,
            "SLURM_JOB_NAME": self.options["job-name"],
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_NTASKS": "1",
            "SLURM_CPUS_PER_TASK": self.options.get("cpus-per-task", "1"),
            "FAKE_SLURM_JOB": job,
        }
        if index:
            environment |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index}
        with opened(self.options["output"], job) as out, opened(self.options["error"], job) as err:
            self.process = subprocess.Popen(
                ["bash", array["script"]], stdout=out, stderr=err, env=environment, start_new_session=True
            )
        state.set_state(job, "RUNNING")
        minute = float(os.environ.get("FAKE_SLURM_MINUTE", "60"))
        self.limit = int(self.options["time"]) * minute
        self.signal, _, before = self.options.get("signal", "KILL@0").partition("@")
        self.warning = self.limit - float(before) / 60 * minute

    def kill(self, name: str) -> None:
        """Send a signal to the processes of the step; SIGKILL to the script too."""
        step = self.state.folder / f"{self.job}.step"
        groups = [int(step.read_text())] if step.exists() else []
        for group in groups + [self.process.pid] * (name == "KILL"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, getattr(signal, f"SIG{name}"))

    def has_ended(self) -> bool:
        """Go on with ending the job, and return whether it has ended."""
        passed, asked = time.monotonic() - self.begun, self.state.requested(self.job)
        ends = asked or ("TIMEOUT" if passed > self.warning else "")
        if asked == "NODE_FAIL":
            self.kill("KILL")
        elif ends and not self.told and (self.state.folder / f"{self.job}.step").exists():
            self.told = time.monotonic()
            self.kill("TERM" if ends == "CANCELLED" else self.signal)
        elif self.told and time.monotonic() - self.told > KILL_WAIT:
            self.kill("KILL")
        status = self.process.poll()
        if status is None:
            return False
        killed = asked or ("TIMEOUT" if passed > self.limit else "")
        # A job that ends in the time that the signal leaves is a complete one.
        complete = status == 0 and killed in ("", "TIMEOUT")
        self.state.set_state(self.job, "COMPLETED" if complete else killed or "FAILED")
        return True


def opened(pattern: str, job: str):
    number, _, index = job.partition("_")
    path = pattern.replace("%A", number).replace("%a", index).replace("%j", job).replace("%t", "0")
    return Path(path).open("ab")


def array(state: State, number: str) -> None:
    """Run the jobs of an array: the part of slurmctld and slurmd."""
    content = json.loads((state.folder / f"{number}.array").read_text())
    most = int(content["options"].get("array", "%1").partition("%")[2] or 1)
    waiting, running = content["jobs"], []
    while waiting or running:
        running = [each for each in running if not each.has_ended()]
        for job in [job for job in waiting if state.requested(job)]:
            state.set_state(job, state.requested(job))
            waiting.remove(job)
        while waiting and len(running) < most:
            job = waiting.pop(0)
            if "FAKE_SLURM_BLIND" in os.environ:
                state.set_state(job, "FAILED")
            else:
                running.append(Running(state, job, content))
        time.sleep(0.05)


def srun(state: State, *args: str) -> None:
    job, words, outputs = os.environ["FAKE_SLURM_JOB"], list(args), {}
    while words[0].startswith("-"):
        option, _, value = words.pop(0).partition("=")
        if option in ("--output", "--error"):
            outputs[option] = value or words.pop(0)
    environment = os.environ | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    with opened(outputs["--output"], job) as out, opened(outputs["--error"], job) as err:
        process = subprocess.Popen(words, stdout=out, stderr=err, env=environment, process_group=0)
    partial = state.folder / f"{job}.pid"
    partial.write_text(str(process.pid))
    partial.rename(state.folder / f"{job}.step")
    sys.exit(process.wait() and 1)


def squeue(state: State, *args: str) -> None:
    (form,) = (arg.partition("=")[2] for arg in args if arg.startswith("--format="))
    for job, now in state.states().items():
        options = json.loads((state.folder / f"{job.partition('_')[0]}.array").read_text())["options"]
        if now not in ENDED or "--states=all" in args:
            sys.stdout.write(form.replace("%i", job).replace("%T", now).replace("%j", options["job-name"]) + "\n")


def scancel(state: State, *names: str) -> None:
    for job in state.states():
        if job in names or job.partition("_")[0] in names:
            state.request(job, "CANCELLED")


def sinfo(state: State, *args: str) -> None:
    gpus = os.environ.get("FAKE_SLURM_GPUS")
    (form,) = (arg.partition("=")[2] for arg in args if arg.startswith("--format="))
    sys.stdout.write(re.sub("%P", f"{PARTITION}*", form.replace("%G", f"gpu:{gpus}" if gpus else "(null)")) + "\n")


if __name__ == "__main__":
    globals()[sys.argv[1]](State(Path(os.environ["FAKE_SLURM"])), *sys.argv[2:])
