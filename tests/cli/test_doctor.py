"""`rfdlight doctor`: the checks of the environment, and the table that a user sees."""

import os
import re
import shutil
from importlib import metadata

import pytest
import torch

import rfdlight.__main__ as program
from rfdlight import _io
from rfdlight.cli import doctor, launcher
from rfdlight.cli.doctor import check_cifar10, check_gpus, check_packages, check_run_folder
from rfdlight.cli.launcher import check_launcher, started_processes
from rfdlight.data.cifar10 import CIFAR10

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1",
         "SLURM_NODEID": "0"}  # fmt: skip


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """No variables of a launcher that runs the tests themselves, and a wide terminal."""
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in TORCHRUN:
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "250")


def states(out: str) -> dict[str, str]:
    """The table's states, by check."""
    return dict(re.findall(r"^ (\S.*?) +(ok|warn|fail)(?= )", out, re.MULTILINE))


def test_a_sound_environment_has_every_row_and_leaves_nothing_behind(command, elsewhere):
    said = command("doctor")
    found = states(said.out)
    names = ["packages", "launcher", "data digits", "data cifar10", "victims", "run folder"]
    assert [name for name in found if not name.startswith("GPU")] == names
    assert found["data cifar10"] == "warn"  # there is no data root
    assert {found[name] for name in ("packages", "launcher", "data digits", "victims")} == {"ok"}
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines()[-1].endswith(" 0 failed")
    assert list(elsewhere.iterdir()) == []
    assert not (elsewhere.parent / "cache").exists()


def test_failures_are_rows_with_remedies_and_status_1(command, elsewhere, monkeypatch):
    def breaks():
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(doctor, "check_gpus", breaks)
    monkeypatch.setattr(_io, "shipped_folder", lambda kind: elsewhere)
    monkeypatch.setattr(doctor, "shipped_folder", lambda kind: elsewhere)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("COLUMNS", "80")
    (elsewhere / "runs").write_text("mine")
    said = command("doctor", "--data", "cifar10", "--data.root", "nowhere")
    assert (said.status, said.err) == (1, "")
    expected = {"GPU": "fail", "torchrun": "fail", "data": "fail", "run folder": "fail"}
    assert expected.items() <= states(said.out).items()
    assert "ZeroDivisionError: division" in " ".join(said.out.split())
    assert max(map(len, said.out.splitlines())) <= 80


def test_cards_of_ones_own_are_checked(command, elsewhere):
    shipped = _io.shipped_folder("checkpoints")
    for suffix in (".json", ".safetensors"):
        shutil.copy(shipped / f"resnet8-digits{suffix}", elsewhere / f"mine{suffix}")
    weights = (elsewhere / "mine.safetensors").read_bytes()
    (elsewhere / "mine.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    cards = {"resnet8-digits": shipped / "resnet8-digits.json", "mine": elsewhere / "mine.json"}
    bad, good = doctor.check_victims(cards, "mend")
    assert (bad.state, bad.remedy) == ("fail", "mend")
    assert "mine.safetensors is not the file its card describes: expected sha256" in bad.found
    assert (good.state, good.found) == ("ok", "weights as on the cards: resnet8-digits")


def test_versions_outside_their_range_fail(monkeypatch):
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.9.1+cpu" if name == "torch" else version(name))
    monkeypatch.setattr("platform.python_version", lambda: "3.9.18")
    rest, *wrong = check_packages()
    assert [(found.check, found.state) for found in wrong] == [("Python", "fail"), ("torch", "fail")]
    assert wrong[1].found.startswith("2.9.1+cpu, rfdlight needs >=")
    assert "timm " in rest.found
    assert "torch 2" not in rest.found


def test_gpus_with_little_memory_and_a_driver_that_torch_does_not_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H200")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (10**8, 10**11))
    (found,) = check_gpus()
    assert (found.check, found.state, found.found) == ("GPU 0", "warn", "H200, 0.1 of 100.0 GB free")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert check_gpus()[0].state == "ok"
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert check_gpus()[0].state == "warn"


def test_cifar10_is_counted(monkeypatch):
    monkeypatch.setattr(CIFAR10, "images", lambda self, split: range(9_999))
    (found,) = check_cifar10()
    assert (found.state, found.found) == ("warn", "9,999 of 10,000 test images")
    monkeypatch.setattr(CIFAR10, "images", lambda self, split: range(10_000))
    assert check_cifar10()[0].state == "ok"


def test_a_full_disk_is_a_warning(monkeypatch, tmp_path):
    assert check_run_folder(tmp_path / "runs")[0].found.startswith(f"{tmp_path}, ")
    monkeypatch.setattr(doctor, "_ROOM", 1e18)
    assert check_run_folder(tmp_path)[0].state == "warn"
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize(
    ("environ", "check", "found"),
    [
        ({"SLURM_JOB_ID": "7"}, "launcher", ""),
        (TORCHRUN, "torchrun", ""),
        (SLURM, "SLURM", ""),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"}, "launcher", ""),
        ({"SLURM_NTASKS": "1"}, "launcher", ""),
        ({"RANK": "0", "MASTER_PORT": "1"}, "torchrun", "RANK=0 MASTER_PORT=1, no WORLD_SIZE LOCAL_RANK MASTER_ADDR"),
        ({"SLURM_NTASKS": "4"}, "SLURM", "SLURM_NTASKS=4, no SLURM_NTASKS_PER_NODE SLURM_PROCID SLURM_LOCALID"),
    ],
)
def test_variables_that_are_left_over_from_another_job_fail(environ, check, found):
    (diagnostic,) = check_launcher(environ)
    assert (diagnostic.check, diagnostic.state) == (check, "fail" if found else "ok")
    assert diagnostic.found.startswith(found)
    assert bool(diagnostic.remedy) == bool(found)


def test_a_run_with_variables_that_are_left_over_is_refused(command, monkeypatch, elsewhere):
    monkeypatch.setenv("RANK", "0")
    said = command("test", "--attack", "rays")
    assert said.status == 2
    assert said.err.endswith("; unset RANK; or start with torchrun\n")
    assert list(elsewhere.iterdir()) == []


def test_torchrun_and_srun_say_how_many_processes_they_started():
    elastic = {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}
    assert started_processes(elastic) == (2, 3)
    assert started_processes(SLURM) == (2, 2)
    assert started_processes(SLURM | {"SLURM_JOB_NAME": "interactive"}) is None
    assert started_processes({}) is None
    assert launcher.started_by_lightning({"NODE_RANK": "0", "LOCAL_RANK": "1"})
    assert not launcher.started_by_lightning({"NODE_RANK": "0", "LOCAL_RANK": "0"})


def test_the_program_reports_libraries_that_cannot_be_imported_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["rfdlight", "tets"])
    assert program.main() == 2
    assert capsys.readouterr().err == "rfdlight: unknown command 'tets'; did you mean test?\n"
    monkeypatch.setattr("sys.argv", ["rfdlight", "layers"])
    monkeypatch.delattr("rfdlight.cli.main")
    monkeypatch.setitem(__import__("sys").modules, "rfdlight.cli.main", None)
    assert program.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("rfdlight: cannot start: ")
    assert said.endswith("; python -c 'import rfdlight.cli.main' shows where\n")
