"""The victim: normalisation and network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rfdlight.data.conversion import check_normalisation


class Victim(nn.Module):
    """A classifier of pixels in [0, 1]: normalisation first, then the network.

    Args:
        network: Logits from normalised images.
        mean: Per channel, for pixels in [0, 1].
        std: Per channel, for pixels in [0, 1], > 0.
        feature_scales: The standard deviations of clean features, (features,) float32 by names such as
            "layer3:output": see `rfdlight.victims.scales`. `FeatureNoise(scale="feature")` needs them.

    Shape:
        (rows, C, H, W) in [0, 1] to logits (rows, classes).

    Raises:
        UserError: If mean and std are not one of each per channel, or not those of pixels in [0, 1], such as 123.7.

    Example:
        >>> Victim(nn.Flatten(), mean=[0.5], std=[0.25])(torch.ones(1, 1, 1, 2))
        tensor([[2., 2.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        feature_scales: dict[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        means, deviations = ([float(value) for value in values] for values in (mean, std))
        check_normalisation(means, deviations)
        self.network = network
        self.feature_scales = feature_scales or {}
        # Not part of the state dict: the statistics belong to the card, not to the weights.
        self.register_buffer("mean", torch.tensor(means).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(deviations).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.std)
