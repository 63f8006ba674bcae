"""What is special to RayS."""

import math
from itertools import pairwise

import pytest
import torch
from attack_checks import (
    check_feasible,
    check_rays_linear,
    check_rays_reference,
    check_rays_steps,
    linear_victim,
)
from harness import Linear, Run, drive, images, one_by_one
from reference.rays import rays

from rfdlight.attacks import RayS
from rfdlight.errors import UserError


def test_each_query_is_the_references(network, clean):
    check_rays_reference(RayS(eps=0.05), network, clean[0][:3], clean[1][:3], 300)


@pytest.mark.parametrize("shape", [(3, 5, 5), (1, 3, 3)])
def test_each_query_is_the_references_past_the_last_full_level(shape):
    # A linear victim of few values passes through every level within the budget, also those with ragged blocks.
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(1, *shape, generator=generator)
    x = images(2, shape, seed=2) * 0.6 + 0.2
    victim = Linear(weight, float(-(x * weight).flatten(1).sum(1).min() + 0.3))
    check_rays_reference(RayS(eps=0.05), victim, x, torch.zeros(2, dtype=torch.int64), 600)


def test_radius_direction_and_query_counts_obey_the_paper(network, clean):
    check_rays_steps(RayS(eps=0.05), network, clean[0][:3], clean[1][:3])


@pytest.mark.parametrize(("shape", "queries"), [((3, 32, 32), 17), ((3, 224, 224), 20)])
def test_a_first_direction_that_works_takes_as_many_queries_as_the_authors_report(shape, queries):
    # Any nonzero change towards 0 breaks this victim; the first direction is -1 everywhere.
    x, y = torch.full((1, *shape), 0.5), torch.zeros(1, dtype=torch.int64)

    def answer(points):
        return torch.stack([(points.amax((1, 2, 3)) >= 0.4).float(), torch.full((1,), 0.5)], 1)

    taken = None
    for q, (*_, after) in enumerate(drive(RayS(eps=0.05), answer, x, y, budget=queries + 2), 1):
        if taken is None and after["radius"].isfinite().all():
            taken = q
    assert taken == queries


def test_the_reference_counts_bisections_by_the_formula(network, clean):
    x, y = clean
    answer = one_by_one(network)
    *_, bisections = rays(lambda p: answer(p[None])[0], x[0], int(y[0]), 200)
    assert len(bisections) >= 3
    for bracket, taken in bisections:
        assert taken == max(1, math.ceil(math.log2(bracket / 1e-3)))


def test_a_bisection_cut_by_the_budget_leaves_radius_and_direction(network, clean):
    x, y = clean[0][:1], clean[1][:1]
    ticks = list(drive(RayS(eps=0.05), one_by_one(network), x, y, budget=60))
    cut = next(q for q, (before, *_) in enumerate(ticks) if before["phase"][0] and q > 20)
    assert ticks[cut][3]["phase"][0]
    assert ticks[cut][3]["radius"] == ticks[cut - 1][3]["radius"]
    assert torch.equal(ticks[cut][3]["direction"], ticks[cut - 1][3]["direction"])


def test_points_stay_in_the_ball(network, clean):
    check_feasible(RayS(eps=0.05), network, clean[0][:3], clean[1][:3])


def test_a_linear_victims_least_radius_is_found_and_never_beaten():
    check_rays_linear(RayS(eps=0.05))


@pytest.mark.parametrize(("factor", "adversarial"), [(0.99, False), (1.1, True)])
def test_the_engine_breaks_linear_victims_exactly_outside_their_least_radius(factor, adversarial):
    victim, x = linear_victim((3, 4, 4))
    for image in x[:1]:
        eps = factor * victim.least_radius(image[None])
        run = Run(victim, RayS(eps=eps), image[None], torch.zeros(1, dtype=torch.int64), budget=600, batch_size=1)
        assert (run.records[0].success_query is not None) == adversarial
        assert run.records[0].verdict == ("adversarial" if adversarial else "robust")


def test_only_labels_and_linf_are_known():
    assert RayS.access == "decision"
    assert RayS.norms == ("linf",)


def played(attack, answer, x, y, budget):
    """Per image, the direction, radius, phase and point before each query."""
    ticks = list(drive(attack, answer, x, y, budget=budget))
    return [
        [(b["direction"][i].flatten().tolist(), float(b["radius"][i]), int(b["phase"][i]), p[i]) for b, p, *_ in ticks]
        for i in range(len(x))
    ]


@pytest.mark.parametrize("lead", [2, 5])
def test_a_deterministic_victim_is_asked_twice_at_the_first_16_points_and_then_once(network, clean, lead):
    x, y = clean[0][:2], clean[1][:2]
    answer = one_by_one(network)
    plain = played(RayS(eps=0.05), answer, x, y, 60)
    repeated = played(RayS(eps=0.05, lead=lead), answer, x, y, 76)
    for alone, doubled in zip(plain, repeated, strict=True):
        expected = [entry for entry in alone[:16] for _ in range(2)] + alone[16:]
        for one, other in zip(expected, doubled, strict=True):
            assert one[:3] == other[:3]
            assert torch.equal(one[3], other[3])


