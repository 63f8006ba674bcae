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
    ("number", "other"),
    others_slow(
        [("813,572", "813,573"), ("+1.3 (-0.4", "+1.4 (-0.4"), ("44 : 0", "43 : 0"), ("80.3 (75.5", "80.4 (75.5")], 2
    ),
)
def test_a_changed_number_is_found(number, other, runs, monkeypatch, tmp_path, capsys):
    changed = tmp_path / PAGE.name
    changed.write_text(PAGE.read_text().replace(number, other))
    before = changed.read_text()
    assert check(monkeypatch, runs, changed) == 1
    assert changed.read_text() == before
    assert str(changed) in capsys.readouterr().out


def test_the_noise_of_4_points_keeps_what_its_records_say(runs):
    found = []
    for folder in (runs / "four").iterdir():
        weak = load_standard(runs / "standard" / folder.name.removesuffix("-4"))
        found.append(compare(weak.combined, load_standard(folder).combined))
    assert len(found) == 6
    assert min(each.p for each in found) > 0.05
    most = 100 * max(each.difference for each in found)
    said = f"keeps at most {most:.1f} points more of the images, and no difference is significant"
    assert said in " ".join(PAGE.read_text().split())
