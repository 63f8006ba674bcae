"""Parts of the benchmarks: what counts as a query of another library, how busy a device is, and that they start."""

import importlib
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_a_query_of_a_peer_is_a_new_point_of_an_image_that_is_still_attacked(benchmark):
    peers = benchmark("peers")
    x = torch.stack([torch.full((3, 4, 4), value) for value in (0.2, 0.4, 0.6)])
    step = peers.THREAT.eps / 2
    tally = peers.Tally()

    def victim(points):  # wrong above a clean image, whose label is 0
        excess = torch.stack([(points - image).flatten(1).mean(1) for image in x]).abs().argmin(0)
        return torch.stack([torch.full((len(points),), step / 4), (points - x[excess]).flatten(1).mean(1)], 1)

    watched = peers.Watched(victim, x, torch.zeros(3, dtype=torch.int64), 3, tally, math.inf)
    watched(x)
    assert (tally.rows, tally.queries) == (3, 3)
    watched(x - step * torch.tensor([0, 1, 1]).view(3, 1, 1, 1))  # the first point a second time
    assert (tally.rows, tally.queries) == (6, 5)
    watched(x[1:] + step * torch.tensor([1, -0.5]).view(2, 1, 1, 1))  # a success; the third image's last query
    assert (tally.rows, tally.queries) == (8, 7)
    watched(x + 4 * step)  # outside the ball, and two images have finished
    assert (tally.rows, tally.queries) == (11, 8)
    with pytest.raises(peers.Finished):
        watched(x[:1] + step)
    assert (tally.rows, tally.queries) == (12, 9)
    assert tally.seconds < 0  # the time of the counts, which is no time of the peer


def test_a_device_is_busy_while_at_least_one_of_its_operators_runs(benchmark):
    def event(start, end, note=False):
        return SimpleNamespace(time_range=SimpleNamespace(start=start, end=end), is_user_annotation=note)

    events = [event(6, 10), event(0, 4), event(1, 2), event(3, 5), event(0, 10, note=True)]
    assert benchmark("engine").busy(events) == 0.9


def test_the_speed_of_peers_has_a_help_where_no_peer_is_installed(benchmark, monkeypatch, capsys):
    for name in ("art", "foolbox", "torchattacks"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys, "argv", ["peers.py", "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        benchmark("peers").main()
    assert "--budget" in capsys.readouterr().out


def test_the_measurement_on_a_gpu_parses_and_knows_its_steps(tmp_path):
    script = BENCHMARKS / "gpu.sh"
    done = subprocess.run(["bash", script, tmp_path / "out", "resnet20", "tets"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"usage: {script} [--dry-run] OUT [STEP...]; steps: tests resnet20 ")
    assert not (tmp_path / "out").exists()


def test_what_is_kept_has_its_command_and_leaves_other_records(benchmark, monkeypatch, tmp_path):
    pages, file = benchmark("page_tables"), tmp_path / "records.json"
    for name, queries in (("first", [3, 101]), ("second", [7]), ("first", [3, 100])):
        monkeypatch.setattr(sys, "argv", ["/elsewhere/script.py", "--only", "a b", "--keep", str(file), name])
        pages.keep(SimpleNamespace(keep=(str(file), name)), rows={"`square`": {"100": queries}})
    found = pages.kept(file)
    assert {name: record["rows"]["`square`"]["100"] for name, record in found.items()} == {
        "first": [3, 100],
        "second": [7],
    }
    assert found["first"]["command"] == f"python benchmarks/script.py --only 'a b' --keep {file} first"
    assert found["first"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert "[3, 100]" in file.read_text()  # one line for the numbers of a row
