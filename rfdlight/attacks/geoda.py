"""The GeoDA attack."""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.base import check_count, check_positive
from rfdlight.attacks.decision_based import NearestPointAttack, Phases, along, begin_bisection, halve, middle
from rfdlight.core import norms, rng
from rfdlight.core.tensors import Columns, per_row

_NOISE, _PROBES = range(2)  # streams of random numbers
_STEP = 0.02  # growth of the starting noise's standard deviation from one try to the next
_GAP = 1e-4  # l2 length at which bisection stops
_TRIES = 100  # steps after which a walk fails
_SEARCH = 25  # queries that the split sets aside for the walk and the bisection of an iteration
_RATIO = 0.6 ** (-2 / 3)  # growth of the number of probes from one iteration to the next
_FIRST = (50, 80)  # bounds of the first iteration's number of probes


@lru_cache(maxsize=1024)
def query_split(queries: int) -> tuple[int, ...]:
    """Return the number of probes of each iteration within a budget: a geometric sequence of positive numbers.

    For T iterations the sum is about `queries` - 25 T. T is the number nearest to `queries` / 500 whose first share
    lies within [50, 80], or the number whose first share comes nearest to that.
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
    """Return the images with the given lowest cosine coefficients, (rows, C, vertical modes, horizontal modes)."""
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


class GeoDA(NearestPointAttack):
    """GeoDA: decision-based attack in linf or l2 that takes the decision boundary as flat and estimates its normal.

    Growing noise and bisection give a boundary point b. An iteration probes b + alpha w for random low-frequency images
    w and adds to the normal the mean of w, negated where the probe is right. It walks from x along the normal (l2) or
    its signs (linf), and bisects to the next b. Queries per iteration: its share of `query_split`, 1 to 100 for the
    walk, and ceil(log2(s / 1e-4)) for the bisection of a segment of l2 length s.

    Source: Rahmati, Moosavi-Dezfooli, Frossard and Dai, GeoDA: A Geometric Framework for Black-Box Adversarial Attacks,
    CVPR 2020, algorithm 1, with more probes in later iterations and the sum of all normals.
    Deviations: the direction of the walk has l2 length 1 in both norms, so that its steps do not depend on the number
    of probes; b stays if a walk fails, where the published code goes on from a point that is still right; the split
    begins again when it is used up and budget is left; the nearest misclassified point is submitted, not the last b;
    queries are clipped to [0, 1].

    Args:
        sub_dim: Lowest cosine modes of w per side and channel; all modes in smaller images.
        alpha: Size of the probes in pixel units, > 0: w has independent standard normal coefficients.
        kappa: Length of a step of the walk in l2, > 0.
    """

    norms = ("linf", "l2")

    first_try = 1  # number of the first noise of the start, whose size it sets

    START, BISECT, PROBE, WALK = range(4)

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
        return {
            **super().init(x, y, seed),  # b is at `high`
            "span": torch.zeros_like(y, dtype=torch.float64),  # l2 length of the segment
            "tries": torch.zeros_like(y),  # noises of the start or steps of the walk
            "iteration": torch.full_like(y, -1),  # -1 before the first b
            "quota": torch.zeros_like(y),  # probes of this iteration,
            "probed": torch.zeros_like(y),  # of them so far,
            "drawn": torch.zeros_like(y),  # and of all iterations
            "gathered": modes,  # sum of the signed coefficients over the probes of this iteration,
            "normal": modes.clone(),  # and of their means over iterations
        }

    def phases(self) -> Phases:
        return (
            (self._noisy, self._after_noise),
            (self._halfway, self._after_bisection),
            (self._probe, self._after_probe),
            (self._walked, self._after_walk),
        )

    def in_range(self, points: Tensor) -> Tensor:
        return points.clamp_(0, 1)

    def _noisy(self, state: Columns) -> Tensor:
        x, number = state["x"], state["tries"] + self.first_try
        noise = rng.normal(state["seed"], _NOISE, number, tuple(x.shape[1:]))
        return self.in_range(x + per_row((_STEP * number.double()).to(x.dtype), x) * noise)

    def _after_noise(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        state["tries"] = (state["tries"] + 1).masked_fill(adversarial, 0)
        self._bisect(state, points, adversarial)

    def _bisect(self, state: Columns, points: Tensor, rows: Tensor) -> None:
        """Begin the bisection between x and the points of `rows`."""
        begin_bisection(state, points, rows)
        span = norms.norm(points - state["x"], "l2").double()
        state["span"] = torch.where(rows, span, state["span"])
        state["phase"] = state["phase"].masked_fill(rows, self.BISECT)

    def _halfway(self, state: Columns) -> Tensor:
        return self.in_range(along(state, middle(state)))

    def _after_bisection(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        closed = halve(state, adversarial) * state["span"] <= _GAP
        state["tries"] = state["tries"].masked_fill(closed, 0)
        self._begin(state, closed)

    def _begin(self, state: Columns, rows: Tensor) -> None:
        """Begin an iteration of `rows`, with its number of probes."""
        state["iteration"] = state["iteration"] + rows
        state["probed"] = state["probed"].masked_fill(rows, 0)
        state["gathered"] = state["gathered"].masked_fill(per_row(rows, state["gathered"]), 0.0)
        state["phase"] = state["phase"].masked_fill(rows, self.PROBE)
        for budget in state["budget"][rows].unique().tolist():
            split = torch.tensor(query_split(budget // self.eot), device=rows.device)
            chosen = rows & (state["budget"] == budget)
            state["quota"] = torch.where(chosen, split[state["iteration"] % len(split)], state["quota"])

    @staticmethod
    def _weights(state: Columns) -> Tensor:
        """Return the cosine coefficients of the next probe."""
        return rng.normal(state["seed"], _PROBES, state["drawn"], tuple(state["normal"].shape[1:]))

    def _probe(self, state: Columns) -> Tensor:
        x = state["x"]
        waves = low_waves(self._weights(state), *x.shape[2:]).to(x.dtype)
        return self.in_range(along(state, state["high"]) + self.alpha * waves)

    def _after_probe(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        weights = self._weights(state)
        state["gathered"] = state["gathered"] + torch.where(per_row(adversarial, weights), weights, -weights)
        state["drawn"], state["probed"] = state["drawn"] + 1, state["probed"] + 1
        full = state["probed"] >= state["quota"]
        mean = state["gathered"] / per_row(state["quota"].clamp_min(1), weights)
        state["normal"] = torch.where(per_row(full, mean), state["normal"] + mean, state["normal"])
        state["tries"] = state["tries"].masked_fill(full, 0)
        state["phase"] = state["phase"].masked_fill(full, self.WALK)

    def _walked(self, state: Columns) -> Tensor:
        x = state["x"]
        direction = self._direction(low_waves(state["normal"], *x.shape[2:]).to(x.dtype))
        length = self.kappa * (state["tries"] + 1).double()
        return (x + per_row(length.to(x.dtype), x) * direction).clamp_(0, 1)

    def _direction(self, normal: Tensor) -> Tensor:
        """Return the direction of the walk, like `normal`, of l2 length 1."""
        if self.norm == "linf":
            return normal.sign() / math.sqrt(normal[0].numel())
        return normal / per_row(norms.norm(normal, "l2").clamp_min(1e-12), normal)

    def _after_walk(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        tries = state["tries"] + 1
        failed = ~adversarial & (tries >= _TRIES)
        state["tries"] = tries.masked_fill(adversarial | failed, 0)
        self._bisect(state, points, adversarial)
        self._begin(state, failed)
