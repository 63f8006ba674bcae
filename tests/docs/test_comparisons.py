"""The pages on default options and on other libraries have the tables of their records, and prose their numbers."""

import importlib
import re

import pytest
from pages import ROOT, page_named, prose, shown

from rfdlight.core.statistics import mcnemar


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("comparison_tables")


@pytest.fixture
def records(tables):
    return tables.kept(ROOT / "docs/results/other-libraries.json")


@pytest.mark.parametrize("page", ["default-options", "other-libraries"])
def test_a_page_has_the_tables_of_its_records(page, tables):
    made = tables.of_page(ROOT / "docs/results", page)
    names = re.findall(r"^<!-- (?!end )(.+) -->$", page_named(f"{page}.md").read_text(), re.MULTILINE)
    assert {name: shown(f"{page}.md", name) for name in names} == made


def robust(firsts, budget):
    """Whether each image is robust after a budget."""
    own = firsts.get(str(budget), firsts["1000"])
    return [first > budget for first in own]


def test_other_pages_have_the_shares_of_square(records):
    rows = records["linf-square"]["rows"]
    names = ("`square`", "torchattacks Square", "torchattacks Square, n_queries the budget", "ART SquareAttack")
    found = [robust(rows[name], 100) for name in names]
    ours, theirs, rescaled, art = (f"{100 * sum(each) / len(each):.1f} %" for each in found)
    assert f"at the defaults | {ours} | {theirs} | {art} |" in prose(ROOT / "README.md")
    said = (
        f"leaves {theirs} robust, and rfdlight's `square` {ours}. With `n_queries=100`, torchattacks leaves {rescaled}"
    )
    assert said in prose(page_named("torchattacks.md"))


def test_the_prose_has_the_pairs_of_the_records(records):
    text = prose(page_named("other-libraries.md"))
    counts = []
    for record in ("linf-signopt", "l2-others"):
        rows = records[record]["rows"]
        both = list(zip(*(robust(rows[name], 1000) for name in ("`signopt`", "ART SignOPTAttack")), strict=True))
        counts.append((both.count((True, False)), both.count((False, True))))
    (ours, theirs), (ours_in_l2, theirs_in_l2) = counts
    p, in_l2 = (f"{mcnemar(*pair):.1g}" for pair in counts)
    assert (
        f"`signopt` finds {theirs} images in linf that ART's does not, and ART's {ours} that `signopt` does not" in text
    )
    assert f"(McNemar's exact p {p}); in l2 {theirs_in_l2} and {ours_in_l2} (p {in_l2})." in text


def test_the_prose_has_the_speeds_of_the_records(records):
    rows = [row for name in ("speed-square", "speed") for row in records[name]["rows"]]
    middle = {row[0]: [cell.partition(" (")[0] for cell in row] for row in rows}
    text = prose(page_named("other-libraries.md"))
    ratios = [float(row[-1]) for name, row in middle.items() if not name.startswith("rfdlight")]
    assert f"makes {min(ratios):.1f} to {max(ratios):.1f} times as many queries" in text
    theirs, art = middle["torchattacks Square"], middle["ART SquareAttack"]
    assert f"of ART; {theirs[-1]} and {art[-1]} times are reached" in text
    assert f"makes {theirs[4]} queries per row of the bare compiled forward pass and ART {art[4]}, so" in text
    assert f"more than {1 / float(theirs[4]):.1f} and {1 / float(art[4]):.1f} times as fast" in text
    cells = middle["rfdlight square, compiled"][4], theirs[4], art[4]
    assert f"bare compiled forward pass | {' | '.join(cells)} |" in prose(ROOT / "README.md")
