"""Random noise on the logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rfdlight.core.activations import InsertionPoint
from rfdlight.defenses.noise import Noise, Schedule
from rfdlight.errors import expect


class LogitNoise(Noise):
    """Adds Gaussian noise to the logits of every query, or of queries of low confidence alone.

    The mean logits are the undefended ones, so by the mean logits it removes no adversarial example; it only misleads
    the search.

    Sources: a baseline in the code (not the tables) of Nguyen, Lao, Pham, Wong, Doan, Understanding the Robustness of
    Randomized Feature Defense Against Query-Based Adversarial Attacks, ICLR 2024. With `below`: Aithal, Li, Boundary
    Defense Against Black-box Adversarial Attacks, arXiv 2201.13444, 2022.

    Args:
        sigma: Standard deviation in the units of the logits, >= 0.
        schedule: See Noise.
        below: Confidence, the largest softmax probability of the answer without noise, below which an answer gets
            noise, in (0, 1]; by default every answer does.

    Raises:
        UserError: If `below` is outside (0, 1].
    """

    def __init__(self, sigma: float = 1.0, schedule: Schedule | None = None, below: float | None = None) -> None:
        super().__init__(sigma, schedule)
        expect(below is None or 0 < below <= 1, "defense.below", "a confidence in (0, 1]", below)
        self.below = below

    def insertion_points(self, model: nn.Module) -> list[InsertionPoint]:
        """Return the model's output."""
        return [InsertionPoint("the logits", model, "output")]

    def transform(self, x: Tensor, point: int) -> Tensor:
        """Add the noise to the rows of low confidence."""
        noisy = super().transform(x, point)
        if self.below is None:
            return noisy
        confidence = x.softmax(1).amax(1, keepdim=True)
        return torch.where(confidence < self.below, noisy, x)

    def describe(self, model: nn.Module) -> str:
        """Return the sigma, the schedule and the confidence below which there is noise."""
        low = "" if self.below is None else f" where the confidence is below {self.below:g}"
        return self._line(f"on the logits{low}")
