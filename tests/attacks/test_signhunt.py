"""What is special to SignHunt."""

import math

import pytest
import torch
from attack_checks import caught, check_feasible
from harness import Constant, Linear, Run, counted, drive, images, one_by_one, others_slow, takes_published_steps
from reference.signhunt import signhunt

from rfdlight.attacks import SignHunt
from rfdlight.attacks.paper import paper_behaviour
from rfdlight.core.losses import margin
from rfdlight.engine import criterion_named
from rfdlight.errors import UserError

KINDS = ("base", "probe", "look")
LEVELS = {
    3072: [*(2**h for h in range(11)), 1536, 3072],
}
"""By number of values: the chunks of each level."""


def check_reference(attack, victim, x, y, budget):
    """Query by query, kinds and points are the reference's: the same bits in linf, to 1e-6 in l2."""
    answer = one_by_one(victim)
    ticks = list(drive(attack, answer, x, y, budget=budget))
    paper = takes_published_steps(attack)
    base = paper if attack.base_query is None else attack.base_query
    tolerance = 0.0 if attack.norm == "linf" else 1e-6
    for i in range(len(x)):
        history = signhunt(
            lambda p: answer(p[None])[0], x[i], int(y[i]), attack.eps, attack.norm, attack.flatten, base, paper, budget
        )
        for q, ((kind, point), (before, points, _, _)) in enumerate(zip(history, ticks, strict=True)):
            assert KINDS[before["phase"][i]] == kind, f"image {i}, query {q}"
            assert torch.allclose(points[i], point, rtol=0, atol=tolerance), f"image {i}, query {q}"


def check_invariants(attack, victim, x, y, budget):
    """Signs are -1 or 1 and constant on chunks, no score falls, and it is that of the point submitted."""
    answer = one_by_one(victim)
    for before, _, _, after in drive(attack, answer, x, y, budget=budget):
        assert (after["signs"].abs() == 1).all()
        assert (after["score"] >= before["score"]).all()
        assert torch.equal(-margin(answer(attack.best(after)), y).double(), after["score"])
        for signs, level in zip(after["signs"], after["level"].tolist(), strict=True):
            if level:
                blocks = signs.flatten().split(math.ceil(signs.numel() / 2**level))
                assert all(len(block.unique()) == 1 for block in blocks)
    assert (after["level"] >= 4).all()


def check_size(attack):
    """At grey images every probe of the first pass is eps away from x, to 1e-5 relative."""
    x, y = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    for _, points, _, _ in drive(attack, Constant(), x, y, budget=100):
        delta = (points - x).flatten(1).double()
        length = delta.abs().amin(1) if attack.norm == "linf" else delta.norm(dim=1)
        assert torch.allclose(length, torch.full_like(length, attack.eps), rtol=1e-5)


def check_aligned(attack):
    """A linear victim whose weights have one sign on each of 8 chunks is solved exactly after level 3."""
    generator = torch.Generator().manual_seed(5)
    signs = torch.tensor([1, -1, -1, 1, 1, -1, 1, 1]).repeat_interleave(6)
    weight = torch.rand(48, generator=generator) * signs
    shape = (3, 4, 4) if attack.flatten == "chw" else (4, 4, 3)
    weight = weight.view(1, *shape)
    weight = weight if attack.flatten == "chw" else weight.permute(0, 3, 1, 2)
    victim = Linear(weight, 0.5)
    x, y = images(3, (3, 4, 4)), torch.zeros(3, dtype=torch.int64)
    *_, (_, _, _, after) = drive(attack, victim, x, y, budget=1 + 1 + 2 + 4 + 8)
    assert after["level"].tolist() == [4, 4, 4]
    reached, least = victim(attack.best(after))[:, 0], victim.least_margin(x, attack.eps)
    assert torch.allclose(reached, least, rtol=0, atol=1e-6)


def check_ties(attack):
    """Where every answer is the same each negation is kept: after h levels, v is (-1)^h."""
    x, y = images(1, (3, 4, 4)), torch.zeros(1, dtype=torch.int64)
    ends = 0
    for before, _, _, after in drive(attack, Constant(), x, y, budget=103):
        if after["level"] > before["level"]:
            ends += 1
            assert (after["signs"] == (-1) ** int(after["level"])).all()
    assert ends == 6


def check_levels(attack):
    """The chunks per level are those of the published loop, at 32 pixels."""
    for size, counts in LEVELS.items():
        _, chunks = attack.chunks(size, torch.device("cpu"))
        assert chunks[: len(counts)].tolist() == counts
    assert len(LEVELS[3072]) == math.ceil(math.log2(3072)) + 1


def in_paper_mode(eps=0.05, **options):
    return counted(SignHunt(eps=eps, **options), "paper")


