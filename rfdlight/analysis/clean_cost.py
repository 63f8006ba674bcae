"""The drop of clean accuracy that a random defense costs, with intervals over draws and over images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rfdlight.core.chance import chance_warning
from rfdlight.core.rng import image_seed, seed_generators
from rfdlight.core.statistics import Z, wald
from rfdlight.data.loaders import loader
from rfdlight.data.sources import ImageSource
from rfdlight.defenses.noise import Noise
from rfdlight.engine.failures import VictimError, check_finite, raised
from rfdlight.errors import expect

_BATCH = 128
"""Images per forward pass."""


def fastest_device() -> torch.device:
    """Return the device on which a clean cost is measured: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class CleanCost:
    """A measured drop from the undefended clean accuracy to the expected accuracy of one defended prediction.

    `error` is its standard error on these images, over the draws per image; `over_images` is its 95 % interval in the
    population of images.
    """

    drop: float
    error: float
    over_images: tuple[float, float]
    draws: int

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval over draws."""
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

    The victim is in eval mode, without defenses, and answers with logits. `images` holds the readable ones of the given
    images. `network` is the module on which noise is attached, by default the victim.

    Raises:
        UserError: If fewer than 2 images are readable, or the victim fails.
    """

    def __init__(self, victim: nn.Module, images: ImageSource, seed: int = 0, network: nn.Module | None = None) -> None:
        self.device = fastest_device()
        self.victim = victim.to(self.device)
        self.network = victim if network is None else network
        self.images = images
        self.seed = seed
        try:
            predicted, labels, ids = self._predict_in(torch.channels_last)
        except VictimError:  # for example of .view(), which needs contiguous memory
            predicted, labels, ids = self._predict_in(torch.contiguous_format)
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
        with defense.on(self.network), torch.random.fork_rng():
            for draw in range(first, first + draws):
                seed = image_seed(self.seed, f"draw {draw}") % 2**32  # torch uses 32 bits on the CPU
                seed_generators(seed, self.device)
                predicted, labels, _ = self._predict()
                counts += predicted == labels
        return counts

    def _predict_in(self, memory_format: torch.memory_format) -> tuple[Tensor, Tensor, list[str]]:
        self._format = memory_format
        self.victim.to(memory_format=memory_format)
        return self._predict()

    @torch.no_grad()
    def _predict(self) -> tuple[Tensor, Tensor, list[str]]:
        """Return predicted classes, labels and ids of the readable images."""
        predicted, labels, ids = [], [], []
        for x, y, names in loader(self.images, _BATCH):
            try:
                logits = self.victim(x.to(self.device, memory_format=self._format))
            except Exception as error:
                raise raised(error) from error
            check_finite(logits, "the victim answered NaN or infinity", "a clean accuracy needs finite scores")
            predicted.append(logits.argmax(1).cpu())
            labels.append(y)
            ids += names
        expect(len(ids) >= 2, "data", "at least 2 readable images that are not attacked", len(ids), "lower num_images")
        return torch.cat(predicted), torch.cat(labels), ids


def cost_of(undefended: Tensor, times_right: Tensor, draws: int) -> CleanCost:
    """Return the cost of at least 2 draws per image, from the correct undefended and defended predictions, (N,) both.

    The standard error over draws treats the images as independent; with `s_i` the sample variance of image i's draws
    its square is `(sum_i s_i + 1 / (2 draws)) / (draws N^2)`: half a wrong prediction more than observed, so that a few
    draws without an error are not certainty.
    """
    share = times_right / draws
    difference = undefended - share
    variance = share * (1 - share) * draws / (draws - 1)  # of one draw, unbiased, for each image
    error = math.sqrt(float(variance.sum()) * draws + 0.5) / (draws * len(share))
    return CleanCost(float(difference.mean()), error, over_images(difference), draws)


def over_images(difference: Tensor) -> tuple[float, float]:
    """Return the 95 % interval of the mean of differences, (N,) in [-1, 1], in the population of images.

    It is Wald's interval after two pseudo-observations, 1 and -1. Without them its coverage is too low where few images
    change, and its width is 0 where none does.

    Source: Bonett and Price, Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data, Journal of Educational and Behavioral Statistics 37, 2012; here also for differences between -1 and 1.
    """
    return wald(float(difference.sum()), float(difference.square().sum()) + 2, len(difference) + 2)
