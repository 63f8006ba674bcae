"""The tables of the page on the standard evaluation's results are those of the stored records."""

import importlib
import sys

import pytest
from harness import others_slow
from pages import ROOT, unpacked

from rfdlight import compare, load_standard

PAGE = ROOT / "docs/results/standard-results.md"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return unpacked("standard-records.tar.xz", tmp_path_factory.mktemp("records"))


def check(monkeypatch, runs, page):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", ["standard_tables.py", str(runs), "--check", "--page", str(page)])
    return importlib.import_module("standard_tables").main()


def test_the_page_has_the_tables_of_the_records(runs, monkeypatch):
    assert check(monkeypatch, runs, PAGE) == 0


@pytest.mark.parametrize(
    ("number", "other"), others_slow([("813,572", "813,573"), ("44 : 0", "43 : 0"), ("80.3 (75.5", "80.4 (75.5")], 2)
)
def test_a_changed_number_is_found(number, other, runs, monkeypatch, tmp_path, capsys):
    changed = tmp_path / PAGE.name
    changed.write_text(PAGE.read_text().replace(number, other))
    before = changed.read_text()
    assert check(monkeypatch, runs, changed) == 1
    assert changed.read_text() == before
    assert str(changed) in capsys.readouterr().out


def test_the_noise_of_4_points_keeps_what_its_records_say(runs):
    strong, weak = (load_standard(runs / name) for name in ("four/vgg19-feature-4", "standard/vgg19-feature"))
    more = compare(weak.combined, strong.combined)
    low, high = (round(100 * bound, 1) for bound in more.interval)
    said = f"{strong.robust_accuracy}".replace("%", " %")
    said += f" of the thin VGG19: {100 * more.difference:.1f} points ({low} to {high}, p {more.p:.2f}) more"
    assert said in " ".join(PAGE.read_text().split())
