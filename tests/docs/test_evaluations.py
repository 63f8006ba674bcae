"""The pages on evaluations and on performance have the tables of their records, timings and counts."""

import importlib
import sys

import pytest
from pages import ROOT, page_named, prose, shown, unpacked

from rfdlight.records.run_folders import load_any
from rfdlight.records.runs import load_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return unpacked("evaluation-records.tar.xz", tmp_path_factory.mktemp("records"))


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("evaluation_tables")


@pytest.mark.parametrize("name", ["demo", "stopping", "exported", "surrogate", "aaa"])
def test_the_page_on_evaluations_has_the_tables_of_the_records(name, runs, tables):
    assert shown("evaluations.md", name) == tables.EVALUATIONS[name](runs)


def test_the_page_on_performance_has_the_tables_of_records_and_timings(runs, tables):
    assert shown("performance.md", "rounding") == tables.rounding(runs)
    timings = tables.timings(ROOT / "docs/results/performance.json")
    assert {name: shown("performance.md", name) for name in timings} == timings


def test_the_memory_of_an_image_is_that_of_today(tables):
    for name in ("rays", "hsja"):
        row = f"| `{name}` | {tables.memory.megabytes(name, 224):.2f} |"
        assert row in shown("performance.md", "memory").splitlines()


def test_the_prose_has_the_numbers_of_the_tables(runs, tables):
    robust = {name: load_any(runs / "demo" / name).robust_accuracy for name in ("defended", "standard")}
    text = prose(page_named("evaluations.md"))
    assert f"RayS leaves {100 * robust['defended'].value:.1f} % of the digits robust" in text
    assert f"of the same network {100 * robust['standard'].value:.1f} %" in text
    low, high = 100 * robust["standard"].low, 100 * robust["standard"].high
    assert f"and leaves {100 * robust['standard'].value:g} % ({low:.1f} to {high:.1f})" in prose(ROOT / "README.md")
    torch, onnx, http = (
        f"{100 * load_run(runs / 'exported' / name).robust_accuracy.value:.1f}" for name in ("torch", "onnx", "http")
    )
    assert f"{http} and {onnx} % of 300 images, after {torch} %" in prose(page_named("export-and-serve.md"))
    sawtooth, down = (100 * load_run(runs / "aaa" / name).robust_accuracy.value for name in ("sawtooth", "down"))
    link = "(../results/evaluations.md#attacks-on-aaa)"
    said = f"leaves [{sawtooth:.1f} % of the images robust]{link}, plain Square {down:.1f} %"
    assert said in prose(page_named("defenses.md"))
    called = [r.verdict for r in load_run(runs / "stop/votes").records if r.success_query is not None]
    said = f"votes call {len(called)} images adversarial, and {called.count('robust')} of them are significantly robust"
    assert said in prose(page_named("success-criteria.md"))
    timings = tables.kept(ROOT / "docs/results/performance.json")
    text = prose(page_named("performance.md"))
    rows = timings["queries"]["rows"]
    ratios = [float(row[-1]) for row in rows if row[0].startswith("queries")]
    assert f"makes {min(ratios):.2f} to {max(ratios):.2f} queries" in text
    rows, eager = timings["compiled"]["rows"], timings["compiled"]["head"].index("best eager") + 1
    ratios = [float(row[eager]) for row in rows if "queries" in row[0] or row[0].endswith(", compiled")]
    assert f"answers {min(ratios):.1f} to {max(ratios):.1f} times as fast" in text
    queries = [[float(cell.replace(",", "")) for cell in row[1:]] for row in rows if row[0].startswith("queries")]
    assert f"Queries are at least {min(to_compiled for *_, to_compiled in queries)} of the best compiled" in text
    spans = [compiled / eager for _, eager, _, compiled, _ in queries]
    assert f"at most {max(to_eager for _, _, to_eager, _, _ in queries):.1f} times the best eager one" in text
    assert f"is only {min(spans):.1f} to {max(spans):.1f} times as fast as the eager one" in text
    (*_, served) = timings["server"]["rows"]
    assert f"takes {100 * (float(served[-1]) - 1):.0f} % longer" in text
    exact, rounded = (load_run(runs / "rounding" / name).robust_accuracy.value for name in ("float32", "bfloat16"))
    assert f"comes out {100 * (rounded - exact):.1f} points too high" in text


@pytest.mark.slow  # counts launches anew
def test_no_table_of_the_pages_differs(runs, tables, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["evaluation_tables.py", str(runs), "--check"])
    assert tables.main() == 0
