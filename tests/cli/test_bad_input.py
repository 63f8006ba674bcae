"""Every bad input is refused in one line that says what would be right, before anything is written."""

import hashlib
import os
import sys
from pathlib import Path

import huggingface_hub
import pytest

from . import bad_command_lines, bad_lines, bad_victims
from .faulty_files import FAULTY, write_checkpoints, write_configs, write_data, write_run, write_victims

CASES = bad_lines.CASES | bad_victims.CASES | bad_command_lines.CASES


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory):
    """A folder with everything that the command lines below name."""
    folder = tmp_path_factory.mktemp("bad_input")
    (folder / "faulty.py").write_text(FAULTY)
    write_victims(folder)
    write_checkpoints(folder)
    write_data(folder)
    write_configs(folder)
    write_run(folder / "finished")
    (folder / "taken").mkdir()
    (folder / "taken/records.jsonl").write_text("someone's work\n")
    (folder / "a_file").write_text("")
    yield folder
    sys.modules.pop("faulty", None)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    paths = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_status_2_and_nothing_written(name, prepared, command, monkeypatch):
    line, expected = CASES[name]
    monkeypatch.chdir(prepared)
    before = snapshot(prepared)
    said = command(*line.split())
    if "{sha}" in expected:
        expected = expected.format(sha=hashlib.sha256((prepared / "altered.safetensors").read_bytes()).hexdigest()[:16])
    assert said.err.startswith("rfdlight: ")
    assert said.err.count("\n") == 1
    assert expected in said.err
    assert said.status == 2
    assert said.out == ""
    assert snapshot(prepared) == before


def test_pretrained_weights_that_cannot_be_fetched(elsewhere, command, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(elsewhere))
    said = command("fit", "--model.network", "resnet18", "--model.pretrained", "true", "--run", "run")
    assert said.status == 2
    assert said.err.startswith("rfdlight: cannot fetch the pretrained weights of 'resnet18': ")
    assert said.err.endswith(
        "; offline, download them elsewhere and give --model.pretrained false --model.checkpoint FILE\n"
    )
    assert said.err.count("\n") == 1
    assert not (elsewhere / "run").exists()


def test_callbacks_that_lightning_does_not_take_together(prepared, command, monkeypatch):
    monkeypatch.chdir(prepared)
    said = command("fit", "-c", "twice.yaml")
    assert said.status == 2
    assert said.err.startswith("rfdlight: the trainer refuses: Found more than one stateful callback of type ")
    assert said.err.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_run_directory_that_cannot_be_made(elsewhere, command):
    (elsewhere / "closed").mkdir(mode=0o500)
    said = command("test", "--attack", "rays", "--run", "closed/run")
    assert (said.status, said.err) == (2, "rfdlight: cannot make the run directory closed/run: Permission denied\n")
