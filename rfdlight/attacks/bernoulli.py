"""The Bernoulli attack."""

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack, check_count, check_positive, check_side
from rfdlight.attacks.gradient_estimation import enlarged
from rfdlight.core import norms, rng
from rfdlight.core.losses import Loss
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row

_LARGEST = 2.5  # of |theta|: the rarer sign keeps a chance of 0.7 %
_SILENT = 4  # first answers, which say what is usual and move nothing
_MEMORY = 0.05  # weight of a new answer in the running mean and variance
_OUTLIER = 3.0  # standard deviations, beyond which an answer weighs no more


class Bernoulli(Attack):
    """Bernoulli attack: score-based search over the corners of the ball by natural evolution strategies.

    theta has one number per channel and cell of a grid, by default per pixel. In linf each query is clip(x + eps s),
    where the signs s are independent, constant on cells, and +1 with probability sigmoid(2 theta). Every answer moves
    every theta by r (s - tanh(theta)), the score-function gradient, where r is how far the loss was below its running
    mean, in standard deviations. The signs of theta are submitted, those of the last query where theta is 0. No
    comparison is decided by one answer, so the noise of a random victim averages out in theta. Queries: one per step.

    In l2, s are fair signs, the query is x plus theta + s scaled to the norm eps, theta moves by r s and its root mean
    square stays below 2.5, and theta scaled to the norm eps is submitted.

    Source: none with this exact form. It is the score-function gradient with a baseline of Williams, Simple Statistical
    Gradient-Following Algorithms, Machine Learning 1992, for independent signs, as in natural evolution strategies,
    Wierstra et al., JMLR 2014.
    Deviations from its relatives: Ilyas et al., ICML 2018, and NAttack, Li et al., ICML 2019, have a Gaussian of small
    probes at full resolution or behind an upsampling, and populations of equal theta; population-based incremental
    learning, Baluja 1994, moves the probabilities of signs towards the best of a population. Here every query is a
    corner of the ball, or a point of its sphere, and every answer moves theta at once.

    Args:
        grid: Cells per side of the image, from 1 to the shorter side; by default that side, at most 50.
        rate: Step of theta in units of 4 / sqrt(number of signs), > 0; by default 1.6 in linf and 0.4 in l2.
        loss: "margin" or "cross_entropy".
    """

    access: ClassVar[Literal["decision", "score", "gradient"]] = "score"
    norms = ("linf", "l2")
    has_targeted_form = True

    _rates: ClassVar[dict[Norm, float]] = {"linf": 1.6, "l2": 0.4}
    _finest = 50  # cells per side by default

    def __init__(self, grid: int | None = None, rate: float | None = None, loss: Loss = "margin", **ball: Any) -> None:
        super().__init__(**ball)
        check_count(grid=grid)
        check_positive(rate=rate)
        self.grid = grid
        self.rate = rate
        self.loss = loss

    def _cells(self, x: Tensor) -> int:
        """Return the number of cells per side."""
        check_side(x, grid=self.grid)
        return min(*x.shape[2:], self._finest) if self.grid is None else self.grid

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        grid = self._cells(x)
        return {
            "theta": torch.zeros(len(x), x.shape[1], grid, grid, device=x.device),
            "mean": torch.zeros_like(y, dtype=torch.float32),  # of the loss, recent answers first
            "variance": torch.zeros_like(y, dtype=torch.float32),
            "step": torch.zeros_like(y),  # answers
        }

    def _point(self, x: Tensor, direction: Tensor) -> Tensor:
        """Return the point of the ball in a direction of the grid, like `x`."""
        direction = enlarged(direction, x)
        if self.norm == "l2":
            direction = direction / per_row(norms.norm(direction, "l2"), x)
        return torch.add(x, direction, alpha=self.threat.eps).clamp_(0, 1)

    def ask(self, state: Columns) -> Tensor:
        theta = state["theta"]
        mean = theta.tanh() if self.norm == "linf" else torch.zeros_like(theta)
        signs = self._signs(state, state["step"], mean)
        state["surprise"] = signs - mean if self.norm == "linf" else signs
        return self._point(state["x"], signs if self.norm == "linf" else theta + signs)

    def _signs(self, state: Columns, query: Tensor, mean: Tensor) -> Tensor:
        """Return the signs of a query, counted from 0, with means like theta."""
        return rng.biased_signs(state["seed"], 0, query, mean)

    def _root_of_count(self, state: Columns) -> float | Tensor:
        """Return the square root of the number of independent signs of a query, for all or each of the rows."""
        return math.sqrt(state["theta"][0].numel())

    def _losses(self, state: Columns, answer: Tensor) -> Tensor:
        return self.objective(state, answer)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        theta, variance, step = state["theta"], state["variance"], state["step"]
        change = self._losses(state, answer) - state["mean"]
        rise = (change / variance.sqrt().clamp_min_(1e-30)).clamp_(-_OUTLIER, _OUTLIER)
        rise.masked_fill_(step < _SILENT, 0.0)
        rate = self._rates[self.norm] if self.rate is None else self.rate
        move = -4 * rate / self._root_of_count(state) * rise
        state["theta"] = self._bounded(theta.addcmul_(per_row(move, theta), state["surprise"]))
        step += 1
        weight = (1 / step).clamp_min_(_MEMORY)
        state["mean"] += weight * change
        variance.add_(weight * change.square()).mul_(1 - weight)

    def _bounded(self, theta: Tensor) -> Tensor:
        """Keep a chance for every sign, in l2 for every direction; theta changes."""
        if self.norm == "linf":
            return theta.clamp_(-_LARGEST, _LARGEST)
        size = norms.norm(theta, "l2") / math.sqrt(theta[0].numel())
        return theta.mul_(per_row((_LARGEST / size.clamp_min(1e-12)).clamp_max(1.0), theta))

    def best(self, state: Columns) -> Tensor:
        theta = state["theta"]
        last = (state["step"] - 1).clamp_min(0)
        direction = theta.sign() if self.norm == "linf" else theta
        fair = self._signs(state, last, torch.zeros_like(theta))  # the last query's where theta is 0
        return self._point(state["x"], torch.where(theta == 0, fair, direction))
