"""`rfdlight doctor` as a user runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rfdlight import _io
from rfdlight.cli import installed_files as files
from rfdlight.cli import launcher
from rfdlight.records.diagnostic import Diagnostic


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """No variables of a launcher that runs the tests themselves, and a wide terminal."""
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "250")


@pytest.fixture
def quick(monkeypatch):
    """Leave the shipped victims out, which take most of the time."""
    monkeypatch.setattr(files, "check_shipped_victims", lambda remedy: [Diagnostic("victims", "ok", "left out")])


def states(out: str) -> dict[str, str]:
    """The table's states, by check."""
    return dict(re.findall(r"^ (\S.*?) +(ok|warn|fail)(?= )", out, re.MULTILINE))


def test_a_sound_environment_has_every_row_and_leaves_nothing_behind(command, elsewhere):
    said = command("doctor")
    found = states(said.out)
    gpu = [name for name in found if name.startswith("GPU")]
    assert [name for name in found if name not in gpu] == [
        "Python", "packages", "CPU", "bfloat16", "launcher", "data digits", "data cifar10", "victims", "run folder"
    ]  # fmt: skip
    assert gpu
    assert found["data cifar10"] == "warn"  # there is no data root
    assert {found[name] for name in ("Python", "launcher", "data digits", "victims")} == {"ok"}
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines()[-1].endswith(" 0 failed")
    assert list(elsewhere.iterdir()) == []
    assert not (elsewhere.parent / "cache").exists()


def test_a_failure_is_status_1_and_says_what_to_do(command, quick, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    said = command("doctor")
    assert (said.status, said.err) == (1, "")
    assert states(said.out)["torchrun"] == "fail"
    assert "unset RANK; or start with torchrun" in said.out
    assert said.out.splitlines()[-1].endswith(" 1 failed")


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_the_terminal(command, quick, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert max(map(len, command("doctor").out.splitlines())) <= columns


def test_cards_of_ones_own_are_checked(command, quick, elsewhere):
    for suffix in (".json", ".safetensors"):
        (elsewhere / f"mine{suffix}").write_bytes(
            (_io.shipped_folder("checkpoints") / f"resnet8-digits{suffix}").read_bytes()
        )
    said = command("doctor", "--victims", "mine.json")
    assert (said.status, said.err) == (0, "")
    assert "weights as on the cards: mine.json" in said.out
    weights = (elsewhere / "mine.safetensors").read_bytes()
    (elsewhere / "mine.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    said = command("doctor", "--victims", "[resnet8-digits,mine.json]")
    assert (said.status, said.err) == (1, "")
    assert states(said.out)["victim"] == "fail"
    assert "mine.safetensors is not the file its card describes: expected sha256" in said.out
    assert "weights as on the cards: resnet8-digits" in said.out


def test_named_data_are_looked_for_in_the_place_of_the_usual(command, quick):
    said = command("doctor", "--data", "cifar10", "--data.root", "nowhere")
    assert (said.status, said.err) == (1, "")
    assert states(said.out)["data"] == "fail"
    assert "no CIFAR-10 under nowhere" in said.out
    assert "digits" not in said.out
    said = command("doctor", "--data", "digits")
    assert (said.status, states(said.out)["data digits"]) == (0, "ok")
    assert "cifar10" not in said.out


def test_a_file_named_runs_fails(command, quick, elsewhere: Path):
    (elsewhere / "runs").write_text("mine")
    said = command("doctor")
    assert (said.status, states(said.out)["run folder"]) == (1, "fail")
    assert (elsewhere / "runs").read_text() == "mine"


def test_a_check_that_breaks_is_a_row_and_the_others_go_on(command, quick, monkeypatch):
    def breaks(*arguments):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(launcher, "check_launcher", breaks)
    said = command("doctor")
    assert (said.status, said.err) == (1, "")
    assert states(said.out)["launcher"] == "fail"
    assert "ZeroDivisionError: division by zero" in said.out
    assert states(said.out)["run folder"] in ("ok", "warn")


def test_a_process_without_input_is_no_broken_check(command, quick, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert states(command("doctor").out)["launcher"] == "ok"


@pytest.mark.parametrize(
    ("rank", "adversarial", "line"),
    [
        ("x", "", "ValueError: invalid literal for int() with base 10: 'x'; RANK=x is no whole number: unset RANK; or "
         "start with torchrun"),
        (None, "raise RuntimeError('operator\\nlost')", "RuntimeError: operator lost; "
         "python -c 'import rfdlight.cli.main' shows where"),
    ],
)  # fmt: skip
def test_libraries_that_cannot_be_imported_are_one_line(monkeypatch, elsewhere, rank, adversarial, line):
    if adversarial:
        (elsewhere / "lightning.py").write_text(adversarial)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(elsewhere), str(Path(__file__).parents[2])]))
    ended = subprocess.run([sys.executable, "-m", "rfdlight", "doctor"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"rfdlight: cannot start: {line}\n")
