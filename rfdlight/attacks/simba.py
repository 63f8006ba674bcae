"""The SimBA attack."""

import math
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack, check_positive
from rfdlight.core import norms, rng
from rfdlight.core.tensors import Columns, per_row, replace

_ORDER = 0  # the stream of random numbers


class SimBA(Attack):
    """SimBA: score-based coordinate search, one basis vector at a time, in linf or l2.

    The basis is that of pixels, or of the orthonormal discrete cosine transform (DCT) of each channel, in random order,
    the DCT's from low to high frequencies. At each coordinate minus the step is tried, and plus the step if the
    probability of the label does not fall (or the target's rise). Each pass has a new order. Queries: one at the clean
    image, then one or two per coordinate.

    Source: Guo, Gardner, You, Wilson, Weinberger, Simple Black-box Adversarial Attacks, ICML 2019, algorithm 1, with
    the published order of frequencies: a block of 28 by 28 first, then rings of width 7, at 224 by 224 pixels; here an
    eighth and a 32nd of the longer side, each at least 1, so 4 and 1 at 32 by 32.
    Deviations: each image has its own order; the second sign is queried only if the first fails, and a pixel's sign
    without effect after clipping is not queried; in linf the perturbation is clamped at eps, as in the paper's code; in
    l2 a step out of the ball is projected, the authors have no ball.

    Args:
        basis: "pixel" or "dct".
        step: Length of a step along a basis vector, > 0; by default eps in linf, as in the paper's code, and 0.2 in l2,
            the authors'. Steps along pixels in linf are at most eps.
    """

    access = "score"
    norms = ("linf", "l2")
    has_targeted_form = True

    def __init__(self, basis: Literal["pixel", "dct"] = "pixel", step: float | None = None, **ball: Any) -> None:
        super().__init__(**ball)
        check_positive(step=step)
        self.basis = basis
        self.step = step

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        return {
            "delta": torch.zeros_like(x, dtype=torch.float32),  # the kept perturbation, before clipping to [0, 1]
            "loss": torch.full_like(
                y, torch.inf, dtype=torch.float64
            ),  # the label's probability, or minus the target's
            "visited": torch.zeros_like(y),  # coordinates that are finished
            "second": torch.zeros_like(y, dtype=torch.bool),  # whether the second sign of a coordinate is next
        }

    def _size(self) -> float:
        """Return the length of a step."""
        if self.norm == "l2":
            return 0.2 if self.step is None else self.step
        eps = self.threat.eps
        if self.step is None:
            return eps
        return min(self.step, eps) if self.basis == "pixel" else self.step

    def coordinate(self, state: Columns) -> tuple[Tensor, Tensor, Tensor]:
        """Return the channel, row and column of the coordinate that is tried, (rows,) int64 each."""
        channels, height, width = state["x"].shape[1:]
        corners = torch.tensor(_blocks(height, width, self.basis), device=state["x"].device)  # (rings + 1, 2)
        ends = channels * corners.prod(1)
        size = channels * height * width
        place = state["visited"] % size
        ring = torch.searchsorted(ends, place, right=True)  # block ring - 1 is complete, block ring is not
        number = state["visited"] // size * len(ends) + ring
        within = rng.permuted(state["seed"], _ORDER, number, place - ends[ring - 1], ends[ring] - ends[ring - 1])

        (inner_height, inner_width), (outer_height, outer_width) = corners[ring - 1].T, corners[ring].T
        channel, within = within % channels, within // channels
        below = (outer_height - inner_height) * outer_width
        beside = within - below
        # A ring is the rows below the block before it, and then what is right of that block.
        across = (outer_width - inner_width).clamp_min(1)
        row = torch.where(beside < 0, inner_height + within // outer_width, beside // across)
        column = torch.where(beside < 0, within % outer_width, inner_width + beside % across)
        return channel, row, column

    def _vector(self, state: Columns, channel: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Return the basis vector of each coordinate, float32 like `x`."""
        channels, height, width = state["x"].shape[1:]
        wave = _cosine if self.basis == "dct" else _unit
        plane = wave(row, height)[:, :, None] * wave(column, width)[:, None, :]
        return _unit(channel, channels)[:, :, None, None] * plane[:, None]

    def _idle(self, state: Columns, channel: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Return which rows minus and plus the step leave unchanged, (rows,) bool each."""
        if self.basis == "dct":
            never = torch.zeros_like(state["second"])
            return never, never
        rows = torch.arange(len(channel), device=channel.device)
        pixel, value = (state[name][rows, channel, row, column] for name in ("x", "delta"))
        bound = self.threat.eps if self.norm == "linf" else math.inf
        size = self._size()
        here, lower, upper = (
            (pixel + moved.clamp(-bound, bound)).clamp(0, 1) for moved in (value, value - size, value + size)
        )
        return lower == here, upper == here

    def ask(self, state: Columns) -> Tensor:
        x = state["x"]
        opens = state["loss"].isinf()
        place = self.coordinate(state)
        minus_idle, plus_idle = self._idle(state, *place)
        plus = state["second"] | minus_idle
        state["last"] = plus | plus_idle
        length = torch.where(opens, 0.0, torch.where(plus, self._size(), -self._size()))
        moved = torch.addcmul(state["delta"], self._vector(state, *place), per_row(length.float(), x))
        state["trial"] = norms.project(moved, self.norm, self.threat.eps)
        return (x + state["trial"]).clamp_(0, 1)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        aimed = state["target"] >= 0
        of = torch.where(aimed, state["target"], state["y"])
        # In float32, a confident victim's probability would be 1 everywhere.
        chance = answer.double().softmax(1).gather(1, of[:, None])[:, 0]
        loss = torch.where(aimed, -chance, chance)
        opens = state["loss"].isinf()
        state["kept"] = better = loss < state["loss"]
        replace(state["delta"], better, state["trial"])
        state["loss"] = torch.where(better, loss, state["loss"])
        done = ~opens & (better | state["last"])
        state["second"] = ~opens & ~done
        state["visited"] = state["visited"] + done

    def best(self, state: Columns) -> Tensor:
        return (state["x"] + state["delta"]).clamp_(0, 1)


@lru_cache(maxsize=64)
def _blocks(height: int, width: int, basis: str) -> list[tuple[int, int]]:
    """Return the growing blocks of coordinates that are visited in turn, the first one empty."""
    if basis == "pixel":
        return [(0, 0), (height, width)]
    longer = max(height, width)
    stride = max(round(longer / 32), 1)
    sides = range(max(round(longer / 8), 1), longer + stride, stride)
    return [(0, 0), *((min(side, height), min(side, width)) for side in sides)]


def _unit(index: Tensor, size: int) -> Tensor:
    """Return unit vectors, float32 (rows, size)."""
    return (index[:, None] == torch.arange(size, device=index.device)).float()


def _cosine(frequency: Tensor, size: int) -> Tensor:
    """Return columns of the orthonormal inverse cosine transform, float32 (rows, size)."""
    odd = 2 * torch.arange(size, device=frequency.device, dtype=torch.float64) + 1
    wave = (frequency[:, None] * odd * (math.pi / (2 * size))).cos()
    scale = torch.where(frequency == 0, math.sqrt(1 / size), math.sqrt(2 / size))
    return (scale[:, None] * wave).float()
