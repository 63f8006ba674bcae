import json
import math
import random

import pytest
from hand import UNDECIDED, adversarial, facts, record, ten
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict
from scipy.stats import binomtest

from rfdlight.core.statistics import wilson
from rfdlight.records.facts import Rows, RunFacts
from rfdlight.records.records import InterimEvaluation
from rfdlight.records.runs import Run
from rfdlight.records.schema import decode
from rfdlight.records.summary import Estimate, Summary, budgets, is_robust_at, robust_at, success_query_of, summarize

# The 95 % quantile of the normal distribution squared, from a table.
Z2 = 3.841459


def test_counts_of_every_kind_of_image():
    assert summarize(ten(), facts()).counts == {
        "images": 10,
        "initially_wrong": 1,
        "adversarial": 4,
        "undecided": 3,
        "heavy_tailed": 1,
        "unconfirmed": 1,
        "late": 1,
    }


def test_single_query_pair_is_the_mean_share_of_right_labels():
    pair = summarize(ten(), facts()).single_query
    assert pair.clean.value == pytest.approx(1 - (2 + 10 + 15) / (10 * 20))
    wrong = 100 + 100 + 60 + 90 + 50 + 50 + 40 + 0 + 75 + 0  # 15 of 20 at image 8
    assert pair.robust.value == pytest.approx(1 - wrong / 1000)


def test_single_query_weights_images_equally_whatever_their_draws():
    records = [record(0, clean_evaluations=20, clean_wrong=20), record(1, clean_evaluations=1, clean_wrong=0)]
    assert summarize(records, facts()).single_query.clean.value == 0.5


def values(pair):
    shares = asdict(pair)
    assert {share.total for share in shares.values()} == {10}
    return {name: share.value for name, share in shares.items()}


def test_mean_logits_pair_and_its_bounds():
    assert values(summarize(ten(), facts()).mean_logits) == {
        "clean": 0.9,
        "clean_lower": 0.8,
        "clean_upper": 0.9,
        "robust": 0.5,
        "robust_lower": 0.2,
        "robust_upper": 0.5,
    }
    negative = UNDECIDED | {"final_margin": -0.1}
    changed = [*ten()[:4], record(4, **negative), adversarial(5, 12, **negative), record(6)]
    changed += [record(7, clean_margin=-0.1, clean_verdict="undecided"), *ten()[8:]]
    assert values(summarize(changed, facts()).mean_logits) == {
        "clean": 0.9,
        "clean_lower": 0.8,
        "clean_upper": 0.9,
        "robust": 0.3,
        "robust_lower": 0.2,
        "robust_upper": 0.5,
    }


def test_an_undecided_image_counts_by_the_sign_of_its_margin():
    def counts(**changes):
        found = summarize([record(0, **UNDECIDED | changes)], facts())
        shares = (found.mean_logits.clean, found.mean_logits.robust, found.attack_success)
        return [share.value for share in shares], found.counts["late"], found.curve[-1].value

    assert counts() == ([1, 1, 0], 0, 1)
    assert counts(final_margin=0.0) == ([1, 1, 0], 0, 1)
    assert counts(final_margin=-0.1) == ([1, 0, 1], 1, 0)
    assert counts(clean_verdict="undecided", clean_margin=-0.1, final_margin=-0.1)[0][:2] == [0, 0]
    # The verdict "robust" is better evidence than the sign at the clean image, the sign at the final point is not.
    assert counts(clean_verdict="undecided", clean_margin=-0.1, verdict="robust") == ([1, 1, 0], 0, 1)
    assert counts(clean_verdict="undecided", clean_margin=-0.1)[0][:2] == [0, 0]
    assert counts(clean_verdict="undecided", clean_margin=0.1) == ([1, 1, 0], 0, 1)
    # A verdict is worth more than a sign.
    assert counts(verdict="robust", final_margin=-0.1) == ([1, 1, 0], 0, 1)
    assert counts(verdict="adversarial", final_margin=0.1) == ([1, 0, 1], 1, 0)


def test_majority_vote_pair_and_its_bounds():
    # At the clean images 7 is a tie and 8 wrong. At the final points half of the answers at 4 and 5 are adversarial.
    assert values(summarize(ten(), facts()).majority_vote) == {
        "clean": 0.8,
        "robust": 0.2,
        "robust_lower": 0.2,
        "robust_upper": 0.4,
    }


