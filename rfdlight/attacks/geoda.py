"""The GeoDA attack."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.attacks.options import check_count, check_positive
from rfdlight.core import norms, rng
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row

_NOISE, _PROBES = range(2)
"""The streams of random numbers."""

_STEP = 0.02
"""By how much the noise of the start grows from one try to the next, a standard deviation."""
_GAP = 1e-4
"""Where bisection stops, an l2 length."""
_TRIES = 100
"""Steps of a walk that finds nothing."""
_SEARCH = 25
"""Queries that the split sets aside for an iteration's walk and bisection."""
_RATIO = 0.6 ** (-2 / 3)
"""How much the queries for the normal grow from one iteration to the next."""
_FIRST = (50, 80)
"""Between what the first iteration's queries for the normal should lie."""


@lru_cache(maxsize=1024)
def query_split(queries: int) -> tuple[int, ...]:
    """Return how many queries each iteration spends on its normal: a geometric sequence of positive numbers.

    For T iterations the sum is about `queries` - 25 T. T is the number nearest to `queries` / 500 whose first
    share lies within [50, 80]; where no share does, the one whose share comes nearest to that.

    Args:
        queries: All that an image may be asked.

    Example:
        >>> query_split(1000)
        (79, 111, 156, 220, 309)
    """

    def first(iterations: int) -> float:
        return max(queries - _SEARCH * iterations, 0) * (_RATIO - 1) / (_RATIO**iterations - 1)

    def miss(iterations: int) -> tuple[float, float]:
        share = first(iterations)
        return max(_FIRST[0] - share, share - _FIRST[1], 0), abs(iterations - queries / 500)

    # In 60 iterations the shares grow beyond any budget.
    iterations = min(range(1, 61), key=miss)
    return tuple(max(round(first(iterations) * _RATIO**i), 1) for i in range(iterations))


@lru_cache(maxsize=64)
def _cosines(size: int, modes: int, device: torch.device) -> Tensor:
    """Return the first rows of the orthonormal cosine transform (DCT-II), (modes, size) float32."""
    k, n = torch.arange(modes, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi * k * (2 * n + 1) / (2 * size)) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows.float().to(device)


def low_waves(weights: Tensor, height: int, width: int) -> Tensor:
    """Return the images with these cosine coefficients, the lowest of each channel.

    Args:
        weights: (rows, C, vertical modes, horizontal modes) float32.
        height: Of the images.
        width: Of the images.

    Returns:
        (rows, C, height, width) float32, of the same l2 norm as the coefficients.
    """
    down = _cosines(height, weights.shape[2], weights.device)
    across = _cosines(width, weights.shape[3], weights.device)
    # A matrix product may round a row differently in another batch; sums of products in a fixed order do not.
    lines = weights[..., :1] * across[0]  # (rows, C, vertical modes, W)
    for v in range(1, len(across)):
        lines += weights[..., v, None] * across[v]
    waves = lines[..., :1, :] * down[0, :, None]
    for u in range(1, len(down)):
        waves += lines[..., u, None, :] * down[u, :, None]
    return waves


