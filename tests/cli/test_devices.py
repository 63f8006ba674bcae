"""`rfdlight test` in several processes, as a user starts them: the records of one process, whatever their number."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hand import cut_journal

from rfdlight import load_standard
from rfdlight.cli import main as cli
from rfdlight.records import progress
from rfdlight.records.records import read_records
from rfdlight.victims.card import read_card

pytestmark = pytest.mark.slow  # evaluation/test_processes.py has the same with threads

TEST = [
    "test", "--attack", "square", "--data.num_images", "30", "--model.budget", "40", "--model.batch_size", "4",
    "--model.sanity_checks", "false",
]  # fmt: skip
PYTHON = [sys.executable, "-m", "rfdlight"]
# With a free port of its own: without "--standalone" every torchrun of a machine wants the same one.
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
LIMIT = 900
"""Seconds for a command line, on a machine that does much else."""


def environment():
    """What a fresh shell has; each process gets one thread, so that all are as fast as can be."""
    launched = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED")
    return {name: value for name, value in os.environ.items() if name not in launched} | {"OMP_NUM_THREADS": "1"}


def shell(*line):
    return subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=LIMIT)


def wait_until(reached, process=None):
    """Wait for a condition; a process that ends first is a failure, with what it said."""
    end = time.monotonic() + LIMIT
    while not reached():
        assert process is None or process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.05)


def entries(run):
    """The journal of each process, by its rank."""
    files = sorted((run / "journal").glob("0-*.jsonl"))
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run in one process."""
    run = tmp_path_factory.mktemp("devices") / "whole"
    assert cli.main([*TEST, "--run", str(run)]) == 0
    return run


# Lightning starts the processes of the tests of signals too.
@pytest.mark.parametrize(
    ("size", "line"),
    [
        pytest.param(2, [*PYTHON, *TEST, "--trainer.devices", "2"], id="by Lightning"),
        pytest.param(3, [*TORCHRUN, "3", "-m", "--", "rfdlight", *TEST], id="by torchrun"),
    ],
)
def test_several_processes_write_the_records_of_one(whole, tmp_path, size, line):
    run = tmp_path / "several"
    said = shell(*line, "--run", str(run))
    assert said.returncode == 0, said.stderr
    assert (run / "records.jsonl").read_bytes() == (whole / "records.jsonl").read_bytes()
    assert said.stdout.count("attack   square") == 1, "process 0 alone talks"
    one, many = (json.loads((each / "summary.json").read_text()) for each in (whole, run))
    assert (one["run"]["processes"], many["run"]["processes"]) == (1, size)
    assert many["run"]["complete"]
    assert one["counts"] == many["counts"]
    parts = entries(run)
    assert len(parts) == size
    done = [[entry["record"]["id"] for entry in part if "record" in entry] for part in parts]
    assert sorted(image for own in done for image in own) == [
        record.id for record in read_records(run / "records.jsonl")
    ]
    ends = [part[-1]["end"] for part in parts]
    for kind, rows in many["run"]["totals"].items():
        assert rows == sum(end["totals"][kind] for end in ends)
    assert sorted(path.name for path in (run / "journal").iterdir()) == [
        *(f"0-{rank}.jsonl" for rank in range(size)), "lock", "progress.json",
    ]  # fmt: skip
    assert progress.read(run).done == len(read_records(run / "records.jsonl")), "process 0 has the last counts of all"