def test_an_image_whose_clean_answers_are_mostly_wrong_is_not_robust_by_majority():
    # Rare large margins: the mean is right, most answers are not.
    records = [record(0, clean_wrong=15), record(1)]
    vote = summarize(records, facts()).majority_vote
    assert [share.value for share in asdict(vote).values()] == [0.5, 0.5, 0.5, 0.5]
    assert summarize(records, facts()).mean_logits.robust.value == 1


def test_attack_success_is_over_the_initially_right():
    success = summarize(ten(), facts()).attack_success
    assert (success.value, success.total) == (pytest.approx(4 / 9), 9)


def test_first_9_vote_success_counts_every_image_that_passed_the_votes():
    # 0, 1, 2, 5 and 6 passed; 8 was initially wrong; 3, 4, 7 and 9 remain.
    assert summarize(ten(), facts(criterion="paper")).first_9_vote_success.value == 0.4


def test_adversarial_images_statistics_use_the_broken_alone():
    # Breaks at 1, 7, 20 and, late, at its 30 billed queries.
    assert summarize(ten(), facts()).adversarial_images == {
        "median_queries": 13.5,
        "mean_queries": 14.5,
        "median_linf": 0.2,
        "max_linf": 0.2,
        "median_l2": 2.5,
        "max_l2": 4.0,
    }


def test_a_targeted_run_has_no_robust_accuracy_of_single_answers():
    # Its final draws count hits of the target: a wrong label that is none would pass for right.
    assert summarize([record(0)], facts(targeted=True)).single_query.robust is None
    assert summarize([record(0)], facts()).single_query.robust.value == 1


def test_ledger_ratio_is_of_all_rows_of_the_attacker():
    ledger = summarize(ten(), facts()).ledger
    expected = {
        "attack": 180,
        "gradient": 0,
        "success_check": 20,
        "criterion": 50,
        "checks": 30,
        "padding": 120,
        "rows": 400,
        "billed": 190,
    }
    assert ledger == {**expected, "criterion_ratio": 0.25, "padding_share": 0.3}


def test_curve_falls_at_the_query_that_broke_each_image():
    curve = summarize(ten(), facts()).curve
    assert [(point.queries, point.value) for point in curve] == [
        (1, 0.8),
        (3, 0.8),
        (10, 0.7),
        (30, 0.5),
    ]
    assert robust_at(ten(), 0).value == 0.9
    assert robust_at(ten(), 6).value == 0.8
    assert robust_at(ten(), 7).value == 0.7
    assert robust_at(ten(), 29).value == 0.6


def test_success_query_of_follows_the_verdict():
    assert success_query_of(adversarial(0, 7)) == 7
    assert success_query_of(adversarial(0, 7, billed=9)) == 7
    assert success_query_of(adversarial(0, 7, billed=9, success_query=None)) == 9
    undecided = adversarial(0, 7, **UNDECIDED)
    assert [success_query_of(undecided, rule) for rule in ("sign", "adversarial", "robust")] == [None, 7, None]
    undecided = adversarial(0, 7, **UNDECIDED | {"final_margin": -0.1})
    assert [success_query_of(undecided, rule) for rule in ("sign", "adversarial", "robust")] == [7, 7, None]
    assert success_query_of(adversarial(0, 7, verdict="robust")) is None
    assert success_query_of(record(0, clean_margin=-1.0, attack=0, billed=0, verdict="misclassified")) is None


def test_no_adversarial_images_leave_their_statistics_empty():
    summary = summarize([record(0), record(1)], facts(deterministic=True))
    assert set(summary.adversarial_images.values()) == {None}
    assert summary.mean_logits.robust.value == summary.first_9_vote_success.value == 1
    assert summary.attack_success.value == 0
    # Wilson's bound at 0 of n is z^2 / (n + z^2).
    assert summary.attack_success.high == pytest.approx(Z2 / (2 + Z2), abs=1e-6)


