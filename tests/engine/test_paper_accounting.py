"""What the paper's query counting asks, bills and believes; and that other criteria believe legal points alone."""

import pytest
import torch
from harness import Run, images
from torch import nn

from rfdlight.attacks import NES, GeoDA, RayS, SignHunt
from rfdlight.engine import criterion_named


class OutsideOnly(nn.Module):
    """Wrong only where a pixel is negative, which no image is."""

    def forward(self, x):
        wrong = (x < 0).flatten(1).any(1)
        return nn.functional.one_hot(wrong.long(), 2).float()


@pytest.mark.parametrize("rule", ["sequential", "paper"])
def test_points_outside_the_pixel_range_break_under_the_papers_criterion_alone(rule):
    x, y = images(4, (1, 4, 4)), torch.zeros(4, dtype=torch.int64)
    run = Run(
        OutsideOnly(), SignHunt(eps=0.1), x, y, budget=40, query_counting="paper", criterion=criterion_named(rule)
    )
    for record in run.records:
        assert record.candidates > 0
        assert record.verdict == "robust"
        assert (record.success_query is not None) == (rule == "paper")
        assert rule == "paper" or record.billed == 40


class Noisy(nn.Module):
    """Right on average, with noise of deviation 1 on two logits."""

    def forward(self, x):
        return torch.tensor([3.0, 0.0]) + torch.randn(len(x), 2)


@pytest.mark.parametrize("eot", [1, 3])
def test_the_papers_look_is_one_free_evaluation_however_many_a_query_averages(eot):
    x, y = images(3, (1, 4, 4)), torch.zeros(3, dtype=torch.int64)
    criterion = criterion_named("never", 40)
    budget = 4 * 2 * 2 * eot  # four iterations of two pairs
    run = Run(
        Noisy(), NES(pairs=2, eps=0.1), x, y,
        budget=budget, query_counting="paper", criterion=criterion, eot=eot, deterministic=False,
    )  # fmt: skip
    for record in run.records:
        assert record.attack == record.billed == budget
        assert record.success_check == 0
        assert record.criterion == record.clean_evaluations + record.final_evaluations + 4
    assert sum(run.total.values()) == run.oracle.forwarded


def test_exact_accounting_bills_the_look_in_full():
    x, y = images(3, (1, 4, 4)), torch.zeros(3, dtype=torch.int64)
    criterion = criterion_named("never", 40)
    run = Run(Noisy(), NES(pairs=2, eps=0.1), x, y, budget=45, criterion=criterion, eot=3, deterministic=False)
    for record in run.records:
        assert (record.attack, record.success_check) == (36, 9)
        assert record.criterion == record.clean_evaluations + record.final_evaluations


class Shell(nn.Module):
    """Wrong on a shell of radii around grey alone, and far away."""

    def forward(self, x):
        radius = (x - 0.5).abs().flatten(1).amax(1)
        wrong = ((radius > 0.02) & (radius < 0.049)) | (radius > 0.06)
        return nn.functional.one_hot(wrong.long(), 2).float()


def test_rays_submits_the_point_that_it_found_under_the_papers_accounting():
    x, y = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    run = Run(Shell(), RayS(eps=0.05), x, y, budget=60, query_counting="paper", criterion=criterion_named("paper"))
    for record in run.records:
        assert record.success_query is not None
        assert record.verdict == "adversarial"
        assert record.linf < 0.049


def test_the_papers_criterion_votes_on_geoda_and_believes_the_other_label_attacks():
    class Luck(nn.Module):
        """Right in two of three answers, wherever; always at the clean image."""

        def forward(self, x):
            wrong = (torch.rand(len(x)) < 1 / 3) & (x != 0.5).flatten(1).any(1)
            return nn.functional.one_hot(wrong.long(), 2).float()

    x, y = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.int64)
    voted_candidates = {}
    for attack in (GeoDA(eps=0.4), RayS(eps=0.4)):
        criterion = criterion_named("paper", 40)
        run = Run(Luck(), attack, x, y, budget=100, query_counting="paper", criterion=criterion, deterministic=False)
        voted_candidates[type(attack)] = int(run.column("voted_candidates").sum())
    assert voted_candidates[GeoDA] > 0
    assert voted_candidates[RayS] == 0