def test_a_run_goes_on_with_another_number_of_processes(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    lines = (run / "records.jsonl").read_text().splitlines(keepends=True)
    for name in ("records.jsonl", "summary.json"):
        (run / name).unlink()
    cut_journal(run, {json.loads(line)["id"] for line in lines[::3]})
    said = shell(*PYTHON, "test", "--resume", str(run), "--trainer.devices", "2")
    assert said.returncode == 0, said.stderr
    assert (run / "records.jsonl").read_bytes() == (whole / "records.jsonl").read_bytes()
    assert json.loads((run / "summary.json").read_text())["run"]["attempts"] == 2


def test_a_finished_run_that_two_processes_go_on_with_stays_as_it_is(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    said = shell(*PYTHON, "test", "--resume", str(run), "--trainer.devices", "2")
    assert said.returncode == 0, said.stderr
    assert (run / "records.jsonl").read_bytes() == (whole / "records.jsonl").read_bytes()


STANDARD = [
    "test", "--attack", "standard", "--attack.access", "decision", "--data.num_images", "6", "--model.budget", "6",
    "--model.batch_size", "4", "--trainer.accelerator", "cpu",
]  # fmt: skip


def test_two_processes_run_the_stages_of_a_standard_evaluation_and_write_the_records_of_one(tmp_path):
    assert cli.main([*STANDARD, "--run", str(tmp_path / "whole")]) == 0
    said = shell(*PYTHON, *STANDARD, "--trainer.devices", "2", "--run", str(tmp_path / "run"))
    assert said.returncode == 0, said.stderr
    assert "rfdlight: " not in said.stderr
    assert said.stdout.count("standard-1 (decision)") == 1, "process 0 alone talks"
    whole, run = (load_standard(tmp_path / name) for name in ("whole", "run"))
    assert [stage.records for stage in run.stages] == [stage.records for stage in whole.stages]
    assert run.images == whole.images
    assert [stage.facts.processes for stage in run.stages] == [2] * len(whole.stages)
    assert run.rows.total == sum(stage.facts.forwarded for stage in run.stages)


VICTIM = """
import os

import torch
from torch import nn

from rfdlight.data.digits import Digits


class Broken(nn.Module):
    '''Raises in the second process, once it was asked for 20 rows.'''

    def __init__(self):
        super().__init__()
        self.rows = 0

    def forward(self, x):
        self.rows += len(x)
        if os.environ.get("LOCAL_RANK") == "1" and self.rows > 20:
            raise ValueError("out of order")
        return torch.nn.functional.one_hot((x.flatten(1).sum(1) % 10).long(), 10).float()
"""


def test_the_failure_of_any_process_is_said_once_and_ends_the_run_with_what_it_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text(VICTIM)
    said = shell(*PYTHON, *TEST, "--model.victim", "broken.Broken", "--trainer.devices", "2", "--run", "run")
    assert said.returncode == 2
    assert said.stderr == "rfdlight: process 1: the victim raised ValueError: out of order\n"
    assert not Path("run/summary.json").exists()
    assert Path("run/records.jsonl").exists()


def test_bad_input_is_one_line_before_there_are_several_processes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = shell(*PYTHON, *TEST, "--model.victim", "missing.json", "--trainer.devices", "2", "--run", "run")
    assert (said.returncode, said.stderr) == (
        2, "rfdlight: cannot read the victim card missing.json: No such file or directory\n",
    )  # fmt: skip
    assert not Path("run").exists()


LONG = [*TEST, "--model.budget", "100000", "--model.criterion", "never", "--trainer.devices", "2"]


@pytest.fixture
def going(tmp_path):
    """A run of two processes that would take hours, once both have begun, and its folder."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        [*PYTHON, *LONG, "--run", str(run)], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    files = [run / f"journal/0-{rank}.jsonl" for rank in range(2)]
    wait_until(lambda: all(file.exists() and "\n" in file.read_text() for file in files), process)
    yield process, run
    process.kill()
    process.wait()


def pid(run, rank):
    """The process that writes the journal of a rank: the one that holds the file open."""
    journal = str((run / f"journal/0-{rank}.jsonl").resolve())
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == journal:
                return int(link.parts[2])
        except OSError:
            continue  # the process has ended, or is not ours
    raise AssertionError(f"no process writes {journal}")


def ended(number):
    """Whether a process is gone, or waits for its parent to take note."""
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_any_process_ends_all_with_what_they_have(going, rank):
    process, run = going
    child = pid(run, 1)
    os.kill(pid(run, rank), signal.SIGTERM)
    _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (
        1, "rfdlight: stopped before all images were done; the records so far are kept\n",
    )  # fmt: skip
    assert not json.loads((run / "summary.json").read_text())["run"]["complete"]
    assert all("end" in part[-1] for part in entries(run))
    wait_until(lambda: ended(child))


def test_no_process_outlives_process_0(going):
    process, run = going
    child = pid(run, 1)
    process.kill()
    process.wait()
    wait_until(lambda: ended(child))
    assert "end" in entries(run)[1][-1], "it stopped by itself, with what it had"


def test_a_second_run_in_the_same_folder_says_why_it_does_not_start(going):
    _, run = going
    said = shell(*PYTHON, "test", "--resume", str(run))
    assert (said.returncode, said.stderr) == (
        2, f"rfdlight: {run} is being written by another process; wait for it, or give --run another folder\n",
    )  # fmt: skip


def test_a_training_in_several_processes_makes_one_run_and_one_victim(tmp_path):
    run = tmp_path / "trained"
    line = ["fit", "-c", "fit/resnet8_digits", "--trainer.accelerator", "cpu", "--trainer.max_steps", "2"]
    said = shell(*PYTHON, *line, "--trainer.devices", "2", "--trainer.enable_progress_bar", "false", "--run", str(run))
    assert said.returncode == 0, said.stderr
    assert (run / "config.yaml").is_file()
    assert read_card(run / "victim.json").clean_total == 599


NOISE_IN_ONE = """
import os

import torch

from rfdlight.victims.card import load_victim
from rfdlight.victims.resolve import card_path


class Late(torch.nn.Module):
    '''Noise that begins late, in the process that a variable names.'''

    def __init__(self):
        super().__init__()
        self.victim, self.rows = load_victim(card_path("resnet8-digits"))[0], 0

    def forward(self, x):
        self.rows += len(x)
        answer = self.victim(x)
        noisy = os.environ.get("LOCAL_RANK", "0") == os.environ["NOISY"] and self.rows > 200
        return answer + torch.randn_like(answer) if noisy else answer
"""


@pytest.mark.parametrize("noisy", ["0", "1"])
def test_where_one_process_finds_the_victim_random_all_criterion_it_so(noisy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOISY", noisy)
    Path("late.py").write_text(NOISE_IN_ONE)
    said = shell(*PYTHON, *TEST, "--model.victim", "late.Late", "--trainer.devices", "2", "--run", "run")
    assert said.returncode == 0, said.stdout + said.stderr
    records = read_records(Path("run/records.jsonl"))
    assert len(records) == 30
    assert all(record.clean_evaluations >= 20 for record in records)
    run = json.loads(Path("run/summary.json").read_text())["run"]
    assert not run["deterministic"]
    assert run["forwarded"] == sum(run["totals"].values())
