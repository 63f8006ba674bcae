"""Jobs of SLURM, which a fake runs as processes of this machine: what is submitted, what ends, and what is adopted."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from rfdlight.cli.launcher import under_slurm
from rfdlight.cli.sweep import slurm_arrays
from rfdlight.cli.sweep.cell_files import FOLDER, finished_images, read_log
from rfdlight.cli.sweep.experiment import Resources
from rfdlight.cli.sweep.packs import Job, Pack
from rfdlight.cli.sweep.slurm_arrays import SlurmArrays
from rfdlight.errors import UserError

from . import fake_slurm
from .grid import CELLS, summary_of

pytest.importorskip("submitit")
LONG = 300.0


def until(holds, seconds=LONG):
    """Wait until something holds, and return it."""
    end = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The commands of the fake in front of all others, and its state; every job is ended afterwards."""
    fake_slurm.install(tmp_path / "bin")
    state = fake_slurm.State(tmp_path / "slurm")
    state.folder.mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(state.folder))
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)
    yield state
    for job, now in state.states().items():
        if now not in fake_slurm.ENDED:
            state.request(job, "NODE_FAIL")
    until(lambda: set(state.states().values()) <= {*fake_slurm.ENDED})


def pack(*cells: str, cpus: float | None = 1.0, gpus: float | None = 0.0) -> Pack:
    return Pack(tuple(Job(cell, 1.0, Resources(gpus, cpus)) for cell in cells))


def launcher(jobs=None, **options) -> SlurmArrays:
    return SlurmArrays(Path("runs"), (), jobs, {"time": 10, **options})


def deaths(sweep: SlurmArrays, number: int) -> dict[tuple[str, ...], str]:
    """Wait for so many packs to end, and return how their jobs died."""
    ended = {}
    end = time.monotonic() + LONG
    while len(ended) < number:
        assert time.monotonic() < end
        ended |= {each.pack.names: each.died for each in sweep.wait(0.05)}
    return ended


def act(assignment):
    """Do what the name of the first cell says."""
    action = assignment["cells"][0]
    if action == "fails":
        raise ValueError("no luck")
    if action == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if action.startswith("waits"):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        Path(assignment["folder"], action).touch()
        while not Path(assignment["folder"], "go").exists():
            time.sleep(0.05)


def test_jobs_end_die_are_cancelled_and_are_adopted_by_a_later_sweep(slurm, elsewhere, monkeypatch):
    act.__module__ = "__main__"  # jobs cannot import this file
    monkeypatch.setattr(slurm_arrays, "run_in_job", act)
    monkeypatch.setattr(slurm_arrays, "_LOOK", 0.2)
    (elsewhere / "runs").mkdir()
    first = launcher(jobs=2, mem="1G")
    first.submit([pack("waits 1", "a"), pack("fails"), pack("dies"), pack("waits 2"), pack("waits 3", cpus=2)])
    assert [(each.get("array"), each["cpus-per-task"], each["mem"]) for each in slurm.submitted()] == [
        ("0-3%2", "1", "1G"), (None, "2", "1G")
    ]  # fmt: skip
    assert "scancel 1 2 " in first.close()
    until(lambda: slurm.states()["1_3"] == "RUNNING")
    died = deaths(first, 2)
    assert died["fails",].endswith(": ValueError: no luck")
    assert "1_2 ended as FAILED" in died["dies",]

    later = launcher()
    assert [each.names for each in later.adopted()] == [("waits 1", "a"), ("waits 2",), ("waits 3",)]
    assert len(slurm.submitted()) == 2
    until(Path("runs/waits 2").exists)
    slurm.request("1_3", "CANCELLED")
    assert "1_3 ended as CANCELLED" in deaths(later, 1)["waits 2",]
    (elsewhere / "runs/go").touch()
    assert deaths(later, 2) == {("waits 1", "a"): "", ("waits 3",): ""}
    assert later.close() == ""
    until(lambda: not launcher().adopted())  # squeue shows a job a little longer than it runs


