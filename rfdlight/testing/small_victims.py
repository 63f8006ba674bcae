"""Small images and victims on which the checks run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from rfdlight.core.rng import seed_generators

CLASSES = 5

Sampler = Callable[[int], Tensor]
"""Returns a number of margins, (rows,)."""


def images(count: int, shape: tuple[int, ...] = (3, 16, 16), seed: int = 0) -> Tensor:
    """Return random images whose pixels reach both ends of the range."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, *shape, generator=generator) * 1.4 - 0.2).clamp(0, 1)


def small_network() -> nn.Module:
    """Return a network of two convolutions with fixed random weights and 5 classes, each of them predicted."""
    with torch.random.fork_rng(devices=[]):
        seed_generators(0, torch.device("cpu"))
        first, second = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        pool = nn.AdaptiveAvgPool2d(2)
        features = [first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.ReLU(), pool, nn.Flatten()]
        last = nn.Linear(64, CLASSES)
        network = nn.Sequential(*features, last).eval()
    with torch.no_grad():
        last.bias.sub_(network(images(32, seed=9)).mean(0))
    return network


class Constant(nn.Module):
    """Predicts class 0 at every point, so that no attack succeeds."""

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.zeros(len(x), 3, device=x.device)
        logits[:, 0] = 1
        return logits + 0 * x.flatten(1).sum(1, keepdim=True)  # a gradient, which is zero


class CoinFlip(nn.Module):
    """Predicts at random."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.randn(len(x), 3, device=x.device) + 0 * x.flatten(1).sum(1, keepdim=True)


class OneHot(nn.Module):
    """Returns 1 for the predicted class of another victim and 0 for the others: scores that hold labels alone."""

    def __init__(self, victim: nn.Module) -> None:
        super().__init__()
        self.victim = victim

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.victim(x)
        return nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(logits.dtype)


def quantile(share: float) -> float:
    """Return the quantile of the standard normal distribution."""
    return float(torch.special.ndtri(torch.tensor(share, dtype=torch.float64)))


def normal(wrong: float) -> Sampler:
    """Return a sampler of normal margins of deviation 1 with a share of negative ones."""
    return lambda rows: torch.randn(rows) - quantile(wrong)


def is_gray(x: Tensor) -> Tensor:
    """Return whether all pixels of an image are 0.5, (rows,) bool."""
    return (x == 0.5).flatten(1).all(1)


class IidVictim(nn.Module):
    """Answers every image with a fresh margin of class 0 against class 1.

    Args:
        sampler: Its margins.
        right_at_gray: Whether gray images get margins that are larger by 10.
    """

    def __init__(self, sampler: Sampler, right_at_gray: bool) -> None:
        super().__init__()
        self.sampler = sampler
        self.right_at_gray = right_at_gray

    def forward(self, x: Tensor) -> Tensor:
        margin = self.sampler(len(x))
        if self.right_at_gray:
            margin = torch.where(is_gray(x), 10 + margin, margin)
        return torch.stack([margin, torch.zeros_like(margin)], 1)


class Around(nn.Module):
    """Predicts class 0 at gray images; elsewhere it adds noise of deviation 1 to given logits."""

    def __init__(self, logits: Sequence[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        answers = self.logits + torch.randn(len(x), len(self.logits))
        answers[is_gray(x)] = nn.functional.one_hot(torch.tensor(0), len(self.logits)).float()
        return answers


class Tied(nn.Module):
    """Answers with two equal logits."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(len(x), 2)


class Pattern(nn.Module):
    """Predicts class 1 where the sum of the pixels with alternating signs is above a threshold, else class 0."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(1).double()
        margin = 1 - (pixels[:, ::2] - pixels[:, 1::2]).sum(1) / self.threshold
        return torch.stack([margin, torch.zeros_like(margin)], 1).float()
