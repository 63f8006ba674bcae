"""The RayS attack."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.norms import Norm
from rfdlight.tensors import Columns, per_row

_TOLERANCE = 1e-3
"""Where bisection stops, as an l2 length along the ray (the authors' value)."""


class RayS(Attack):
    """Searches sign directions for the one with the nearest misclassified point, reading labels.

    A ray leads from x along v / sqrt(d) with v in {-1, +1}^d. Each step negates one block of the best
    v and asks whether the point at the best radius is misclassified along the new ray. If so, bisection
    finds the new radius. Blocks are halved after each pass over the image.

    Source: Chen and Gu, RayS: A Ray Searching Method for Hard-label Adversarial Attack, KDD 2020,
    algorithm 3. Blocks run over the flattened (C, H, W) image as in the published code. Deviation:
    every image is a state machine of its own, so an image in bisection does not hold up the others,
    and a bisection that the budget cuts short leaves the radius as it was.

    Args:
        eps: Radius in pixel units, > 0; by default the data set's reference radius.
        norm: "linf".

    State:
        direction: int8 (rows, C, H, W), the best v.
        radius: (rows,) float64, its l2 radius, infinite before any misclassified point.
        level, block: (rows,) int64, which block is tried: number `block` of 2^level.
        bisecting: (rows,) bool.
        low, high: (rows,) float64, the bracket of the bisection.

    Queries:
        One for a direction that fails its check, else one more per bisection.
    """

    reads = "labels"

    def __init__(self, eps: float | None = None, norm: Norm = "linf") -> None:
        super().__init__(eps, norm)

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        zero = torch.zeros_like(y)
        return {
            "direction": torch.ones_like(x, dtype=torch.int8),
            "radius": torch.full_like(y, torch.inf, dtype=torch.float64),
            "level": zero,
            "block": zero.clone(),
            "bisecting": torch.zeros_like(y, dtype=torch.bool),
            "low": torch.zeros_like(y, dtype=torch.float64),
            "high": torch.zeros_like(y, dtype=torch.float64),
        }

    @staticmethod
    def _length(state: Columns) -> Tensor:
        """Return the values per block, (rows,): d / 2^level, rounded up."""
        size = state["x"][0].numel()
        blocks = 2 ** state["level"].clamp_max(40)
        return (size + blocks - 1) // blocks

    def ask(self, state: Columns) -> Tensor:
        x = state["x"]
        full = math.sqrt(x[0].numel())
        length = self._length(state)
        start = per_row(state["block"] * length, x)
        index = torch.arange(x[0].numel(), device=x.device).view(1, *x.shape[1:])
        inside = (index >= start) & (index < start + per_row(length, x))
        state["trial"] = torch.where(inside, -state["direction"], state["direction"])
        middle = (state["low"] + state["high"]) / 2
        # At radius sqrt(d) every pixel is 0 or 1 already.
        state["reach"] = torch.where(state["bisecting"], middle, state["radius"].clamp_max(full))
        step = per_row((state["reach"] / full).to(x.dtype), x)
        return torch.addcmul(x, step, state["trial"].to(x.dtype)).clamp_(0, 1)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        wrong = answer != state["y"]
        bisecting, reach = state["bisecting"], state["reach"]
        starts = wrong & ~bisecting
        high = torch.where(wrong, reach, state["high"])
        low = torch.where(starts, 0.0, torch.where(bisecting & ~wrong, reach, state["low"]))
        converged = bisecting & (high - low <= _TOLERANCE)
        nearer = converged & (high < state["radius"])
        ends = converged | ~(wrong | bisecting)

        torch.where(per_row(nearer, points), state["trial"], state["direction"], out=state["direction"])
        state["radius"] = torch.where(nearer, high, state["radius"])
        state["low"], state["high"] = low, high
        state["bisecting"] = starts | (bisecting & ~converged)
        block = state["block"] + 1
        past = (block >= 2 ** state["level"].clamp_max(40)) | (block * self._length(state) >= points[0].numel())
        state["block"] = torch.where(ends, torch.where(past, 0, block), state["block"])
        state["level"] = state["level"] + (ends & past)

    def best(self, state: Columns) -> Tensor:
        return torch.add(state["x"], state["direction"], alpha=self.threat.eps).clamp_(0, 1)

    def claims(self, state: Columns) -> Tensor:
        x = state["x"]
        step = (state["radius"] / math.sqrt(x[0].numel())).clamp_max(1.0)
        point = torch.addcmul(x, per_row(step.to(x.dtype), x), state["direction"].to(x.dtype)).clamp_(0, 1)
        return self.threat.contains(x, point) & state["radius"].isfinite()

    def unfinished(self, state: Columns) -> Tensor:
        return state["bisecting"]
