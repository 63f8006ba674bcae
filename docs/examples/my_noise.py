"""A noise of one's own: another distribution.

rfdlight test --attack rays --defense my_noise.LaplaceNoise --defense.sigma 0.3
"""

import math

import torch
from torch import Tensor

from rfdlight.defenses import FeatureNoise


class LaplaceNoise(FeatureNoise):
    """Feature noise with heavier tails, of the same standard deviation."""

    def noise(self, x: Tensor) -> Tensor:
        uniform = torch.rand_like(x) - 0.5
        return -uniform.sign() * torch.log1p(-2 * uniform.abs().clamp_max(0.4999999)) / math.sqrt(2)
