"""Two defenses of one's own: another distribution, and a schedule over the attacker's queries.

rfdlight test --attack rays --defense my_noise.LaplaceNoise --defense.sigma 0.3
rfdlight test --attack rays --defense my_noise.WarmingNoise --defense.sigma 0.4 --defense.queries 100
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


class WarmingNoise(FeatureNoise):
    """Feature noise that grows while an image is being attacked.

    Args:
        sigma: Standard deviation once fully grown.
        layers: See FeatureNoise.
        queries: After how many queries it is fully grown, > 0.
    """

    def __init__(
        self, sigma: float | list[float] = 0.4, layers: str | list[str] | None = None, queries: int = 100
    ) -> None:
        super().__init__(sigma, layers)
        self.queries = queries

    def scale_at(self, clock: Tensor) -> Tensor:
        return (clock / self.queries).clamp_max(1.0)
