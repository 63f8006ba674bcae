"""Steps that decision-based attacks share: starting points, bisection and the nearest adversarial point."""

from __future__ import annotations

import torch
from torch import Tensor

from rfdlight.core import rng
from rfdlight.core.tensors import Columns, per_row
from rfdlight.core.threat import ThreatModel

BLEND_GAP = 1e-3
"""Share of the segment at which the bisection of a starting point stops, the value of both authors: 10 queries."""


def open_bracket(y: Tensor) -> Columns:
    """Return the columns `low` and `high`, (rows,) float64: a bracket of shares of a segment, [0, 1]."""
    return {"low": torch.zeros_like(y, dtype=torch.float64), "high": torch.ones_like(y, dtype=torch.float64)}


def middle(state: Columns) -> Tensor:
    """Return the middle of each bracket, (rows,) float64."""
    return (state["low"] + state["high"]) / 2


def halve(state: Columns, adversarial: Tensor) -> Tensor:
    """Move the upper end of each bracket to its middle if that was adversarial, else the lower end; return widths."""
    share = middle(state)
    state["high"] = torch.where(adversarial, share, state["high"])
    state["low"] = torch.where(adversarial, state["low"], share)
    return state["high"] - state["low"]


def reopen(state: Columns, rows: Tensor) -> None:
    """Set the brackets of `rows`, (rows,) bool, to [0, 1]."""
    state["low"] = state["low"].masked_fill(rows, 0.0)
    state["high"] = state["high"].masked_fill(rows, 1.0)


def between(x: Tensor, far: Tensor, share: Tensor) -> Tensor:
    """Return the points at a share, (rows,) in [0, 1], of the way from x to `far`."""
    return (far - x).mul_(per_row(share.to(x.dtype), x)).add_(x).clamp_(0, 1)


def halfway(state: Columns) -> Tensor:
    """Return the points at the middle of the brackets, on the segments from x to `far`."""
    return between(state["x"], state["far"], middle(state))


def starting_point(state: Columns, stream: int, number: Tensor) -> Tensor:
    """Return the image of the target class, or uniform noise for an untargeted attack, like `x`."""
    if "start" in state:
        return state["start"].clone()
    x = state["x"]
    return rng.uniform(state["seed"], stream, number, x[0].numel()).to(x.dtype).view(x.shape)


def open_nearest(x: Tensor, y: Tensor) -> Columns:
    """Return the columns of `keep_nearest`: `nearest`, like `x`, and `distance`, (rows,), infinite at first."""
    return {"nearest": x.clone(), "distance": torch.full_like(y, torch.inf, dtype=x.dtype)}


def keep_nearest(threat: ThreatModel, state: Columns, points: Tensor, adversarial: Tensor) -> None:
    """Keep the adversarial point nearest to x, and before the first one the last point."""
    distance = threat.distance(state["x"], points)
    nearer = adversarial & (distance < state["distance"])
    kept = nearer | state["distance"].isinf()
    state["nearest"] = torch.where(per_row(kept, points), points, state["nearest"])
    state["distance"] = torch.where(nearer, distance, state["distance"])