def test_jobs_of_a_sweep_that_was_killed_at_their_submission_are_adopted(slurm, elsewhere, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    act.__module__ = "__main__"
    with monkeypatch.context() as patch:
        patch.setattr(slurm_arrays, "run_in_job", act)
        patch.setattr(SlurmArrays, "_note", killed)
        with pytest.raises(KeyboardInterrupt):
            launcher().submit([pack("waits 1"), pack("waits 2")])
    assert [each.names for each in launcher().adopted()] == [("waits 1",), ("waits 2",)]


def test_a_signal_between_cells_ends_the_job(monkeypatch):
    passed = []

    def run(assignment):
        signal.raise_signal(signal.SIGTERM)
        passed.append(assignment)

    monkeypatch.setenv("SLURM_JOB_NAME", "mine")
    monkeypatch.setattr(slurm_arrays, "run_assignment", run)
    before = signal.getsignal(signal.SIGTERM)
    try:
        slurm_arrays.run_in_job({})
    finally:
        signal.signal(signal.SIGTERM, before)
    assert passed == []
    assert not under_slurm(os.environ | {"SLURM_NTASKS": "1"})


def with_a_job(monkeypatch, appears):
    """A launcher that looks at squeue often, with a job that squeue does not know."""
    monkeypatch.setattr(slurm_arrays, "_LOOK", 0.1)
    monkeypatch.setattr(slurm_arrays, "_APPEARS", appears)
    sweep = launcher()
    sweep._note("7_1", "0123abcd", pack("a"))
    (sweep._own / "0123abcd").mkdir(parents=True)
    return sweep


def test_a_job_that_squeue_has_forgotten_ends_without_a_result(slurm, elsewhere, monkeypatch):
    sweep = with_a_job(monkeypatch, 0.5)
    assert "7_1" in deaths(sweep, 1)["a",]


def test_a_slurm_that_does_not_answer_loses_no_job(slurm, elsewhere, monkeypatch):
    sweep = with_a_job(monkeypatch, 1.0)
    (sweep._own / "0123abcd/packs.json").write_text('[["b"], ["a"]]')
    squeue = slurm.folder.parent / "bin/squeue"
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Socket timed out' >&2\nexit 1\n")
    assert [ended for _ in range(5) for ended in sweep.wait(0.3)] == []
    with pytest.raises(UserError, match="Socket timed out"):  # else its jobs would be submitted twice
        launcher().adopted()


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"time": None}, "slurm.time"),
        ({"time": "4 hours"}, "slurm.time"),
        ({"time": 0}, "slurm.time"),
        ({"nodes": 2}, "nodes"),
        ({"job_name": "mine"}, "job-name"),
        ({"gres": ["gpu"]}, "slurm.gres"),
    ],
)
def test_options_that_no_job_can_have_are_refused_before_the_first_cell(slurm, elsewhere, options, argument):
    with pytest.raises(UserError, match=argument):
        launcher(**options).check({})


@pytest.mark.parametrize("line", [["--slurm.time", "4:00:00"], ["--slurm", "{time: 4:00:00}"]])
def test_the_time_of_a_job_in_the_form_of_sbatch_is_refused(slurm, grid, command, line):
    """YAML reads it as 14,400, which would be minutes."""
    said = command("sweep", "grid.yaml", "--launcher", "slurm", *line)
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert "slurm.time" in said.err
    assert "4:00:00" in said.err


def test_without_srun_the_sweep_is_refused(slurm, elsewhere, monkeypatch):
    monkeypatch.setenv("PATH", str(slurm.folder.parent / "bin"))
    launcher().check({})
    (slurm.folder.parent / "bin/srun").unlink()
    with pytest.raises(UserError, match="srun"):
        launcher().check({})


