"""What is special to SignFlip."""

import attack_checks
import pytest
import signflip_checks
import torch
from attack_checks import caught, check_feasible
from harness import CoinFlip, Constant, Run, drive, images, one_by_one, others_slow
from signflip_checks import (
    BISECT,
    DRAW,
    FLIP,
    PROJECT,
    check_adaptation,
    check_iterations,
    check_linear,
    check_paper_bill,
    check_reference,
    radius,
    redrawing_victim,
)

from rfdlight.attacks import SignFlip
from rfdlight.attacks.paper import BEHAVIOURS, PaperSignFlip, paper_behaviour
from rfdlight.core.norms import norm
from rfdlight.engine import criterion_named
from rfdlight.errors import UserError


@pytest.fixture
def breakable(network, clean):
    """Two images for which noise is misclassified."""
    x, y = clean
    noise = int(network(images(1, (3, 8, 8), seed=50)).argmax())
    rows = (y != noise).nonzero()[:2, 0]
    return x[rows], y[rows]


@pytest.mark.parametrize(("resize", "targeted"), [(1, False), (2, False), (1, True), (32, False)])
def test_each_query_is_the_references(network, breakable, resize, targeted):
    check_reference(SignFlip(eps=0.05, resize=resize, targeted=targeted), network, *breakable)


def test_each_query_is_the_references_where_the_start_is_drawn_again():
    victim, x, y = redrawing_victim()
    x, y = x.repeat(3, 1, 1, 1), y.repeat(3)
    check_reference(SignFlip(eps=0.05), victim, x, y, budget=60)
    starting_points = torch.stack(
        [s["phase"] == DRAW for s, *_ in drive(SignFlip(eps=0.05), victim, x, y, budget=30)]
    ).sum(0)
    assert len(starting_points.unique()) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("resize", others_slow([1, 2], 0))
def test_radii_sizes_and_counts_obey_the_paper(network, breakable, resize):
    check_iterations(SignFlip(eps=0.05, resize=resize), network, *breakable)


@pytest.mark.slow
def test_points_stay_in_the_ball(network, clean):
    check_feasible(SignFlip(eps=0.05), network, clean[0][:3], clean[1][:3])


@pytest.mark.slow
def test_a_linear_victims_least_radius_is_approached_and_never_beaten():
    check_linear(SignFlip(eps=0.05))


@pytest.mark.slow
@pytest.mark.parametrize("takes", [True, False])
def test_steps_and_probabilities_adapt_as_published(takes):
    check_adaptation(SignFlip(eps=0.05), takes)


@pytest.mark.parametrize("resize", others_slow([1, 3], 0))
def test_where_everything_is_misclassified_the_perturbation_shrinks_to_nothing(resize):
    # A step longer than the radius may not turn the clamp inside out.
    x, y = images(2, (3, 6, 6)), torch.zeros(2, dtype=torch.int64)
    answer = torch.tensor([[0.0, 1.0]]).expand(2, 2)
    last = None
    for before, _, _, after in drive(SignFlip(eps=0.05, resize=resize), lambda _: answer, x, y, budget=400):
        if before["phase"].min() >= PROJECT:
            assert (radius(after) <= radius(before)).all()
        last = after
    assert not last["delta"].any()


def test_with_an_enlarged_map_flips_erase_no_pixel():
    # Half of all signs flipped, two columns enlarged to five: the middle one is the mean of both, often zero.
    attack = SignFlip(eps=0.05, resize=2)
    x, y = torch.full((4, 1, 5, 5), 0.5), torch.zeros(4, dtype=torch.int64)
    state = {"x": x, "y": y, "seed": torch.arange(4), "target": y - 1, **attack.init(x, y, y)}
    state["phase"] += FLIP
    state["keep"] = torch.full_like(state["keep"], 0.5)
    state["delta"] = torch.full_like(x, 0.1)
    attack.ask(state)
    enlarged = attack._enlarge(2 * state["stays"].to(torch.int8) - 1, x)
    assert (enlarged == 0).any(), "no zero: the test saw nothing"
    assert (state["proposal"].abs() == state["delta"]).all()
    assert (state["proposal"][enlarged == 0] > 0).all()


