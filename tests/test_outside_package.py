"""A package of someone else: its attack, defense and success criterion, found by entry points and used by name."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent / "outside_package"
ROOT = Path(__file__).parents[1]
NOT_SOURCE = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder that pip installed the package into, built with the installed setuptools: no index is read."""
    folder = tmp_path_factory.mktemp("outside")
    install(PACKAGE, folder, "--target", str(folder / "site"))
    return folder / "site"


def install(source: Path, folder: Path, *options: str, pip: tuple[str, ...] = ()) -> None:
    """Install a copy of a source folder, so that none of its files changes, and without any package index."""
    pytest.importorskip("setuptools", minversion="77")
    copy = folder / f"source of {source.name}"
    shutil.copytree(source, copy, ignore=NOT_SOURCE)
    command = [sys.executable, "-m", "pip", *pip, "install", "--quiet", "--no-index", "--no-deps"]
    run(folder, {}, *command, "--no-build-isolation", "--ignore-installed", *options, str(copy))


def run(folder: Path, variables: dict[str, str], *command: str) -> str:
    """The output of a command."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **variables}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


CHECK = """
import rfdlight
assert "one_pixel" in rfdlight.list_attacks(), rfdlight.list_attacks()
assert "quantization" in rfdlight.list_defenses(), rfdlight.list_defenses()
assert "three_in_a_row" in rfdlight.list_criteria(), rfdlight.list_criteria()

from rfdlight.core.registry import component
from rfdlight.testing import check_attack, check_defense
check_attack(component("attack", "one_pixel")(eps=0.3))
check_defense(component("defense", "quantization")(levels=4))
"""


def test_components_of_another_package_are_listed_and_keep_the_contracts(installed):
    path = os.pathsep.join([str(installed), str(ROOT)])
    run(installed, {"PYTHONPATH": path}, sys.executable, "-c", CHECK)


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A fresh environment with rfdlight and the package installed, which shares only the libraries of this one."""
    folder = tmp_path_factory.mktemp("fresh")
    made = folder / "environment"
    venv.create(made, symlinks=True)
    (site,) = made.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for source in (ROOT, PACKAGE):
        install(source, folder, pip=("--python", str(made / "bin/python")))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("defenses", [["quantization"], ["quantization", "input_noise"]], ids=" and ".join)
def test_components_of_another_package_work_on_the_command_line(environment, tmp_path, defenses):
    shown = run(tmp_path, {}, str(environment / "bin/rfdlight"), "test", "--help")
    assert {"one_pixel", "quantization"} <= set(re.findall(r"\w+", shown))
    options = ["--attack", "one_pixel", "--model.criterion", "three_in_a_row", "--data", "digits"]
    for defense in defenses:
        options += ["--defense", defense]
    options += ["--data.num_images", "4", "--model.budget", "20", "--run", "mine"]
    run(tmp_path, {}, str(environment / "bin/rfdlight"), "test", *options)
    assert len((tmp_path / "mine/records.jsonl").read_text().splitlines()) >= 4
    assert "three_in_a_row" in (tmp_path / "mine/summary.json").read_text()