class GeoDA(Attack):
    """Estimates the normal of the decision boundary and walks along it from the clean image, reading labels.

    Noise that grows until the answer is wrong, and bisection of the segment from x to there, give a first point b
    on the boundary. An iteration probes b + alpha w for random low-frequency images w and adds the mean of those
    w, each negated where the answer is still right, to the normal. Then it walks from x along the normal (l2) or
    its signs (linf) until the answer is wrong, and bisects again, which gives the next b.

    Source: Rahmati, Moosavi-Dezfooli, Frossard and Dai, GeoDA: A Geometric Framework for Black-Box Adversarial
    Attacks, CVPR 2020, algorithm 1. Later iterations get more queries, see `query_split`; normals of all iterations
    are added up. Deviations: the walk's direction has l2 length 1 in both norms, so that its steps do
    not depend on the number of probes; when a walk fails, b stays, where the published code goes on from a point
    that is still right; when the split is used up and budget is left, it begins anew; the point submitted is
    the nearest one that was answered wrongly, not the last b; queries are clipped to [0, 1]. Under the paper's
    query counting x itself is asked first, only walks are clipped, and the attack ends with the split.

    Args:
        sub_dim: Lowest cosine modes per side and channel that w is made of; all of them in smaller images.
        alpha: Size of the probes in pixel units, > 0: w has independent standard normal coefficients.
        kappa: Length of a walk's step in l2, > 0.
        ball: `eps` and `norm` ("linf" or "l2"), see `Attack`.

    State:
        phase: (rows,) int64: looking for a start, bisecting, probing, or walking.
        far: Like `x`, where the segment from x ends.
        low, high: (rows,) float64, shares of the segment: the answer is right at `low`, wrong at `high`, and b is
            at `high`.
        span: (rows,) float64, the segment's l2 length.
        tries: (rows,) int64, noises or steps of the walk so far.
        iteration: (rows,) int64, -1 before the first b.
        quota, probed: (rows,) int64, probes of this iteration, all and so far.
        drawn: (rows,) int64, probes of all iterations.
        gathered, normal: (rows, C, modes, modes) float32 coefficients, sums over probes and over iterations.
        nearest: Like `x`, the nearest misclassified point; before there is one, the last point asked.
        distance: (rows,) float32, its norm, infinite before there is one.

    Queries:
        Per iteration its share of the split, 1 to 100 for the walk, and ceil(log2(span / 1e-4)) to bisect.

    Raises:
        UserError: If an option is out of range.
    """

    access = "decision"
    paper_votes = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    _START, _BISECT, _PROBE, _WALK = range(4)

    def __init__(self, sub_dim: int = 10, alpha: float = 2e-4, kappa: float = 1.0, **ball: Any) -> None:
        super().__init__(**ball)
        check_count(sub_dim=sub_dim)
        check_positive(alpha=alpha, kappa=kappa)
        self.sub_dim = sub_dim
        self.alpha = alpha
        self.kappa = kappa

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        rows, channels, height, width = x.shape
        modes = torch.zeros(rows, channels, min(self.sub_dim, height), min(self.sub_dim, width), device=x.device)
        real = torch.zeros_like(y, dtype=torch.float64)
        return {
            "phase": torch.full_like(y, self._START),
            "far": x.clone(),
            "low": real,
            "high": real.clone(),
            "span": real.clone(),
            "tries": torch.zeros_like(y),
            "iteration": torch.full_like(y, -1),
            "quota": torch.zeros_like(y),
            "probed": torch.zeros_like(y),
            "drawn": torch.zeros_like(y),
            "gathered": modes,
            "normal": modes.clone(),
            "nearest": x.clone(),
            "distance": torch.full_like(y, torch.inf, dtype=torch.float32),
        }

    def ask(self, state: Columns) -> Tensor:
        x, phase = state["x"], state["phase"]
        starting_points, bisects, probes, walks = (phase == which for which in range(4))
        step = (state["tries"] + 1).double()
        # The published code counts a test of x itself as the first try.
        noise = _STEP * (step - 1 if self.query_counting == "paper" else step)
        size = torch.where(
            starting_points, noise, torch.where(probes, self.alpha, torch.where(walks, self.kappa * step, 0.0))
        )
        share = torch.where(bisects, (state["low"] + state["high"]) / 2, torch.where(probes, state["high"], 0.0))
        point = x + per_row(share.to(x.dtype), x) * (state["far"] - x)
        point += per_row(size.to(x.dtype), x) * self._move(state, starting_points, probes, walks)
        inside = point.clamp(0, 1)
        return inside if self.query_counting == "exact" else torch.where(per_row(walks, x), inside, point)

    def _move(self, state: Columns, starting_points: Tensor, probes: Tensor, walks: Tensor) -> Tensor:
        """Return noise, probes and directions, like `x`, and leave the probes' coefficients in the state."""
        x, seed = state["x"], state["seed"]
        move = torch.zeros_like(x)
        if starting_points.any():
            number = state["tries"] + (self.query_counting == "exact")
            move = torch.where(per_row(starting_points, x), rng.normal(seed, _NOISE, number, tuple(x.shape[1:])), move)
        weights = state["normal"]
        if probes.any():
            draws = rng.normal(seed, _PROBES, state["drawn"], tuple(weights.shape[1:]))
            weights = torch.where(per_row(probes, weights), draws, weights)
            state["weights"] = weights
        if (probes | walks).any():
            waves = low_waves(weights, *x.shape[2:]).to(x.dtype)
            move = torch.where(per_row(probes, x), waves, move)
            if walks.any():
                move = torch.where(per_row(walks, x), self._direction(waves), move)
        return move

    def _direction(self, normal: Tensor) -> Tensor:
        """Return which way to walk, like `normal`, of l2 length 1."""
        if self.norm == "linf":
            return normal.sign() / math.sqrt(normal[0].numel())
        return normal / per_row(norms.norm(normal, "l2").clamp_min(1e-12), normal)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        hit = self.is_adversarial(state, answer)
        starting_points, bisects, probes, walks = (state["phase"] == which for which in range(4))
        self._remember(state, points, hit)

        opens = hit & (starting_points | walks)
        middle = (state["low"] + state["high"]) / 2
        low = torch.where(bisects & ~hit, middle, state["low"])
        high = torch.where(bisects & hit, middle, state["high"])
        state["low"], state["high"] = torch.where(opens, 0.0, low), torch.where(opens, 1.0, high)
        if opens.any():
            state["far"] = torch.where(per_row(opens, points), points, state["far"])
            span = norms.norm(points - state["x"], "l2").double()
            state["span"] = torch.where(opens, span, state["span"])
        closed = bisects & ((state["high"] - state["low"]) * state["span"] <= _GAP)
        failed = walks & ~hit & (state["tries"] + 1 >= _TRIES)

        if probes.any():
            signed = torch.where(per_row(hit, points), state["weights"], -state["weights"])
            state["gathered"] = state["gathered"] + torch.where(per_row(probes, points), signed, 0.0)
        state["drawn"] = state["drawn"] + probes
        state["probed"] = state["probed"] + probes
        full = probes & (state["probed"] >= state["quota"])
        if full.any():
            mean = state["gathered"] / per_row(state["quota"].clamp_min(1), state["gathered"])
            state["normal"] = torch.where(per_row(full, mean), state["normal"] + mean, state["normal"])

        tries = state["tries"] + (starting_points | walks)
        state["tries"] = torch.where(opens | closed | full | failed, 0, tries)
        phase = torch.where(opens, self._BISECT, torch.where(full, self._WALK, state["phase"]))
        state["phase"] = torch.where(closed | failed, self._PROBE, phase)
        self._begin(state, closed | failed)

    def _remember(self, state: Columns, points: Tensor, hit: Tensor) -> None:
        """Keep the nearest misclassified point."""
        distance = norms.norm(points - state["x"], self.norm)
        nearer = hit & (distance < state["distance"])
        kept = nearer | state["distance"].isinf()
        if kept.any():
            state["nearest"] = torch.where(per_row(kept, points), points, state["nearest"])
        state["distance"] = torch.where(nearer, distance, state["distance"])

    def _begin(self, state: Columns, begins: Tensor) -> None:
        """Give rows that begin an iteration their probes."""
        if not begins.any():
            return
        state["iteration"] = state["iteration"] + begins
        state["probed"] = torch.where(begins, 0, state["probed"])
        state["gathered"] = torch.where(per_row(begins, state["gathered"]), 0.0, state["gathered"])
        for budget in state["budget"].unique().tolist():
            split = torch.tensor(query_split(budget // self.repeats), device=begins.device)
            chosen = begins & (state["budget"] == budget)
            state["quota"] = torch.where(chosen, split[state["iteration"] % len(split)], state["quota"])

    def best(self, state: Columns) -> Tensor:
        return self.threat.admit(state["x"], state["nearest"])

    def _between(self, state: Columns) -> Tensor:
        """Say which rows have just found b and not yet probed, (rows,) bool."""
        return (state["phase"] == self._PROBE) & (state["probed"] == 0)

    def reports_success(self, state: Columns) -> Tensor:
        reach = state["high"] * norms.norm(state["far"] - state["x"], self.norm)
        return self._between(state) & (reach <= self.threat.eps)

    def paper_ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        # The published code looks at the budget after an iteration, and makes no more of them than its split has.
        between = self._between(state)
        done = torch.zeros_like(between)
        for budget in state["budget"].unique().tolist():
            iterations = len(query_split(budget // self.repeats))
            done |= (state["budget"] == budget) & (state["iteration"] >= iterations)
        spent = evaluated >= state["budget"]
        return (spent & (between | (state["phase"] == self._START))) | (between & done)
