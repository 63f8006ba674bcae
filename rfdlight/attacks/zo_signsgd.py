"""The ZO-signSGD attack."""

from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.base import check_count, check_positive
from rfdlight.attacks.gradient_estimation import SummedProbes, by_size
from rfdlight.core import rng
from rfdlight.core.losses import Loss
from rfdlight.core.tensors import Columns, per_row

_SIGMA = 0.1  # the paper's, for images of 224 pixels


class ZOSignSGD(SummedProbes):
    """ZO-signSGD: score-based gradient estimation from forward differences, followed along its signs, in linf or l2.

    An iteration queries the iterate x_t, which also shows success, then n times x_t + sigma u with u from N(0, I). It
    sums L(x_t) - L(x_t + sigma u) times u, with L the attacker's loss, steps along the signs of the sum, in l2 too, and
    projects on the ball around the clean image and [0, 1].

    Source: Liu, Chen, Chen, Hong, signSGD via Zeroth-Order Oracle, ICLR 2019, algorithm 1, with Gaussian directions and
    the constants of Nguyen et al., ICLR 2024, see `rfdlight.attacks.paper`.
    Deviations: probes are clipped to [0, 1]; the margin by default.

    Args:
        samples: Probes per iteration, n, >= 1.
        sigma: Standard deviation of a probe per pixel value, > 0; by default 0.1 s / 224 for images of shorter side s,
            at most 0.1; under the paper's query counting 0.1.
        step: Length of a step per pixel value, > 0.
        loss: "margin" or "cross_entropy".
    """

    signs_in_l2 = True

    def __init__(
        self,
        samples: int = 15,
        sigma: float | None = None,
        step: float = 0.01,
        loss: Loss = "margin",
        **ball: Any,
    ) -> None:
        super().__init__(**ball)
        check_count(samples=samples)
        check_positive(sigma=sigma, step=step)
        self.samples = samples
        self.sigma = sigma
        self.step = step
        self.loss = loss

    def probe_size(self, x: Tensor) -> float:
        """Return the standard deviation of a probe per pixel value."""
        if self.sigma is not None:
            return self.sigma
        return _SIGMA if self.paper_constants else by_size(_SIGMA, x)

    @property
    def cycle(self) -> int:
        return self.samples + 1

    def ask(self, state: Columns) -> Tensor:
        position = self.position(state)
        return self.query(state, (position - 1).clamp_min(0), position > 0)

    def query(self, state: Columns, number: Tensor, probes: Tensor) -> Tensor:
        """Return the probes with a number, (rows,), in their iteration; the iterate for rows that are not `probes`."""
        x = state["x"]
        draw = state["queries"] // self.cycle * self.samples + number
        state["draw"] = rng.normal(state["seed"], 0, draw, tuple(x.shape[1:]))
        return self.in_range(state["point"] + per_row(probes * self.probe_size(x), x).to(x.dtype) * state["draw"])

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss, position = self.objective(state, answer), self.position(state)
        probes = position > 0
        fall = torch.where(probes, state["first"] - loss, 0.0)
        state["first"] = torch.where(probes, state["first"], loss)
        self.collect(state, fall, position == self.samples)

    def is_success_check(self, state: Columns) -> Tensor:
        return torch.zeros_like(state["y"], dtype=torch.bool)

    def steps_within(self, budget: int) -> int:
        return budget // self.eot // self.cycle

    def budget_warning(self, budget: int) -> str | None:
        # In l2, the size of the images decides how far a step of signs leads.
        return super().budget_warning(budget) if self.norm == "linf" else None
