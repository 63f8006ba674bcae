"""The choice among attacked defenses, on outcomes written by hand, and the short attack on known victims."""

import numpy as np
import pytest
import torch
from harness import Constant, Linear
from scipy.stats import binom

from rfdlight.analysis.calibration import Calibration
from rfdlight.analysis.candidates import Candidate
from rfdlight.analysis.clean_cost import CleanCost
from rfdlight.analysis.recommendation import (
    Confirmed,
    best_of,
    choice_facts,
    discordant,
    rank_agreement,
    told_agreement,
    told_apart,
    told_choice,
)
from rfdlight.attacks import HSJA, RayS, Square
from rfdlight.core.intervals import wilson
from rfdlight.data import Digits, Images
from rfdlight.defenses import InputNoise
from rfdlight.errors import UserError
from rfdlight.evaluation.short_attack import Outcome, settle_eps, short_attack

CPU = torch.device("cpu")


def outcome(withstand: str) -> Outcome:
    """An attack on images of which those with a "1" withstand; a "-" was wrong from the start."""
    records = [
        {"id": f"{number:03d}", "clean_margin": -1.0 if sign == "-" else 1.0, "attack": 5, "gradient": 0}
        | {"verdict": "robust" if sign in "1-" else "adversarial"}
        for number, sign in enumerate(withstand)
    ]
    right = withstand.count("1")
    low, high = wilson(right, len(withstand))
    share = {"share": right / len(withstand), "low": low, "high": high, "total": len(withstand)}
    summary = {"mean_logits": {"robust": share}, "single_query": {"robust": share}, "ledger": {"criterion": 7}}
    return Outcome(records, summary, deterministic=False)


def confirmed(name: str, predicted: float, withstand: str) -> Confirmed:
    candidate = Candidate((name,), (0.1,), predicted)
    cost = CleanCost(0.02, 0.001, (0.01, 0.03), 8)
    return Confirmed(candidate, InputNoise(0.1), Calibration(1.0, cost), outcome(withstand))


def test_the_best_is_the_most_robust_and_of_equal_ones_the_one_predicted_to_mislead_more():
    low, tied, high = confirmed("a", 0.4, "1100"), confirmed("b", 0.1, "1110"), confirmed("c", 0.3, "0111")
    assert best_of([low, tied, high]) is high
    assert best_of([low, tied]) is tied
    lines = told_choice([low, tied, high], outcome("0000"))
    assert lines[0].startswith("best: c, robust accuracy 75.0% (30.1% to 95.4%)")
    assert lines[1] == "tied with b, which the prediction puts lower"


def test_an_image_that_is_wrong_from_the_start_does_not_withstand():
    assert list(outcome("1-0").withstood.values()) == [True, False, False]


def test_the_images_are_compared_one_by_one():
    assert discordant(outcome("11100000"), outcome("01011110")) == (2, 4)


def test_paired_images_tell_apart_what_two_intervals_do_not():
    """8 images to 0 have p = 2 / 2^8 = 0.0078, although 91 and 99 of 100 have intervals that overlap."""
    good, bad = outcome("1" * 99 + "0"), outcome("1" * 91 + "0" * 9)
    assert bad.robust["high"] > good.robust["low"]
    assert told_apart(good, bad, pairs=6)
    assert not told_apart(good, bad, pairs=7)
    assert not told_apart(good, outcome("1" * 98 + "00"), pairs=1)
    assert not told_apart(good, good, pairs=1)


def test_equal_defenses_are_told_apart_no_more_often_than_the_level():
    """Of 1000 pairs, more than 69 would happen less than twice in 1000 times."""
    generator = np.random.default_rng(0)
    told = 0
    for _ in range(1000):
        hard = generator.random(60)  # both find the same images hard
        one, other = ("".join("01"[int(value)] for value in generator.random(60) < hard) for _ in range(2))
        told += told_apart(outcome(one), outcome(other), pairs=1)
    assert 0 < told <= binom.ppf(0.999, 1000, 0.05)


