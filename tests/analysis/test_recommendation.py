"""The choice among attacked defenses, on outcomes written by hand, and the short attack on known victims."""

import pytest
from hand import facts, record

from rfdlight.analysis.calibration import Calibration
from rfdlight.analysis.candidates import Candidate
from rfdlight.analysis.clean_cost import CleanCost
from rfdlight.analysis.recommendation import (
    Confirmed,
    best_of,
    choice_facts,
    choice_lines,
    rank_agreement,
)
from rfdlight.defenses import InputNoise
from rfdlight.evaluation.run import Run
from rfdlight.records.facts import Rows


def outcome(withstand: str) -> Run:
    """An attack on images of which those with a "1" withstand; a "-" was wrong from the start."""
    verdicts = {"1": "robust", "0": "adversarial", "-": "misclassified"}
    records = [
        record(number, verdict=verdicts[sign], final_adversarial=100 * (sign != "1"))
        for number, sign in enumerate(withstand)
    ]
    return Run(tuple(records), facts(totals=Rows(criterion=7)))


def confirmed(name: str, predicted: float, withstand: str) -> Confirmed:
    candidate = Candidate((name,), (0.1,), predicted)
    cost = CleanCost(0.02, 0.001, (0.01, 0.03), 8)
    return Confirmed(candidate, InputNoise(0.1), Calibration(cost), outcome(withstand))


def test_the_best_is_the_most_robust_and_of_equal_ones_the_one_predicted_to_mislead_more():
    low, tied, high = confirmed("a", 0.4, "1100"), confirmed("b", 0.1, "1110"), confirmed("c", 0.3, "0111")
    assert best_of([low, tied, high]) is high
    assert best_of([low, tied]) is tied
    lines = choice_lines([low, tied, high], outcome("0000"))
    assert lines[0].startswith("best: c, robust accuracy 75.0% (30.1% to 95.4%)")


def test_an_image_that_is_wrong_from_the_start_does_not_withstand():
    assert [record.is_robust for record in outcome("1-0").records] == [True, False, False]


def test_paired_images_differ_significantly_where_two_intervals_overlap():
    """8 images to 0 have p = 2 / 2^8 = 0.0078, which is below 0.05 / 6 and above 0.05 / 10."""
    good, bad = confirmed("good", 0.3, "1" * 99 + "0"), confirmed("bad", 0.2, "1" * 91 + "0" * 9)
    undefended = outcome("1" * 98 + "00")
    assert bad.outcome.robust_accuracy.high > good.outcome.robust_accuracy.low
    near = [confirmed(name, 0.1, "1" * 98 + "00") for name in "abc"]
    assert "significantly different from bad (8 to 0) on 100 images" in choice_lines([good, bad, near[0]], undefended)
    assert not any(line.startswith("sig") for line in choice_lines([good, bad, *near], undefended))


def test_the_choice_has_the_outcomes_from_which_it_does_and_does_not_differ():
    near = confirmed("near", 0.2, "1" * 97 + "000")
    best = confirmed("best", 0.3, "1" * 99 + "0")
    lines = choice_lines([near, best], outcome("1" * 50 + "0" * 50))
    assert lines[1:3] == [
        "significantly different from no noise (49 to 0) on 100 images",
        "NOT significantly different from near (2 to 0) on 100 images",
    ]
    assert "over all pairs" in lines[3]
    assert len(lines) == 5


def test_a_best_that_is_no_better_than_no_noise_is_said():
    lines = choice_lines([confirmed("a", 0.2, "1100")], outcome("0111"))
    assert lines[1] == "NOT significantly different from no noise (1 to 2) on 4 images"
    assert lines[-1].startswith("no candidate is more robust")


def test_the_agreement_is_kendalls_tau_and_undefined_without_an_order():
    three = [confirmed("a", 0.1, "1000"), confirmed("b", 0.2, "1100"), confirmed("c", 0.3, "1110")]
    assert rank_agreement(three) == pytest.approx(1)
    assert "Kendall's tau of predicted and confirmed order: 1.00, n = 3" in choice_lines(three, outcome("0000"))
    reversed_ends = [confirmed("a", 0.3, "1000"), three[1], confirmed("c", 0.1, "1110")]
    assert rank_agreement(reversed_ends) == pytest.approx(-1)
    assert choice_facts(three, outcome("1111"))["kendall_tau"] == pytest.approx(1)
    for alike in (three[:1], [three[0], confirmed("b", 0.2, "0100")]):
        assert choice_facts(alike, outcome("1111"))["kendall_tau"] is None
