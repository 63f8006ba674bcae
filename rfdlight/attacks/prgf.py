"""The P-RGF attack (prior-guided random gradient-free)."""

import math
from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.base import check_count, check_positive
from rfdlight.attacks.gradient_estimation import GradientEstimation, unit
from rfdlight.attacks.surrogate import SurrogateAttack
from rfdlight.core import rng
from rfdlight.core.losses import Loss
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row

_STEP: dict[Norm, float] = {"linf": 0.005, "l2": 2.0}


def optimal_weight(cosine: Tensor, size: int, samples: int) -> Tensor:
    """Return the weight of the prior that minimises the error of the estimate, lambda*, (rows,) float64 in [0, 1].

    Source: Cheng et al., NeurIPS 2019, theorem 2.

    Args:
        cosine: Cosine of prior and gradient, (rows,), in [-1, 1].
        size: Values of an image, D.
        samples: Probes of an estimate, q.
    """
    square = cosine.double().square()
    spread = size + 2 * samples - 2
    above = (1 - square) * (square * spread - 1)
    below = 2 * square * size * samples - square.square() * size * spread - 1
    weight = (above / below).where(square * spread < 2 * samples - 1, 1.0)
    return weight.where(square * spread > 1, 0.0)


class PRGF(SurrogateAttack, GradientEstimation):
    """P-RGF: score-based gradient estimation around the gradient of a surrogate, in linf or l2.

    An iteration queries the iterate, then a probe along v, the surrogate's normalised gradient there, then S probes
    along random unit vectors w. From their slopes it estimates the cosine of v and the victim's gradient, with
    sqrt(D / S sum of the squared slopes along w) for the norm of the gradient, and from the cosine the optimal weight
    lambda. If lambda is 1, it steps along v. Otherwise it queries q probes along
    u = sqrt(lambda) v + sqrt(1 - lambda) times a random unit vector orthogonal to v, and steps along the sum of the
    slopes times u: its signs in linf, its direction in l2. A slope is the fall of the loss divided by the length of the
    probe. Queries: 2 + S or 2 + S + q per iteration. The iterate is submitted.

    Source: Cheng, Dong, Pang, Su, Zhu, Improving Black-box Adversarial Attacks with a Transfer-based Prior, NeurIPS
    2019, sections 3.2 and 3.3, algorithm 1, with its constants for 299 x 299 pixels.
    Deviations: no data-dependent subspace; the cosine is estimated in every iteration; where lambda is 1, the step is
    against v if the slope along v is negative; probes are clipped to [0, 1]; the margin by default.

    Args:
        surrogate: A network from pixels in [0, 1] to logits of the victim's classes, or its name.
        samples: Probes of an estimate, q, >= 1.
        norm_samples: Probes that estimate the norm of the gradient, S, >= 1.
        sigma: Length of a probe per square root of the number of values D, > 0.
        step: Length of a step, per pixel value in linf and in l2 norm in l2, > 0; by default 0.005 in linf, 2 in l2.
        loss: "margin" or "cross_entropy", on the victim and on the surrogate.
    """

    has_targeted_form = True

    def __init__(
        self,
        surrogate: Any = None,
        samples: int = 50,
        norm_samples: int = 10,
        sigma: float = 0.0001,
        step: float | None = None,
        loss: Loss = "margin",
        **ball: Any,
    ) -> None:
        super().__init__(surrogate, **ball)
        check_count(samples=samples, norm_samples=norm_samples)
        check_positive(sigma=sigma, step=step)
        self.samples = samples
        self.norm_samples = norm_samples
        self.sigma = sigma
        self.step = _STEP[self.norm] if step is None else step
        self.loss = loss

    @property
    def cycle(self) -> int:
        """Queries of the longest iteration."""
        return 2 + self.norm_samples + self.samples

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        first = torch.zeros_like(y, dtype=torch.float32)
        return {
            **super().init(x, y, seed),
            "position": torch.zeros_like(y),  # in the iteration
            "prior": torch.zeros_like(x),  # v
            "direction": torch.zeros_like(x),  # the sum of slopes times u
            "along": first.clone(),  # the slope along v
            "squares": first.clone(),  # the sum of the squared slopes along w
            "weight": first.clone(),  # lambda
        }

    def position(self, state: Columns) -> Tensor:
        return state["position"]

    def ask(self, state: Columns) -> Tensor:
        x, position = state["x"], state["position"]
        begins = position == 0
        if begins.any():
            rows = {name: state[name][begins] for name in ("y", "target")}
            _, gradient = self.on_surrogate(rows, state["point"][begins])
            state["prior"] = state["prior"].clone()
            state["prior"][begins] = -unit(gradient)
        state["draw"] = self._directions(state)
        probe = state["point"] + self._length(x) * state["draw"]
        return self.in_range(torch.where(per_row(begins, x), state["point"], probe))

    def _length(self, x: Tensor) -> float:
        return self.sigma * math.sqrt(x[0].numel())

    def _directions(self, state: Columns) -> Tensor:
        """Return the unit vector of each row's probe; that of the iterate is not used."""
        position, prior = state["position"], state["prior"]
        random = unit(rng.normal(state["seed"], 0, state["queries"], tuple(prior.shape[1:])))
        inside = per_row((random * prior).flatten(1).sum(1), prior) * prior
        weight = per_row(state["weight"], prior)
        guided = weight.sqrt() * prior + (1 - weight).sqrt() * unit(random - inside)
        probes = torch.where(per_row(position < 2 + self.norm_samples, prior), random, guided)
        return torch.where(per_row(position == 1, prior), prior, probes)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss, position, x = self.objective(state, answer), state["position"], state["x"]
        last_of_norm = 1 + self.norm_samples
        state["first"] = torch.where(position == 0, loss, state["first"])
        slope = (state["first"] - loss) / self._length(x)
        state["along"] = torch.where(position == 1, slope, state["along"])
        for_norm = (position > 1) & (position <= last_of_norm)
        state["squares"] = torch.where(for_norm, state["squares"] + slope.square(), state["squares"])
        state["weight"] = self._weight(state, position == last_of_norm)
        guided = torch.where(position > last_of_norm, slope, 0.0)
        state["direction"] = state["direction"] + per_row(guided, x) * state["draw"]
        # The slope along v alone decides: where the weight is 1, all probes would be along v.
        sure = (position == last_of_norm) & (state["weight"] == 1)
        prior = per_row(state["along"], x) * state["prior"]
        direction = torch.where(per_row(sure, x), prior, state["direction"])
        complete = sure | (position == self.cycle - 1)
        if complete.any():
            self.step_along(state, complete, direction)
        self._next(state, position, complete)

    def _weight(self, state: Columns, known: Tensor) -> Tensor:
        """Return each row's lambda, new where all slopes along w are known."""
        size = state["x"][0].numel()
        gradient = (state["squares"] * size / self.norm_samples).sqrt()
        cosine = (state["along"] / gradient.clamp_min(1e-30)).clamp(-1, 1)
        return torch.where(known, optimal_weight(cosine, size, self.samples).float(), state["weight"])

    def _next(self, state: Columns, position: Tensor, complete: Tensor) -> None:
        state["position"] = torch.where(complete, 0, position + 1)
        state["queries"] = state["queries"] + 1
        state["squares"] = state["squares"].masked_fill(complete, 0.0)
        state["direction"] = state["direction"].masked_fill(per_row(complete, state["x"]), 0.0)

    def is_success_check(self, state: Columns) -> Tensor:
        return torch.zeros_like(state["y"], dtype=torch.bool)

    def steps_within(self, budget: int) -> int:
        """Return the number of steps that a budget allows if lambda is always 1."""
        return budget // self.eot // (2 + self.norm_samples)
