"""Noise on the answer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rfdlight.defenses import LogitNoise
from rfdlight.errors import UserError


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(4, 10, generator=torch.Generator().manual_seed(0))


def test_the_noise_is_zero_mean_of_the_given_standard_deviation_in_units_of_the_logits(logits):
    torch.manual_seed(0)
    with LogitNoise(0.7).on(nn.Identity()) as model:
        difference = torch.stack([model(logits) - logits for _ in range(1000)])  # 40,000 normal draws
    assert abs(float(difference.mean())) < 4 * 0.7 / 40_000**0.5
    assert abs(float(difference.std()) - 0.7) < 4 * 0.7 / 80_000**0.5
    # Fresh for every number of every call: the correlations of columns and of rows are of order 1000^-0.5.
    correlation = torch.corrcoef(difference.view(1000, 40).T) - torch.eye(40)
    assert float(correlation.abs().max()) < 5.5 / 1000**0.5  # of 780 pairs


def test_it_acts_after_the_model_and_leaves_the_image_alone(logits):
    seen = []
    network = nn.Sequential(nn.Flatten(), nn.Linear(10, 3))
    network[1].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    with LogitNoise(0.5).on(network):
        answer = network(logits)
    assert torch.equal(seen[0][0], logits)
    assert not torch.equal(seen[0][1], answer)


def test_it_says_what_it_does():
    assert LogitNoise(0.5).describe(nn.Identity()) == "LogitNoise sigma 0.5 on the logits"


def test_below_a_confidence_alone_answers_get_noise():
    logits = torch.tensor([[4.0, 0.0, 0.0], [0.2, 0.0, 0.0], [0.0, 5.0, 1.0]])  # confidences 0.96, 0.38, 0.98
    torch.manual_seed(0)
    with LogitNoise(0.7, below=0.9).on(nn.Identity()) as model:
        answers = torch.stack([model(logits) for _ in range(1000)])
    assert torch.equal(answers[:, [0, 2]], logits[[0, 2]].expand(1000, 2, 3))
    assert abs(float(answers[:, 1].std(0).mean()) - 0.7) < 5 * 0.7 / 6000**0.5
    assert LogitNoise(below=1.0).describe(nn.Identity()).endswith("on the logits where the confidence is below 1")


@pytest.mark.parametrize("below", [0.0, -1.0, 1.1, float("nan")])
def test_a_confidence_outside_of_its_range_is_refused(below):
    with pytest.raises(UserError, match="below"):
        LogitNoise(below=below)
