"""The NAttack attack."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rfdlight.attacks.base import Attack, check_count, check_positive, check_side
from rfdlight.core import rng
from rfdlight.core.losses import Loss
from rfdlight.core.tensors import Columns, per_row
from rfdlight.errors import UserError

_FINEST = 32  # values per side by default, the authors'
_INSIDE = 0.999999  # pixels are drawn towards grey by this factor, so that their inverse tanh is finite


class NAttack(Attack):
    """NAttack: score-based learning of a Gaussian distribution of adversarial examples, in linf or l2.

    A sample is z = mu + sigma u with u from N(0, I), on a grid that is enlarged bilinearly. The query adds z to the
    image before a tanh that keeps pixels in range, (1 + tanh(atanh(2x - 1) + z)) / 2, and is projected on the ball.
    After each population of n samples mu moves by -step / (sigma n) times the sum of the u, weighted by their losses,
    which are standardised within the population. Every sample is a candidate; the point of mu is submitted. Queries: n
    per step.

    Source: Li, Li, Wang, Zhang, Gong, NATTACK: Learning the Distributions of Adversarial Examples for an Improved
    Black-box Attack on Deep Neural Networks, ICML 2019, algorithm 1.
    Deviations: mu starts at 0, without a regression network; the margin is not cut off at 0; the defaults are for some
    1000 queries, the authors' population is 300 and their step 0.02.

    Args:
        population: Samples per step, n, >= 2.
        sigma: Standard deviation of a sample per value of the grid, before the tanh, > 0.
        step: Learning rate of mu, > 0.
        grid: Side of the grid, from 1 to the image's shorter side; by default that side, at most 32, the authors'.
        loss: "margin" or "cross_entropy".

    Raises:
        UserError: If an option is out of range, or `init` gets images smaller than the grid.
    """

    access = "score"
    norms = ("linf", "l2")
    has_targeted_form = True

    def __init__(
        self,
        population: int = 20,
        sigma: float = 0.1,
        step: float = 0.05,
        grid: int | None = None,
        loss: Loss = "margin",
        **ball: Any,
    ) -> None:
        super().__init__(**ball)
        check_count(population=population, grid=grid)
        check_positive(sigma=sigma, step=step)
        if population < 2:
            raise UserError(f"attack.population must be at least 2, got {population}")
        self.population = population
        self.sigma = sigma
        self.step = step
        self.grid = grid
        self.loss = loss

    def budget_warning(self, budget: int) -> str | None:
        queries = budget // self.eot
        if self.population < queries:
            return None
        return f"a population of {self.population} leaves no step of {queries} queries; lower attack.population"

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        check_side(x, grid=self.grid)
        side = min(_FINEST if self.grid is None else self.grid, *x.shape[2:])
        grid = torch.zeros(len(x), x.shape[1], side, side, device=x.device)
        real = torch.zeros_like(y, dtype=torch.float32)
        return {
            "mu": grid,
            "queries": torch.zeros_like(y),
            "first": real,  # the loss of the population's first sample, to which its other losses are compared
            "losses": real.clone(),  # the sum of these differences in this population
            "squares": real.clone(),  # of their squares
            "drawn": grid.clone(),  # of u
            "weighted": grid.clone(),  # of u times its difference
        }

    def _point(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the points of the ball at a shift of the grid, like `x`."""
        if z.shape != x.shape:
            z = interpolate(z, x.shape[2:], mode="bilinear", align_corners=False)
        shifted = ((2 * x - 1) * _INSIDE).atanh_().add_(z)
        return self.threat.project(x, shifted.tanh_().add_(1).div_(2))

    def ask(self, state: Columns) -> Tensor:
        mu = state["mu"]
        state["u"] = rng.normal(state["seed"], 0, state["queries"], tuple(mu.shape[1:]))
        return self._point(state["x"], mu + self.sigma * state["u"])

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss, u = self.objective(state, answer), state["u"]
        state["first"] = torch.where(state["queries"] % self.population == 0, loss, state["first"])
        change = loss - state["first"]
        state["losses"] = state["losses"] + change
        state["squares"] = state["squares"] + change.square()
        state["drawn"] = state["drawn"] + u
        state["weighted"] = state["weighted"] + per_row(change, u) * u
        state["queries"] = state["queries"] + 1
        complete = state["queries"] % self.population == 0
        if complete.any():
            self._move(state, complete)

    def _move(self, state: Columns, rows: Tensor) -> None:
        """Move mu of `rows`, and start their next population."""
        mu = state["mu"]
        mean = state["losses"] / self.population
        deviation = (state["squares"] / self.population - mean.square()).clamp_min(0).sqrt()
        gradient = state["weighted"] - per_row(mean, mu) * state["drawn"]
        length = self.step / (self.sigma * self.population) / deviation.clamp_min(1e-30)
        moved = torch.where(per_row(deviation > 0, mu), mu - per_row(length, mu) * gradient, mu)
        state["mu"] = torch.where(per_row(rows, mu), moved, mu)
        for name in ("losses", "squares", "drawn", "weighted"):
            state[name] = state[name].masked_fill(per_row(rows, state[name]), 0)

    def best(self, state: Columns) -> Tensor:
        return self._point(state["x"], state["mu"])
