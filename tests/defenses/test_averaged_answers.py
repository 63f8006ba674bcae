"""The mean of several noisy answers as one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rfdlight.core.row_counter import RowCounter
from rfdlight.defenses import AveragedAnswers, FeatureNoise, InputNoise, LogitNoise
from rfdlight.errors import UserError


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()


@pytest.fixture
def x():
    return torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(1))


def spread(network, x, *defenses, calls=400):
    """Mean and standard deviation of the answers over calls, (rows, classes) each."""
    for defense in defenses:
        defense.attach(network)
    torch.manual_seed(2)
    with torch.no_grad():
        answers = torch.stack([network(x) for _ in range(calls)])
    for defense in defenses:
        defense.detach()
    return answers.mean(0), answers.std(0)


def test_without_noise_the_answers_are_the_networks(network, x):
    clean = network(x)
    with AveragedAnswers(7).on(network):
        assert torch.allclose(network(x), clean, atol=1e-6)


@pytest.mark.parametrize(
    "defenses",
    [
        (FeatureNoise(0.6, layers="1"), AveragedAnswers(9)),
        (LogitNoise(0.6), AveragedAnswers(9)),
        (AveragedAnswers(9), FeatureNoise(0.6, layers="1")),
    ],
)
def test_the_standard_deviation_falls_by_the_root_of_the_draws(network, x, defenses):
    mean, deviation = spread(network, x, *defenses)
    assert torch.allclose(mean, network(x), atol=5 * 0.2 / 400**0.5)
    # The variance of 15 standard deviations, each of 400 draws: within 5 standard errors.
    assert abs(float(deviation.mean()) - 0.2) < 5 * 0.2 / (2 * 400 * 15) ** 0.5


def test_noise_in_the_input_is_drawn_anew_for_each_repetition(network, x):
    _, one = spread(network, x, InputNoise(0.3))
    _, averaged = spread(network, x, AveragedAnswers(16), InputNoise(0.3))
    assert torch.allclose(averaged, one / 4, rtol=0.3)


def test_a_query_is_one_row_of_the_attacker_and_several_of_the_network(network, x):
    rows = []
    network[1].register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    with AveragedAnswers(4).on(network), RowCounter(network) as counter:
        assert len(network(x)) == 5
    assert rows == [20]
    assert counter.rows == 5


def test_an_image_answers_alone_as_among_others(network, x):
    with AveragedAnswers(3).on(network):
        assert torch.allclose(network(x)[2:3], network(x[2:3]), atol=1e-6)


def test_the_number_of_draws_is_checked():
    with pytest.raises(UserError, match="draws"):
        AveragedAnswers(0)