@pytest.mark.parametrize("options", [{"verify": 5}, {"lead": 3, "verify": 3}])
def test_verification_passes_on_a_deterministic_victim_and_only_adds_queries(options):
    victim, x = linear_victim((3, 4, 4))
    y = torch.zeros(3, dtype=torch.int64)
    budget, eps = 200, 1.3 * max(victim.least_radius(image[None]) for image in x)
    plain = played(RayS(eps=eps), victim, x, y, budget)
    verified = played(RayS(eps=eps, **options), victim, x, y, 4 * budget)
    extra, doubled = (options["verify"] + 1) // 2, 16 if "lead" in options else 0
    for alone, doubted in zip(plain, verified, strict=True):
        asked = [entry for entry in doubted if entry[2] < 2]
        if doubled:  # none of the first 16 decisions verifies a radius
            assert all(entry[2] < 2 for entry in doubted[: 2 * doubled])
            asked = asked[: 2 * doubled : 2] + asked[2 * doubled :]
        for q, entry in enumerate(alone):
            assert asked[q][:3] == entry[:3]
            assert torch.equal(asked[q][3], entry[3])
        # Each radius within the ball was verified once: (verify + 1) / 2 agreeing answers.
        radii = [entry[1] for entry in doubted]
        pixel = math.sqrt(x[0].numel())
        inside = sum(now < before and now / pixel <= eps for before, now in pairwise(radii))
        assert inside >= 2
        assert sum(entry[2] == 2 for entry in doubted[:-1]) - inside * extra in range(extra + 1)


def noisy(victim, rate, seed=0):
    """Answer another class with some probability, whatever the point."""
    generator = torch.Generator().manual_seed(seed)

    def answer(points):
        label = victim(points).argmax(1)
        other = torch.rand(len(points), generator=generator) < rate
        return torch.nn.functional.one_hot(torch.where(other, 1 - label, label), 2).float()

    return answer


def check_rejections(attack, rate=0.3):
    """Where verification fails, radius and direction stay, and the next block is tried; returns how often."""
    victim, x = linear_victim((3, 4, 4))
    y = torch.zeros(3, dtype=torch.int64)
    rejected = 0
    for before, _, logits, after in drive(attack, noisy(victim, rate), x, y, budget=800):
        ended = (before["phase"] == 2) & (after["phase"] == 0)
        assert ((after["phase"] == 0) | (after["phase"] == before["phase"]))[before["phase"] == 2].all()
        is_adversarial = (before["ballots"] + before["balance"]) // 2 + (logits.argmax(1) != y)
        for i in range(3):
            kept = torch.equal(before["direction"][i], after["direction"][i]) and bool(
                before["radius"][i] == after["radius"][i]
            )
            if before["phase"][i] == 2:
                passed = bool(ended[i]) and int(is_adversarial[i]) > attack.verify // 2
                assert kept != passed
                rejected += bool(ended[i]) and kept
            elif not kept:
                # No radius within the ball comes without verification.
                assert not bool(
                    attack.threat.contains(
                        x[i, None], attack.point(x[i, None], after["direction"][i, None], after["radius"][i, None])
                    )[0]
                )
            if ended[i]:
                assert (int(before["level"][i]), int(before["block"][i])) != (
                    int(after["level"][i]),
                    int(after["block"][i]),
                )
    return rejected, after["radius"]


def test_a_failed_verification_leaves_the_radius_and_goes_on_to_the_next_block():
    rejected, _ = check_rejections(RayS(eps=0.05, verify=5))
    assert rejected >= 5


def test_verification_keeps_a_noisy_victims_radius_from_collapsing():
    # 3 answers in 10 are wrong: without verification the radius falls to nothing. 31 of 61 are wrong in less than 1
    # of 1,000 verifications, for fewer than 60 of which 800 queries of three images are enough.
    victim, x = linear_victim((3, 4, 4))
    y = torch.zeros(3, dtype=torch.int64)
    least = torch.tensor([victim.least_radius(image[None]) for image in x])
    eps = 0.9 * float(least.min())
    radii = {}
    for verify in (0, 61):
        *_, (*_, after) = drive(RayS(eps=eps, verify=verify), noisy(victim, 0.3), x, y, budget=800)
        radii[verify] = after["radius"] / math.sqrt(x[0].numel())
    assert (radii[0] <= eps).all()
    assert (radii[61] > eps).all()


class AdoptsUnverified(RayS):
    """Reading: a radius whose verification failed is taken all the same."""

    def decide(self, state, adversarial, verifying):
        decided, wrong = super().decide(state, adversarial, verifying)
        return decided, wrong | (decided & verifying)


class VerifiesByTheFirst(RayS):
    """Budget: one answer verifies."""

    def decide(self, state, adversarial, verifying):
        verify, self.verify = self.verify, 1
        try:
            return super().decide(state, adversarial, verifying)
        finally:
            self.verify = verify


class NeverVerifies(RayS):
    """Size: takes the ball for empty."""

    def tell(self, state, points, answer):
        eps, self.eps = self.eps, 1e-9
        super().tell(state, points, answer)
        self.eps = eps


@pytest.mark.parametrize("mutant", [AdoptsUnverified, VerifiesByTheFirst, NeverVerifies])
def test_a_mutant_of_verification_is_caught(mutant):
    with pytest.raises(AssertionError):
        check_rejections(mutant(eps=0.05, verify=5))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lead": 0}, "attack.lead must be at least 1, got 0"),
        ({"verify": 2}, "attack.verify must be odd and at least 1, got 2"),
        ({"verify": -1}, "attack.verify must be odd and at least 1, got -1"),
        ({"targeted": True}, "RayS has no targeted form; leave attack.targeted at false"),
        ({"norm": "l2"}, "attack.norm of RayS must be linf, got l2"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        RayS(**options)
