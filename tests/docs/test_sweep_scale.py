"""The tables of the page on large sweeps are those of the stored records."""

import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/results/sweep-scale.md"


@pytest.fixture(scope="module")
def scale():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("sweep_scale")


def command():
    """The arguments of the page's command."""
    return re.search(r"python benchmarks/sweep_scale\.py (.*)", PAGE.read_text())[1].split()


@pytest.fixture(scope="module")
def study(scale):
    given = dict(zip(command()[::2], command()[1::2], strict=True))
    cells = scale.recorded(scale.ARCHIVES)
    return scale.Study(cells, float(given["--start"]), float(given["--each"]))


def test_the_page_has_the_tables_of_the_recorded_grid(scale, study):
    made = {name: getattr(study, name)() for name in ("facts", "remedies", "kills", "starts")}
    assert scale.write(PAGE, made, check=True) == 0


@pytest.mark.slow
def test_the_page_has_all_tables(scale, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sweep_scale.py", *command(), "--check"])
    assert scale.main() == 0


def test_a_recorded_cell_has_the_time_of_its_summary_and_the_estimate_of_its_settings(study):
    cells = {cell.name: cell for cell in study.cells}
    assert len(cells) == 130
    noisy, whole = cells["paper/resnet20-feature-square-10000"], cells["standard/resnet20-at-none"]
    plain, sure = cells["paper/resnet20-feature-square"], cells["paper/resnet20-none-square"]
    assert noisy.seconds == pytest.approx(3521.8068771362305)
    assert whole.seconds == pytest.approx(3218.6431243419647)  # of all its stages
    assert noisy.estimate == pytest.approx(300 * 10_000 / (98_400 / 103.6843729019165))
    assert (noisy.estimate / plain.estimate, plain.estimate / sure.estimate) == (10, 4)


def test_drawn_grids_repeat_with_their_seed_and_keep_names_apart(scale, study):
    first, again, other = (scale.drawn(study.cells, 480, seed) for seed in (3, 3, 4))
    assert first == again != other
    assert len({cell.name for cell in first}) == 480
    assert {cell.seconds for cell in first} <= {cell.seconds for cell in study.cells}


def test_every_order_runs_every_cell_and_none_ends_below_the_bound(scale, study):
    orders = [
        scale.packs,
        scale.exact,
        scale.single,
        scale.listed,
        lambda cells, workers: scale.shuffled(cells, workers, 1),
    ]
    for order in orders:
        names = [name for pack in order(study.cells, 8) for name in pack.names]
        assert sorted(names) == [cell.name for cell in study.cells]
        assert scale.takes(study.cells, order, study.machine(8)) > scale.bound(study.cells, 8)


def test_devices_shorten_cells_to_a_part_of_the_sweep_at_most_eight(scale, study):
    for wide, cell in zip(scale.widened(study.cells, 64, lambda cell: cell.seconds), study.cells, strict=True):
        part = scale.work(study.cells) / 64
        assert wide.devices in (1, 2, 4, 8)
        assert cell.seconds / wide.devices <= part < 2 * cell.seconds / wide.devices or wide.devices in (1, 8)
        assert wide.truth.seconds == pytest.approx(cell.seconds / (1 if wide.devices == 1 else 0.9 * wide.devices))