@pytest.mark.parametrize(
    ("option", "reason"), [({"partition": "nowhere"}, "partition"), ({"parttion": "debug"}, "parttion=debug")]
)
def test_what_sbatch_refuses_is_one_line(slurm, elsewhere, capfd, option, reason):
    with pytest.raises(UserError, match=reason) as refused:
        launcher(**option).submit([pack("a"), pack("b")])
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")
    assert slurm.states() == {}


def test_no_cell_begins_if_a_later_array_is_refused(slurm, elsewhere):
    with pytest.raises(UserError, match="configuration"):
        launcher().submit([pack("a"), pack("b", cpus=64)])
    until(lambda: slurm.states() == {"1": "CANCELLED"})


def test_a_folder_that_the_nodes_do_not_see_ends_the_sweep(slurm, elsewhere, monkeypatch):
    monkeypatch.setenv("FAKE_SLURM_BLIND", "1")
    monkeypatch.setattr(slurm_arrays, "_LOOK", 0.1)
    sweep = launcher(jobs=1)
    sweep.submit([pack("a"), pack("b")])
    with pytest.raises(UserError, match="output: expected a folder that all nodes see"):
        deaths(sweep, 2)
    assert sweep.close() == ""


def test_the_gpus_of_the_partition_decide_whether_cells_get_one(slurm, elsewhere, monkeypatch):
    assert not launcher().has_gpus
    monkeypatch.setenv("FAKE_SLURM_GPUS", "2")
    assert launcher().has_gpus
    assert launcher(partition="debug").has_gpus
    monkeypatch.setattr(slurm_arrays, "run_in_job", print)
    launcher().submit([pack("a", gpus=0.5)])
    launcher(gres="gpu:a100:1").submit([pack("a", gpus=0.5)])
    assert [each.get("gpus-per-node") for each in slurm.submitted()] == ["1", None]


# From here on jobs run cells.

GRID = """
common:
  data: {class_path: digits, init_args: {num_images: 4}}
  model: {budget: 10, batch_size: 1, pool_size: 1, sanity_checks: false, victim: slow_victim.net}
axes:
  attack:
    square: {attack: square}
    rays: {attack: rays}
"""
VICTIM = """
import os
import time
from torch import nn
from rfdlight import load_victim

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = load_victim("resnet8-digits")

    def forward(self, x):
        time.sleep(0.2 if "SLURM_JOB_ID" in os.environ else 0)
        return self.net(x)

net = Slow
"""
SLOW = ["square", "rays"]


@pytest.fixture
def slow_grid(elsewhere):
    (elsewhere / "grid.yaml").write_text(GRID)
    (elsewhere / "slow_victim.py").write_text(VICTIM)
    yield Path("runs/grid")
    sys.modules.pop("slow_victim", None)