def test_the_choice_says_what_it_is_and_is_not_told_apart_from():
    near = confirmed("near", 0.2, "1" * 97 + "000")
    best = confirmed("best", 0.3, "1" * 99 + "0")
    lines = told_choice([near, best], outcome("1" * 50 + "0" * 50))
    assert lines[1:3] == [
        "told apart from no noise (49 to 0) by 100 images",
        "NOT told apart from near (2 to 0) by 100 images",
    ]
    assert "over all pairs" in lines[3]
    assert lines[4:] == []


def test_a_best_that_is_no_better_than_no_noise_is_said():
    lines = told_choice([confirmed("a", 0.2, "1100")], outcome("0111"))
    assert lines[1] == "NOT told apart from no noise (1 to 2) by 4 images"
    assert lines[-1] == "no candidate withstood more than the victim without noise"


def test_the_agreement_is_kendalls_and_claims_no_more_than_so_few_can_show():
    three = [confirmed("a", 0.1, "1000"), confirmed("b", 0.2, "1100"), confirmed("c", 0.3, "1110")]
    assert rank_agreement(three) == pytest.approx((1.0, 1 / 3))  # 2 of the 6 orders agree or disagree wholly
    told = "predicted and confirmed order: Kendall's tau 1.00, n = 3, p = 0.33: not beyond chance"
    assert told_agreement(three) == told
    five = [*three, confirmed("d", 0.4, "1111"), confirmed("e", 0.05, "0000")]
    assert told_agreement(five).endswith("tau 1.00, n = 5, p = 0.017")
    tied = [
        confirmed(str(n), n / 10, withstand) for n, withstand in enumerate(["1000", "1000", "1100", "1110", "1110"])
    ]
    assert rank_agreement(tied)[1] == pytest.approx(1 / 15)  # of 30 orders of 1, 1, 2, 3, 3 one rises and one falls
    turned = [confirmed("a", 0.3, "1000"), *three[1:2], confirmed("c", 0.1, "1110")]
    assert rank_agreement(turned)[0] == -1
    for alike in (three[:1], [three[0], confirmed("b", 0.2, "0100")]):
        assert rank_agreement(alike) is None
        assert "there is none to compare" in told_agreement(alike)
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
    found = short_attack(victim, images, Square(eps=0.05), classes=2, budget=60, device=CPU)
    x = images.read(list(range(40))).float() / 255
    breakable = (victim.least_margin(x, 0.05) < 0) & (victim(x)[:, 0] > 0)
    adversarial = torch.tensor([record["verdict"] == "adversarial" for record in found.records])
    assert int(adversarial.sum()) > 0
    assert not bool((adversarial & ~breakable & (victim(x)[:, 0] > 0)).any())
    assert max(record["billed"] for record in found.records) <= 60
    assert found.robust["share"] == sum(found.withstood.values()) / 40
    assert [record["id"] for record in found.records] == images.ids


def test_a_short_attack_on_a_victim_that_cannot_be_broken_spends_the_whole_budget(images):
    found = short_attack(Constant(), images, RayS(eps=0.05), classes=3, budget=9, device=CPU)
    assert found.robust["share"] == 1
    assert found.summary["ledger"]["billed"] == 9 * 40


def test_noise_is_judged_by_many_draws_and_the_hook_is_taken_off(images):
    victim = linear_victim(images, 0.05)
    with InputNoise(0.02).on(victim):
        found = short_attack(victim, images, Square(eps=0.05), classes=2, budget=5, device=CPU)
    assert {record["final_evaluations"] for record in found.records} == {100}
    assert not victim._forward_hooks


def test_an_attack_without_a_radius_gets_that_of_the_data():
    square, own = Square(), Square(eps=0.1)
    assert settle_eps(square, Digits()).eps == 0.2
    assert square.eps is None
    assert settle_eps(own, Digits()).eps == 0.1
    with pytest.raises(UserError, match=r"attack\.eps must be given for l2"):
        settle_eps(HSJA(norm="l2"), Digits())
