"""The state of every cell of a sweep, from the files that its processes leave."""

import fcntl
import io
import json
import os
import re
import shutil
from pathlib import Path

import msgspec
import pytest
from hand import adversarial, cut_journal, facts, record
from rich.console import Console
from written_runs import write_run, write_standard

from rfdlight._io import plain_text
from rfdlight.cli.sweep import cell_files
from rfdlight.cli.sweep.cell_files import held, is_running, note
from rfdlight.cli.sweep.driver import headline
from rfdlight.cli.sweep.status import CellStatus, states, status_lines, status_table
from rfdlight.records import progress
from rfdlight.records.progress import Progress
from rfdlight.records.result import result_of, size_of
from rfdlight.records.run_folders import load_any
from rfdlight.records.runs import Run
from rfdlight.records.standard import STAGES, Settings, Standard

from .grid import CELLS

BEAT = Progress(
    time=2e9, images=30, budget=100, done=10, robust_so_far=0.75, queries=600, seconds=4.0, queries_left=1500
)


def beat(place: Path, **changes) -> None:
    """Write the heartbeat of a run; by default of the year 2033, after the beginning of every attempt."""
    (place / "journal").mkdir(parents=True, exist_ok=True)
    progress.write(place, msgspec.structs.replace(BEAT, **changes))
    assert progress.read(place) is not None


def state_of(folder: Path, cell: str = "a") -> CellStatus:
    (found,) = states(folder, [cell])
    return found


def shown(folder: Path, *cells: str, **options) -> str:
    return plain_text(status_table(states(folder, cells), **options), width=120)


