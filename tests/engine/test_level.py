"""The error level of a success criterion, and images that are attacked whatever their clean evaluations say."""

import pytest
import torch
from harness import Run
from torch import nn

from rfdlight.attacks import RandomNoise
from rfdlight.engine import criterion_named
from rfdlight.engine.evaluations import ADVERSARIAL_LEVEL, EvaluationState, MeanMarginTest
from rfdlight.testing.small_victims import IidVictim, images, normal


@pytest.mark.parametrize("rule", ["sequential", "single", "never"])
def test_the_level_reaches_candidates_and_final_points(rule):
    criterion = criterion_named(rule, 60, level=0.005)
    assert (criterion.level, criterion.final_test.level, criterion.final_test.most) == (0.005, 0.005, 60)
    assert criterion_named(rule).level == criterion_named(rule).final_test.level == ADVERSARIAL_LEVEL


def test_a_smaller_level_needs_more_evidence_for_adversarial_alone():
    x, y = images(12, (1, 4, 4)), torch.zeros(12, dtype=torch.int64)
    needed = {}
    for wrong in (0.65, 0.35):
        for level in (0.025, 0.025 / 1000):
            torch.manual_seed(0)
            victim = IidVictim(normal(wrong), right_at_gray=False)
            criterion = criterion_named("never", level=level)
            options = {"batch_size": 96, "pool_size": 12, "deterministic": False}
            run = Run(victim, RandomNoise(eps=0.1), x, y, budget=0, criterion=criterion, **options)
            needed[wrong, level] = sum(record.clean_evaluations for record in run.records)
    assert needed[0.65, 0.025 / 1000] > 1.3 * needed[0.65, 0.025]
    assert needed[0.35, 0.025 / 1000] == needed[0.35, 0.025]


def test_a_smaller_level_ends_tests_without_prospects_on_the_adversarial_side_alone():
    y = torch.zeros(2, dtype=torch.int64)
    state = EvaluationState.open(y, classes=2, wanted=100)
    noise = torch.tensor([1.0, -1.0]).repeat(50)
    for row, mean in enumerate((-0.1, 0.1)):
        margins = noise + mean
        state.add(torch.full((100,), row), torch.stack([margins, torch.zeros(100)], 1))
    # 0.2 = |mean| + its standard error: 2 log(1 / level) / 0.04 evaluations, 184 of level 0.025 and 760 of the other.
    more = {
        level: MeanMarginTest(400, level=level).request(state, torch.arange(2)).tolist() for level in (0.025, 2.5e-7)
    }
    assert more == {0.025: [25, 25], 2.5e-7: [0, 25]}


class Wrong(nn.Module):
    def forward(self, x):
        return torch.tensor([[0.0, 1.0]]).expand(len(x), 2) + 0.01 * torch.randn(len(x), 2)


def test_misclassified_images_are_attacked_if_an_earlier_run_has_decided_on_them():
    x, y = images(3, (1, 4, 4)), torch.zeros(3, dtype=torch.int64)
    for attacked in (False, True):
        options = {"budget": 5, "deterministic": False, "attacks_misclassified": attacked}
        records = Run(Wrong(), RandomNoise(eps=0.1), x, y, **options).records
        assert {record.verdict for record in records} == {"adversarial" if attacked else "misclassified"}
        assert {record.clean_verdict for record in records} == {"undecided" if attacked else "wrong"}
        assert {record.billed for record in records} == {1 if attacked else 0}
