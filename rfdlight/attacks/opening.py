"""How attacks that walk along the decision boundary begin: with a point that hits, drawn towards x."""

from __future__ import annotations

import torch
from torch import Tensor

from rfdlight.core import rng
from rfdlight.core.tensors import Columns, per_row

START, BLEND = range(2)
"""The first two values of such an attack's column `phase`."""

BLEND_GAP = 1e-3
"""Share of the segment at which the first bisection stops (the value of both attacks' authors): 10 queries."""


def open_bisection(y: Tensor) -> Columns:
    """Return the columns of a bisection: its bracket `low`, `high`, (rows,) float64, as shares of a segment."""
    return {
        "low": torch.zeros_like(y, dtype=torch.float64),
        "high": torch.ones_like(y, dtype=torch.float64),
    }


def first_point(state: Columns, stream: int, number: Tensor) -> Tensor:
    """Return what to try first: the image of the target class where there is one, else uniform noise, like `x`."""
    if "start" in state:
        return state["start"].clone()
    x = state["x"]
    return rng.uniform(state["seed"], stream, number, x[0].numel()).to(x.dtype).view(x.shape)


def between(x: Tensor, far: Tensor, share: Tensor) -> Tensor:
    """Return the points at a share of the way from x to `far`; `share` is (rows,) in [0, 1]."""
    return (far - x).mul_(per_row(share.to(x.dtype), x)).add_(x).clamp_(0, 1)


def middle(state: Columns) -> Tensor:
    """Return the shares that the bisections ask next, (rows,) float64."""
    return (state["low"] + state["high"]) / 2


def halve(state: Columns, rows: Tensor, hit: Tensor) -> Tensor:
    """Replace one end of the brackets of `rows` by the middle, the high one after a hit; return all widths."""
    share = middle(state)
    state["high"] = torch.where(rows & hit, share, state["high"])
    state["low"] = torch.where(rows & ~hit, share, state["low"])
    return state["high"] - state["low"]
