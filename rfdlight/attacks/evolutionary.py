"""The Evolutionary attack."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rfdlight.attacks.base import check_count, check_side
from rfdlight.attacks.decision_based import BLEND_GAP, NearestPointAttack, Phases, begin_bisection, halve
from rfdlight.core import norms, rng
from rfdlight.core.tensors import Columns, per_row
from rfdlight.errors import UserError

_FINEST = 45  # most values per side by default, the authors' for faces of 112 x 112 pixels
_ACTIVE = 20  # one value in so many is changed by a proposal
_PATH_RATE, _VARIANCE_RATE = 0.01, 0.001  # of the evolution path and of the variances
_SUCCESSES = 0.2  # share of proposals taken at which mu stays as it is
_NOISE, _NORMAL, _CHOICE = range(3)  # streams of random numbers


class Evolutionary(NearestPointAttack):
    """Evolutionary attack: decision-based (1+1)-CMA-ES that shrinks an adversarial perturbation, in l2.

    The start is misclassified uniform noise, bisected towards the clean image x, or an image of the target class. A
    proposal adds mu (x - b) and z to the best point b. z is normal noise on a grid, enlarged bilinearly: it has the
    variances `(0.01 |x - b|)^2 c` at a 20th of the values, drawn with probabilities in proportion to c, and is 0
    elsewhere. A proposal is taken if it is adversarial and nearer to x; then c learns from an average of the z taken.
    mu is multiplied by exp(p - 1/5), p being the share of proposals taken since it last changed. Queries: one per start
    tried, 10 to bisect noise, one per proposal.

    Source: Dong, Su, Wu, Li, Liu, Zhang, Zhu, Efficient Decision-based Black-box Adversarial Attacks on Face
    Recognition, CVPR 2019, algorithm 1.
    Deviations: the start is bisected; mu is at most 1; proposals are clipped to [0, 1]; the defaults of mu and of
    the window; a targeted start is queried once, and again until it is adversarial.

    Args:
        grid: Side of the grid of z, from 1 to the image's shorter side; by default that side, at most 45, the
            authors'.
        mu: First step towards x, as a share of the distance, in (0, 1].
        window: Proposals between two changes of mu, >= 1.

    Raises:
        UserError: If an option is out of range, or `init` gets images smaller than the grid.
    """

    norms = ("l2",)
    has_targeted_form = True
    needs_starting_point = True

    START, BLEND, PROPOSAL = range(3)

    def __init__(self, grid: int | None = None, mu: float = 0.1, window: int = 10, **ball: Any) -> None:
        super().__init__(**ball)
        check_count(grid=grid, window=window)
        if not 0 < mu <= 1:
            raise UserError(f"attack.mu must lie in (0, 1], got {mu}")
        self.grid = grid
        self.mu = mu
        self.window = window

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        check_side(x, grid=self.grid)
        side = min(_FINEST if self.grid is None else self.grid, *x.shape[2:])
        grid = torch.ones(len(x), x.shape[1], side, side, device=x.device)
        return {
            **super().init(x, y, seed),
            "draws": torch.zeros_like(y),  # starts tried
            "step": torch.zeros_like(y),  # proposals
            "taken": torch.zeros_like(y),  # proposals taken in this window
            "mu": torch.full_like(y, self.mu, dtype=torch.float64),
            "variance": grid,  # c
            "path": torch.zeros_like(grid),  # the average of the z taken, in units of sigma
        }

    def phases(self) -> Phases:
        return (
            (self._start, self._after_start),
            (self.halfway, self._after_blend),
            (self._proposal, self._after_proposal),
        )

    def _start(self, state: Columns) -> Tensor:
        return self.starting_point(state, _NOISE)

    def _after_start(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        state["draws"] = state["draws"] + 1
        begin_bisection(state, points, adversarial)
        following = self.PROPOSAL if self.targeted else self.BLEND
        state["phase"] = state["phase"].masked_fill(adversarial, following)

    def _after_blend(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        state["phase"] = state["phase"].masked_fill(halve(state, adversarial) <= BLEND_GAP, self.PROPOSAL)

    def mutation(self, state: Columns) -> Tensor:
        """Return z in units of sigma, like `variance`."""
        variance = state["variance"]
        size = variance[0].numel()
        # The largest u^(1/c) are a sample without replacement: Efraimidis and Spirakis, 2006.
        keys = rng.uniform(state["seed"], _CHOICE, state["step"], size).log_().div_(variance.flatten(1))
        least = keys.topk(max(size // _ACTIVE, 1)).values[:, -1:]
        draw = rng.normal(state["seed"], _NORMAL, state["step"], tuple(variance.shape[1:]))
        return torch.where((keys >= least).view_as(variance), draw * variance.sqrt(), 0.0)

    def _proposal(self, state: Columns) -> Tensor:
        x, nearest = state["x"], state["nearest"]
        back = x - nearest
        state["z"] = z = self.mutation(state)
        state["before"] = state["distance"].clone()
        if z.shape != x.shape:
            z = interpolate(z, x.shape[2:], mode="bilinear", align_corners=False)
        sigma = 0.01 * norms.norm(back, "l2")
        return (nearest + per_row(state["mu"].to(x.dtype), x) * back + per_row(sigma, x) * z).clamp_(0, 1)

    def _after_proposal(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        taken = state["distance"] < state["before"]
        state["step"] = state["step"] + 1
        successes = state["taken"] + taken
        over = state["step"] % self.window == 0
        factor = (successes.double() / self.window - _SUCCESSES).exp()
        state["mu"] = torch.where(over, (state["mu"] * factor).clamp_max(1.0), state["mu"])
        state["taken"] = successes.masked_fill(over, 0)
        learns = per_row(taken, state["z"])
        path = (1 - _PATH_RATE) * state["path"] + math.sqrt(_PATH_RATE * (2 - _PATH_RATE)) * state["z"]
        variance = (1 - _VARIANCE_RATE) * state["variance"] + _VARIANCE_RATE * path.square()
        state["path"] = torch.where(learns, path, state["path"])
        state["variance"] = torch.where(learns, variance, state["variance"])
