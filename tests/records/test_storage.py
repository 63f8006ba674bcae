"""Runs behind URLs: read as those on this machine, and uploaded so that no reader ever finds a part of one."""

import itertools
import random
import subprocess
import sys
import tempfile
from functools import partial, partialmethod
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hand import facts, record
from harness import others_slow
from stored_sweeps import NAMES, contents, keep_images, s3_server, write_sweep
from written_runs import write_run

import rfdlight as rfd
from rfdlight.cli.report import report_runs
from rfdlight.errors import UserError
from rfdlight.records import storage
from rfdlight.records.run_folders import opened_runs
from rfdlight.records.runs import Run


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """A folder for temporary files, empty at the end, and an empty file system in memory."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    yield folder
    assert not list(folder.iterdir())


@pytest.fixture(scope="module")
def s3():
    with s3_server():
        yield


@pytest.fixture
def sweep(tmp_path):
    return write_sweep(tmp_path / "grid")


def stored(cell: str) -> dict[str, bytes]:
    """The files of a cell of memory://grid."""
    start = f"/grid/{cell}/"
    return {
        name.removeprefix(start): file.getvalue()
        for name, file in MemoryFileSystem.store.items()
        if name.startswith(start)
    }


def put(url: str, content: bytes = b"{}") -> None:
    MemoryFileSystem.store |= {}
    MemoryFileSystem().pipe_file(url, content)


def refusal(call, *args) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("url", ["memory://grid", "s3://bucket/deep/grid/"])
def test_the_runs_of_an_uploaded_sweep_are_those_of_the_local_one(url, sweep, capsys, request):
    if url.startswith("s3"):
        request.getfixturevalue("s3")
    assert storage.finished_cells(url, NAMES) == {}
    storage.check_upload(url)
    assert [storage.upload(sweep / name, url) for name in NAMES] == [True, True, True]
    assert storage.finished_cells(url, [*NAMES, "grid", "no"]) == {
        name: (sweep / f"{name}.yaml").read_bytes() for name in NAMES
    }
    report_runs([str(sweep)])
    printed = capsys.readouterr().out
    report_runs([url])
    assert capsys.readouterr().out == printed
    with opened_runs([url]) as runs:
        assert [run.label for run in runs] == sorted(NAMES)
        assert not list(runs[0].folder.rglob("*.safetensors"))
    with opened_runs([url], pixels=True) as runs:  # a standard evaluation has none, and its stages are not shown
        assert [run.label for run in runs if list(run.folder.rglob("*.safetensors"))] == [NAMES[0]]
    with opened_runs([f"{url.rstrip('/')}/{NAMES[1]}", sweep / NAMES[0]]) as runs:
        assert [run.label for run in runs] == [NAMES[1], NAMES[0]]


def test_the_files_of_a_report_on_an_uploaded_sweep_are_those_of_the_local_one(sweep, tmp_path):
    for name in NAMES:
        storage.upload(sweep / name, "memory://grid")
    report_runs([str(sweep)], str(tmp_path / "local"))
    report_runs(["memory://grid"], str(tmp_path / "uploaded"))
    before, after = contents(tmp_path / "local"), contents(tmp_path / "uploaded")
    assert before.pop("curves.pdf")[:4] == after.pop("curves.pdf")[:4]  # with the time of its making
    assert after == before
    assert b"after the attack" in after["report.html"]  # the pictures of the images that a run kept


def test_journals_locks_and_unfinished_files_stay_where_they_are(sweep):
    for name in NAMES:
        storage.upload(sweep / name, "memory://grid")
        assert stored(name) == contents(sweep / name)
    assert not [name for name in MemoryFileSystem.store if "journal" in name or "partial" in name]


def test_a_run_at_a_url_is_read_into_memory_with_its_images(sweep):
    keep_images(sweep / NAMES[1])
    storage.upload(sweep / NAMES[1], "memory://grid")
    run, local = rfd.load_run(f"memory://grid/{NAMES[1]}"), rfd.load_run(sweep / NAMES[1])
    assert (run.records, run.facts, run.label, run.folder) == (local.records, local.facts, local.label, None)
    assert run.points.keys() == {record(0).id}
    assert (run.points[record(0).id] == local.points[record(0).id]).all()


