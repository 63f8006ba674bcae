"""The choice among attacked defenses, on outcomes written by hand, and the short attack on known victims."""

import numpy as np
import pytest
import torch
from hand import facts, record
from harness import Constant, Linear
from scipy.stats import binom

from rfdlight.analysis.calibration import Calibration
from rfdlight.analysis.candidates import Candidate
from rfdlight.analysis.clean_cost import CleanCost
from rfdlight.analysis.recommendation import (
    Confirmed,
    agreement_line,
    best_of,
    choice_facts,
    choice_lines,
    differ,
    discordant,
    rank_agreement,
)
from rfdlight.attacks import HSJA, RayS, Square
from rfdlight.data import Digits, Images
from rfdlight.data.given import GivenImages
from rfdlight.defenses import InputNoise
from rfdlight.errors import UserError
from rfdlight.evaluation.config import settle_eps
from rfdlight.evaluation.evaluate import evaluate
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
    return Confirmed(candidate, InputNoise(0.1), Calibration(1.0, cost), outcome(withstand))


def test_the_best_is_the_most_robust_and_of_equal_ones_the_one_predicted_to_mislead_more():
    low, tied, high = confirmed("a", 0.4, "1100"), confirmed("b", 0.1, "1110"), confirmed("c", 0.3, "0111")
    assert best_of([low, tied, high]) is high
    assert best_of([low, tied]) is tied
    lines = choice_lines([low, tied, high], outcome("0000"))
    assert lines[0].startswith("best: c, robust accuracy 75.0% (30.1% to 95.4%)")
    assert lines[1].startswith("tied with b")


def test_an_image_that_is_wrong_from_the_start_does_not_withstand():
    assert [record.is_robust for record in outcome("1-0").records] == [True, False, False]


def test_the_images_are_compared_one_by_one():
    assert discordant(outcome("11100000"), outcome("01011110")) == (2, 4)


def test_paired_images_tell_apart_what_two_intervals_do_not():
    """8 images to 0 have p = 2 / 2^8 = 0.0078, although 91 and 99 of 100 have intervals that overlap."""
    good, bad = outcome("1" * 99 + "0"), outcome("1" * 91 + "0" * 9)
    assert bad.robust_accuracy.high > good.robust_accuracy.low
    assert differ(good, bad, pairs=6)
    assert not differ(good, bad, pairs=7)
    assert not differ(good, outcome("1" * 98 + "00"), pairs=1)
    assert not differ(good, good, pairs=1)


def test_equal_defenses_are_differ_no_more_often_than_the_level():
    """Of 1000 pairs, more than 69 would happen less than twice in 1000 times."""
    generator = np.random.default_rng(0)
    told = 0
    for _ in range(1000):
        hard = generator.random(60)  # both find the same images hard
        one, other = ("".join("01"[int(value)] for value in generator.random(60) < hard) for _ in range(2))
        told += differ(outcome(one), outcome(other), pairs=1)
    assert 0 < told <= binom.ppf(0.999, 1000, 0.05)


def test_the_choice_says_what_it_is_and_is_not_differ_from():
    near = confirmed("near", 0.2, "1" * 97 + "000")
    best = confirmed("best", 0.3, "1" * 99 + "0")
    lines = choice_lines([near, best], outcome("1" * 50 + "0" * 50))
    assert lines[1:3] == [
        "significantly different from no noise (49 to 0) on 100 images",
        "NOT significantly different from near (2 to 0) on 100 images",
    ]
    assert "over all pairs" in lines[3]
    assert lines[4:] == []


def test_a_best_that_is_no_better_than_no_noise_is_said():
    lines = choice_lines([confirmed("a", 0.2, "1100")], outcome("0111"))
    assert lines[1] == "NOT significantly different from no noise (1 to 2) on 4 images"
    assert lines[-1].startswith("no candidate is more robust")


def test_the_agreement_is_kendalls_and_claims_no_more_than_so_few_can_show():
    three = [confirmed("a", 0.1, "1000"), confirmed("b", 0.2, "1100"), confirmed("c", 0.3, "1110")]
    assert rank_agreement(three) == pytest.approx((1.0, 1 / 3))  # 2 of the 6 orders agree or disagree wholly
    assert agreement_line(three).endswith("Kendall's tau 1.00, n = 3, p = 0.33: not significant")
    five = [*three, confirmed("d", 0.4, "1111"), confirmed("e", 0.05, "0000")]
    assert agreement_line(five).endswith("tau 1.00, n = 5, p = 0.017")
    tied = [
        confirmed(str(n), n / 10, withstand) for n, withstand in enumerate(["1000", "1000", "1100", "1110", "1110"])
    ]
    assert rank_agreement(tied)[1] == pytest.approx(1 / 15)  # of 30 orders of 1, 1, 2, 3, 3 one rises and one falls
    turned = [confirmed("a", 0.3, "1000"), *three[1:2], confirmed("c", 0.1, "1110")]
    assert rank_agreement(turned)[0] == -1
    for alike in (three[:1], [three[0], confirmed("b", 0.2, "0100")]):
        assert rank_agreement(alike) is None
        assert "not comparable" in agreement_line(alike)
    assert choice_facts(three[:1], outcome("1"))["kendall_tau"] is None


def linear_victim(images: Images, eps: float) -> Linear:
    """Its weakest half of the images can be broken within the ball."""
    x = images.read(list(range(len(images)))).float() / 255
    victim = Linear(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(3)), 0.0)
    victim.offset = -float(victim.least_margin(x, eps).median()) + 1e-3
    return victim


@pytest.fixture(scope="module")
def images():
    pixels = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.zeros(40, dtype=torch.int64), [f"{number:02d}" for number in range(40)])


def test_a_short_attack_breaks_only_what_the_ball_allows_and_keeps_to_its_budget(images):
    victim = linear_victim(images, 0.05)
    found = evaluate(victim, GivenImages(images, 2), Square(eps=0.05), budget=60, sanity_checks=False)
    x = images.read(list(range(40))).float() / 255
    breakable = (victim.least_margin(x, 0.05) < 0) & (victim(x)[:, 0] > 0)
    adversarial = torch.tensor([record.verdict == "adversarial" for record in found.records])
    assert int(adversarial.sum()) > 0
    assert not bool((adversarial & ~breakable & (victim(x)[:, 0] > 0)).any())
    assert max(record.billed for record in found.records) <= 60
    assert found.robust_accuracy.value == sum(record.is_robust for record in found.records) / 40
    assert [record.id for record in found.records] == images.ids


def test_a_short_attack_on_a_victim_that_cannot_be_broken_spends_the_whole_budget(images):
    found = evaluate(Constant(), GivenImages(images, 3), RayS(eps=0.05), budget=9, sanity_checks=False)
    assert found.robust_accuracy.value == 1
    assert found.summary.ledger["billed"] == 9 * 40


def test_noise_is_judged_by_many_draws_and_the_hook_is_taken_off(images):
    victim = linear_victim(images, 0.05)
    with InputNoise(0.02).on(victim):
        found = evaluate(victim, GivenImages(images, 2), Square(eps=0.05), budget=5, sanity_checks=False)
    assert {record.final_evaluations for record in found.records} == {100}
    assert not victim._forward_hooks


def test_an_attack_without_a_radius_gets_that_of_the_data():
    square, own = Square(), Square(eps=0.1)
    assert settle_eps(square, Digits()).eps == 0.2
    assert square.eps is None
    assert settle_eps(own, Digits()).eps == 0.1
    with pytest.raises(UserError, match=r"attack\.eps must be given for l2"):
        settle_eps(HSJA(norm="l2"), Digits())