def test_flips_come_with_the_probability_of_their_pixel():
    # 2,000 rows of 12 pixels: a binomial count lies within 5 standard deviations.
    attack = SignFlip(eps=0.05)
    x, y = torch.full((2000, 3, 2, 2), 0.5), torch.zeros(2000, dtype=torch.int64)
    state = {"x": x, "y": y, "seed": torch.arange(2000), "target": y - 1, **attack.init(x, y, y)}
    state["phase"] += FLIP
    chance = torch.linspace(0.05, 0.95, 12).view(3, 2, 2)
    state["keep"] = chance.expand_as(state["keep"]).clone()
    attack.ask(state)
    stays = state["stays"].double().mean(0)
    assert ((stays - chance).abs() <= 5 * (chance * (1 - chance) / 2000).sqrt()).all()


def test_before_a_start_is_found_the_last_noise_is_submitted_inside_the_ball():
    attack = SignFlip(eps=0.05)
    x, y = images(3), torch.zeros(3, dtype=torch.int64)
    answer = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    seen = []
    for _, points, _, after in drive(attack, lambda _: answer, x, y, budget=5):
        seen.append(points)
        assert torch.allclose(attack.best(after), x + (points - x).clamp(-0.05, 0.05), atol=1e-6)
        assert not paper_behaviour(attack).reports_success(after, after["phase"] >= 0).any()
    assert len({tuple(points.flatten().tolist()) for points in seen}) == 5


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 3])
def test_exact_accounting_bills_the_start_and_never_exceeds_the_budget(repeats):
    victim, x, y = redrawing_victim()
    x, y = x.repeat(4, 1, 1, 1), y.repeat(4)
    run = Run(victim, SignFlip(eps=0.001), x, y, budget=50, eot=repeats, criterion=criterion_named("never"))
    for record in run.records:
        assert record.attack == record.billed == 50 // repeats * repeats


@pytest.mark.parametrize(("repeats", "budget"), [(1, 40), (1, 5), (1, 0), (5, 200)])
def test_paper_accounting_bills_all_but_the_first_query(repeats, budget):
    if budget < 11:
        victim, x, y = redrawing_victim()
        run = Run(
            victim,
            SignFlip(eps=0.001),
            x,
            y,
            budget=budget,
            query_counting="paper",
            criterion=criterion_named("never"),
        )
        assert all(record.billed == budget for record in run.records)
        return
    check_paper_bill(SignFlip(eps=0.001), repeats, budget)


def test_paper_accounting_ends_where_no_noise_is_misclassified():
    x, y = images(3, (3, 4, 4)), torch.zeros(3, dtype=torch.int64)
    run = Run(Constant(), SignFlip(eps=0.05), x, y, budget=20, query_counting="paper")
    assert [record.attack for record in run.records] == [21] * 3
    assert [record.billed for record in run.records] == [20] * 3


def test_an_image_is_claimed_between_iterations_once_its_radius_is_in_the_ball(network, breakable):
    attack = SignFlip(eps=0.1)
    claimed = 0
    for *_, after in drive(attack, one_by_one(network), *breakable, budget=200):
        expected = (after["phase"] == PROJECT) & (radius(after) <= 0.1)
        assert torch.equal(paper_behaviour(attack).reports_success(after, after["phase"] >= 0), expected)
        claimed += int(expected.sum())
    assert claimed


@pytest.mark.slow
def test_the_attack_goes_on_after_it_has_reached_the_ball(network, breakable):
    attack = SignFlip(eps=0.2)
    last = None
    for *_, after in drive(attack, one_by_one(network), *breakable, budget=300):
        last = after
    assert (radius(last) < 0.15).any()


def test_a_deterministic_victim_is_asked_again_only_at_adversarial_points_in_the_ball(network, breakable):
    x, y = breakable
    answer = one_by_one(network)
    plain = list(drive(SignFlip(eps=0.35), answer, x, y, budget=40))
    repeated = list(drive(SignFlip(eps=0.35, lead=3), answer, x, y, budget=120))
    inside = 0
    for i in range(len(x)):
        q = 0
        for _, points, logits, _ in plain:
            near = float(norm(points[i, None] - x[i, None], "linf")) <= 0.35
            confirmed = near and int(logits[i].argmax()) != int(y[i])
            for _ in range(3 if confirmed else 1):
                assert torch.equal(repeated[q][1][i], points[i])
                q += 1
            inside += confirmed
    assert inside


