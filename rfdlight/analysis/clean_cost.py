"""What a random defense costs in clean accuracy, with the uncertainty that belongs to each question."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rfdlight.core.chance import chance_warning
from rfdlight.core.intervals import Z, wald
from rfdlight.core.rng import image_seed
from rfdlight.data.loaders import loader
from rfdlight.data.sources import ImageSource
from rfdlight.defenses.noise import Noise
from rfdlight.engine.failures import VictimError, check_finite, raised

_BATCH = 128
"""Images per forward pass."""


@dataclass(frozen=True)
class CleanCost:
    """A measured drop of the clean accuracy, as shares of the images.

    Attributes:
        drop: Clean accuracy without the defense minus that of one answer with it.
        error: Standard error of the drop on these very images, from the draws.
        over_images: 95 % interval of the drop on the population that the images are a sample of.
        draws: Answers per image.
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
        """The 95 % interval of the drop on these very images, were the noise drawn for ever."""
        return self.drop - self.half, self.drop + self.half

    def __str__(self) -> str:
        low, high = self.over_draws
        return f"{100 * self.drop:.2f} points ({100 * low:.2f} to {100 * high:.2f})"


class CleanCostMeter:
    """Measures the cost of a noise on a victim, with common random numbers for every sigma.

    Draw number `d` starts from the same seed whatever the sigma, so that two sigmas differ by the sigma
    alone. The interval over draws takes the images' answers as independent given the images, which the
    noises of rfdlight make them; with `s_i` the sample variance of image i's draws its variance is
    `(sum_i s_i + 1 / (2 draws)) / (draws N^2)`, with half a wrong answer more than was seen, so that a few draws
    without one do not pass for certainty. For the interval over images see `over_images`.

    Args:
        victim: In eval mode; without defenses attached.
        images: N images, at least 2; the attribute of this name holds those of them that can be read.
        seed: Of all draws.

    Attributes:
        channels_last: Whether the victim runs in channels-last memory; in contiguous memory where it fails there.
        notes: One line each on how the victim runs, where that is not the usual way.

    Raises:
        VictimError: If the victim raises, or answers NaN or infinity, here or in `times_right`.
    """

    def __init__(self, victim: nn.Module, images: ImageSource, seed: int = 0) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.victim = victim.to(self.device)
        self.images = images
        self.seed = seed
        self._read: list[str] = []
        self.channels_last = True
        self.notes: list[str] = []
        self.undefended = self._first_right()
        answers = self._answers
        if len(self._read) < len(images):  # the loader has left out, and told, what cannot be read
            read = set(self._read)
            self.images = images.take([position for position, name in enumerate(images.ids) if name in read])
        self._undefended_answers = answers

    @property
    def clean_accuracy(self) -> float:
        """Of the undefended victim, on these images."""
        return float(self.undefended.mean())

    def caution(self, classes: int) -> str | None:
        """Return one line if the undefended accuracy is at chance level, else None."""
        return chance_warning(self._undefended_answers, self.images.labels, classes)

    def times_right(self, defense: Noise, first: int, draws: int) -> Tensor:
        """Count for each image how many of the draws `first` to `first + draws` are right.

        Args:
            defense: With the sigma that is measured.
            first: Number of the first draw.
            draws: How many.

        Returns:
            (N,) float64.
        """
        counts = torch.zeros_like(self.undefended)
        with defense.on(self.victim), torch.random.fork_rng():
            for draw in range(first, first + draws):
                torch.manual_seed(image_seed(self.seed, f"draw {draw}") % 2**32)  # torch reads no more bits on the CPU
                counts += self._right()
        return counts

    def _first_right(self) -> Tensor:
        """Return what `_right` does, in contiguous memory if the victim fails in channels-last memory alone."""
        self.victim.to(memory_format=torch.channels_last)
        try:
            return self._right()
        except VictimError:
            self.channels_last = False
            self.victim.to(memory_format=torch.contiguous_format)
            right = self._right()
            self.notes.append("the victim fails in channels-last memory; it runs in contiguous memory")
            return right

    @torch.no_grad()
    def _right(self) -> Tensor:
        """Return for each image whether one answer is right, (N,) float64 of 0 and 1."""
        answers, right, self._read = [], [], []
        for x, y, names in loader(self.images, _BATCH):
            x = x.to(self.device, memory_format=torch.channels_last if self.channels_last else torch.preserve_format)
            try:
                logits = self.victim(x)
            except Exception as error:
                raise raised(error) from error
            check_finite(logits, "the victim answered NaN or infinity", "a clean accuracy needs finite scores")
            self._read += names
            answers.append(logits.argmax(1).cpu())
            right.append(answers[-1] == y)
        self._answers = torch.cat(answers)
        return torch.cat(right).double()


def cost_of(undefended: Tensor, times_right: Tensor, draws: int) -> CleanCost:
    """Return the cost and its intervals.

    Args:
        undefended: (N,) float64 of 0 and 1, whether the undefended answer is right.
        times_right: (N,) float64, how many of the defended answers are.
        draws: Defended answers per image, at least 2.

    Example:
        >>> cost = cost_of(torch.ones(4).double(), torch.tensor([2.0, 2.0, 1.0, 0.0]).double(), draws=2)
        >>> cost.drop, round(cost.error, 4)
        (0.375, 0.1531)
    """
    share = times_right / draws
    difference = undefended - share
    drop = float(difference.mean())
    variance = share * (1 - share) * draws / (draws - 1)  # of one draw, unbiased, for each image
    # Half a wrong answer more than was seen: the noise may err where it has not yet.
    error = math.sqrt(float(variance.sum()) * draws + 0.5) / (draws * len(share))
    return CleanCost(drop, error, over_images(difference), draws)


def over_images(difference: Tensor) -> tuple[float, float]:
    """Return the 95 % interval of the mean difference on the population that the images are a sample of.

    One image that the noise spoils and one that it mends are added, then Wald's interval is taken: without them it
    misses the truth twice as often as it says where few images change, and has no width where none does.

    Source: Bonett and Price, Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data, Journal of Educational and Behavioral Statistics 37, 2012; here also for differences between -1 and 1.

    Args:
        difference: (N,) float64 in [-1, 1], undefended answer less the mean of the defended ones.
    """
    return wald(float(difference.sum()), float(difference.square().sum()) + 2, len(difference) + 2)
