"""The Bandits attack."""

import math
from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.base import check_count, check_positive, check_side
from rfdlight.attacks.gradient_estimation import GradientEstimation, enlarged, unit
from rfdlight.core import rng
from rfdlight.core.losses import Loss
from rfdlight.core.tensors import Columns, per_row

_PROBE = {"linf": 0.1, "l2": 0.01}
_STEP = {"linf": 0.01, "l2": 0.5}
_PRIOR_STEP = {"linf": 100.0, "l2": 0.1}
_EXPLORATION = {"linf": 1.0, "l2": 0.01}


class Bandits(GradientEstimation):
    """Bandits-TD: score-based gradient estimation with time and data priors, a coarse direction learned over all steps.

    The prior v is a coarse image of s x s values per channel, zero at the start; up() enlarges it to the image. A step
    draws u = exploration N(0, I) / sqrt(C s^2) and queries `x_t + probe q / |q|` for q = up(v + u) and q = up(v - u).
    With L the attacker's loss and e = (L(second) - L(first)) / (probe exploration), it adds prior_step e u to v in l2,
    to atanh(v) in linf. It steps along up(v) (l2) or its signs (linf) and projects on the ball around the clean image
    and [0, 1]. The third query of a step is a success check at the new iterate.

    Source: Ilyas, Engstrom, Madry, Prior Convictions: Black-Box Adversarial Attacks with Bandits and Priors, ICLR 2019,
    algorithms 2 and 3, with the published code's constants for ImageNet.
    Deviations: probes are clipped to [0, 1]; the success check is billed; the margin by default; in linf atanh(v) is
    stored, so that rounding cannot trap v at -1 or 1.

    Args:
        prior_side: Side s of the prior, from 1 to the image's shorter side; by default 5/8 of that side and at most 50,
            which gives 20 at 32 pixels and 50 at 224.
        probe: l2 length of a probe, > 0; by default 0.1 in linf, 0.01 in l2.
        exploration: l2 length of u, about, > 0; by default 1.0 in linf, 0.01 in l2.
        prior_step: Step of the prior, > 0; by default 100 in linf, 0.1 in l2.
        step: Step of the iterate, per pixel value in linf and in l2 norm in l2, > 0; by default 0.01 and 0.5.
        loss: "margin" or "cross_entropy".
    """

    cycle = 3

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
        """Return the side of the prior for images of this size."""
        shorter = min(height, width)
        if self.prior_side is None:
            return max(min(50, 5 * shorter // 8), 1)
        return self.prior_side

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        check_side(x, prior_side=self.prior_side)
        side = self.side(*x.shape[2:])
        prior = x.new_zeros(len(x), x.shape[1], side, side)  # v, in linf atanh(v)
        return {"prior": prior, **super().init(x, y, seed)}

    def _v(self, state: Columns) -> Tensor:
        return state["prior"].tanh() if self.norm == "linf" else state["prior"]

    def ask(self, state: Columns) -> Tensor:
        x, position = state["x"], self.position(state)
        shape = tuple(state["prior"].shape[1:])
        scale = self.exploration / math.sqrt(math.prod(shape))
        state["draw"] = scale * rng.normal(state["seed"], 0, state["queries"] // 3, shape)
        coarse = self._v(state) + per_row(1 - 2 * position, x) * state["draw"]
        length = per_row((position < 2) * self.probe, x).to(x.dtype)
        return self.in_range(state["point"] + length * unit(enlarged(coarse, x)))

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss, position = self.objective(state, answer), self.position(state)
        second = position == 1
        fall = torch.where(second, loss - state["first"], 0.0) / (self.probe * self.exploration)
        state["first"] = torch.where(position == 0, loss, state["first"])
        state["prior"] += self.prior_step * per_row(fall, points) * state["draw"]
        state["queries"] = state["queries"] + 1
        if second.any():
            self.step_along(state, second, enlarged(self._v(state), points))
