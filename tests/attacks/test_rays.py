"""What is special to RayS."""

import math

import pytest
import torch
from attack_checks import (
    check_feasible,
    check_rays_linear,
    check_rays_reference,
    check_rays_steps,
    linear_victim,
)
from harness import Linear, Run, drive, images, one_by_one, others_slow
from reference.rays import rays

from rfdlight.attacks import RayS
from rfdlight.errors import UserError


def test_each_query_is_the_references(network, clean):
    check_rays_reference(RayS(eps=0.05), network, clean[0][:1], clean[1][:1], 300)


@pytest.mark.parametrize("shape", [pytest.param((3, 5, 5), marks=pytest.mark.slow), (1, 3, 3)])
def test_each_query_is_the_references_past_the_last_full_level(shape):
    # A linear victim of few values passes through every level within the budget, also those with ragged blocks.
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(1, *shape, generator=generator)
    x = images(2, shape, seed=2) * 0.6 + 0.2
    victim = Linear(weight, float(-(x * weight).flatten(1).sum(1).min() + 0.3))
    check_rays_reference(RayS(eps=0.05), victim, x, torch.zeros(2, dtype=torch.int64), 600)


@pytest.mark.slow
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


@pytest.mark.slow
def test_points_stay_in_the_ball(network, clean):
    check_feasible(RayS(eps=0.05), network, clean[0][:3], clean[1][:3])


@pytest.mark.slow
def test_a_linear_victims_least_radius_is_found_and_never_beaten():
    check_rays_linear(RayS(eps=0.05))


@pytest.mark.parametrize(("factor", "adversarial"), others_slow([(0.99, False), (1.1, True)], 1))
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


def test_a_deterministic_victim_is_asked_again_only_at_misclassified_points_in_the_ball():
    victim, x = linear_victim((3, 4, 4))
    y = torch.zeros(3, dtype=torch.int64)
    eps = 1.3 * max(victim.least_radius(image[None]) for image in x)
    attack = RayS(eps=eps, lead=3)
    plain = played(RayS(eps=eps), victim, x, y, 250)
    repeated = played(attack, victim, x, y, 750)
    for i, (alone, asked) in enumerate(zip(plain, repeated, strict=True)):
        q = inside = 0
        for entry in alone:
            point = entry[3][None]
            confirmed = bool(attack.threat.contains(x[i, None], point)) and bool(victim(point).argmax() == 1)
            for _ in range(3 if confirmed else 1):
                assert asked[q][:3] == entry[:3]
                assert torch.equal(asked[q][3], entry[3])
                q += 1
            inside += confirmed
        assert inside >= 2


def noisy(victim, rate, seed=0):
    """Answer another class with some probability, whatever the point."""
    generator = torch.Generator().manual_seed(seed)

    def answer(points):
        label = victim(points).argmax(1)
        other = torch.rand(len(points), generator=generator) < rate
        return torch.nn.functional.one_hot(torch.where(other, 1 - label, label), 2).float()

    return answer


@pytest.mark.slow
def test_a_lead_keeps_a_noisy_victims_radius_from_collapsing():
    # 3 answers in 10 are wrong: without a lead the radius falls to nothing. With 14, a point passes with a chance
    # of 4 in a million, and 800 queries of three images are at most 2400 points.
    victim, x = linear_victim((3, 4, 4))
    y = torch.zeros(3, dtype=torch.int64)
    least = torch.tensor([victim.least_radius(image[None]) for image in x])
    eps = 0.9 * float(least.min())
    radii = {}
    for lead in (1, 14):
        *_, (*_, after) = drive(RayS(eps=eps, lead=lead), noisy(victim, 0.3), x, y, budget=800)
        radii[lead] = after["radius"] / math.sqrt(x[0].numel())
    assert (radii[1] <= eps).all()
    assert (radii[14] > 0.99 * eps).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lead": 0}, "attack.lead must be at least 1, got 0"),
        ({"targeted": True}, "RayS has no targeted form; leave attack.targeted at false"),
        ({"norm": "l2"}, "attack.norm of RayS must be linf, got l2"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        RayS(**options)
