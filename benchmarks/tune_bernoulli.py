"""Compares grids, rates and variants of the Bernoulli attack; see benchmarks/tuning.py for networks and table.

Usage: RFDLIGHT_DATA=FOLDER python benchmarks/tune_bernoulli.py [--images 200] [--only PATTERN]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from tuning import main

from rfdlight.attacks import Bernoulli, BernoulliMultiscale, SignHunt, Square
from rfdlight.attacks.base import Attack
from rfdlight.core import rng
from rfdlight.core.tensors import Columns, per_row


class Refining(Bernoulli):
    """Cells are halved after some queries: theta is one of 32 x 32 whose cells move together at first."""

    def __init__(self, until: dict[int, int], finest: int, **options: object) -> None:
        super().__init__(grid=32, **options)
        self.until = until
        self.finest = finest

    def ask(self, state: Columns) -> Tensor:
        theta, step = state["theta"], state["step"]
        levels = torch.tensor([*self.until, self.finest])
        ends = torch.tensor(list(self.until.values()))
        level = levels[(step[:, None] >= ends).sum(1)]  # (rows,)
        place = torch.arange(32) // (32 // level[:, None]) * (32 // level[:, None])  # (rows, 32)
        mean = theta.tanh()
        fine = rng.biased_signs(state["seed"], 0, step, mean)
        rows = torch.arange(len(theta))[:, None, None, None]
        signs = fine[
            rows, torch.arange(theta.shape[1])[:, None, None], place[:, None, :, None], place[:, None, None, :]
        ]
        state["surprise"] = (signs - mean) * per_row(32 / level, mean)
        return self._point(state["x"], signs)


class Scales(Bernoulli):
    """Queries take turns between sizes of cells: theta is one per pixel, and pixels of a cell share a random number."""

    def __init__(self, levels: tuple[int, ...], **options: object) -> None:
        super().__init__(grid=32, **options)
        self.levels = levels

    def ask(self, state: Columns) -> Tensor:
        theta, step = state["theta"], state["step"]
        level = torch.tensor(self.levels)[step % len(self.levels)]  # (rows,)
        place = torch.arange(32) // (32 // level[:, None])  # (rows, 32)
        cell = (place[:, :, None] * level[:, None, None] + place[:, None, :]).flatten(1)  # (rows, 1024)
        mean = theta.tanh()
        draws = rng.words(state["seed"], 0, step, 3 * 256).view(torch.int16).view(len(theta), 3, -1)
        shared = draws.gather(2, cell[:, None].expand(-1, 3, -1)).view_as(theta)
        signs = torch.copysign(torch.ones(()), mean.mul(2**15).sub_(shared).sub_(0.5))
        state["surprise"] = (signs - mean) * per_row(32 / level, mean)
        return self._point(state["x"], signs)


class Momentum(Bernoulli):
    """Theta moves along a running mean of the moves."""

    momentum = 0.9

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        columns = super().init(x, y, seed)
        return {**columns, "velocity": torch.zeros_like(columns["theta"])}

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        before = state["theta"]
        super().tell(state, points, answer)
        move = state["theta"] - before
        state["velocity"] = self.momentum * state["velocity"] + (1 - self.momentum) * move
        state["theta"] = self._bounded(before + state["velocity"])


class Antithetic(Bernoulli):
    """Every second query mirrors the one before it, and theta moves by their difference."""

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        columns = super().init(x, y, seed)
        first = torch.zeros_like(y, dtype=torch.float32)
        return {**columns, "first": first, "drawn": torch.zeros_like(columns["theta"])}

    def ask(self, state: Columns) -> Tensor:
        odd = state["step"] % 2 == 1
        mean = state["theta"].tanh()
        even = rng.biased_signs(state["seed"], 0, state["step"] // 2, mean)
        # Of the same words: +1 where the other is -1 for a fair sign.
        mirrored = -rng.biased_signs(state["seed"], 0, state["step"] // 2, -mean)
        state["drawn"] = torch.where(per_row(odd, mean), state["drawn"], even)
        signs = torch.where(per_row(odd, mean), mirrored, even)
        state["surprise"] = torch.zeros_like(mean)
        state["half"] = torch.where(per_row(odd, mean), (mirrored - state["drawn"]) / 2, 0.0)
        return self._point(state["x"], signs)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        odd, theta = state["step"] % 2 == 1, state["theta"]
        loss = self._losses(state, answer)
        super().tell(state, points, answer)
        fall = (state["first"] - loss) / (state["variance"] + 1e-6).sqrt()
        fall = torch.where(odd & (state["step"] > 4), fall.clamp(-3, 3), 0.0)
        move = 4 * self.rate / math.sqrt(theta[0].numel()) * fall
        state["theta"] = self._bounded(theta + per_row(move, theta) * state["half"])
        state["first"] = loss


class NaturalGradient(Bernoulli):
    """The mean of each sign moves by r (s - mean): theta along the natural gradient."""

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        theta = state["theta"]
        super().tell(state, points, answer)
        mean = theta.tanh() + (state["theta"] - theta)
        state["theta"] = mean.clamp(-0.9866, 0.9866).atanh()


class FadingRate(Bernoulli):
    """The rate falls as 1 / sqrt(1 + queries / 100)."""

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        theta = state["theta"]
        fade = (1 + state["step"] / 100).rsqrt()
        super().tell(state, points, answer)
        state["theta"] = theta + per_row(fade, theta) * (state["theta"] - theta)


class Stripes(Bernoulli):
    """The first four queries, which move nothing, are vertical stripes."""

    def ask(self, state: Columns) -> Tensor:
        points = super().ask(state)
        stripes = rng.biased_signs(state["seed"], 1, state["step"], torch.zeros_like(points[:, :, 0]))
        stripes = self._point(state["x"], stripes[:, :, None].expand(points.shape))
        return torch.where(per_row(state["step"] < 4, points), stripes, points)


def variants() -> dict[str, Callable[..., Attack]]:
    """Return attacks by name, each a function of the ball."""
    found: dict[str, Callable[..., Attack]] = {
        "square": Square,
        "signhunt": SignHunt,
        "square, schedule 10000": partial(Square, schedule_len=10000),
    }
    for grid in (2, 4, 8, 16, 32):
        for rate in (0.2, 0.4, 0.8, 1.6, 3.2):
            found[f"grid {grid}, rate {rate}"] = partial(Bernoulli, grid=grid, rate=rate)
    schedules = {"4 8 16 32": {4: 40, 8: 120, 16: 400}, "8 16 32": {8: 60, 16: 250}, "1 2 4 8": {1: 8, 2: 24, 4: 80}}
    schedules |= {"2 4 8 16 32": {2: 20, 4: 60, 8: 200, 16: 600}, "4 8": {4: 150}}
    for name, until in schedules.items():
        finest = int(name.split()[-1])
        for rate in (0.4, 0.8, 1.6):
            found[f"refining {name}, rate {rate}"] = partial(Refining, until, finest, rate=rate)
    for rate in (0.2, 0.4, 0.8, 1.6):
        found[f"multiscale, rate {rate}"] = partial(BernoulliMultiscale, rate=rate)
    for levels in ((8, 16, 32), (8, 32), (4, 8, 16, 32)):
        for rate in (0.4, 0.8, 1.6):
            found[f"scales {' '.join(map(str, levels))}, rate {rate}"] = partial(Scales, levels, rate=rate)
    for form in (NaturalGradient, Antithetic, Momentum, FadingRate, Stripes):
        found[f"{form.__name__}, grid 32, rate 1.6"] = partial(form, grid=32, rate=1.6)
    return found


if __name__ == "__main__":
    main(__doc__.partition("\n")[0], variants())