def test_no_records_at_all_are_no_share():
    summary = summarize([], facts(totals=Rows(), complete=False))
    nothing = Estimate(value=math.nan, low=0.0, high=1.0, total=0)
    assert summary.mean_logits.robust == summary.single_query.clean == nothing
    assert json.loads(Run.of([], facts()).summary_json())["declared"]["value"] is None
    assert summary.ledger["criterion_ratio"] is None
    assert summary.ledger["padding_share"] is None


def test_all_initially_wrong_leave_no_image_to_attack():
    wrong = record(
        0, clean_margin=-1.0, clean_verdict="wrong", clean_wrong=20, attack=0, billed=0, final_adversarial=100,
        verdict="misclassified",
    )  # fmt: skip
    summary = summarize([wrong], facts())
    assert math.isnan(summary.attack_success.value)
    assert summary.counts["adversarial"] == 0
    assert summary.mean_logits.clean.value == summary.mean_logits.robust.value == 0


def test_first_9_vote_success_is_unknown_if_the_criterion_took_no_votes():
    never = [record(0, candidates=3), record(1)]
    single = [adversarial(0, 5, first_9_vote_success=None, voted_candidates=0), record(1)]
    assert summarize(never, facts(criterion="never")).first_9_vote_success is None
    assert summarize(single, facts(criterion="single")).first_9_vote_success is None
    # The evaluations of the sequential criterion are no votes, whether an image is adversarial or not.
    for index in (0, 1):
        sequential = [record(0, candidates=3, voted_candidates=2), adversarial(1, 5, first_9_vote_success=None)][index]
        assert summarize([sequential], facts()).first_9_vote_success is None
    assert summarize([record(0, candidates=3, voted_candidates=2)], facts(criterion="paper")).first_9_vote_success
    deterministic = [adversarial(0, 5, voted_candidates=0), record(1)]
    assert summarize(deterministic, facts(deterministic=True)).first_9_vote_success.value == 0.5


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (0, [0]),
        (1, [1]),
        (2, [1, 2]),
        (7, [1, 3, 7]),
        (10, [1, 3, 10]),
        (300, [1, 3, 10, 30, 100, 300]),
    ],
)
def test_budgets_end_at_the_budget(budget, expected):
    assert budgets(budget) == expected


def test_the_result_is_documented_json_of_this_schema_and_keeps_the_facts():
    run = facts(selection="balanced")
    assert summarize(ten(), run).run == run
    written = json.loads(Run.of(ten(), run).summary_json())
    assert list(written) == ["schema", *Summary.__struct_fields__, "consistency_checks"]
    assert written["schema"] == 4
    assert decode(json.dumps(written["run"]).encode(), RunFacts) == run


def test_the_order_of_the_records_changes_nothing():
    # Shares of thirds and sevenths, whose sum by plain addition depends on the order.
    records = [
        record(i, clean_evaluations=21, clean_wrong=i % 20, final_evaluations=99, final_adversarial=i)
        for i in range(60)
    ]
    shuffled = random.Random(0).sample(records, len(records))
    assert summarize(shuffled, facts()) == summarize(records, facts())


@st.composite
def any_record(draw):
    at = draw(st.none() | st.integers(1, 40))
    margin, sign = draw(st.sampled_from([-1.0, 0.0, 1.0])), draw(st.sampled_from([-1.0, 0.0, 1.0]))
    clean = draw(st.sampled_from(["undecided", "wrong" if margin < 0 else "right"]))
    verdicts = st.sampled_from(["robust", "adversarial", "undecided"])
    return record(
        0,
        billed=40 if at is None else at,
        success_query=at,
        first_9_vote_success=at,
        candidates=int(at is not None),
        voted_candidates=int(at is not None),
        clean_margin=margin,
        clean_verdict=clean,
        clean_wrong=draw(st.integers(0, 20)),
        final_margin=sign,
        verdict="misclassified" if clean == "wrong" else draw(verdicts),
        majority_verdict=draw(verdicts),
        final_adversarial=draw(st.integers(0, 100)),
    )


