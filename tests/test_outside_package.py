"""A package of someone else: its attack, defense and success criterion, found by entry points and used by name."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

import rfdlight
from rfdlight.core.registry import component
from rfdlight.testing import check_attack, check_criterion, check_defense

PACKAGE = Path(__file__).parent / "outside_package"
ROOT = Path(__file__).parents[1]
NOT_SOURCE = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")


def install(source: Path, folder: Path, environment: Path) -> None:
    """Install a copy of a source folder, so that none of its files changes, and without any package index."""
    pytest.importorskip("setuptools", minversion="77")
    copy = folder / f"source of {source.name}"
    shutil.copytree(source, copy, ignore=NOT_SOURCE)
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin/python"), "install", "--quiet"]
    run(folder, *pip, "--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed", str(copy))


def run(folder: Path, *command: str) -> str:
    """The output of a command."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """Put the package and its entry points on the path, as an installation does."""
    groups = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [line for group, names in groups.items() for line in (f"[{group}]", *map(" = ".join, names.items()))]
    (tmp_path / "outside-0.1.dist-info").mkdir()
    (tmp_path / "outside-0.1.dist-info/METADATA").write_text("Name: outside\nVersion: 0.1\n")
    (tmp_path / "outside-0.1.dist-info/entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(PACKAGE)
    yield
    for name in ("attack", "criterion", "defense"):
        sys.modules.pop(f"outside_{name}", None)


def test_components_of_another_package_are_listed_and_keep_the_contracts(registered):
    assert "one_pixel" in rfdlight.list_attacks()
    assert "quantization" in rfdlight.list_defenses()
    assert "three_in_a_row" in rfdlight.list_criteria()
    check_attack(component("attack", "one_pixel")(eps=0.3), budget=20, num_images=3)
    check_defense(component("defense", "quantization")(levels=4))
    check_criterion(component("criterion", "three_in_a_row"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A fresh environment with rfdlight and the package installed, which shares only the libraries of this one."""
    folder = tmp_path_factory.mktemp("fresh")
    made = folder / "environment"
    venv.create(made, symlinks=True)
    (site,) = made.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for source in (ROOT, PACKAGE):
        install(source, folder, made)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("defenses", [["quantization"], ["quantization", "input_noise"]], ids=" and ".join)
def test_components_of_another_package_work_on_the_command_line(environment, tmp_path, defenses):
    shown = run(tmp_path, str(environment / "bin/rfdlight"), "test", "--help")
    assert {"one_pixel", "quantization"} <= set(re.findall(r"\w+", shown))
    options = ["--attack", "one_pixel", "--model.criterion", "three_in_a_row", "--data", "digits"]
    for defense in defenses:
        options += ["--defense", defense]
    options += ["--data.num_images", "4", "--model.budget", "20", "--run", "mine"]
    run(tmp_path, str(environment / "bin/rfdlight"), "test", *options)
    assert len((tmp_path / "mine/records.jsonl").read_text().splitlines()) >= 4
    assert "three_in_a_row" in (tmp_path / "mine/summary.json").read_text()
