"""The pages on default options and on other libraries have the tables of their records, and prose their numbers."""

import importlib

import pytest
from pages import ROOT, page_named, prose, shown, unpacked

from rfdlight.core.statistics import mcnemar


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    runs = unpacked("option-records.tar.xz", tmp_path_factory.mktemp("records"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return importlib.import_module("comparison_tables").pages(ROOT / "docs/results", runs)


@pytest.fixture(scope="module")
def records():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return importlib.import_module("page_tables").kept(ROOT / "docs/results/other-libraries.json")


@pytest.mark.parametrize("page", ["default-options.md", "other-libraries.md"])
def test_a_page_has_the_tables_of_its_records(page, made):
    assert {name: shown(page, name) for name in made[page]} == made[page]
    rest = page_named(page).read_text()
    for table in made[page].values():
        rest = rest.replace(table, "")
    assert rest.count("|---|") == (page == "default-options.md")  # what others have published on Blacklight


def robust(firsts, budget):
    """Whether each image is robust after a budget."""
    own = firsts.get(str(budget), firsts["1000"])
    return [first > budget for first in own]


def test_the_prose_has_the_strength_of_the_records(records):
    rows = records["linf-square"]["rows"]

    def percent(name, budget):
        found = robust(rows[name], budget)
        return f"{100 * sum(found) / len(found):.1f} %"

    peers = "torchattacks Square", "torchattacks Square, n_queries the budget", "ART SquareAttack"
    ours, theirs, scheduled, art = (percent(name, 100) for name in ("`square`", *peers))
    assert f"after 100 queries, at the defaults | {ours} | {theirs} | {art} |" in prose(ROOT / "README.md")
    text = prose(page_named("coming-from/torchattacks.md"))
    assert f"it leaves {theirs} robust, and rfdlight's `square` {ours}." in text
    assert f"With `n_queries=100`, torchattacks leaves {scheduled} " in text
    ours, art = percent("`square`", 1000), percent("ART SquareAttack", 1000)
    said = f"it leaves {art} robust at 1000 queries, and rfdlight's `square` {ours} "
    assert said in prose(page_named("coming-from/art.md"))


def test_the_prose_has_the_pairs_of_the_records(records):
    pairs = (
        ("linf-signopt", "signopt", "SignOPT"),
        ("l2-others", "signopt", "SignOPT"),
        ("l2-others", "boundary", "Boundary"),
    )
    found = []
    for record, ours, peer in pairs:
        rows = records[record]["rows"]
        both = list(zip(robust(rows[f"`{ours}`"], 1000), robust(rows[f"ART {peer}Attack"], 1000), strict=True))
        assert (False, True) not in both
        found.append(both.count((True, False)))
    first, second, third = found
    text = prose(page_named("other-libraries.md"))
    assert f"finds {first} images in linf and {second} in l2" in text
    assert f"Boundary Attack {third} that" in text
    p = [f"{mcnemar(count, 0):.1g}" for count in found]
    assert f"(McNemar's exact p {p[0]}, {p[1]} and {p[2]})" in text


def test_the_prose_has_the_speeds_of_the_records(records):
    speed = {row[0]: row for row in records["speed"]["rows"]}
    middle = {name: [cell.partition(" (")[0] for cell in row] for name, row in speed.items()}
    text = prose(page_named("other-libraries.md"))
    ratios = [float(row[-1]) for name, row in middle.items() if not name.startswith("rfdlight")]
    assert f"makes {min(ratios):.2f} to {max(ratios):.1f} times as many queries" in text
    slow, slowest = middle["torchattacks Square"][4], middle["ART SquareAttack"][4]
    assert f"makes {slow} queries per row of the bare compiled forward pass and ART {slowest}, so" in text
    assert f"without cost is {1 / float(slow):.1f} and {1 / float(slowest):.1f} times as fast" in text
    cells = middle["rfdlight square, compiled"][4], slow, slowest
    assert f"bare compiled forward pass | {' | '.join(cells)} |" in prose(ROOT / "README.md")
