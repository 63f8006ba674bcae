"""A run is killed at random moments, and goes on: nothing is lost, nothing is there twice, nothing changes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rfdlight.results.records import read_records

pytestmark = pytest.mark.faults

KILLS = 20
TEST = [
    "test", "--attack", "square", "--data.num_images", "100", "--model.budget", "400", "--model.batch_size", "16",
    "--model.slots", "40",
]  # fmt: skip
STARTED_WITHIN = 120
"""Seconds."""


def start(*args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "rfdlight", *args], stdout=subprocess.DEVNULL)


def begun(run: Path, attempt: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until an attempt has opened its journal, or has ended."""
    end = time.monotonic() + STARTED_WITHIN
    while not (run / f"journal/events-{attempt}-0.jsonl").exists() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_ended_again_and_again_has_the_records_of_one_that_was_not(number, tmp_path):
    assert start(*TEST, "--run", str(tmp_path / "whole")).wait() == 0
    whole, run = tmp_path / "whole/records.jsonl", tmp_path / "killed"
    events = [json.loads(line) for line in (tmp_path / "whole/journal/events-0-0.jsonl").read_text().splitlines()]
    duration = events[-1]["time"] - events[0]["time"]
    moments = random.Random(0)
    killed = 0
    for attempt in range(KILLS):
        process = start(*TEST, "--run", str(run)) if attempt == 0 else start("test", "--resume", str(run))
        begun(run, attempt, process)
        time.sleep(moments.uniform(0, 2 * duration / KILLS))
        os.kill(process.pid, number)
        status = process.wait()
        killed += status == (-number if number == signal.SIGKILL else 1)
        if status == 0:
            break
    if status != 0:
        assert start("test", "--resume", str(run)).wait() == 0
    assert killed >= KILLS // 2
    assert (run / "records.jsonl").read_bytes() == whole.read_bytes()
    assert len({record["id"] for record in read_records(whole)}) == 100
    summary = json.loads((run / "summary.json").read_text())
    assert summary["run"]["complete"]
    assert summary["run"]["killed_attempts"] == (killed if number == signal.SIGKILL else 0)
