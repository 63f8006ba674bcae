"""Random noise on the logits."""

from __future__ import annotations

from torch import nn

from rfdlight.core.activations import InsertionPoint
from rfdlight.defenses.noise import Noise, Schedule


class LogitNoise(Noise):
    """Adds Gaussian noise to the logits of every query.

    The mean logits are the undefended ones, so by the mean logits it removes no adversarial example; it only misleads
    the search.

    Source: a baseline in the code (not the tables) of Nguyen, Lao, Pham, Wong, Doan, Understanding the Robustness of
    Randomized Feature Defense Against Query-Based Adversarial Attacks, ICLR 2024.

    Args:
        sigma: Standard deviation in the units of the logits, >= 0.
        schedule: See Noise.
    """

    def __init__(self, sigma: float = 1.0, schedule: Schedule | None = None) -> None:
        super().__init__(sigma, schedule)

    def insertion_points(self, model: nn.Module) -> list[InsertionPoint]:
        """Return the model's output."""
        return [InsertionPoint("the logits", model, "output")]

    def describe(self, model: nn.Module) -> str:
        """Return the sigma and the schedule."""
        return self._line("on the logits")
