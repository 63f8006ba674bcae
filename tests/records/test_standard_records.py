"""Combination of the records of several stages, from records written by hand."""

import pytest
from hand import UNDECIDED, adversarial, facts, record

from rfdlight.records.facts import Rows
from rfdlight.records.runs import Run
from rfdlight.records.standard import combine, summarize_standard, to_attack

NEGATIVE = {**UNDECIDED, "final_margin": -0.2}
WRONG = {"verdict": "misclassified", "clean_verdict": "wrong", "clean_margin": -1.0, "billed": 0, "final_margin": -1.0}

STAGES = [
    [
        adversarial(0, 7),
        record(1),
        record(2, **UNDECIDED),
        record(3, **WRONG),
        record(4, **NEGATIVE),
        record(5),
        record(6, **UNDECIDED),
        record(7),
        record(8, clean_verdict="undecided", clean_margin=-0.1),
    ],
    [
        adversarial(1, 12),
        record(2, **NEGATIVE, final_evaluations=1000),
        record(4, **UNDECIDED, final_evaluations=900),
        record(5),
        adversarial(6, 30, success_query=None),
        record(8),
    ],  # the victim failed on 7
]


def runs():
    return [Run.of(records, facts(failed={"digits/test/0007": "NaN"} if i else {})) for i, records in enumerate(STAGES)]


@pytest.fixture
def images():
    return {int(image.id[-1]): image for image in combine([run.by_id for run in runs()])}


def test_the_next_stage_attacks_robust_and_undecided_images():
    assert [int(name[-1]) for name in to_attack(STAGES[0])] == [1, 2, 4, 5, 6, 7, 8]


def test_verdicts_stages_and_queries(images):
    expected = {
        0: ("adversarial", 1, 7, 7),
        1: ("adversarial", 2, 42, 42),
        2: ("undecided", None, 60, None),
        3: ("misclassified", None, 0, None),
        4: ("undecided", None, 60, None),
        5: ("robust", None, 60, None),
        6: ("adversarial", 2, 60, 60),
        8: ("robust", None, 60, None),
    }
    assert {i: (r.verdict, r.stage, r.queries, r.success_query) for i, r in images.items()} == expected


def test_undecided_images_count_by_the_mean_over_all_their_undecided_points(images):
    assert images[2].undecided_margin == pytest.approx((100 * 0.1 - 1000 * 0.2) / 1100)
    assert images[4].undecided_margin == pytest.approx((-100 * 0.2 + 900 * 0.1) / 1000)
    assert [images[i].is_robust_at(None) for i in (2, 4)] == [False, True]
    assert [images[2].is_robust_at(queries) for queries in (29, 30)] == [True, False]
    assert not any(images[i].is_robust_at(None, "adversarial") for i in (2, 4, 8))
    assert all(images[i].is_robust_at(None, "robust") for i in (2, 4, 5, 8))


def test_the_headlines_the_shares_and_the_ledger(images):
    void = [Run.of([record(0)], facts(totals=Rows(attack=5), wall_seconds=1.0, killed_attempts=1))]
    summary = summarize_standard(list(images.values()), runs(), 30, planned=3, void=void)
    assert summary.counts == {
        "images": 8, "failed": 1, "misclassified": 1, "adversarial": 3, "undecided": 2, "robust": 2,
    }  # fmt: skip
    shares = [summary.clean, summary.robust, summary.robust_lower, summary.robust_upper]
    assert [share.value * 8 for share in shares] == [7, 3, 1, 4]
    # Within 10 queries of a stage only image 0 is adversarial; the undecided points are their stages' last queries.
    assert summary.stage_share == 10
    split = [summary.split_budget, summary.split_budget_lower, summary.split_budget_upper]
    assert [share.value * 8 for share in split] == [6, 5, 6]
    assert {point.queries: point.value * 8 for point in summary.curve if point.queries in (5, 10, 30, 50, 90)} == {
        5: 7, 10: 6, 30: 5, 50: 4, 90: 3,
    }  # fmt: skip
    assert [stage.adversarial for stage in summary.stages] == [1, 2]
    assert [stage.images for stage in summary.stages] == [9, 6]
    assert summary.ledger["rows"] == 2 * 400 + 5
    assert summary.ledger["attack"] == 2 * 180 + 5
    assert (summary.killed_attempts, summary.wall_seconds) == (1, 4.0)


def test_an_equal_share_of_the_budget_counts_the_queries_of_each_stage_alone(images):
    by_stage = {i: image.success_query_in_stage for i, image in images.items() if image.stage}
    assert by_stage == {0: 7, 1: 12, 6: 30}
    assert [images[1].is_robust_with(queries) for queries in (11, 12)] == [True, False]
    assert not images[3].is_robust_with(0)
    # An undecided point of an earlier stage counts in the lower bound, though a later stage succeeded.
    early = [record(6, **{**UNDECIDED, "success_query": 4}), adversarial(6, 30)]
    (found,) = combine([{each.id: each} for each in early])
    assert (found.stage, found.undecided_query_in_stage) == (2, 4)
    assert [found.is_robust_with(10, how) for how in ("sign", "adversarial", "robust")] == [True, False, True]
    assert not found.is_robust_with(30, "robust")
