"""The drop of clean accuracy that a random defense costs, with intervals over draws and over images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rfdlight.core.chance import chance_warning
from rfdlight.core.rng import image_seed
from rfdlight.core.statistics import Z, wald
from rfdlight.data.loaders import loader
from rfdlight.data.sources import ImageSource
from rfdlight.defenses.noise import Noise
from rfdlight.engine.failures import VictimError, check_finite, raised

_BATCH = 128
"""Images per forward pass."""


@dataclass(frozen=True)
class CleanCost:
    """A measured drop of the clean accuracy, in shares of the images.

    Attributes:
        drop: Undefended clean accuracy minus the expected accuracy of one defended prediction.
        error: Standard error of the drop on these images, over draws.
        over_images: 95 % interval of the drop in the population of images.
        draws: Predictions per image.
    """

    drop: float
    error: float
    over_images: tuple[float, float]
    draws: int

    @property
    def half(self) -> float:
        """Half the width of the interval over draws."""
        return Z * self.error

    @property
    def over_draws(self) -> tuple[float, float]:
        """The 95 % interval of the drop on these images for infinitely many draws."""
        return self.drop - self.half, self.drop + self.half

    def __str__(self) -> str:
        low, high = self.over_draws
        return f"{100 * self.drop:.2f} points ({100 * low:.2f} to {100 * high:.2f})"


class CleanCostMeter:
    """Measures the cost of a noise on a victim, with common random draws: a draw has the same seed at every sigma.

    Args:
        victim: In eval mode; without defenses attached.
        images: N images, at least 2; the attribute of this name holds the readable ones.
        seed: Seed of all draws.

    Attributes:
        channels_last: Whether the victim runs in channels-last memory; False if it fails there.
        notes: One line for each unusual way in which the victim runs.

    Raises:
        VictimError: If the victim raises, or returns NaN or infinity, here or in `times_right`.
    """

    def __init__(self, victim: nn.Module, images: ImageSource, seed: int = 0) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.victim = victim.to(self.device).to(memory_format=torch.channels_last)
        self.images = images
        self.seed = seed
        self.channels_last = True
        self.notes: list[str] = []
        try:
            predicted, labels, ids = self._predict()
        except VictimError:
            self.channels_last = False
            self.victim.to(memory_format=torch.contiguous_format)
            predicted, labels, ids = self._predict()
            self.notes.append("the victim fails in channels-last memory; it runs in contiguous memory")
        if len(ids) < len(images):  # the loader leaves out unreadable images
            self.images = images.take([position for position, name in enumerate(images.ids) if name in set(ids)])
        self._predicted, self._labels = predicted, labels
        self.undefended = (predicted == labels).double()

    @property
    def clean_accuracy(self) -> float:
        """Accuracy of the undefended victim on the images."""
        return float(self.undefended.mean())

    def caution(self, classes: int) -> str | None:
        """Return one line if the undefended accuracy is at chance level, else None."""
        return chance_warning(self._predicted, self._labels, classes)

    def times_right(self, defense: Noise, first: int, draws: int) -> Tensor:
        """Count the correct predictions per image, (N,) float64, in the draws `first` to `first + draws`."""
        counts = torch.zeros_like(self.undefended)
        with defense.on(self.victim), torch.random.fork_rng():
            for draw in range(first, first + draws):
                torch.manual_seed(image_seed(self.seed, f"draw {draw}") % 2**32)  # torch uses 32 bits on the CPU
                predicted, labels, _ = self._predict()
                counts += predicted == labels
        return counts

    @torch.no_grad()
    def _predict(self) -> tuple[Tensor, Tensor, list[str]]:
        """Return predicted classes, labels and ids of the readable images."""
        predicted, labels, ids = [], [], []
        for x, y, names in loader(self.images, _BATCH):
            x = x.to(self.device, memory_format=torch.channels_last if self.channels_last else torch.preserve_format)
            try:
                logits = self.victim(x)
            except Exception as error:
                raise raised(error) from error
            check_finite(logits, "the victim answered NaN or infinity", "a clean accuracy needs finite scores")
            predicted.append(logits.argmax(1).cpu())
            labels.append(y)
            ids += names
        return torch.cat(predicted), torch.cat(labels), ids


def cost_of(undefended: Tensor, times_right: Tensor, draws: int) -> CleanCost:
    """Return the cost and its intervals.

    The standard error over draws treats the images as independent; with `s_i` the sample variance of image i's draws
    its square is `(sum_i s_i + 1 / (2 draws)) / (draws N^2)`: half a wrong prediction more than observed, so that a few
    draws without an error are not certainty.

    Args:
        undefended: (N,) float64 of 0 and 1, whether the undefended prediction is correct.
        times_right: (N,) float64, number of correct defended predictions.
        draws: Defended predictions per image, at least 2.

    Example:
        >>> cost = cost_of(torch.ones(4).double(), torch.tensor([2.0, 2.0, 1.0, 0.0]).double(), draws=2)
        >>> cost.drop, round(cost.error, 4)
        (0.375, 0.1531)
    """
    share = times_right / draws
    difference = undefended - share
    variance = share * (1 - share) * draws / (draws - 1)  # of one draw, unbiased, for each image
    error = math.sqrt(float(variance.sum()) * draws + 0.5) / (draws * len(share))
    return CleanCost(float(difference.mean()), error, over_images(difference), draws)


def over_images(difference: Tensor) -> tuple[float, float]:
    """Return the 95 % interval of the mean difference in the population of images.

    It is Wald's interval after two pseudo-observations, 1 and -1. Without them its coverage is too low where few images
    change, and its width is 0 where none does.

    Source: Bonett and Price, Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data, Journal of Educational and Behavioral Statistics 37, 2012; here also for differences between -1 and 1.

    Args:
        difference: (N,) float64 in [-1, 1], undefended correctness minus mean defended correctness.
    """
    return wald(float(difference.sum()), float(difference.square().sum()) + 2, len(difference) + 2)