class Kill(BaseException):
    """What ends an upload."""


@pytest.fixture
def writes(monkeypatch):
    """Every change of the file system in memory takes one from a number of changes, and ends the upload at the last."""
    left = {"changes": 10**9}

    def counted(change):
        def changed(*args, **kwargs):
            if left["changes"] == 0:
                raise Kill
            left["changes"] -= 1
            return change(*args, **kwargs)

        return changed

    for name in ("put_file", "pipe_file", "rm_file"):
        monkeypatch.setattr(MemoryFileSystem, name, counted(getattr(MemoryFileSystem, name)))
    return left


def visible(sweep: Path, url: str = "memory://grid") -> list[str]:
    """The runs that a report would show, each with all files of the sweep's that a report reads."""
    try:
        with opened_runs([url]) as runs:
            for run in runs:
                expected = contents(sweep / run.label).items()
                read = {name: content for name, content in expected if name.rpartition("/")[2] in storage._NEEDED}
                assert contents(run.folder) == read
            return [run.label for run in runs]
    except UserError:
        return []


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("before", ["nothing", "stopped", "other stages"])
def test_an_upload_that_is_killed_leaves_no_cell_and_the_next_one_the_whole(name, before, sweep, writes):
    """After each number of changes."""
    for changes in itertools.count():
        MemoryFileSystem.store.clear()
        writes["changes"] = 10**9
        if before == "stopped":
            put(f"memory://grid/{name}/summary.json", Run.of([record(0)], facts(complete=False)).summary_json())
            put(f"memory://grid/{name}/images.safetensors")
        elif before == "other stages":
            put(f"memory://grid/{name}/standard.json", b'{"settings": {}, "summary": null}')
            for file in ("config.yaml", "records.jsonl", "summary.json"):
                put(f"memory://grid/{name}/random/1-rays/{file}")
        writes["changes"] = changes
        try:
            storage.upload(sweep / name, "memory://grid")
            break
        except Kill:
            writes["changes"] = 10**9
        assert storage.finished_cells("memory://grid", [name]) == {}
        assert visible(sweep) == []
        assert storage.upload(sweep / name, "memory://grid")
        assert stored(name) == contents(sweep / name)
        assert visible(sweep) == [name]
    assert changes > 5
    assert stored(name) == contents(sweep / name)


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_reader_during_an_upload_sees_the_whole_cell_or_none(name, sweep, monkeypatch):
    storage.upload(sweep / NAMES[0], "memory://grid")
    states = [dict(MemoryFileSystem.store)]

    def recorded(files, change, *args, **kwargs):
        change(files, *args, **kwargs)
        states.append(dict(MemoryFileSystem.store))

    with monkeypatch.context() as patch:
        for change in ("put_file", "pipe_file"):
            patch.setattr(MemoryFileSystem, change, partialmethod(recorded, getattr(MemoryFileSystem, change)))
        storage.upload(sweep / name, "memory://grid")
    moments, find, get = random.Random(0), MemoryFileSystem.find, MemoryFileSystem.get
    state = 0

    def later():
        nonlocal state
        state = moments.randint(state, len(states) - 1)
        monkeypatch.setattr(MemoryFileSystem, "store", states[state])

    def find_in_two_pages(*args, **kwargs):
        later()
        first = find(*args, **kwargs)
        later()
        second = find(*args, **kwargs)
        border = moments.choice(sorted(second))
        return {key: first[key] for key in first if key < border} | {
            key: second[key] for key in second if key >= border
        }

    def get_later(*args, **kwargs):
        later()
        return get(*args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "find", find_in_two_pages)
    monkeypatch.setattr(MemoryFileSystem, "get", get_later)
    for url, others in (("memory://grid", [NAMES[0]]), (f"memory://grid/{name}", [])):
        seen = []
        for _ in range(40):
            state = 0 if others else 1  # a list of a cell begins with its first file
            labels = visible(sweep, url)
            seen.append(name in labels)
            assert labels == sorted([*others, name] if seen[-1] else others)
        assert set(seen) == {True, False}


