import io

import pytest
from hand import facts, record, ten
from rich.console import Console

from rfdlight.records.facts import Rows
from rfdlight.records.summary import Estimate, summarize
from rfdlight.reporting.tables import number, percent, run_table


def text(records, **changes):
    console = Console(width=80, file=io.StringIO())
    console.print(run_table(summarize(records, facts(**changes))))
    return console.file.getvalue()


def line(shown, label):
    (found,) = [each for each in shown.splitlines() if each.strip().startswith(label)]
    return " ".join(found.strip().removeprefix(label).split())


def test_both_pairs_stand_with_their_intervals():
    shown = text(ten())
    # Wilson's intervals of 9, 5, 3 and 4 of 10, from published tables.
    assert line(shown, "mean logits: clean") == "90.0% 59.6% to 98.2%"
    assert line(shown, "mean logits: robust, undecided as robust") == "50.0% 23.7% to 76.3%"
    assert line(shown, "lower bound, the 2 undecided as adversarial") == "30.0% 10.8% to 60.3%"
    assert line(shown, "by the criterion's calls in the run instead") == "50.0% 23.7% to 76.3%"
    assert line(shown, "by the first 9-vote screen") == "40.0% 16.8% to 68.7%"
    assert line(shown, "single answer: clean").startswith("86.5% ")
    assert line(shown, "single answer: robust, expected").startswith("44.0% ")
    assert line(shown, "attack success, of the 9 initially right").startswith("44.4% ")


def test_curve_counts_and_ledger():
    shown = text(ten())
    assert line(shown, "after queries") == "1 2 5 10 20 30"
    assert line(shown, "robust ") == "80.0% 80.0% 80.0% 70.0% 60.0% 50.0%"
    assert line(shown, "images") == "1 misclassified before the attack, 4 adversarial, 2"
    assert "1 of the broken found by the final draws alone" in shown
    assert "1 called adversarial, but not by the final draws" in shown
    assert line(shown, "queries to break") == "median 13.5, mean 14.5"
    assert line(shown, "linf of the broken") == "median 0.2, largest 0.2"
    assert line(shown, "l2 of the broken") == "median 2.5, largest 4"
    assert line(shown, "rows of the victim") == "400 = 180 attack + 20 observe + 50 criterion + 150 padding"
    assert line(shown, "criterion's share") == "0.25 criterion rows per row of the attack, none billed"


def test_the_modes_are_named():
    shown = text(ten(), criterion="paper", query_counting="paper", precision="bf16")
    assert "criterion paper, query counting paper, bf16, seed 0" in shown


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


def test_a_run_without_breaks_or_votes_or_images_is_shown():
    unbroken = text([record(0)])
    assert "queries to break" not in unbroken
    assert "of the broken" not in unbroken
    unjudged = text([record(0, candidates=1)], criterion="never")
    assert line(unjudged, "by the first 9-vote screen") == "(no votes) - -"
    assert line(text([], complete=False), "mean logits: clean") == "- -"


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


def test_percent_of_nothing_is_a_dash():
    assert percent(None) == "-"
    assert percent(Estimate.of(0, 0)) == "-"
