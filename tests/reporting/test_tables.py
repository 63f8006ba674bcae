import io
import re

import pytest
from hand import facts, record, ten
from rich.console import Console

from rfdlight.records.facts import Rows
from rfdlight.records.summary import Estimate, summarize
from rfdlight.reporting.tables import number, percent, results, run_html, run_table, short_victim


def text(records, **changes):
    console = Console(width=80, file=io.StringIO())
    console.print(run_table(summarize(records, facts(**changes))))
    return console.file.getvalue()


def line(shown, label):
    (found,) = [each for each in shown.splitlines() if each.strip().startswith(label)]
    return " ".join(found.strip().removeprefix(label).split())


def test_every_accuracy_stands_with_its_interval():
    shown = text(ten(), criterion="paper")
    # Wilson's intervals of 9, 5, 2 and 4 of 10, from published tables.
    assert line(shown, "clean accuracy (Definition 1)") == "90.0% (59.6 to 98.2)"
    assert line(shown, "robust accuracy (Definition 1)") == "50.0% (23.7 to 76.3)"
    assert line(shown, "undecided images as adversarial") == "20.0% (5.7 to 51.0)"
    assert line(shown, "undecided images as robust") == "50.0% (23.7 to 76.3)"
    assert line(shown, "by the success criterion during the attack") == "50.0% (23.7 to 76.3)"
    assert line(shown, "by the first 9-vote success") == "40.0% (16.8 to 68.7)"
    assert line(shown, "majority-vote clean accuracy").startswith("80.0% ")
    assert line(shown, "majority-vote robust accuracy").startswith("20.0% ")
    assert line(shown, "expected single-query clean accuracy").startswith("86.5% ")
    assert line(shown, "expected single-query robust accuracy").startswith("43.5% ")
    assert line(shown, "attack success rate").startswith("44.4% ")


def test_curve_counts_and_ledger():
    shown = text(ten())
    assert line(shown, "after queries") == "1 3 10 30"
    assert line(shown, "robust  ") == "80.0% 80.0% 70.0% 50.0%"
    assert line(shown, "misclassified before the attack") == "1"
    assert line(shown, "adversarial images") == "4"
    assert line(shown, "by the final evaluation only") == "1"
    assert line(shown, "undecided images  ") == "3, 1 with a heavy tail"
    assert line(shown, "unconfirmed successes") == "1"
    assert line(shown, "queries to success") == "median 13.5, mean 14.5"
    assert line(shown, "linf (adversarial)") == "median 0.2, max 0.2"
    assert line(shown, "l2 (adversarial)") == "median 2.5, max 4"
    assert "400 = 180 attack + 20 success check + 50 success criterion + 30 checks + 120 padding" in " ".join(
        shown.split()
    )
    assert line(shown, "criterion rows per attack row") == "0.25"


def test_the_modes_are_named():
    shown = text(ten(), criterion="paper", query_counting="paper", precision="bf16")
    assert "success criterion paper, query counting paper, bf16, seed 0" in shown


def test_only_a_random_victim_is_said_to_repeat_in_distribution_only():
    assert "in distribution only" in text(ten())
    assert "in distribution only" not in text(ten(), deterministic=True)


def test_targets_and_averaged_queries_are_named():
    shown = text(ten(), targeted=True, eot=5)
    assert "targeted square against" in shown
    assert "query counting exact, 5 evaluations per query," in shown
    assert "targeted" not in text(ten())


def test_an_incomplete_run_is_marked():
    assert "INCOMPLETE: 10 of 200 images" in text(ten(), complete=False, num_images=200)
    assert "INCOMPLETE" not in text(ten())


def test_a_run_without_adversarial_images_or_votes_or_images_is_shown():
    assert line(text([record(0)]), "queries to success") == "-"
    assert line(text([record(0, candidates=1)], criterion="never"), "by the first 9-vote success") == "-"
    assert line(text([record(0, voted_candidates=1)]), "by the first 9-vote success") == "-"
    assert line(text([], complete=False), "clean accuracy (Definition 1)") == "-"


def test_the_table_of_a_notebook_holds_every_line_of_that_of_a_terminal():
    summary = summarize(ten(), facts(defense="<b>", complete=False, num_images=200))
    page = run_html(summary)
    assert "defense &lt;b&gt;" in page
    assert "INCOMPLETE: 10 of 200 images" in page
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    for name, value in results(summary).items():
        assert cells[cells.index(name) + 1] == value
    start = cells.index("robust")
    assert cells[start + 1 : start + 5] == ["80.0%", "80.0%", "70.0%", "50.0%"]


def test_brackets_of_a_name_are_no_markup():
    assert "noise[bold]x" in text(ten(), defense="noise[bold]x")


@pytest.mark.parametrize("budget", [0, 7, 100_000])
def test_nothing_is_wider_than_80_columns(budget):
    totals = Rows(attack=123_456_789, success_check=1_234_567, criterion=98_765_432, padding=1_234_567)
    shown = text(ten(), budget=budget, totals=totals, defense="noise, " * 40, wall_seconds=123456.7)
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "-"), (12, "12"), (1234.0, "1,234"), (12.5, "12.5"), (0.123456, "0.1235"), (1234.56, "1,235")],
)
def test_number(value, expected):
    assert number(value) == expected


def test_the_short_name_of_a_victim_lacks_its_network_and_weights():
    assert short_victim("resnet8-digits: resnet8 trained on digits") == "resnet8-digits"
    assert short_victim("resnet8 with weights.pt") == "resnet8"


def test_percent_of_nothing_is_a_dash():
    assert percent(None) == "-"
    assert percent(Estimate.of(0, 0)) == "-"
