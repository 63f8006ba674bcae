"""A run is killed at random moments, and goes on: nothing is lost, nothing is there twice, nothing changes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from rfdlight.records.records import read_records

pytestmark = pytest.mark.faults

KILLS = 20
IMAGES = 100
TEST = [
    "test", "--attack", "square", "--data.num_images", str(IMAGES), "--model.budget", "400", "--model.batch_size", "8",
    "--model.pool_size", "20",
]  # fmt: skip
PATIENCE = 240
"""Seconds."""


def start(processes: int, *args: str) -> subprocess.Popen[bytes]:
    """Start a run in a process group of its own."""
    line = [sys.executable, "-m", "rfdlight", *args, "--trainer.devices", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, env=environment, start_new_session=True)


def wait_until(true) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def members(group: int) -> list[int]:
    """The processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def attempts(run: Path) -> int:
    return len(list(run.glob("journal/*-0.jsonl")))


def go_on(run: Path, processes: int) -> subprocess.Popen[bytes]:
    """Begin a run, or go on with it, and wait until its journal is open."""
    before = attempts(run)
    process = start(processes, *(["test", "--resume", str(run)] if before else [*TEST, "--run", str(run)]))
    wait_until(lambda: attempts(run) > before or process.poll() is not None)
    return process


def end(process: subprocess.Popen[bytes], victim: str, number: signal.Signals, moments: random.Random) -> int:
    """End a run by a signal to all of its processes, to the first one or to another one; return the first's status."""
    others = [member for member in members(process.pid) if member != process.pid]
    if victim == "all":
        os.killpg(process.pid, number)
    else:
        os.kill(moments.choice(others) if victim == "another" and others else process.pid, number)
    wait_until(lambda: process.poll() is not None and not members(process.pid))
    return process.returncode


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_ended_again_and_again_has_the_records_of_one_that_was_not(number, tmp_path):
    assert start(1, *TEST, "--run", str(tmp_path / "whole")).wait() == 0
    whole, run = tmp_path / "whole/records.jsonl", tmp_path / "killed"
    events = [json.loads(line) for line in (tmp_path / "whole/journal/0-0.jsonl").read_text().splitlines()]
    duration = events[-1]["time"] - events[0]["time"]
    moments, ended = random.Random(0), Counter()
    for attempt in range(10 * KILLS):
        size = 3 if attempt == 0 else moments.randint(1, 3)
        process = go_on(run, size)
        time.sleep(moments.uniform(0, duration / KILLS))
        if process.poll() is not None:
            assert process.returncode == 0
            break
        victim = moments.choice(["all", "first", "another"])
        status = end(process, victim, number, moments)
        assert status in (0, -number if number == signal.SIGKILL else 1)
        ended[size, victim] += status != 0
        if ended.total() == KILLS:
            assert go_on(run, moments.randint(1, 3)).wait() == 0
            break
    sys.stdout.write(f"{number.name}: {ended.total()} times, by processes and victim: {dict(ended)}\n")
    assert ended.total() >= KILLS // 2
    assert (run / "records.jsonl").read_bytes() == whole.read_bytes()
    assert len({record.id for record in read_records(whole)}) == IMAGES
    summary = json.loads((run / "summary.json").read_text())
    assert summary["run"]["complete"]
    assert (summary["run"]["killed_attempts"] > 0) == (number == signal.SIGKILL)


def test_a_run_that_is_killed_while_it_starts_leaves_nothing_that_bars_the_way(tmp_path):
    run, moments = tmp_path / "run", random.Random(1)
    for _ in range(5):
        process = start(3, *TEST, "--run", str(run))
        time.sleep(moments.uniform(1, 8))
        end(process, "first", signal.SIGKILL, moments)
        if (run / "fingerprint.json").exists():
            break
    resumed = ["test", "--resume", str(run)] if (run / "fingerprint.json").exists() else [*TEST, "--run", str(run)]
    assert start(2, *resumed).wait() == 0
    assert len(read_records(run / "records.jsonl")) == IMAGES