@pytest.mark.parametrize(
    "options",
    [{}, {"flatten": "hwc"}, {"base_query": True}, {"norm": "l2", "eps": 1.0}],
    ids=["chw", "hwc", "base", "l2"],
)
def test_each_query_is_the_references(network, clean, options):
    check_reference(SignHunt(**{"eps": 0.05, **options}), network, clean[0][:1], clean[1][:1], 120)


@pytest.mark.parametrize(
    "options", others_slow([{"base_query": True}, {"flatten": "hwc", "norm": "l2", "eps": 0.5}], 1)
)
def test_each_query_is_the_references_in_the_second_and_third_pass(network, options):
    # 48 values: a pass has 103 steps.
    x, y = images(2, (3, 4, 4)), torch.tensor([0, 1])
    check_reference(SignHunt(**{"eps": 0.3, **options}), network, x, y, 440 if options.get("base_query") else 230)


@pytest.mark.parametrize("norm", others_slow(["linf", "l2"], 0))
def test_under_the_papers_accounting_each_query_is_the_references(network, norm):
    x, y = images(2, (3, 4, 4)), torch.tensor([0, 1])
    check_reference(in_paper_mode(norm=norm), network, x, y, 350)


@pytest.mark.slow
def test_scores_never_fall_within_a_pass_and_belong_to_the_point_submitted(network, clean):
    check_invariants(SignHunt(eps=0.05), network, clean[0][:2], clean[1][:2], 60)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_probes_lie_on_the_surface_of_the_ball(norm):
    check_size(SignHunt(eps=0.3, norm=norm))


@pytest.mark.slow
@pytest.mark.parametrize("norm", others_slow(["linf", "l2"], 0))
def test_queries_stay_in_the_pixel_range_and_points_in_the_ball_over_several_passes(network, norm):
    x, y = images(2, (3, 4, 4)), torch.zeros(2, dtype=torch.int64)
    attack = SignHunt(eps=0.3, norm=norm)
    check_feasible(attack, network, x, y, budget=220)
    for _, points, _, _ in drive(attack, one_by_one(network), x, y, budget=220):
        assert attack.threat.contains(x, points).all()


@pytest.mark.parametrize("flatten", ["chw", "hwc"])
def test_a_linear_victim_with_signs_aligned_to_chunks_is_solved_exactly(flatten):
    check_aligned(SignHunt(eps=0.04, flatten=flatten))


def test_ties_are_kept():
    check_ties(SignHunt(eps=0.1))


def test_levels_have_the_published_numbers_of_chunks():
    check_levels(SignHunt(eps=0.1))


def test_the_base_changes_no_sign_on_a_deterministic_victim(network, clean):
    x, y = clean[0][:3], clean[1][:3]
    plain = drive(SignHunt(eps=0.05), one_by_one(network), x, y, budget=101)
    based = drive(SignHunt(eps=0.05, base_query=True), one_by_one(network), x, y, budget=202)
    for q, ((*_, without), (*_, with_base)) in enumerate(zip(plain, list(based)[1::2], strict=True)):
        assert torch.equal(without["flips"], with_base["flips"])
        assert torch.equal(without["signs"], with_base["signs"]), f"step {q}"


@pytest.mark.slow
def test_the_papers_mode_leaves_the_pixel_range_and_probes_up_to_twice_the_radius(network):
    x, y = images(2, (3, 4, 4)), torch.zeros(2, dtype=torch.int64)
    attack = in_paper_mode()
    reach, low, looks = 0.0, 1.0, 0
    for before, points, _, _ in drive(attack, one_by_one(network), x, y, budget=700):
        far = float((points - x).abs().max())
        reach, low = max(reach, far), min(low, float(points.min()))
        if before["phase"][0] == 2:
            looks += 1
            assert far <= 0.05 + 1e-6
    assert looks >= 200
    assert low < 0
    assert 0.05 + 1e-6 < reach <= 0.1 + 1e-6


def test_a_targeted_search_raises_its_targets_margin(network, clean):
    x, y = clean[0][:5], clean[1][:5]
    target, answer = (y + 1) % 5, one_by_one(network)
    attack = SignHunt(eps=0.1, targeted=True)
    *_, (*_, after) = drive(attack, answer, x, y, budget=100, target=target)
    reached = margin(answer(attack.best(after)), target)
    assert torch.equal(reached.double(), after["score"])
    assert (reached > margin(answer(x), target)).all()
    assert (reached > 0).sum() >= 3


@pytest.mark.parametrize("budget", [1, 4, 57])
def test_exact_accounting_bills_every_evaluation_and_looks_at_nothing(budget):
    x, y = images(4, (3, 4, 4)), torch.zeros(4, dtype=torch.int64)
    for record in Run(Constant(), SignHunt(eps=0.05), x, y, budget=budget).records:
        assert (record.attack, record.success_check, record.billed) == (budget, 0, budget)


