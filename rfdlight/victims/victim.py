"""The victim: normalisation and network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rfdlight.errors import expect


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
        UserError: If mean or std cannot be those of pixels in [0, 1], such as 123.7, which is one of 0 to 255.

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
        hint = "divide statistics of pixels from 0 to 255 by 255"
        expect(all(0 <= value <= 1 for value in mean), "mean", "numbers in [0, 1], one per channel", list(mean), hint)
        expect(all(0 < value <= 1 for value in std), "std", "numbers in (0, 1], one per channel", list(std), hint)
        self.network = network
        self.feature_scales = feature_scales or {}
        # Not part of the state dict: the statistics belong to the card, not to the weights.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.std)
