"""Small images and victims on which the checks run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = 5


def images(count: int, shape: tuple[int, ...] = (3, 16, 16), seed: int = 0) -> Tensor:
    """Return random images whose pixels reach both ends of the range."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, *shape, generator=generator) * 1.4 - 0.2).clamp(0, 1)


def small_network() -> nn.Module:
    """Return a network of two convolutions with fixed random weights and 5 classes, each of them predicted."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
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
