"""The Bandits attack with time and data priors."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from rfdlight.attacks.ascent import advance, short_of_the_ball, unit
from rfdlight.attacks.base import Attack
from rfdlight.attacks.options import check_count, check_positive
from rfdlight.core import rng
from rfdlight.core.losses import Loss
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row

_PROBE: dict[Norm, float] = {"linf": 0.1, "l2": 0.01}
_STEP: dict[Norm, float] = {"linf": 0.01, "l2": 0.5}
_PRIOR_STEP: dict[Norm, float] = {"linf": 100.0, "l2": 0.1}
_EXPLORATION: dict[Norm, float] = {"linf": 1.0, "l2": 0.01}


class Bandits(Attack):
    """Learns a coarse direction over the whole attack from two probes per step, reading scores.

    The prior v is a coarse image of s x s values per channel, zero at the start; up() enlarges it to the
    image, each pixel taking the value of its cell. A step draws u = exploration N(0, I) / sqrt(C s^2) and
    asks x_t + probe q / |q| for q = up(v + u) and q = up(v - u). With L what the attacker lowers, the fall
    towards u is e = (L(second) - L(first)) / (probe exploration). The prior then moves along e u: in l2 by
    adding prior_step e u, in linf by an exponentiated gradient step in (-1, 1), which adds prior_step e u to
    atanh(v). The iterate moves by step sgn(up(v)) in linf, where sgn(0) = 0, and by step up(v) / |up(v)| in
    l2. It is projected on the ball around the clean image and then clipped to [0, 1].

    Source: Ilyas, Engstrom, Madry, Prior Convictions: Black-Box Adversarial Attacks with Bandits and
    Priors, ICLR 2019, algorithms 2 and 3, with the published code's constants for ImageNet.
    Deviations: probes are clipped to [0, 1]; the query that looks at the new iterate is billed;
    the margin instead of the cross entropy by default; atanh(v) is what is stored in linf, so that v
    cannot get stuck at -1 or 1 by rounding. Under the query counting of Nguyen et al., Understanding the
    Robustness of Randomized Feature Defense Against Query-Based Adversarial Attacks, ICLR 2024, nothing
    is clipped and the look is free. Their code moves the prior the wrong way, so that the margin rises:
    that is reproduced under no query counting.

    Args:
        prior_side: Side s of the prior, >= 1, at most the image's; by default 5/8 of the image's shorter
            side and at most 50, which gives 20 at 32 pixels and 50 at 224.
        probe: l2 length of a probe, > 0; by default 0.1 in linf, 0.01 in l2.
        exploration: l2 length of u, about, > 0; by default 1.0 in linf, 0.01 in l2.
        prior_step: Step of the prior, > 0; by default 100 in linf, 0.1 in l2.
        step: Step of the image, per pixel value in linf and in l2 norm in l2, > 0; by default 0.01 in linf,
            0.5 in l2.
        loss: "margin" or "cross_entropy".
        ball: `eps` and `norm` ("linf" or "l2"), see `Attack`.

    State:
        point: like x, the iterate.
        prior: (rows, C, s, s), in l2 v, in linf atanh(v).
        first: (rows,) float32, the loss at the first probe.
        asked: (rows,) int64, queries so far.

    Queries:
        Two per step, and one at the new iterate. The clean image is never queried.

    Raises:
        UserError: If an option is out of range.
    """

    access = "score"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    def __init__(
        self,
        prior_side: int | None = None,
        probe: float | None = None,
        exploration: float | None = None,
        prior_step: float | None = None,
        step: float | None = None,
        loss: Loss = "margin",
        **ball: Any,
    ) -> None:
        super().__init__(**ball)
        check_count(prior_side=prior_side)
        check_positive(probe=probe, exploration=exploration, prior_step=prior_step, step=step)
        self.prior_side = prior_side
        self.probe = _PROBE[self.norm] if probe is None else probe
        self.exploration = _EXPLORATION[self.norm] if exploration is None else exploration
        self.prior_step = _PRIOR_STEP[self.norm] if prior_step is None else prior_step
        self.step = _STEP[self.norm] if step is None else step
        self.loss = loss

    def side(self, height: int, width: int) -> int:
        """Return the side of the prior for images of a size."""
        shorter = min(height, width)
        if self.prior_side is None:
            return max(min(50, 5 * shorter // 8), 1)
        return min(self.prior_side, shorter)

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        side = self.side(*x.shape[2:])
        return {
            "point": x.clone(),
            "prior": x.new_zeros(len(x), x.shape[1], side, side),
            "first": torch.zeros_like(y, dtype=torch.float32),
            "asked": torch.zeros_like(y),
        }

    def _v(self, state: Columns) -> Tensor:
        return state["prior"].tanh() if self.norm == "linf" else state["prior"]

    @staticmethod
    def _enlarge(coarse: Tensor, like: Tensor) -> Tensor:
        """Return (rows, C, H, W): each pixel has the value of the cell that it lies in."""
        side, (height, width) = coarse.shape[2], like.shape[2:]
        down = torch.arange(height, device=coarse.device) * side // height
        across = torch.arange(width, device=coarse.device) * side // width
        cell = (down[:, None] * side + across).flatten().expand(*coarse.shape[:2], -1)
        return coarse.flatten(2).gather(2, cell).view(*coarse.shape[:2], height, width)

    def ask(self, state: Columns) -> Tensor:
        x, position = state["x"], state["asked"] % 3
        shape = tuple(state["prior"].shape[1:])
        scale = self.exploration / math.sqrt(math.prod(shape))
        state["draw"] = scale * rng.normal(state["seed"], 0, state["asked"] // 3, shape)
        coarse = self._v(state) + per_row(1 - 2 * position, x) * state["draw"]
        length = per_row((position < 2) * self.probe, x).to(x.dtype)
        probe = state["point"] + length * unit(self._enlarge(coarse, x))
        return probe.clamp_(0, 1) if self.query_counting == "exact" else probe

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss = self.objective(state, answer)
        position = state["asked"] % 3
        second = position == 1
        fall = torch.where(second, loss - state["first"], 0.0) / (self.probe * self.exploration)
        state["first"] = torch.where(position == 0, loss, state["first"])
        state["prior"] += self.prior_step * per_row(fall, points) * state["draw"]
        state["asked"] = state["asked"] + 1
        state["claim"] = (position == 2) & self.is_adversarial(state, answer.argmax(1))
        if second.any():
            along = self._enlarge(self._v(state), points)
            change = self.step * (along.sign() if self.norm == "linf" else unit(along))
            moved = advance(self.threat, state["x"], state["point"], change, self.query_counting == "exact")
            state["point"] = torch.where(per_row(second, points), moved, state["point"])

    def best(self, state: Columns) -> Tensor:
        return state["point"]

    def is_success_check(self, state: Columns) -> Tensor:
        return state["asked"] % 3 == 2

    def reports_success(self, state: Columns) -> Tensor:
        return state["claim"]

    def paper_ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        return (state["asked"] % 3 == 0) & super().paper_ended(state, evaluated)

    def budget_warning(self, budget: int) -> str | None:
        queries = budget // self.repeats
        steps = (queries + 1) // 3 if self.query_counting == "exact" else -(-budget // (2 * self.repeats))
        return short_of_the_ball(steps, self.step, self.threat.eps)
