"""A disk that fills up, or goes away, in the middle of a run: one line, and nothing that was finished is lost."""

import contextlib
import json
import resource
import shutil
from pathlib import Path

import pytest
from fuzz import record_files
from fuzz.running import check_refused, run, workplace

from rfdlight.evaluation.run_writer import RunWriter
from rfdlight.records.journal import Entry
from rfdlight.records.schema import seal, unseal


@contextlib.contextmanager
def files_of_at_most(size: int):
    """Let no file of this process grow beyond a number of bytes; a write past it fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def begin_or_go_on(folder: Path):
    """What a user types when there is room again."""
    if (folder / "run/fingerprint.json").exists():
        return run(folder, "test", "--resume", "run")
    return run(folder, *record_files.TEST, "--run", "run")


def check_kept(outcome, original) -> None:
    """Every whole line that the run has left is one of an uninterrupted run's, and nothing looks finished."""
    own = set(original.records.splitlines())
    for name, content in outcome.after.items():
        if name == "run/records.jsonl":
            assert set(content.splitlines()) <= own, outcome
        if name.startswith("run/journal/") and name.endswith(".jsonl"):
            entries = [unseal(line[:-1], Entry) for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
            assert {seal(entry.record) for entry in entries if entry.record is not None} <= own, outcome
        if name.endswith((".json", ".yaml")):
            assert content, f"{name} is torn"
            assert name.endswith("yaml") or json.loads(content), f"{name} is torn"
    assert not [name for name in outcome.after if "partial-" in name]


@pytest.mark.parametrize(
    ("size", "kept", "file"),
    [
        (0, "2", "config.yaml"),
        pytest.param(1500, "0", "journal/0-0.jsonl", marks=pytest.mark.slow),
        pytest.param(4500, "0", "summary.json", marks=pytest.mark.slow),
        pytest.param(7000, "0", "curves.png", marks=pytest.mark.slow),
        pytest.param(20_000, "1", "journal/image-0.safetensors", marks=pytest.mark.slow),
    ],
)
def test_a_run_on_a_disk_that_fills_up_goes_on_when_there_is_room(size, kept, file, original):
    with workplace() as folder:
        with files_of_at_most(size):
            outcome = run(folder, *record_files.TEST, "--model.keep_images", kept, "--run", "run")
        check_refused(outcome)
        assert f"cannot write run/{file}: " in outcome.err
        check_kept(outcome, original)
        outcome = begin_or_go_on(folder)
        assert (outcome.status, outcome.err) == (0, "")
        assert outcome.after["run/records.jsonl"] == original.records
        assert json.loads(outcome.after["run/summary.json"])["run"]["complete"]
        assert outcome.after["run/curves.png"].endswith(b"IEND\xaeB`\x82")


@pytest.mark.slow
def test_a_run_directory_that_goes_away_in_the_middle_of_a_run_is_one_line(original, monkeypatch):
    def lost(self, **content):
        monkeypatch.undo()
        shutil.rmtree(self.folder)

    with workplace() as folder:
        monkeypatch.setattr(RunWriter, "append", lost)
        check_refused(run(folder, *record_files.TEST, "--run", "run"))
