"""Random noise on the image."""

from __future__ import annotations

from torch import Tensor, nn

from rfdlight.core.activations import InsertionPoint
from rfdlight.defenses.noise import Noise, Schedule


class InputNoise(Noise):
    """Adds Gaussian noise to the pixels of every query, before normalisation.

    Source: Qin, Fan, Zha, Wu, Random Noise Defense Against Query-Based Black-Box Attacks, NeurIPS 2021 (RND), and Byun,
    Go, Kim, On the Effectiveness of Small Input Noise for Defending Against Query-Based Black-Box Attacks, WACV 2022
    (SND); they differ in sigma. With `clip`, the noise of the baseline in Chen, Huang, Tao, Wu, Huang, Adversarial
    Attack on Attackers, NeurIPS 2022. Deviation: that baseline then rounds the pixels down to 8 bits.

    Args:
        sigma: Standard deviation in pixel units, >= 0.
        clip: Clip the noisy pixels to [0, 1]. This biases the mean of a noisy pixel inward, the more the
            nearer it is to 0 or 1; without clipping the mean is the pixel.
        schedule: See Noise.
    """

    def __init__(self, sigma: float = 0.02, clip: bool = False, schedule: Schedule | None = None) -> None:
        super().__init__(sigma, schedule)
        self.clip = clip

    def insertion_points(self, model: nn.Module) -> list[InsertionPoint]:
        """Return the model's input."""
        return [InsertionPoint("the image", model, "input")]

    def transform(self, x: Tensor, point: int) -> Tensor:
        """Add the noise and clip, if chosen."""
        noisy = super().transform(x, point)
        return noisy.clamp(0, 1) if self.clip and noisy is not x else noisy

    def describe(self, model: nn.Module) -> str:
        """Return the sigma, the clipping and the schedule."""
        return self._line(f"on the pixels{', clipped to [0, 1]' if self.clip else ''}")
