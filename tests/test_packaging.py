"""What is installed: built from the source distribution alone, and used from an empty folder."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("configs", "checkpoints")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and path.suffix in (".yaml", ".json", ".safetensors")
)
NOT_SOURCE = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")

pytestmark = pytest.mark.slow


def build(kind: str, source: Path, target: Path) -> Path:
    """Build with the setuptools that is installed, so that no index is asked."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(target)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (built,) = target.glob({"sdist": "*.tar.gz", "wheel": "*.whl"}[kind])
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "source", ignore=NOT_SOURCE)
    return build("sdist", folder / "source", folder)


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """Built from the unpacked source distribution: what that lacks, the wheel lacks too."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    return build("wheel", source, folder)


def test_the_source_distribution_holds_configs_and_checkpoints(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {*SHIPPED, "LICENSE", "README.md", "setup.cfg", "setup.py", "pyproject.toml"} <= names


def test_the_wheel_holds_configs_and_checkpoints_and_nothing_beside_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert SHIPPED
    assert {f"rfdlight/{name}" for name in SHIPPED} <= names
    assert "rfdlight/py.typed" in names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"rfdlight"}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rfdlight").rglob("*.py")}
    assert modules <= names
    assert {f"rfdlight/cli/help_texts/{name}" for name in ("rfdlight.txt", "test.txt", "options.json")} <= names


def test_the_unpacked_wheel_finds_its_files_from_an_empty_folder(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    (tmp_path / "empty").mkdir()
    code = (
        "import rfdlight\n"
        "from pathlib import Path\n"
        "from rfdlight import _io\n"
        "from rfdlight.victims.card import load_victim\n"
        "print(rfdlight.__file__)\n"
        "for kind, suffix in (('configs', '.yaml'), ('checkpoints', '.json')):\n"
        "    folder = _io.shipped_folder(kind)\n"
        "    for path in sorted(folder.rglob('*' + suffix)):\n"
        "        print(_io.find_shipped(kind, path.relative_to(folder).with_suffix('').as_posix(), suffix))\n"
        "        if suffix == '.json':\n"
        "            load_victim(path)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "empty", capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "unpacked"), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    found = {Path(line).relative_to(tmp_path / "unpacked").as_posix() for line in done.stdout.splitlines()}
    expected = {f"rfdlight/{name}" for name in SHIPPED if not name.endswith(".safetensors")}
    assert found == {"rfdlight/__init__.py", *expected}
