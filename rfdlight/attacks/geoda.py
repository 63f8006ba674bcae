"""The GeoDA attack."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from rfdlight.attacks.argument_checks import check_count, check_positive
from rfdlight.attacks.bisection import halve, keep_nearest, middle, open_bracket, open_nearest, reopen
from rfdlight.attacks.phases import Ask, PhasedAttack, Tell
from rfdlight.core import norms, rng
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row

_NOISE, _PROBES = range(2)
"""Streams of random numbers."""

_STEP = 0.02
"""Growth of the starting noise's standard deviation from one try to the next."""
_GAP = 1e-4
"""l2 length at which bisection stops."""
_TRIES = 100
"""Steps after which a walk fails."""
_SEARCH = 25
"""Queries that the split sets aside for the walk and the bisection of an iteration."""
_RATIO = 0.6 ** (-2 / 3)
"""Growth of the number of probes from one iteration to the next."""
_FIRST = (50, 80)
"""Bounds of the first iteration's number of probes."""


@lru_cache(maxsize=1024)
def query_split(queries: int) -> tuple[int, ...]:
    """Return the number of probes of each iteration: a geometric sequence of positive numbers.

    For T iterations the sum is about `queries` - 25 T. T is the number nearest to `queries` / 500 whose first share
    lies within [50, 80], or the number whose first share comes nearest to that.

    Args:
        queries: Query budget of an image.

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
    """Return the images with the given cosine coefficients, the lowest of each channel.

    Args:
        weights: (rows, C, vertical modes, horizontal modes) float32.
        height: Height of the images.
        width: Width of the images.

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


class GeoDA(PhasedAttack):
    """GeoDA: decision-based attack in linf or l2 that takes the decision boundary as flat and estimates its normal.

    Noise that grows until it is misclassified, and bisection between it and the clean image x, give a boundary point b.
    An iteration probes b + alpha w for random low-frequency images w, and adds to the normal the mean of w, negated
    where the probe is still right. It then walks from x along the normal (l2) or its signs (linf) until it is
    misclassified, and bisection gives the next b.

    Source: Rahmati, Moosavi-Dezfooli, Frossard and Dai, GeoDA: A Geometric Framework for Black-Box Adversarial Attacks,
    CVPR 2020, algorithm 1, with more probes in later iterations, see `query_split`, and the sum of all normals.
    Deviations: the direction of the walk has l2 length 1 in both norms, so that its steps do not depend on the number
    of probes; b stays if a walk fails, where the published code goes on from a point that is still right; the split
    begins again when it is used up and budget is left; the nearest misclassified point is submitted, not the last b;
    queries are clipped to [0, 1].

    Args:
        sub_dim: Lowest cosine modes of w per side and channel; all modes in smaller images.
        alpha: Size of the probes in pixel units, > 0: w has independent standard normal coefficients.
        kappa: Length of a step of the walk in l2, > 0.
        ball: `eps` and `norm` ("linf" or "l2"), see `Attack`.

    State:
        far, span: the end of the segment from x, and its l2 length.
        low, high: the bracket on the segment; b is at `high`.
        tries: (rows,) int64, noises or steps of the walk so far.
        iteration: (rows,) int64, -1 before the first b.
        quota, probed, drawn: (rows,) int64, probes of this iteration, of them so far, and of all iterations.
        gathered, normal: (rows, C, modes, modes) float32 coefficients, sums over probes and over iterations.
        nearest, distance: the nearest misclassified point and its distance from x.

    Queries:
        Per iteration its share of the split, 1 to 100 for the walk, and ceil(log2(span / 1e-4)) for the bisection.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    first_try: ClassVar[int] = 1
    """Number of the first noise of the start, whose size it sets."""

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
            **{name: torch.zeros_like(y) for name in ("phase", "tries", "quota", "probed", "drawn")},
            **open_bracket(y),
            **open_nearest(x, y),
            "far": x.clone(),
            "span": torch.zeros_like(y, dtype=torch.float64),
            "iteration": torch.full_like(y, -1),
            "gathered": modes,
            "normal": modes.clone(),
        }

    def phases(self) -> tuple[tuple[Ask, Tell], ...]:
        return (
            (self._noisy, self._after_noise),
            (self._halfway, self._after_bisection),
            (self._probe, self._after_probe),
            (self._walked, self._after_walk),
        )

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        keep_nearest(self.threat, state, points, self.is_adversarial(state, answer))
        super().tell(state, points, answer)

    def best(self, state: Columns) -> Tensor:
        return self.threat.admit(state["x"], state["nearest"])

    def in_range(self, points: Tensor) -> Tensor:
        """Return noise, bisection points and probes clipped to [0, 1]."""
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
        state["far"] = torch.where(per_row(rows, points), points, state["far"])
        span = norms.norm(points - state["x"], "l2").double()
        state["span"] = torch.where(rows, span, state["span"])
        reopen(state, rows)
        state["phase"] = state["phase"].masked_fill(rows, self.BISECT)

    @staticmethod
    def _along(state: Columns, share: Tensor) -> Tensor:
        """Return the points at a share of the segment."""
        x = state["x"]
        return x + per_row(share.to(x.dtype), x) * (state["far"] - x)

    def _halfway(self, state: Columns) -> Tensor:
        return self.in_range(self._along(state, middle(state)))

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
        return self.in_range(self._along(state, state["high"]) + self.alpha * waves)

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