def test_the_first_upload_stays_and_one_of_other_settings_is_refused(sweep, tmp_path):
    storage.upload(sweep / NAMES[0], "memory://grid")
    (tmp_path / "again").mkdir()
    again = tmp_path / "again" / NAMES[0]
    write_run(Run.of([record(0)], facts()), again)
    config = again.with_name(f"{NAMES[0]}.yaml")
    config.write_bytes((sweep / config.name).read_bytes())
    assert storage.upload(again, "memory://grid") is False
    assert stored(NAMES[0]) == contents(sweep / NAMES[0])
    config.write_text("other")
    assert "upload: expected a cell of the same settings" in refusal(storage.upload, again, "memory://grid")


@pytest.mark.parametrize("file", ["summary.json", "standard.json"])
@pytest.mark.parametrize("content", [None, b"", b'{"run"', b'{"run": {"complete": false}}', b'{"summary": null}'])
def test_a_cell_that_is_not_finished_is_not_uploaded_and_a_torn_one_does_not_count(file, content, tmp_path):
    cell = tmp_path / "cell"
    cell.mkdir()
    if content is not None:
        (cell / file).write_bytes(content)
        put(f"memory://grid/cell/{file}", content)
    assert "cell: expected a finished run" in refusal(storage.upload, cell, "memory://grid")
    assert storage.finished_cells("memory://grid", ["cell"]) == {}


def test_a_link_in_a_cell_is_refused(sweep):
    (sweep / NAMES[2] / "2-rays" / "more").symlink_to(sweep)
    assert "more is a link" in refusal(storage.upload, sweep / NAMES[2], "memory://grid")
    assert not MemoryFileSystem.store


KEYS = ["../../up", "/etc", "a/./b", "..", "a\\b", "a//b"]


@pytest.mark.parametrize("key", KEYS)
def test_a_name_that_would_leave_the_folder_is_refused(key, s3, sweep, tmp_path):
    files, url = fsspec.filesystem("s3"), f"s3://bucket/names{KEYS.index(key)}"
    storage.upload(sweep / NAMES[0], url)
    files.pipe_file(f"{url}/{key}/anything", b"")
    storage.download(url, tmp_path / "fits")
    for file in ("config.yaml", "records.jsonl", "summary.json"):
        files.pipe_file(f"{url}/{key}/{file}", b"{}")
    before = set(tmp_path.rglob("*"))
    assert f"{url}: expected names of files" in refusal(storage.download, url, tmp_path / "copy")
    assert set(tmp_path.rglob("*")) == before


def test_files_that_are_too_large_for_a_report_or_the_disk_are_refused(sweep, tmp_path, monkeypatch):
    storage.upload(sweep / NAMES[0], "memory://grid")
    monkeypatch.setattr(storage, "_MOST_BYTES", 1000)
    assert f"{NAMES[0]}/records.jsonl: expected at most 1,000 bytes" in refusal(report_runs, ["memory://grid"])
    monkeypatch.setattr(storage, "_MOST_BYTES", 10**9)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    assert "which are free in" in refusal(report_runs, ["memory://grid"])


def test_equal_names_are_told_apart_by_their_urls_and_a_run_given_twice_is_refused(sweep):
    storage.upload(sweep / NAMES[0], "memory://grid")
    storage.upload(sweep / NAMES[0], "memory://more/grid")
    with opened_runs(["memory://grid", f"memory://more/grid/{NAMES[0]}", sweep / NAMES[0]]) as runs:
        labels = [run.label for run in runs]
    assert labels == [f"memory://grid/{NAMES[0]}", f"memory://more/grid/{NAMES[0]}", str(sweep / NAMES[0])]
    twice = f"the run memory://grid/{NAMES[0]} is given twice"
    assert refusal(report_runs, ["memory://grid", f"memory://grid/{NAMES[0]}/"]) == twice


