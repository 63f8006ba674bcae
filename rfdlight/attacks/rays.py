"""The RayS attack."""

import math
from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.decision_based import RepeatingAttack, middle
from rfdlight.core.tensors import Columns, halved_blocks, negated, per_row, replace

_LEVELS = 41  # levels with different blocks: images have fewer than 2^40 values
_TOLERANCE = 1e-3  # l2 length along the ray at which bisection stops (the authors' value)


class RayS(RepeatingAttack):
    """RayS: decision-based search over sign directions for the nearest misclassified point in linf.

    Each step negates one block of the best v in {-1, +1}^d and queries the ray along v / sqrt(d) at the best radius. If
    that point is misclassified, bisection finds the new radius. Blocks are halved after each pass over the image.
    Queries: one for a direction that fails its check, else one more per bisection.

    Source: Chen and Gu, RayS: A Ray Searching Method for Hard-label Adversarial Attack, KDD 2020, algorithm 3. Blocks
    run over the flattened (C, H, W) image as in the published code.
    Deviations: the point at radius eps along the best ray is submitted, where the authors submit the nearest
    misclassified point: a random victim misclassifies that one by chance; `lead` is not an option of the authors.

    Args:
        lead: Answers by which misclassified ones must lead the others at a point in the ball, >= 1, before it counts as
            misclassified; a point whose right answers lead does not.
    """

    CHECK, BISECT = range(2)

    def __init__(self, lead: int = 1, **ball: Any) -> None:
        super().__init__(lead, **ball)

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        return {
            **super().init(x, y, seed),
            "direction": torch.ones_like(x, dtype=torch.int8),  # the best v
            "radius": torch.full_like(y, torch.inf, dtype=torch.float64),  # its l2 radius
            "level": torch.zeros_like(y),  # the block that is tried has the number `block` of 2^level
            "block": torch.zeros_like(y),
            "phase": torch.zeros_like(y),
            "low": torch.zeros_like(y, dtype=torch.float64),  # the bracket of the bisection
            "high": torch.zeros_like(y, dtype=torch.float64),
        }

    def ask(self, state: Columns) -> Tensor:
        x = state["x"]
        length, state["blocks"] = halved_blocks(x[0].numel(), _LEVELS, x.device)[
            :, state["level"].clamp_max(_LEVELS - 1)
        ]
        start = state["block"] * length
        state["trial"] = negated(state["direction"], start, start + length)
        # At radius sqrt(d) every pixel is 0 or 1 already.
        checked = state["radius"].clamp_max(math.sqrt(x[0].numel()))
        state["checks"] = state["phase"] == self.CHECK
        state["reach"] = torch.where(state["checks"], checked, middle(state))
        return self.point(x, state["trial"], state["reach"])

    @staticmethod
    def point(x: Tensor, direction: Tensor, radius: Tensor) -> Tensor:
        """Return the point at an l2 radius along a ray, like `x`."""
        step = (radius / math.sqrt(x[0].numel())).clamp_max(1.0)
        return torch.addcmul(x, per_row(step.to(x.dtype), x), direction.to(x.dtype)).clamp_(0, 1)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        reach, low, high, checks = state["reach"], state["low"], state["high"], state["checks"]
        decided, wrong = self.decide(state, points, self.is_adversarial(state, answer))
        right = decided ^ wrong

        found = wrong & checks
        torch.where(wrong, reach, high, out=high)
        torch.where(right > checks, reach, low, out=low)  # right answers to bisections
        low.masked_fill_(found, 0.0)
        converged = (decided > checks) & (high - low <= _TOLERANCE)
        nearer = converged & (high < state["radius"])
        ends = (right & checks).logical_or_(converged)

        replace(state["direction"], nearer, state["trial"])
        torch.where(nearer, high, state["radius"], out=state["radius"])
        state["phase"].masked_fill_(ends, self.CHECK).masked_fill_(found, self.BISECT)
        state["block"] += ends
        past = state["block"] >= state["blocks"]  # only of a block that ends: the others are below
        state["block"].masked_fill_(past, 0)
        state["level"] += past

    def best(self, state: Columns) -> Tensor:
        return torch.add(state["x"], state["direction"], alpha=self.threat.eps).clamp_(0, 1)
