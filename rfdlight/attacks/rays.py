"""The RayS attack."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.attacks.bisection import middle
from rfdlight.attacks.voting import cast_vote, check_odd, open_votes
from rfdlight.core.tensors import Columns, per_row

_TOLERANCE = 1e-3
"""l2 length along the ray at which bisection stops (the authors' value)."""


class RayS(Attack):
    """RayS: decision-based search over sign directions for the nearest misclassified point in linf.

    A ray leads from the clean image x along v / sqrt(d) with v in {-1, +1}^d. Each step negates one block of the best v
    and queries the new ray at the best radius. If that point is misclassified, bisection finds the new radius. Blocks
    are halved after each pass over the image.

    Source: Chen and Gu, RayS: A Ray Searching Method for Hard-label Adversarial Attack, KDD 2020, algorithm 3. Blocks
    run over the flattened (C, H, W) image as in the published code.
    Deviations: each image advances on its own; a bisection that the budget cuts short leaves the radius unchanged; the
    point at radius eps along the best ray is submitted, where the authors submit the nearest misclassified point: a
    random victim misclassifies that one by chance; `votes` and `verify` are not options of the authors.

    Args:
        votes: Largest number of queries per decision, odd; the majority decides, and no more are made than it needs.
        verify: Largest number of queries, odd, at the point of a radius inside the ball before it is adopted; their
            majority must be misclassified; 0 for none.
        ball: `eps` and `norm` ("linf"), see `Attack`.

    State:
        direction: int8 (rows, C, H, W), the best v.
        radius: (rows,) float64, its l2 radius, infinite before any misclassified point.
        level, block: (rows,) int64, the block that is tried: number `block` of 2^level.
        phase: (rows,) int64: checking a direction, bisecting, or verifying.
        low, high: (rows,) float64, the bracket of the bisection.
        ballots, hits: the vote, see `rfdlight.attacks.voting`.

    Queries:
        One for a direction that fails its check, else one more per bisection; (votes + 1) / 2 to votes times as many
        with votes.
    """

    access = "decision"

    CHECK, BISECT, VERIFY = range(3)

    def __init__(self, votes: int = 1, verify: int = 0, **ball: Any) -> None:
        super().__init__(**ball)
        check_odd("votes", votes)
        if verify:
            check_odd("verify", verify)
        self.votes = votes
        self.verify = verify

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        zero = torch.zeros_like(y)
        return {
            "direction": torch.ones_like(x, dtype=torch.int8),
            "radius": torch.full_like(y, torch.inf, dtype=torch.float64),
            "level": zero,
            "block": zero.clone(),
            "phase": zero.clone(),
            "low": torch.zeros_like(y, dtype=torch.float64),
            "high": torch.zeros_like(y, dtype=torch.float64),
            **open_votes(y),
        }

    @staticmethod
    def _length(state: Columns) -> Tensor:
        """Return the number of values per block, (rows,): d / 2^level, rounded up."""
        size = state["x"][0].numel()
        blocks = 2 ** state["level"].clamp_max(40)
        return (size + blocks - 1) // blocks

    def ask(self, state: Columns) -> Tensor:
        x, phase = state["x"], state["phase"]
        length = self._length(state)
        start = per_row(state["block"] * length, x)
        index = torch.arange(x[0].numel(), device=x.device).view(1, *x.shape[1:])
        inside = (index >= start) & (index < start + per_row(length, x))
        state["trial"] = torch.where(inside, -state["direction"], state["direction"])
        # At radius sqrt(d) every pixel is 0 or 1 already.
        checked = state["radius"].clamp_max(math.sqrt(x[0].numel()))
        bisected = torch.where(phase == self.BISECT, middle(state), state["high"])
        state["reach"] = torch.where(phase == self.CHECK, checked, bisected)
        return self.point(x, state["trial"], state["reach"])

    @staticmethod
    def point(x: Tensor, direction: Tensor, radius: Tensor) -> Tensor:
        """Return the point at an l2 radius along a ray, like `x`."""
        step = (radius / math.sqrt(x[0].numel())).clamp_max(1.0)
        return torch.addcmul(x, per_row(step.to(x.dtype), x), direction.to(x.dtype)).clamp_(0, 1)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        phase, reach = state["phase"], state["reach"]
        decided, wrong = self._decide(state, self.is_adversarial(state, answer))
        checks, bisects, verifies = (decided & (phase == which) for which in (self.CHECK, self.BISECT, self.VERIFY))

        found = wrong & checks
        high = torch.where(wrong & (checks | bisects), reach, state["high"])
        low = torch.where(found, 0.0, torch.where(bisects & ~wrong, reach, state["low"]))
        converged = bisects & (high - low <= _TOLERANCE)
        nearer = converged & (high < state["radius"])
        if self.verify:
            doubtful = nearer & self.threat.contains(state["x"], self.point(state["x"], state["trial"], high))
        else:
            doubtful = torch.zeros_like(nearer)
        adopted = (nearer & ~doubtful) | (verifies & wrong)
        ends = (checks & ~wrong) | (converged & ~doubtful) | verifies

        torch.where(per_row(adopted, points), state["trial"], state["direction"], out=state["direction"])
        state["radius"] = torch.where(adopted, high, state["radius"])
        state["low"], state["high"] = low, high
        phase = torch.where(found, self.BISECT, phase)
        state["phase"] = torch.where(doubtful, self.VERIFY, torch.where(ends, self.CHECK, phase))
        block = state["block"] + 1
        past = (block >= 2 ** state["level"].clamp_max(40)) | (block * self._length(state) >= points[0].numel())
        state["block"] = torch.where(ends, torch.where(past, 0, block), state["block"])
        state["level"] = state["level"] + (ends & past)

    def _decide(self, state: Columns, adversarial: Tensor) -> tuple[Tensor, Tensor]:
        """Return which decisions are complete, and which of these are misclassified."""
        votes: int | Tensor = self.votes
        if self.verify:
            votes = torch.where(state["phase"] == self.VERIFY, self.verify, self.votes)
        decided, outcome = cast_vote(state, adversarial, votes)
        return decided, decided & outcome

    def best(self, state: Columns) -> Tensor:
        return torch.add(state["x"], state["direction"], alpha=self.threat.eps).clamp_(0, 1)
