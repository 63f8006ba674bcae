"""The mean of several noisy answers as one answer."""

from __future__ import annotations

from torch import Tensor, nn

from rfdlight.core.activations import InsertionPoint
from rfdlight.defenses.base import Defense
from rfdlight.errors import expect


class AveragedAnswers(Defense):
    """Answers with the mean logits of several draws of the noise, so that larger noise costs as little accuracy.

    It repeats the rows of each image before the model and averages their logits after it. So a query costs `draws`
    rows of the network, and the defender pays for them: the attacker is billed one query. It has no noise of its own.
    Noise in the input must be attached after it, to be drawn anew for each repetition; noise on the logits must be
    attached before it, to be averaged. A schedule of noise inside the model is refused, since it has one clock per
    image.

    Source: the averaging is that of the prediction of Cohen, Rosenfeld, Kolter, Certified Adversarial Robustness via
    Randomized Smoothing, ICML 2019, with a mean of logits instead of a vote.

    Args:
        draws: Rows per image, >= 1.

    Raises:
        UserError: If `draws` is below 1.

    Example:
        >>> import torch
        >>> from rfdlight.defenses import AveragedAnswers, FeatureNoise
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> with FeatureNoise(0.5, layers="0").on(network), AveragedAnswers(16).on(network):
        ...     network(torch.rand(3, 1, 2, 2)).shape
        torch.Size([3, 2])
    """

    def __init__(self, draws: int = 4) -> None:
        super().__init__()
        expect(draws >= 1, "defense.draws", "a whole number of at least 1", draws)
        self.draws = draws

    def insertion_points(self, model: nn.Module) -> list[InsertionPoint]:
        """Return the model's input and output."""
        return [InsertionPoint("the pixels", model, "input"), InsertionPoint("the logits", model, "output")]

    def transform(self, x: Tensor, point: int) -> Tensor:
        """Repeat the rows at the input, and average the logits of each image at the output."""
        if point == 0:
            return x.repeat_interleave(self.draws, 0)
        return x.unflatten(0, (-1, self.draws)).mean(1)

    @property
    def is_random(self) -> bool:
        """False: the noise is that of other defenses."""
        return False

    def describe(self, model: nn.Module) -> str:
        """Return the number of draws."""
        return f"AveragedAnswers of {self.draws} draws"
