"""Sweeps whose cells run at the same time: the same records, whatever runs them and whatever is killed."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from harness import others_slow

from rfdlight.cli.sweep import local_processes, running
from rfdlight.cli.sweep.cell_files import read_log
from rfdlight.cli.sweep.experiment import read_cells
from rfdlight.cli.sweep.packs import Job, Pack
from rfdlight.cli.sweep.ray_cluster import connected
from rfdlight.cli.sweep.ray_tasks import RayTasks
from rfdlight.data import Digits
from rfdlight.errors import UserError
from rfdlight.victims import resolve

from .grid import CELLS, GRID

pytestmark = pytest.mark.usefixtures("grid")
ONE_CELL = GRID.replace("    shipped: {}\n", "").replace("    rays: {attack: rays}\n", "")


def records(folder, cells=CELLS) -> dict[str, bytes]:
    return {cell: Path(folder, cell, "records.jsonl").read_bytes() for cell in cells}


def copied(line: list[str], popen: Any = subprocess.Popen, **options: Any) -> subprocess.Popen[bytes]:
    """Start a worker as a copy of this process, which has imported torch already."""
    assert line[:2] == [sys.executable, "-m"]

    def work() -> None:
        # Popen gives the environment to an interpreter, which is never started.
        os.environ.update(options.get("env") or {})
        os.closerange(3, 1024)  # also the pipe by which Popen waits for an interpreter
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        try:
            runpy.run_module(line[2], run_name="__main__")
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)

    return popen(line, preexec_fn=work, **options)


@pytest.mark.parametrize("cells", [CELLS[2:3], pytest.param(CELLS, marks=pytest.mark.slow)], ids=["one", "all"])
def test_cells_that_run_at_the_same_time_have_the_records_of_cells_in_turn(command, swept_once, monkeypatch, cells):
    if cells != CELLS:  # in one process, and another that is killed
        Path("grid.yaml").write_text(ONE_CELL)
        monkeypatch.setattr(subprocess, "Popen", copied)
    started = []
    start = local_processes.LocalProcesses._start

    def start_and_kill_the_first(self, number):
        place = start(self, number)
        if not started:
            place.process.kill()  # before its first cell: another process takes its place
        started.append(place)
        return place

    monkeypatch.setattr(local_processes.LocalProcesses, "_start", start_and_kill_the_first)
    said = command("sweep", "grid.yaml", "--jobs", "2")
    assert said.status == 0, said.out
    assert records("runs/grid", cells) == records(swept_once / "grid", cells)
    assert {cell: read_log(Path("runs/grid"), cell).attempts for cell in cells} == dict.fromkeys(cells, 1)
    assert len(started) == min(len(cells), 2) + 1
    assert [place.process.poll() for place in started] == [-signal.SIGKILL] + [0] * min(len(cells), 2)
    assert Path("runs/grid/report-grid/report.md").is_file()


def test_a_copied_worker_has_its_environment_and_shows_its_error(elsewhere, monkeypatch):
    (elsewhere / "failing_worker.py").write_text("import os\nraise OSError(os.environ['OF_A_WORKER'])\n")
    monkeypatch.syspath_prepend(elsewhere)
    line = [sys.executable, "-m", "failing_worker"]
    worker = copied(line, env={**os.environ, "OF_A_WORKER": "its own"}, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    _, said = worker.communicate(timeout=60)
    assert (worker.returncode, said.splitlines()[-1]) == (1, b"OSError: its own")
    assert "OF_A_WORKER" not in os.environ


@pytest.mark.slow
def test_tasks_of_ray_have_the_records_of_cells_in_turn(swept_once):
    pytest.importorskip("ray")
    done = subprocess.run(
        [sys.executable, "-m", "rfdlight", "sweep", "grid.yaml", "--launcher", "ray"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert records("runs/grid") == records(swept_once / "grid")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_driver_stops_its_processes_and_keeps_what_is_finished(number, swept_once):
    Path("grid.yaml").write_text(GRID.replace("budget: 4", "budget: 4000"))
    line = [sys.executable, "-m", "rfdlight", "sweep", "grid.yaml", "--jobs", "2"]
    driver = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    logs = [Path("runs/grid", cell) for cell in CELLS]
    while not any((cell / "journal").exists() for cell in logs):
        assert driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(number)
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode == 1
    assert said.endswith("stopped; the same command goes on from here\n")
    stopped = [read_log(Path("runs/grid"), cell).end for cell in CELLS if read_log(Path("runs/grid"), cell).attempts]
    assert stopped
    workers = subprocess.run(["pgrep", "-f", "rfdlight.cli.sweep.worker", "-s", str(os.getsid(0))], capture_output=True)
    assert workers.stdout == b""


@pytest.mark.parametrize(
    ("given", "line", "argument"),
    [
        ("", ["--launcher", "kubernetes"], "launcher"),
        ("", ["--jobs", "0"], "jobs"),
        ("", ["--retries", "-1"], "retries"),
        ("", ["--slurm.time", "10"], "slurm"),
        ("resources: {cpus: 100000}", [], "resources.cpus"),
        ("resources: {gpus: 100}", ["--jobs", "2"], "resources.gpus"),
        ("resources: {gpus: -1}", [], "resources.gpus"),
        ("resources: {tpus: 1}", [], "resources"),
    ],
)
def test_what_no_launcher_can_do_is_one_line_before_the_first_cell(command, given, line, argument):
    if given:
        Path("grid.yaml").write_text(GRID.replace("common:\n", f"common:\n  {given}\n"))
    said = command("sweep", "grid.yaml", *line)
    assert said.status == 2
    assert argument in said.err
    assert said.err.count("\n") == 1
    assert not any((Path("runs/grid") / cell).exists() for cell in CELLS)


@pytest.mark.parametrize(
    ("package", "line"), others_slow([("ray", ["--launcher", "ray"]), ("submitit", ["--launcher", "slurm"])], 1)
)
def test_a_launcher_without_its_package_names_the_extra(command, monkeypatch, package, line):
    monkeypatch.setitem(sys.modules, package, None)
    said = command("sweep", "grid.yaml", *line)
    assert (said.status, said.out) == (2, "")
    assert f"pip install 'rfdlight[{line[-1]}]'" in said.err


def test_a_complete_sweep_starts_no_launcher(command, swept, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert command("sweep", "grid.yaml", "--launcher", "ray").status == 0


def test_resources_are_no_setting_of_a_cell(command):
    Path("grid.yaml").write_text(
        GRID.replace("common:\n", "common:\n  resources: {gpus: 0.5}\n")
        + "    more: {resources: {cpus: 2}, attack: nes}\n"
    )
    cells = {cell.name: cell for cell in read_cells(Path("grid.yaml"))}
    assert all("resources" not in cell.config for cell in cells.values())
    assert (cells["own-square"].resources.gpus, cells["own-square"].resources.cpus) == (0.5, None)
    assert (cells["own-more"].resources.gpus, cells["own-more"].resources.cpus) == (0.5, 2)


def test_cells_of_one_process_load_their_data_and_their_victim_once(command, monkeypatch):
    loaded = []
    for place, name in ((Digits, "load"), (resolve, "load_stored")):
        function = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *args, f=function, n=name: loaded.append(n) or f(*args))
    Path("grid.yaml").write_text(GRID.replace("    own: {model: {victim: faulty_victim.net}}\n", ""))
    assert command("sweep", "grid.yaml").status == 0
    assert loaded.count("load_stored") == loaded.count("load") == 1 + 1  # in the check, and in the cells
    totals = [json.loads(Path("runs/grid", cell, "summary.json").read_text())["run"]["totals"] for cell in CELLS[:2]]
    assert totals[0]["checks"] == totals[1]["checks"] > 0


def test_finished_cells_are_uploaded_and_not_run_on_another_machine(command, swept_once):
    url, cells = "memory://bucket/sweep", CELLS[2:3]
    Path("grid.yaml").write_text(ONE_CELL)
    assert command("sweep", "grid.yaml", "--output", "here", "--upload", url).status == 0
    said = command("sweep", "grid.yaml", "--output", "there", "--upload", url)
    assert (said.status, "cell 1 of" in said.out) == (0, False)
    assert records("there", cells) == records("here", cells) == records(swept_once / "grid", cells)
    assert all(read_log(Path("there"), cell).attempts == 0 for cell in cells)
    Path("grid.yaml").write_text(ONE_CELL.replace("budget: 4", "budget: 5"))
    said = command("sweep", "grid.yaml", "--output", "elsewhere", "--upload", url)
    assert (said.status, said.out) == (2, "")
    assert url in said.err


def test_a_place_that_cannot_be_written_is_refused_before_the_first_cell(command):
    Path("file").touch()
    for url in ("file:///proc/nowhere/sweep", "nowhere://bucket", "plain/folder"):
        said = command("sweep", "grid.yaml", "--upload", url)
        assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)
    assert not Path("runs").exists()


class FakeRay(ModuleType):
    """Ray as far as a connection uses it: four cores, and tasks that are only counted."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__("ray")
        self.error, self.tasks, self.open = error, 0, False

    def init(self, **options: Any) -> None:
        if self.error is not None:
            raise self.error
        self.open = True

    def shutdown(self) -> None:
        self.open = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0}

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        def submit(*_: Any) -> None:
            self.tasks += 1

        return lambda function: SimpleNamespace(remote=submit)