@pytest.mark.parametrize(("budget", "eot"), [(0, 1), (1, 1), (3, 1), (4, 1), (51, 2)])
def test_the_paper_bills_one_query_per_step_and_two_more_and_evaluates_twice(budget, eot):
    x, y = images(4), torch.zeros(4, dtype=torch.int64)
    run = Run(Constant(), SignHunt(eps=0.05), x, y, budget=budget, query_counting="paper", eot=eot)
    # Steps until M (t + 2) >= B, at least one unless the budget is 0.
    steps = max(math.ceil(budget / eot) - 2, 1) if budget else 0
    for record in run.records:
        assert record.billed == budget
        assert record.attack == (eot * (2 * steps + 2) if budget else 0)
        # One clean draw, one final draw, and a look per step, which is the evaluator's.
        assert record.criterion == 2 + (steps > 0) + steps


def test_the_papers_bill_never_falls_and_is_its_formula_after_each_step():
    x, y = images(1, (3, 4, 4)), torch.zeros(1, dtype=torch.int64)
    attack = in_paper_mode()
    evaluated, last = 0, 0
    for before, _, _, after in drive(attack, Constant(), x, y, budget=3 * 103 + 2):
        evaluated += int(before["phase"][0]) != 2
        billed = int(paper_behaviour(attack).billed(after, torch.tensor([evaluated])))
        assert last <= billed <= last + 2
        last = billed
        if before["phase"][0] == 2:
            assert billed == int(after["flips"]) + 2
            assert evaluated == 2 * int(after["flips"]) + 2


def test_the_papers_criterion_hears_of_a_break_from_the_look_after_a_step(network, clean):
    x, y = clean[0][:5], clean[1][:5]
    run = Run(network, SignHunt(eps=0.08), x, y, budget=30, query_counting="paper", criterion=criterion_named("paper"))
    attack = in_paper_mode(eps=0.08)
    billed = [None] * 5
    for before, _, logits, after in drive(attack, one_by_one(network), x, y, budget=2 + 3 * 28):
        for i in range(5):
            if before["phase"][i] == 2 and logits[i].argmax() != y[i] and billed[i] is None:
                billed[i] = int(after["flips"][i]) + 2
    assert sum(at is not None for at in billed) >= 2
    assert [record.success_query for record in run.records] == billed


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"norm": "l1"}, "attack.norm of SignHunt must be linf or l2, got l1"),
        ({"eps": -1.0}, "attack.eps must be a positive number of pixel units, got -1.0"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        SignHunt(**options)


class Climbs(SignHunt):
    """Sign: keeps what lowers the score."""

    def tell(self, state, points, answer):
        super().tell(state, points, -answer)


class LeavesTheBall(SignHunt):
    """Size: steps of twice eps."""

    def probe(self, state, signs):
        return torch.add(state["anchor"], signs, alpha=2 * self.eps).clamp(0, 1)


class IsTooShort(SignHunt):
    """Size: in l2, half of eps."""

    def probe(self, state, signs):
        return torch.add(state["anchor"], signs, alpha=0.5 * self.eps / math.sqrt(signs[0].numel())).clamp(0, 1)


class RoundsDown(SignHunt):
    """Schedule: chunks of d / 2^h values, rounded down."""

    @staticmethod
    def chunks(size, device):
        length = (size // 2 ** torch.arange(13)).clamp_min(1)
        return torch.stack([length, (2 ** torch.arange(13)).minimum((size + length - 1) // length)])


class RestartsAtTheImage(SignHunt):
    """Schedule: the second pass starts at x."""

    def _restart(self, state, rows):
        super()._restart(state, rows)
        state["anchor"] = state["x"].clone()


class DropsTies(SignHunt):
    """Reading: keeps only what raises the score."""

    def tell(self, state, points, answer):
        super().tell(state, points, answer)
        state["score"] = state["score"] + 1e-9


class IgnoresTheBase(SignHunt):
    """Budget: asks the base although nobody wants it."""

    first_phase = SignHunt.BASE


SMALL = {"eps": 0.3}
CAUGHT = [
    (Climbs, {}, [check_invariants]),
    (Climbs, {}, [check_reference]),
    (Climbs, {}, [check_aligned]),
    (LeavesTheBall, {}, [check_feasible]),
    (LeavesTheBall, {}, [check_size]),
    (IsTooShort, {"norm": "l2"}, [check_size]),
    (IsTooShort, {"norm": "l2"}, [check_reference]),
    (RoundsDown, {}, [check_levels]),
    (RestartsAtTheImage, {}, [check_reference]),
    (DropsTies, {}, [check_ties]),
    (IgnoresTheBase, {}, [check_reference]),
]


@pytest.mark.parametrize(("mutant", "options", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, options, check, network, clean):
    victim = ()
    if check in (check_reference, check_invariants, check_feasible):
        small = mutant is RestartsAtTheImage
        x, y = (images(2, (3, 4, 4)), torch.tensor([0, 1])) if small else (clean[0][:2], clean[1][:2])
        victim = (network, x, y, 150 if small else 60)
    with pytest.raises(AssertionError):
        check(mutant(eps=0.3, **options), *victim)
