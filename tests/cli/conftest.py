"""A folder of one's own for every command line, and what a command said and left behind."""

import functools
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from fuzz import record_files
from fuzz.running import workplace

from rfdlight.cli import main as cli

from .sweep.grid import GRID, VICTIM

installed = functools.cache(metadata.entry_points)
"""The entry points of the installed packages, which every parser lists several times."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second look at the installed packages."""
    monkeypatch.setattr(metadata, "entry_points", installed)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, an empty cache, no data root, and the import path as it was afterwards."""
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RFDLIGHT_DATA", raising=False)
    return folder


@pytest.fixture
def nearest_mean(elsewhere: Path):
    """Put the module of fast victims where command lines find it."""
    (elsewhere / "nearest_mean.py").write_text(Path(__file__).with_name("nearest_mean.py").read_text())
    yield
    sys.modules.pop("nearest_mean", None)


@pytest.fixture
def grid(elsewhere: Path):
    """Put the grid of the tests of sweeps, and the victim of its own, where command lines find them."""
    (elsewhere / "grid.yaml").write_text(GRID)
    (elsewhere / "faulty_victim.py").write_text(VICTIM)
    yield
    sys.modules.pop("faulty_victim", None)


@pytest.fixture(scope="session")
def swept_once(tmp_path_factory) -> Path:
    """The folder of the grid's sweep."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "grid.yaml").write_text(GRID)
    (folder / "faulty_victim.py").write_text(VICTIM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        assert cli.main(["sweep", "grid.yaml"]) == 0
    del sys.modules["faulty_victim"]
    return folder / "runs"


@pytest.fixture(scope="session")
def original() -> record_files.Original:
    """The files of a run, for the tests that damage them."""
    with workplace() as folder:
        return record_files.make(folder)


@pytest.fixture
def swept(grid, elsewhere: Path, swept_once: Path) -> None:
    """Put a finished sweep of the grid where command lines find it."""
    shutil.copytree(swept_once, elsewhere / "runs")


@dataclass
class Said:
    """What a command left on the terminal."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]):
    """Run a command line in this process."""

    def run(*args: str) -> Said:
        capsys.readouterr()
        try:
            status = cli.main(list(args))
        except SystemExit as end:  # how argparse ends after --help
            status = end.code or 0
        return Said(status, *capsys.readouterr())

    return run


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Build the objects of a command line and run nothing."""
    last = []
    monkeypatch.setattr(cli.RFDLightCLI, "_run_subcommand", lambda self, subcommand: last.append(self))

    def build(*args: str) -> cli.RFDLightCLI:
        capsys.readouterr()
        cli.main(list(args))
        assert last, capsys.readouterr().err
        return last.pop()

    return build