@settings(max_examples=25)
@given(st.lists(any_record(), max_size=20))
def test_curve_falls_from_the_clean_to_the_robust_accuracy(records):
    summary = summarize(records, facts(budget=40))
    mean, counts = summary.mean_logits, summary.counts
    shares = [float(robust_at(records, queries)) if records else 0 for queries in range(41)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == (mean.clean.value if records else 0)
    assert (summary.curve[-1].queries, summary.curve[-1].total) == (40, mean.robust.total)
    assert (summary.curve[-1].low, summary.curve[-1].high) == (mean.robust.low, mean.robust.high)
    survivors = counts["images"] - counts["initially_wrong"] - counts["adversarial"]
    assert shares[-1] * len(records) == pytest.approx(survivors)
    if not records:
        return
    lower, upper = (float(robust_at(records, 40, rule)) for rule in ("adversarial", "robust"))
    assert (mean.robust_lower.value, mean.robust_upper.value) == (lower, upper)
    assert lower <= mean.robust.value <= upper
    assert mean.clean_lower.value <= mean.clean.value <= mean.clean_upper.value
    # Undecided images are the whole difference of the bounds.
    assert (upper - lower) * len(records) <= counts["undecided"] + 1e-9
    assert mean.robust.value <= mean.clean.value
    assert summary.majority_vote.robust.value <= summary.majority_vote.clean.value


INTERIM = tuple(
    InterimEvaluation(queries=queries, evaluations=50, margin=margin, verdict=verdict)
    for queries, margin, verdict in [(3, -0.1, "undecided"), (10, 1.0, "robust"), (20, -0.2, "undecided")]
)
"""Of an image that is adversarial by its sign from 3 to 9 queries, and from 20 on."""


def test_an_image_counts_by_its_last_interim_evaluation():
    late, robust = record(0, verdict="adversarial", final_margin=-1.0, interim=INTERIM), record(1, interim=INTERIM)
    fates = {2: True, 3: False, 9: False, 10: True, 19: True, 20: False, 29: False}
    for each in (late, robust):
        assert {queries: is_robust_at(each, queries) for queries in fates} == fates
        assert [is_robust_at(each, queries, "adversarial") for queries in (2, 3, 10, 20)] == [True, False, True, False]
        assert [is_robust_at(each, queries, "robust") for queries in (3, 10, 20, 29)] == [True] * 4
    assert [is_robust_at(each, 30) for each in (late, robust)] == [False, True]
    assert [success_query_of(each) for each in (late, robust)] == [20, None]
    assert success_query_of(late, "robust") == 30
    curve = {point.queries: point.value for point in summarize([late, robust], facts()).curve}
    assert curve == {1: 1, 3: 0, 10: 1, 30: 0.5}
    assert Run.of([late, robust], facts()).as_declared().records[0].interim == ()


def test_a_success_at_an_interim_evaluation_counts_once():
    last = InterimEvaluation(queries=10, evaluations=60, margin=-1.0, verdict="adversarial")
    found = adversarial(0, 10, interim=(*INTERIM[:1], last))
    assert [is_robust_at(found, queries) for queries in (2, 3, 9, 10)] == [True, False, False, False]
    assert success_query_of(found) == 3


@pytest.mark.parametrize("total", [1, 2, 17, 1000])
def test_wilson_agrees_with_scipy_for_whole_counts(total):
    for count in {0, 1, total // 3, total - 1, total}:
        low, high = binomtest(count, total).proportion_ci(0.95, "wilson")
        assert wilson(count, total) == pytest.approx((low, high), abs=1e-12)


def test_wilson_of_a_fraction_lies_between_its_neighbours():
    assert wilson(3, 10)[0] < wilson(3.5, 10)[0] < wilson(4, 10)[0]
    assert wilson(3, 10)[1] < wilson(3.5, 10)[1] < wilson(4, 10)[1]


def test_wilson_covers_the_mean_of_shares_at_least_as_often_as_it_says():
    # Shares of 5 draws at images with right-answer rates 0.2 to 1: the mean is 0.6; 2000 repetitions of 40
    # images. A true coverage of 0.95 would fall below 0.935 with probability about 0.001.
    rng = random.Random(1)
    rates = [0.2, 0.4, 0.6, 0.8, 1.0]
    covered = 0
    for _ in range(2000):
        total = sum(sum(rng.random() < rate for _ in range(5)) / 5 for rate in rng.choices(rates, k=40))
        low, high = wilson(total, 40)
        covered += low <= 0.6 <= high
    assert covered / 2000 > 0.935