@pytest.fixture
def sweep(tmp_path: Path):
    """The folder of a sweep with a cell in every state."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    for cell in ("finished", "running", "failed", "stopped", "killed"):
        note(folder, cell)
    write_run(Run.of([adversarial(0, 3), record(1), record(2), record(3)], facts(num_images=4)), folder / "finished")
    note(folder, "finished", ended=True)
    for cell in ("running", "failed", "stopped"):
        beat(folder / cell)
    note(folder, "failed", ended=True, failed="no memory")
    note(folder, "stopped", ended=True, stopped=True)
    (folder / "older").mkdir()
    (folder / "older/fingerprint.json").write_text("{}")  # of a version that wrote no log
    with held(folder, "running") as taken:
        assert taken
        yield folder


ALL = {
    "finished": "finished", "running": "running", "failed": "failed", "stopped": "stopped", "killed": "stopped",
    "older": "stopped", "queued": "queued",
}  # fmt: skip


def test_every_cell_has_its_state(sweep):
    found = states(sweep, ALL)
    assert {status.cell: status.state for status in found} == ALL
    finished, running, failed, stopped, killed, older, queued = found
    assert (finished.images, finished.done, finished.robust, finished.clean) == (4, 4, 0.75, 1.0)
    assert finished.robust_low < 0.75 < finished.robust_high
    assert (running.images, running.done, running.robust_so_far, running.robust) == (30, 10, 0.75, None)
    assert (running.queries_per_second, running.seconds_left) == (150.0, 10.0)
    assert (failed.reason, failed.done, failed.queries_per_second) == ("no memory", 10, None)
    assert (stopped.reason, stopped.done, stopped.seconds_left) == ("", 10, None)
    assert (killed.attempts, killed.done, older.attempts) == (1, None, 0)
    assert queued == CellStatus(cell="queued", state="queued")


def test_a_look_writes_nothing(sweep):
    before = sorted(path for path in sweep.rglob("*"))
    assert len([*status_lines(states(sweep, ALL))]) == len(ALL)
    assert sorted(path for path in sweep.rglob("*")) == before


def test_a_cell_that_is_tried_again_runs_and_its_numbers_are_those_of_this_attempt(sweep):
    with held(sweep, "failed"):  # before the attempt is in the log
        found = state_of(sweep, "failed")
        assert (found.state, found.reason, found.done, found.queries_per_second) == ("running", "", 10, None)
    beat(sweep / "failed", time=1.0)
    note(sweep, "failed")
    with held(sweep, "failed"):
        found = state_of(sweep, "failed")
        assert (found.state, found.attempts, found.reason) == ("running", 2, "")
        assert (found.done, found.robust_so_far) == (10, 0.75), "the images of earlier attempts count"
        assert found.queries_per_second is found.seconds_left is None
        beat(sweep / "failed")
        assert state_of(sweep, "failed").queries_per_second == 150.0
    assert state_of(sweep, "failed").state == "stopped"
    note(sweep, "failed", ended=True, failed="interrupted", stopped=True)
    assert (state_of(sweep, "failed").state, state_of(sweep, "failed").reason) == ("stopped", "interrupted")
    note(sweep, "failed")
    note(sweep, "failed", ended=True, killed="signal 9")
    assert (state_of(sweep, "failed").state, state_of(sweep, "failed").reason) == ("stopped", "signal 9")


def test_a_finished_cell_stays_finished_whatever_its_log_and_lock_say(sweep):
    note(sweep, "finished")
    note(sweep, "finished", ended=True, failed="1 of 4 images failed")
    with held(sweep, "finished"):
        found = state_of(sweep, "finished")
    assert (found.state, found.reason) == ("finished", "1 of 4 images failed")


def test_a_cell_that_begins_after_the_look_at_its_lock_runs(sweep, monkeypatch):
    look, looks = is_running, []

    def late(folder, cell):
        looks.append(cell)
        return len(looks) > 1 and look(folder, cell)

    monkeypatch.setattr("rfdlight.cli.sweep.status.is_running", late)
    assert state_of(sweep, "running").state == "running"


def test_one_who_looks_does_not_run_a_cell(sweep):
    lock = sweep / cell_files.FOLDER / "other.lock"
    lock.touch()
    file = os.open(lock, os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_SH)  # somebody else looks at this moment
    assert not is_running(sweep, "other")
    os.close(file)
    with held(sweep, "other") as taken:
        assert taken
        assert is_running(sweep, "other")
    assert not is_running(sweep, "other")
    os.mkfifo(sweep / cell_files.FOLDER / "pipe.lock")
    assert not is_running(sweep, "pipe")
    assert not is_running(sweep / "missing", "other")


DAMAGED = [
    b"", b"{", b"[]", b"null", b'{"time": 1.0}', b"\xff\xfe\x00", b"[" * 100_000, b"9" * 5000,
    msgspec.json.encode(BEAT)[:-5],
    msgspec.json.encode(BEAT).replace(b":10,", b":-10,"),
    msgspec.json.encode(BEAT).replace(b":0.75,", b":1e99,"),
    msgspec.json.encode(BEAT).replace(b":600,", b':"many",'),
]  # fmt: skip


def test_a_damaged_heartbeat_is_none(sweep):
    path = sweep / "running" / progress.FILE
    for content in DAMAGED:
        path.write_bytes(content)
        assert progress.read(path.parents[1]) is None, content
    unknown = CellStatus(cell="running", state="running", attempts=1, host=state_of(sweep, "running").host)
    assert state_of(sweep, "running") == unknown
    path.unlink()
    path.mkdir()
    assert state_of(sweep, "running") == unknown
    path.rmdir()
    os.mkfifo(path)
    assert state_of(sweep, "running") == unknown


def test_a_log_with_a_cut_line_and_one_that_cannot_be_read(sweep):
    log = sweep / cell_files.FOLDER / "failed.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + whole.splitlines()[1][:40])
    assert state_of(sweep, "failed").reason == "no memory"
    log.write_bytes(whole[:-9])
    assert (state_of(sweep, "failed").state, state_of(sweep, "failed").reason) == ("stopped", "")
    log.unlink()
    log.mkdir()
    assert state_of(sweep, "failed").state == "queued"


def test_a_hostile_reason_stays_text(sweep):
    note(sweep, "a")
    note(sweep, "a", ended=True, failed="\x1b[2J[red]gone[/red] [link=x]\r\n\u202e:warning:" + "x" * 5000)
    console = Console(width=120, file=io.StringIO())  # which takes markup and emoji in plain strings
    console.print(status_table(states(sweep, ["a", "[red]b"])))
    text = console.file.getvalue()
    assert r"\x1b[2J[red]gone[/red]" in "".join(text.split())
    assert ":warning:" in text
    assert "[red]b" in text
    assert all(character.isprintable() for line in text.splitlines() for character in line)
    assert len(text) < 3000
    (line,) = status_lines(states(sweep, ["a"]))
    assert json.loads(line)["reason"].startswith(r"\x1b[2J[red]gone[/red] [link=x]\r\n\u202e:warning:xxx")


NAMES = STAGES["linf"]["decision"]


@pytest.fixture
def two_stages():
    settings = Settings(
        version="standard-1", norm="linf", eps=0.1, budget=100, access="decision", stages=[*NAMES], level=0.01, seed=0,
        victim="v", defense="none", data="digits", num_images=30,
    )  # fmt: skip
    stages = [Run.of([record(index) for index in range(30)], facts(attack=name, num_images=30)) for name in NAMES]
    return Standard(settings, tuple(stages))


def test_a_standard_evaluation_in_its_second_stage(two_stages, tmp_path):
    shutil.rmtree(write_standard(two_stages, tmp_path / "a", finished=False) / f"2-{NAMES[1]}")
    with held(tmp_path, "a"):
        found = state_of(tmp_path)
        assert (found.state, found.stage, found.stages, found.images, found.done) == ("running", 1, 2, 30, 0)
        beat(tmp_path / f"a/1-{NAMES[0]}")
        found = state_of(tmp_path)
        assert (found.stage, found.done, found.robust_so_far) == (1, 10, 0.75)
        assert found.seconds_left == (1500 + 30 * 100) / 150, "the second stage attacks at most all images"
        beat(tmp_path / f"a/2-{NAMES[1]}", images=15, done=5, robust_so_far=0.8)
        found = state_of(tmp_path)
        assert (found.stage, found.stages, found.images, found.done) == (2, 2, 15, 5)
        assert found.robust_so_far == pytest.approx(0.4), "of 30 images"
        assert found.seconds_left == 10.0
        assert "5/15 in 2/2" in shown(tmp_path, "a")
        beat(tmp_path / f"a/random/1-{NAMES[0]}", done=1)
        assert (state_of(tmp_path).stage, state_of(tmp_path).done) == (1, 1), "it begins again"
    assert state_of(tmp_path).state == "stopped"


def test_the_result_of_a_standard_evaluation_is_that_of_its_records(two_stages, tmp_path):
    write_standard(two_stages, tmp_path / "a")
    assert state_of(tmp_path) == CellStatus(cell="a", state="finished", images=30, done=30), "a summary without numbers"
    assert size_of(tmp_path / "a") == (30, 200)
    content = {"settings": two_stages.settings, "summary": two_stages.summary}
    (tmp_path / "a/standard.json").write_bytes(msgspec.json.encode(content))
    found = state_of(tmp_path)
    assert (found.robust, found.clean) == (two_stages.robust_accuracy.value, two_stages.clean_accuracy.value)
    assert result_of(tmp_path / "a").robust == two_stages.robust_accuracy


@pytest.mark.parametrize("content", [
        b"", b"{}", b"[]", b'{"run": {}}', b"[" * 99_999,
        b'{"run": {"num_images": -1, "budget": 3, "complete": true}}',
        b'{"run": {"num_images": 4, "budget": 3, "complete": false}}',
    ],
)  # fmt: skip
def test_a_damaged_summary_is_no_result(content, sweep):
    """Nor is that of a run that was stopped."""
    (sweep / "finished/summary.json").write_bytes(content)
    assert result_of(sweep / "finished") is size_of(sweep / "finished") is None
    assert state_of(sweep, "finished").state == "stopped"


def test_a_run_of_no_images_is_finished_and_has_no_accuracy(tmp_path):
    write_run(Run.of([], facts(num_images=1, failed={"a": "NaN"})), tmp_path / "a")
    found = state_of(tmp_path)
    assert (found.state, found.images, found.robust, found.clean) == ("finished", 1, None, None)
    assert json.loads(next(status_lines([found])))["robust"] is None
    assert headline(result_of(tmp_path / "a")) == "robust - (-), clean -"


def test_lines_decode_and_agree_with_the_table(sweep):
    found = states(sweep, ALL)
    lines = [*status_lines(found)]
    assert [msgspec.json.decode(line, type=CellStatus) for line in lines] == found
    values = [json.loads(line) for line in lines]
    assert all(type(value["done"]) in (int, type(None)) for value in values)
    text = shown(sweep, *ALL)
    for value in values:
        (row,) = re.findall(rf"^ *{value['cell']} +(.*)$", text, re.MULTILINE)
        expected = [value["state"]]
        expected += [] if value["images"] is None else [f"{value['done']}/{value['images']}"]
        share = value["robust"] if value["state"] == "finished" else value["robust_so_far"]
        expected += [] if share is None else [f"{share:.1%}"]
        expected += [] if value["queries_per_second"] is None else ["150", "0:10"]
        assert row.split() == expected
    assert [line.strip() for line in text.splitlines()[-2:]] == [
        "7 cells: 1 finished, 1 running, 1 failed, 3 stopped, 1 queued; 150 queries/s",
        "failed: no memory",
    ]


def test_of_many_cells_those_that_run_or_failed_are_shown_first_in_the_order_of_the_sweep(sweep):
    cells = [*ALL, *(f"later-{number}" for number in range(200))]
    lines = [line.strip() for line in shown(sweep, *cells, most=3).splitlines()]
    rows = [line.split()[:2] for line in lines[lines.index(next(line for line in lines if "──" in line)) + 1 :]]
    assert rows[:4] == [["running", "running"], ["failed", "failed"], ["stopped", "stopped"], ["and", "204"]]
    assert lines[-2].startswith("207 cells: 1 finished, ")
    assert "more" not in shown(sweep, *ALL, most=len(ALL))
    assert "no cells" in shown(sweep)
    failed = [f"f{number}" for number in range(9)]
    for cell in failed:
        note(sweep, cell)
        note(sweep, cell, ended=True, failed="the same" * 40)
    assert shown(sweep, *failed, most=8).count(": the same") == 5
    assert shown(sweep, *failed, most=8).endswith("and 3 more reasons")
    assert len(shown(sweep, *failed, *ALL, most=8).splitlines()) <= 8 + 12
    assert shown(sweep, *failed).count(": the same") == 9


def test_a_finished_sweep_and_a_cell_that_was_cut(swept):
    folder = Path("runs/grid")
    found = states(folder, CELLS)
    for status in found:
        run = load_any(folder / status.cell)
        assert (status.state, status.done) == ("finished", 4)
        assert status.robust == run.robust_accuracy.value
        assert status.clean == run.clean_accuracy.value
        last = progress.read(folder / status.cell)
        assert (last.done, last.images, last.budget, last.queries_left) == (4, 4, 4, 0)
        assert last.robust_so_far == status.robust
        assert last.queries == run.facts.totals.attacker
    cut = folder / CELLS[0]
    for name in ("summary.json", "records.jsonl"):
        (cut / name).unlink()
    cut_journal(cut, set())
    assert (state_of(folder, CELLS[0]).state, state_of(folder, CELLS[1]).state) == ("stopped", "finished")