@pytest.mark.slow
def test_a_lead_keeps_a_noisy_victims_perturbations_out_of_the_ball():
    # Near x, answers are wrong with probability 0.1: a point passes with a chance of 8 / (9^7 - 1), and there are at
    # most 40 * 300.
    x, y = images(40, (3, 4, 4)), torch.zeros(40, dtype=torch.int64)
    generator = torch.Generator().manual_seed(2)

    def answer(points):
        near = (points - x).abs().flatten(1).amax(1) <= 0.1
        wrong = (torch.rand(len(x), generator=generator) < 0.1) | ~near
        return torch.nn.functional.one_hot(wrong.long(), 2).float()

    claimed = {}
    for lead in (1, 6):
        attack = SignFlip(eps=0.09, lead=lead)
        *_, (*_, after) = drive(attack, answer, x, y, budget=300)
        claimed[lead] = int((radius(after) <= 0.09).sum())
    assert claimed[1] >= 10
    assert claimed[6] <= 1


def test_a_coin_flipping_victim_gives_finite_perturbations_in_every_mode():
    torch.manual_seed(0)
    x, y = images(6, (3, 5, 5)), torch.zeros(6, dtype=torch.int64)
    for options in ({}, {"resize": 2}, {"lead": 3}):
        for *_, after in drive(SignFlip(eps=0.05, **options), CoinFlip(), x, y, budget=80):
            assert after["delta"].isfinite().all()
            assert after["alpha"].isfinite().all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"resize": 0}, "attack.resize must be at least 1, got 0"),
        ({"lead": 0}, "attack.lead must be at least 1, got 0"),
        ({"norm": "l2"}, "attack.norm of SignFlip must be linf, got l2"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        SignFlip(**options)


class FlipsLearnBackwards(SignFlip):
    """Sign: flips that were taken become more likely."""

    @staticmethod
    def _learn(state, rows):
        state["stays"] = ~state["stays"]
        SignFlip._learn(state, rows)


class KeepsTheRadius(SignFlip):
    """Size: the projection does not shrink the perturbation."""

    def _project(self, state, rows):
        return super()._project({**state, "delta": state["delta"] * 1.1}, rows)


class AdaptsEarly(SignFlip):
    """Schedule: adapts every iteration."""

    def tell(self, state, points, answer):
        flipping = state["phase"] == FLIP
        super().tell(state, points, answer)
        self._adapt(state, flipping)


class LeavesTheBall(SignFlip):
    """Size: submits the point at twice eps."""

    def best(self, state):
        return (state["x"] + state["delta"].clamp(-2 * self.eps, 2 * self.eps)).clamp(0, 1)


class ReadsTheOpposite(SignFlip):
    """Reading: takes right for wrong once it has a start."""

    def is_adversarial(self, state, labels):
        hit = super().is_adversarial(state, labels)
        return torch.where(state["phase"] >= PROJECT, ~hit, hit)


class BisectsOnceMore(SignFlip):
    """Budget: eleven bisections."""

    def tell(self, state, points, answer):
        again = (state["phase"] == BISECT) & (state["step"] == 9) & (state["projected"] == 0)
        super().tell(state, points, answer)
        state["phase"] = torch.where(again, BISECT, state["phase"])
        state["step"] = torch.where(again, 9, state["step"])
        state["projected"] = torch.where(again, 1, state["projected"])


class BillsTheStart(SignFlip):
    """Budget: the paper's bill has the first query."""


class BilledStart(PaperSignFlip):
    def billed(self, state, evaluated):
        return evaluated


BEHAVIOURS[BillsTheStart] = BilledStart


VICTIM = {"check_reference": 80, "check_iterations": 120, "check_feasible": 60}
CAUGHT = [
    (FlipsLearnBackwards, ["check_reference", "check_iterations"]),
    (KeepsTheRadius, ["check_reference", "check_iterations"]),
    (AdaptsEarly, ["check_reference", "check_iterations"]),
    (LeavesTheBall, ["check_feasible"]),
    (ReadsTheOpposite, ["check_reference", "check_iterations", "check_linear"]),
    (BisectsOnceMore, ["check_reference", "check_iterations"]),
    (BillsTheStart, ["check_paper_bill"]),
]


@pytest.mark.parametrize(("mutant", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, check, network, breakable):
    attack = mutant(eps=0.05)
    arguments = (network, *breakable, VICTIM[check]) if check in VICTIM else ()
    arguments = (1, 40) if check == "check_paper_bill" else arguments
    with pytest.raises(AssertionError):
        getattr(attack_checks if check == "check_feasible" else signflip_checks, check)(attack, *arguments)
