"""Clipping of the noisy pixels; the noise itself is tested with the other noises."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rfdlight.defenses import InputNoise


def noisy(value: float, sigma: float, clip: bool) -> torch.Tensor:
    torch.manual_seed(0)
    with InputNoise(sigma, clip=clip).on(nn.Identity()) as model:
        return model(torch.full((4, 3, 64, 64), value))


def test_clipping_keeps_the_pixels_in_the_cube_and_is_off_by_default():
    assert InputNoise().clip is False
    clipped = noisy(0.0, 0.2, clip=True)
    assert (float(clipped.min()), bool(clipped.max() <= 1)) == (0.0, True)
    assert torch.equal(clipped, noisy(0.0, 0.2, clip=False).clamp(0, 1))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_clipping_biases_the_mean_inward_where_no_clipping_leaves_it(value):
    sigma, count = 0.1, 4 * 3 * 64 * 64
    inward = 1 if value == 0 else -1
    # Half of a normal distribution is cut to 0: mean sigma / sqrt(2 pi), standard deviation below sigma.
    assert abs(float(noisy(value, sigma, clip=False).mean()) - value) < 4 * sigma / count**0.5
    bias = inward * (float(noisy(value, sigma, clip=True).mean()) - value)
    assert abs(bias - sigma * (2 * torch.pi) ** -0.5) < 4 * sigma / count**0.5


def test_sigma_zero_with_clipping_is_the_image_bit_for_bit():
    # Even outside of the cube, where the clipping alone would show.
    x = torch.tensor([[-0.0, 0.1, 1.0, 1.0000001, -0.3]]).view(1, 1, 1, 5)
    with InputNoise(0.0, clip=True).on(nn.Identity()) as model:
        assert model(x) is x


def test_it_says_whether_it_clips():
    model = nn.Identity()
    assert InputNoise(0.05).describe(model) == "InputNoise sigma 0.05 on the pixels"
    assert InputNoise(0.05, clip=True).describe(model) == "InputNoise sigma 0.05 on the pixels, clipped to [0, 1]"
