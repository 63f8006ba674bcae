"""Uploads that are killed at random moments, on a real server of S3, and one that never answers."""

import itertools
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import fsspec
import pytest
from stored_sweeps import NAMES, contents, keep_images, s3_server, write_sweep

from rfdlight.errors import UserError
from rfdlight.records import storage
from rfdlight.records.run_folders import opened_runs

pytestmark = pytest.mark.faults

KILLS = 20
UPLOAD = """
import sys
from pathlib import Path
from rfdlight.records import storage
storage.finished_cells(sys.argv[2], [])  # loads what takes long
print("ready", flush=True)
storage.upload(Path(sys.argv[1]), sys.argv[2])
"""


def start(cell, url):
    """Start a process that uploads a cell, and wait until it begins."""
    line = [sys.executable, "-c", UPLOAD, str(cell), url]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def stored(url, name):
    files, root = fsspec.url_to_fs(f"{url}/{name}")
    files.invalidate_cache()
    return {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)}


def visible(url):
    try:
        with opened_runs([url]) as runs:
            return [run.label for run in runs]
    except UserError:
        return []


@pytest.mark.parametrize("name", NAMES[1:])
def test_an_upload_that_is_killed_again_and_again_leaves_no_cell_or_the_whole(name, tmp_path):
    """Each kill comes around a random change of the bucket."""
    sweep = write_sweep(tmp_path / "grid")
    for run in {path.parent for path in (sweep / name).rglob("summary.json")}:
        keep_images(run, pixels=512)
    expected, moments, found = contents(sweep / name), random.Random(0), Counter()
    changes, until_kill = itertools.count(1), 0
    with s3_server() as server:
        answer = server._server.app

        def watched(request, start_response):
            changed = request["REQUEST_METHOD"] != "GET" and next(changes) == until_kill
            if changed and moments.random() < 0.5:
                process.kill()
            answered = answer(request, start_response)
            if changed:
                time.sleep(moments.uniform(0, 0.01))
                process.kill()
            return answered

        server._server.app = watched
        process = start(sweep / name, f"s3://bucket/{name}/whole")
        assert process.wait() == 0
        most = next(changes) - 1
        assert stored(f"s3://bucket/{name}/whole", name) == expected
        cells, kills = 0, 0  # three kills on each cell
        while found.total() < KILLS:
            url = f"s3://bucket/{name}/{cells}"
            changes, until_kill = itertools.count(1), moments.randint(1, most)
            process = start(sweep / name, url)
            assert process.wait() in (0, -signal.SIGKILL)
            assert process.stderr.read() == ""
            until_kill = 0
            left = stored(url, name)
            finished = storage.finished_cells(url, [name]) == {name: (sweep / f"{name}.yaml").read_bytes()}
            assert finished == (left == expected)
            assert visible(url) == ([name] if finished else [])
            assert finished or process.returncode != 0
            found["finished" if finished else "part" if left else "nothing"] += process.returncode != 0
            kills += 1
            if finished or kills == 3:
                storage.upload(sweep / name, url)
                assert stored(url, name) == expected
                cells, kills = cells + 1, 0
    sys.stdout.write(f"{name}: killed {found.total()} times, by what was there then: {dict(found)}\n")
    assert found["part"] >= KILLS // 4


def test_a_server_that_never_answers_ends_in_one_line(tmp_path, monkeypatch):
    sweep = write_sweep(tmp_path / "grid")
    monkeypatch.setitem(storage._S3["config_kwargs"], "read_timeout", 1)
    with s3_server(), socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UserError, match="s3://bucket/grid"):
            storage.upload(sweep / NAMES[0], "s3://bucket/grid")