@pytest.mark.parametrize(("jobs", "cells", "tasks"), [(None, 9, 4), (2, 9, 2), (9, 9, 4), (2, 1, 1)])
def test_as_many_processes_of_ray_as_will_run_cells_load_torch_ahead(monkeypatch, jobs, cells, tasks):
    monkeypatch.setitem(sys.modules, "ray", fake := FakeRay())
    with connected(jobs, cells) as ray:
        assert ray is fake
        assert fake.open
        assert running.__name__ in sys.modules
    assert (fake.tasks, fake.open) == (tasks, False)


def test_ray_ends_with_an_error_in_a_cell(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", fake := FakeRay())
    Path("grid.yaml").write_text(GRID.replace("rays: {attack: rays}", "rays: {attack: rays, model: {budget: -1}}"))
    said = command("sweep", "grid.yaml", "--launcher", "ray")
    assert (said.status, said.err.count("\n"), fake.open) == (2, 1, False)
    assert "shipped-rays" in said.err


@pytest.mark.parametrize("error", [ConnectionError("no\nanswer"), RuntimeError("x"), ValueError("y")])
def test_a_cluster_that_does_not_answer_is_one_line(command, monkeypatch, error):
    monkeypatch.setitem(sys.modules, "ray", FakeRay(error))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    said = command("sweep", "grid.yaml", "--launcher", "ray")
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert "10.0.0.1:6379" in said.err


def test_a_sweep_whose_ray_has_died_ends_in_one_line_and_no_cell_has_failed():
    """Each task that is submitted afterwards would die at once."""

    class DiedError(Exception):
        pass

    def died(task):
        raise DiedError

    ray = SimpleNamespace(
        remote=lambda **options: lambda function: None,
        cluster_resources=lambda: {"CPU": 2.0},
        wait=lambda tasks, num_returns, timeout: (tasks, []),
        get=died,
        exceptions=SimpleNamespace(LocalRayletDiedError=DiedError),
    )
    tasks = RayTasks(Path("runs"), (), None, ray)
    tasks._packs = {"task": Pack((Job("a", 1.0),))}
    with pytest.raises(UserError, match="same command goes on"):
        tasks.wait(0.1)
