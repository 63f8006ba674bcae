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
from harness import Linear, Run, drive, images, one_by_one
from reference.rays import rays

from rfdlight.attacks import RayS


def test_each_query_is_the_references(resnet, clean):
    check_rays_reference(RayS(eps=0.05), resnet, clean[0][:3], clean[1][:3], 300)


@pytest.mark.parametrize("shape", [(3, 5, 5), (1, 3, 3), (3, 8, 8)])
def test_each_query_is_the_references_past_the_last_full_level(shape):
    # A linear victim of few values passes through every level within the budget, also those with ragged blocks.
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(1, *shape, generator=generator)
    x = images(2, shape, seed=2) * 0.6 + 0.2
    victim = Linear(weight, float(-(x * weight).flatten(1).sum(1).min() + 0.3))
    check_rays_reference(RayS(eps=0.05), victim, x, torch.zeros(2, dtype=torch.int64), 600)


def test_radius_direction_and_query_counts_obey_the_paper(resnet, clean):
    check_rays_steps(RayS(eps=0.05), resnet, clean[0][:3], clean[1][:3])


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


def test_the_reference_counts_bisections_by_the_formula(resnet, clean):
    x, y = clean
    answer = one_by_one(resnet)
    *_, bisections = rays(lambda p: answer(p[None])[0], x[0], int(y[0]), 200)
    assert len(bisections) >= 3
    for bracket, taken in bisections:
        assert taken == max(1, math.ceil(math.log2(bracket / 1e-3)))


def test_a_bisection_cut_by_the_budget_leaves_radius_and_direction(resnet, clean):
    x, y = clean[0][:1], clean[1][:1]
    ticks = list(drive(RayS(eps=0.05), one_by_one(resnet), x, y, budget=60))
    cut = next(q for q, (before, *_) in enumerate(ticks) if before["phase"][0] and q > 20)
    assert ticks[cut][3]["phase"][0]
    assert ticks[cut][3]["radius"] == ticks[cut - 1][3]["radius"]
    assert torch.equal(ticks[cut][3]["direction"], ticks[cut - 1][3]["direction"])


def test_points_stay_in_the_ball(resnet, clean):
    check_feasible(RayS(eps=0.05), resnet, clean[0][:3], clean[1][:3])


def test_a_linear_victims_least_radius_is_found_and_never_beaten():
    check_rays_linear(RayS(eps=0.05))


@pytest.mark.parametrize(("factor", "broken"), [(0.99, False), (1.05, True)])
def test_the_engine_breaks_linear_victims_exactly_outside_their_least_radius(factor, broken):
    victim, x = linear_victim((3, 4, 4))
    for image in x[:2] if broken else x[:1]:
        eps = factor * victim.least_radius(image[None])
        run = Run(victim, RayS(eps=eps), image[None], torch.zeros(1, dtype=torch.int64), budget=2000, batch_size=1)
        assert (run.records[0]["broken_at"] is not None) == broken
        assert run.records[0]["verdict"] == ("broken" if broken else "robust")


def test_only_labels_and_linf_are_known():
    assert RayS.reads == "labels"
    assert RayS.norms == ("linf",)