def test_errors_name_the_url(sweep):
    storage.upload(sweep / NAMES[0], "memory://grid")
    put(f"memory://grid/{NAMES[0]}/records.jsonl", b"{}\n")
    assert refusal(report_runs, ["memory://grid"]).startswith(f"memory://grid/{NAMES[0]}/records.jsonl, line 1")
    assert refusal(report_runs, ["memory://none"]) == "expected a run directory, got memory://none, which is no folder"
    put("memory://grid/begun/config.yaml")
    assert "memory://grid/begun is no run directory" in refusal(report_runs, ["memory://grid/begun"])
    runs = [str(sweep / NAMES[0])]
    assert refusal(report_runs, runs, "memory://x").startswith("output: expected a folder")
    assert refusal(partial(report_runs, runs, leaderboard="memory://x")).startswith("leaderboard: expected a folder")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s4://bucket/grid", "unknown scheme 's4'; did you mean s3"),
        ("S3://bucket/grid", "unknown scheme 'S3'; did you mean s3"),
        ("gs://bucket/grid", "pip install 'rfdlight[gs]'"),
        ("s3://", "s3://: expected names"),
        ("s3://bucket/../x", "s3://bucket/../x: expected names"),
        ("s3://missing/grid", "s3://missing/grid: "),
        ("s3://not a bucket/grid", "s3://not a bucket/grid: "),
    ],
)
def test_urls_that_cannot_be_used_are_refused_in_one_line(url, reason, s3, sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    for call, *args in (
        (report_runs, [url]),
        (storage.finished_cells, url, ["cell"]),
        (storage.check_upload, url),
        (storage.upload, sweep / NAMES[0], url),
    ):
        assert reason in refusal(call, *args)


def test_a_bucket_that_may_not_be_written_is_found_before_the_first_cell(monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(MemoryFileSystem, "rm_file", denied)
    storage.check_upload("memory://grid")
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", denied)
    assert "cannot write to memory://grid: Access Denied" in refusal(storage.check_upload, "memory://grid")


@pytest.mark.parametrize("call", others_slow(["_put_file", "_get_file"], 0))
def test_a_server_that_ends_in_between_is_reported_in_one_line(call, sweep, monkeypatch):
    import s3fs

    monkeypatch.setitem(storage._S3["config_kwargs"], "retries", {"total_max_attempts": 1})
    original, left = getattr(s3fs.S3FileSystem, call), {"calls": 10**9}

    async def ended(*args, **kwargs):
        left["calls"] -= 1
        if left["calls"] == 0:
            server.stop()
        return await original(*args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, call, ended)
    with s3_server() as server:
        url = f"s3://bucket/{call}"
        if call == "_get_file":
            storage.upload(sweep / NAMES[0], url)
            left["calls"] = 2
            assert f"cannot read {url}: " in refusal(report_runs, [url])
        else:
            left["calls"] = 3
            assert f"cannot write to {url}/{NAMES[0]}: " in refusal(storage.upload, sweep / NAMES[0], url)
    assert left["calls"] <= 0


@pytest.mark.slow
def test_the_command_line_reads_urls_without_torch_and_prints_nothing_else(s3, sweep):
    storage.upload(sweep / NAMES[0], "s3://bucket/line")
    code = (
        "import sys; from rfdlight.cli.front import main\n"
        "assert main(['report', 's3://bucket/line']) == 0\n"
        "assert main(['report', 's3://bucket/line', 's3://missing/line']) == 2\n"
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert done.stderr.startswith("rfdlight: cannot read s3://missing/line: ")
    assert NAMES[0] in done.stdout


def test_a_folder_given_as_a_url_of_files_is_written_and_read(sweep, tmp_path):
    url = f"file://{tmp_path}/uploaded"
    assert storage.upload(sweep / NAMES[2], url)
    assert contents(tmp_path / "uploaded" / NAMES[2]) == contents(sweep / NAMES[2])
    with opened_runs([url]) as runs:
        assert [run.label for run in runs] == [NAMES[2]]
    assert Path(url.removeprefix("file://")).is_dir()
