"""Random noise on the image."""

from __future__ import annotations

from torch import nn

from rfdlight.defenses.base import Place
from rfdlight.defenses.noise import Noise


class InputNoise(Noise):
    """Adds Gaussian noise to the pixels of every query, before normalisation and without clipping.

    Source: Qin, Fan, Zha, Wu, Random Noise Defense Against Query-Based Black-Box Attacks, NeurIPS 2021
    (RND), and Byun, Go, Kim, On the Effectiveness of Small Input Noise for Defending Against
    Query-Based Black-Box Attacks, WACV 2022 (SND); they differ in sigma.

    Args:
        sigma: Standard deviation in pixel units, >= 0.

    Example:
        >>> import torch
        >>> with InputNoise(sigma=0.0).on(nn.Flatten()) as model:
        ...     model(torch.ones(1, 1, 1, 2))
        tensor([[1., 1.]])
    """

    def __init__(self, sigma: float = 0.02) -> None:
        super().__init__(sigma)

    def places(self, model: nn.Module) -> list[Place]:
        """Return the model's input."""
        return [Place("the image", model, "input")]

    def describe(self, model: nn.Module) -> str:
        """Say the sigma."""
        return f"{type(self).__name__} sigma {self.sigma:g} on the pixels"