@contextlib.contextmanager
def driver(*options: str):
    line = [sys.executable, "-m", "rfdlight", "sweep", "grid.yaml", "--launcher", "slurm", "--slurm.time", "10"]
    with subprocess.Popen([*line, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(process) -> str:
    out, err = process.communicate(timeout=LONG)
    assert process.returncode == 0, out + err
    return out


def records(folder: Path, cells=SLOW) -> dict[str, bytes]:
    return {cell: (folder / cell / "records.jsonl").read_bytes() for cell in cells}


def local(command) -> dict[str, bytes]:
    """Return the records of a sweep in this process, of which nothing is left."""
    assert command("sweep", "grid.yaml").status == 0
    found = records(Path("runs/grid"))
    shutil.rmtree("runs")
    return found


@pytest.mark.slow
def test_a_sweep_of_arrays_has_the_records_of_cells_in_turn(slurm, grid, swept_once):
    text = Path("grid.yaml").read_text()
    Path("grid.yaml").write_text(text.replace("rays: {attack: rays}", "rays: {attack: rays, resources: {cpus: 2}}"))
    with driver("--jobs", "2") as process:
        finish(process)
    assert records(Path("runs/grid"), CELLS) == records(swept_once / "grid", CELLS)
    assert {each["cpus-per-task"] for each in slurm.submitted()} == {"1", "2"}
    assert {each["array"] for each in slurm.submitted()} == {"0-1%2"}
    assert all(state == "COMPLETED" for state in slurm.states().values())
    assert {cell: read_log(Path("runs/grid"), cell).attempts for cell in CELLS} == dict.fromkeys(CELLS, 1)
    assert Path("runs/grid/report-grid/report.md").is_file()


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_jobs_outlive_the_sweep_and_the_next_one_adopts_them(slurm, slow_grid, command, number):
    expected = local(command)
    with driver("--jobs", "1") as process:
        until(lambda: any(finished_images(slow_grid / cell) for cell in SLOW))
        process.send_signal(number)
        out, err = process.communicate(timeout=LONG)
    assert process.returncode == (1 if number != signal.SIGKILL else -number)
    if number != signal.SIGKILL:
        assert "scancel 1 " in out
        assert out.endswith("stopped; the same command goes on from here\n")
        assert err == ""
    assert sorted(slurm.states().values()) in (["PENDING", "RUNNING"], ["COMPLETED", "RUNNING"])
    with driver() as process:
        finish(process)
    assert records(slow_grid) == expected
    assert [each["array"] for each in slurm.submitted()] == ["0-1%1"]
    assert [read_log(slow_grid, cell).attempts for cell in SLOW] == [1, 1]


@pytest.mark.faults
def test_a_cell_whose_node_fails_is_resumed_by_another_job(slurm, slow_grid, command):
    expected = local(command)
    with driver() as process:
        until(lambda: finished_images(slow_grid / "square"))
        slurm.request("1_0", "NODE_FAIL")
        out = finish(process)
    assert "1_0 ended as NODE_FAIL" in out
    assert records(slow_grid) == expected
    assert slurm.states() == {"1_0": "NODE_FAIL", "1_1": "COMPLETED", "2": "COMPLETED"}
    run = summary_of("square")["run"]
    assert (run["attempts"], run["killed_attempts"]) == (2, 1)


@pytest.mark.faults
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("end", ["TIMEOUT", "CANCELLED"])
def test_a_job_whose_time_is_over_keeps_its_images_and_the_next_one_goes_on(slurm, slow_grid, command, end, apart):
    if apart:
        two = "{attack: square, trainer: {devices: 2}, resources: {cpus: 1}}"  # in one array with the other cell
        Path("grid.yaml").write_text(GRID.replace("{attack: square}", two))
    expected = local(command)
    with driver() as process:
        until(lambda: finished_images(slow_grid / "square"))
        slurm.request("1_0", end)
        out = finish(process)
    assert "square is run again" in out
    assert records(slow_grid) == expected
    assert slurm.states()["1_0"] == ("COMPLETED" if end == "TIMEOUT" else "CANCELLED")
    run = summary_of("square")["run"]
    assert run["attempts"] == 2
    assert run["killed_attempts"] == 0 or apart


@pytest.mark.slow
def test_the_time_of_a_job_is_its_minutes(slurm, elsewhere, monkeypatch):
    act.__module__ = "__main__"
    monkeypatch.setattr(slurm_arrays, "run_in_job", act)
    monkeypatch.setattr(slurm_arrays, "_LOOK", 0.2)
    monkeypatch.setenv("FAKE_SLURM_MINUTE", "1")
    sweep = launcher(time=1)
    sweep.submit([pack("waits")])
    assert "job 1 ended as" in deaths(sweep, 1)["waits",]


@pytest.mark.slow
@pytest.mark.skipif("RFDLIGHT_SLURM" not in os.environ, reason="needs options of a real SLURM, such as {time: 10}")
def test_a_real_slurm_runs_a_sweep(grid, swept_once):
    with driver("--slurm", json.dumps({"time": 10} | yaml.safe_load(os.environ["RFDLIGHT_SLURM"]))) as process:
        finish(process)
    assert records(Path("runs/grid"), CELLS) == records(swept_once / "grid", CELLS)
    assert not any((Path("runs/grid") / FOLDER).glob("slurm/*/*.partial"))
