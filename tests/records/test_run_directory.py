import re
import time
from pathlib import Path

import pytest

from rfdlight.errors import UserError
from rfdlight.records import run_directory


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_planning_makes_nothing(home):
    run_directory.plan(None, "test-digits")
    run_directory.plan("a/b", "test-digits")
    assert list(home.iterdir()) == []


def test_the_default_says_when_and_what(home):
    planned = run_directory.plan(None, "test-digits")
    assert re.fullmatch(r"runs/\d{8}-\d{6}-test-digits", planned.as_posix())


def test_runs_of_the_same_second_get_folders_of_their_own(home, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda form: "20200101-000000")
    made = [run_directory.create(run_directory.plan(None, "fit-digits")).as_posix() for _ in range(3)]
    first = "runs/20200101-000000-fit-digits"
    assert made == [first, f"{first}-2", f"{first}-3"]


def test_an_empty_folder_can_be_used(home):
    (home / "mine").mkdir()
    assert run_directory.create(run_directory.plan("mine", "x")) == Path("mine")


@pytest.mark.parametrize("folder", [True, False])
def test_what_is_already_there_is_never_touched(home, folder):
    if folder:
        (home / "mine").mkdir()
    (home / "mine" / "records.csv" if folder else home / "mine").write_text("kept")
    another = "already holds another run; give another folder, or move that one"
    text = f"^mine {another if folder else 'is a file; give a folder'}$"
    with pytest.raises(UserError, match=text):
        run_directory.plan("mine", "x")


def test_a_folder_that_cannot_be_made_is_named(home):
    (home / "file").write_text("")
    with pytest.raises(UserError, match=r"^cannot make the run directory file/run: Not a directory$"):
        run_directory.create(Path("file/run"))


@pytest.mark.parametrize("left", ["journal/lock", "config.yaml", "partial-host-7-fingerprint.json"])
def test_a_run_that_ended_before_it_had_begun_does_not_bar_the_way(left, home):
    (home / "mine/journal").mkdir(parents=True)
    (home / "mine" / left).touch()
    assert run_directory.plan("mine", "x") == Path("mine")


@pytest.mark.parametrize("left", ["fingerprint.json", "records.jsonl", "journal/0-0.jsonl", "notes.txt"])
def test_a_run_that_had_begun_does(left, home):
    (home / "mine/journal").mkdir(parents=True)
    (home / "mine" / left).touch()
    with pytest.raises(UserError, match="mine already holds another run"):
        run_directory.plan("mine", "x")


def test_the_configuration_of_a_training_bars_the_way(home):
    (home / "mine").mkdir()
    (home / "mine/config.yaml").touch()
    with pytest.raises(UserError, match="mine already holds another run"):
        run_directory.plan("mine", "x")
