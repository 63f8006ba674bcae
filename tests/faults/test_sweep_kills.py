"""The driver, the workers and the cells of a sweep are killed at random moments: nothing is lost or run twice."""

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

from rfdlight.cli.sweep.cell_files import FOLDER
from rfdlight.cli.sweep.experiment import read_cells
from rfdlight.records.result import size_of

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("RFDLIGHT_KILLS", "20"))
PATIENCE = 3600
"""Seconds in which a sweep has to end."""

GRID = """
common:
  data: {class_path: digits, init_args: {num_images: 24}}
  model: {budget: 200, batch_size: 8, pool_size: 8, sanity_checks: false}
axes:
  attack:
    square: {attack: square}
    nes: {attack: {class_path: nes, init_args: {sigma: 0.01}}}
    rays: {attack: rays}
    signhunt: {attack: signhunt}
    random: {attack: random_noise}
  seed:
    s0: {model: {seed: 0}}
    s1: {model: {seed: 1}}
    s2: {model: {seed: 2}}
    s3: {model: {seed: 3}}
    s4: {model: {seed: 4}}
  processes:
    one: {}
    two: {trainer: {devices: 2}}
leave_out:
  - {processes: two, seed: [s1, s2, s3, s4]}
"""


def start(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "rfdlight", "sweep", "grid.yaml", "--output", "out", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(line, cwd=folder, stdout=said, stderr=said, env=environment, start_new_session=True)


def processes(of: int) -> dict[str, list[int]]:
    """The processes below a driver, by kind: the workers, and the processes of cells."""
    parents, lines = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(path.name)] = (path / "cmdline").read_bytes()
        except OSError:
            continue
    found: dict[str, list[int]] = {"worker": [], "cell": []}
    for process in parents:
        above = process
        while above in parents and above != of:
            above = parents[above]
        if above == of and process != of:
            # Ray itself ends with its agents.
            of_ray = lines[process].startswith(b"ray::") and b"Agent" not in lines[process]
            if b"sweep.worker" in lines[process] or of_ray:
                found["worker"].append(process)
            elif b"rfdlight\0test" in lines[process]:
                found["cell"].append(process)
    return found


def records(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted((folder / "out").glob("*/records.jsonl"))}


def entries(folder: Path, cell: str) -> list[dict]:
    lines = (folder / "out" / FOLDER / f"{cell}.jsonl").read_bytes().splitlines()
    return [json.loads(line) for line in lines if line.strip()]


@pytest.mark.parametrize("options", [("--jobs", "2"), ("--launcher", "ray")], ids=["local", "ray"])
def test_a_sweep_under_kills_has_the_records_of_an_undisturbed_one(options, tmp_path):
    if "ray" in options:
        pytest.importorskip("ray")
    moments = random.Random(len(options[1]))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        (folder / "grid.yaml").write_text(GRID)
    cells = [cell.name for cell in read_cells(cut / "grid.yaml")]
    assert len(cells) == 30
    undisturbed = start(whole, "--jobs", "2")
    assert undisturbed.wait(PATIENCE) == 0, (whole / "said.txt").read_text()
    kills: Counter[str] = Counter()
    done_at_kill = []
    driver = start(cut, *options)
    deadline = time.monotonic() + PATIENCE
    while kills.total() < KILLS and driver.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(moments.uniform(2.0, 20.0))
        wanted = moments.choice(["driver", "worker", "worker", "cell"])
        found = processes(driver.pid)
        if wanted == "driver":
            os.kill(driver.pid, signal.SIGKILL)
            driver.wait()
            kills[wanted] += 1
            done_at_kill.append(sum(size_of(cut / "out" / cell) is not None for cell in cells))
            driver = start(cut, *options)
        elif found[wanted]:
            os.kill(moments.choice(found[wanted]), signal.SIGKILL)
            kills[wanted] += 1
            done_at_kill.append(sum(size_of(cut / "out" / cell) is not None for cell in cells))
    assert driver.wait(PATIENCE) == 0, (cut / "said.txt").read_text()
    print(f"kills {dict(kills)}; cells complete at each: {done_at_kill}")  # noqa: T201  the table of the kills
    attempts = {cell: sum(not entry["ended"] for entry in entries(cut, cell)) for cell in cells}
    print(f"attempts {Counter(attempts.values())}")  # noqa: T201
    assert records(cut) == records(whole)
    assert records(cut).keys() == set(cells)
    # An attempt that ran a cell to its end has an end that no signal and no failure made.
    ends = {cell: [each for each in entries(cut, cell) if each["ended"]] for cell in cells}
    to_the_end = {
        cell: sum(not (each["stopped"] or each["killed"] or each["failed"]) for each in ends[cell]) for cell in cells
    }
    assert set(to_the_end.values()) <= {0, 1}  # a worker may be killed between the result and the line in the log
    assert sum(to_the_end.values()) >= len(cells) - kills.total()
