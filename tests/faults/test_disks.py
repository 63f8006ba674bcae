"""Disks that fill up or become read-only under a run, and two runs that want one directory."""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from rfdlight.records.journal import Entry
from rfdlight.records.records import read_records
from rfdlight.records.schema import seal, unseal

pytestmark = pytest.mark.faults

IMAGES = 60
TEST = [
    "test", "--attack", "square", "--data.num_images", str(IMAGES), "--model.budget", "100", "--model.batch_size", "8",
    "--model.pool_size", "20",
]  # fmt: skip
PATIENCE = 240
"""Seconds."""


def start(*args: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "rfdlight", *args]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def said(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit status and what was said to be wrong, in one line at most."""
    _, errors = process.communicate(timeout=PATIENCE)
    assert errors == "" or errors.startswith("rfdlight: "), errors
    assert errors.count("\n") <= 1, errors
    return process.returncode, errors


def mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], capture_output=True).returncode == 0


@contextmanager
def disk(place: Path, size: str):
    """A small disk at a place."""
    place.mkdir(exist_ok=True)
    if shutil.which("mount") is None or not mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)):
        pytest.skip("a small disk needs the command mount and the rights to use it")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], capture_output=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert said(start(*TEST, "--run", str(run))) == (0, "")
    return (run / "records.jsonl").read_bytes()


def lines(run: Path) -> set[bytes]:
    """Every whole line of a record that a run has left."""
    journals = [path.read_bytes().splitlines(keepends=True) for path in run.glob("journal/*.jsonl")]
    entries = [unseal(line[:-1], Entry) for lines in journals for line in lines if line.endswith(b"\n")]
    found = {seal(entry.record) + b"\n" for entry in entries if entry.record is not None}
    path = run / "records.jsonl"
    return found | (set(path.read_bytes().splitlines(keepends=True)) if path.exists() else set())


def go_on(run: Path) -> tuple[int, str]:
    if (run / "fingerprint.json").exists():
        return said(start("test", "--resume", str(run)))
    return said(start(*TEST, "--run", str(run)))


def check_kept(run: Path, whole: bytes) -> int:
    """Nothing that a run has left is torn or another run's; return how many images it has finished."""
    assert lines(run) <= set(whole.splitlines(keepends=True))
    assert not list(run.rglob("partial-*"))
    return len(lines(run))


@pytest.mark.parametrize("size", ["4k", "12k", "20k", "40k", "64k", "128k", "256k", "512k"])
def test_a_disk_that_fills_up_loses_nothing_that_was_finished(size, whole, tmp_path):
    place = tmp_path / "disk"
    with disk(place, size):
        status, errors = said(start(*TEST, "--run", str(place / "run")))
        assert (status, bool(errors)) == (2, True)
        kept = check_kept(place / "run", whole) if (place / "run").exists() else 0
        sys.stdout.write(f"{size}: {kept} of {IMAGES} images kept; {errors}")
        assert mount("-o", "remount,size=64m", str(place))
        assert go_on(place / "run") == (0, "")
        assert (place / "run/records.jsonl").read_bytes() == whole


def wait_for_records(run: Path, process: subprocess.Popen[str], count: int) -> None:
    end = time.monotonic() + PATIENCE
    while process.poll() is None and len(lines(run)) < count:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("finished", [1, 10, 30])
def test_a_disk_that_becomes_read_only_loses_nothing_that_was_finished(finished, whole, tmp_path):
    place = tmp_path / "disk"
    with disk(place, "64m"):
        process = start(*TEST, "--run", str(place / "run"))
        wait_for_records(place / "run", process, finished)
        # A disk is not made read-only while a file is open to be written, unless by force, as after an error of it.
        assert mount("-o", "remount,ro,size=64m", str(place)) or shut(place / "run")
        status, errors = said(process)
        assert (status, bool(errors)) == (2, True)
        kept = check_kept(place / "run", whole)
        assert kept >= finished
        sys.stdout.write(f"read-only: {kept} of {IMAGES} images kept; {errors}")
        assert mount("-o", "remount,rw,size=64m", str(place))
        opened(place / "run")
        assert go_on(place / "run") == (0, "")
        assert (place / "run/records.jsonl").read_bytes() == whole


def shut(run: Path) -> bool:
    """Forbid every change of a folder, which holds for the superuser too, where the disk cannot be made read-only."""
    return all(
        subprocess.run(["chattr", "+i", str(p)], capture_output=True).returncode == 0 for p in (run / "journal", run)
    )


def opened(run: Path) -> None:
    if shutil.which("chattr"):
        subprocess.run(["chattr", "-i", str(run), str(run / "journal")], capture_output=True)


@pytest.mark.parametrize("repetition", range(5))
def test_of_two_runs_in_one_directory_one_ends_and_the_other_says_why_not(repetition, whole, tmp_path):
    run = tmp_path / "run"
    found = [said(process) for process in [start(*TEST, "--run", str(run)) for _ in range(2)]]
    assert sorted(status for status, _ in found) == [0, 2]
    (errors,) = (errors for status, errors in found if status)
    assert "is being written by another process" in errors or "already holds another run" in errors
    sys.stdout.write(errors)
    assert (run / "records.jsonl").read_bytes() == whole
    assert len(list(run.glob("journal/*.jsonl"))) == 1


@pytest.mark.parametrize("repetition", range(5))
def test_of_two_that_go_on_with_one_run_one_does(repetition, whole, tmp_path):
    run = tmp_path / "run"
    process = start(*TEST, "--run", str(run))
    wait_for_records(run, process, 5)
    process.kill()
    process.communicate()
    assert not (run / "records.jsonl").exists()
    found = [said(process) for process in [start("test", "--resume", str(run)) for _ in range(2)]]
    statuses = Counter(status for status, _ in found)
    # Where the second comes after the first has ended, there is nothing left to do for it.
    assert statuses in (Counter({0: 1, 2: 1}), Counter({0: 2}))
    assert all("is being written by another process" in errors for status, errors in found if status)
    sys.stdout.write(f"{dict(statuses)}\n")
    assert (run / "records.jsonl").read_bytes() == whole
    assert len(read_records(run / "records.jsonl")) == IMAGES
