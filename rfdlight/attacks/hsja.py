"""The HopSkipJump attack."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from rfdlight.attacks import opening
from rfdlight.attacks.base import Attack
from rfdlight.attacks.opening import BLEND, BLEND_GAP, START
from rfdlight.attacks.options import check_count
from rfdlight.core import norms, rng
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row, take
from rfdlight.errors import UserError

_FIRST_PROBE = 0.1
"""Length of the first iteration's probes, as a share of the pixel range (the authors' value)."""

_HALVINGS = 20
"""Steps tried per iteration; the last is a millionth of the first."""

_NOISE, _PROBE = range(2)
"""The streams of random numbers."""


class HSJA(Attack):
    """Walks along the decision boundary towards x, estimating its normal from labels.

    It starts from uniform noise that is misclassified, or from an image of the target class. The point is
    drawn towards x until it all but touches the boundary. Then each iteration t probes the boundary point b
    in floor(init_probes sqrt(t)) random directions, at most max_probes, and estimates the normal as the mean of
    the directions u, with sign +1 where b + size u hits and -1 elsewhere. The step along the normal
    has length D / sqrt(t), D being the distance of b, halved until it hits; and the point is drawn towards x again.

    Source: Chen, Jordan and Wainwright, HopSkipJumpAttack, IEEE S&P 2020, algorithms 1 and 2, with the published
    code's first bisection of the start to a gap of 1/1000, its first probe size of 0.1, and its use of sizes
    sqrt(d) gap D' (l2) and d gap D' (linf), D' being the distance before the point was last drawn towards x.
    Deviations: every image is a state machine of its own, and budgets end it at any query; what counts as
    misclassified is decided by the true label, not by the predicted one; a targeted start is asked once, and again
    until it hits; an iteration whose step was halved 20 times leaves the point where it was, where the authors go
    on for ever; the nearest of all hits is submitted, not the last; `gap` is not the authors' option.

    Args:
        init_probes: Probes in the first iteration, >= 1.
        max_probes: Probes in an iteration at most, >= 1.
        gap: Share of the way from x at which drawing towards x stops, in (0, 1); it sets the probe size too. By
            default the authors' d^-1.5 in l2 and d^-2 in linf. On a random victim these are far below what its noise
            lets anyone see, and take 18 and 24 queries at 32 x 32; 0.001 takes 10. Set it in linf on large
            images too, where the authors' probes are too short for float32.
        ball: `eps`, `norm` ("linf" or "l2") and `targeted`, see `Attack`.

    State:
        phase: (rows,) int64: trying starts, blending, drawing towards x, probing, or stepping.
        point: like x, the last hit apart from probes: the boundary point b when probing and stepping.
        far: like x, where the segment being bisected ends.
        reach: (rows,) float64, the distance of `far` from x.
        low, high: (rows,) float64, the bracket of the bisection, as shares of the way to `far`.
        iteration: (rows,) int64, t, counted from 1.
        probes, answers: (rows,) int64, probes so far in the iteration, and the sum of their signs.
        signed, total: like x, the sums of their offsets from b, with and without the signs.
        halvings: (rows,) int64, how often the step was halved.
        draws: (rows,) int64, random starts and probes so far.
        nearest: like x, the nearest of all hits; the last start tried before any hit.
        distance: (rows,) its distance from x, infinite before any hit.

    Queries:
        One per start tried; 10 for the blend of noise; ceil(log2(1 / gap)) to draw a point towards x; one per
        probe; one per length of the step.

    Raises:
        UserError: If an option is out of range.
    """

    access = "decision"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    has_targeted_form = True
    needs_starting_point = True

    _PROJECT, _GRADIENT, _STEP = range(BLEND + 1, BLEND + 4)

    def __init__(self, init_probes: int = 100, max_probes: int = 10_000, gap: float | None = None, **ball: Any) -> None:
        super().__init__(**ball)
        check_count(init_probes=init_probes, max_probes=max_probes)
        if gap is not None and not 0 < gap < 1:
            raise UserError(f"attack.gap must lie strictly between 0 and 1, got {gap}")
        self.init_probes = init_probes
        self.max_probes = max_probes
        self.gap = gap

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        counts = ("phase", "iteration", "probes", "answers", "halvings", "draws")
        return {
            **{name: torch.zeros_like(y) for name in counts},
            **{name: x.clone() for name in ("point", "far", "nearest")},
            **{name: torch.zeros_like(x) for name in ("signed", "total")},
            **opening.open_bisection(y),
            "reach": torch.zeros_like(y, dtype=torch.float64),
            "distance": torch.full_like(y, torch.inf, dtype=x.dtype),
        }

    def closeness(self, size: int) -> float:
        """Return the share of the way from x at which drawing towards x stops, for images of `size` values."""
        if self.gap is not None:
            return self.gap
        return size**-1.5 if self.norm == "l2" else size**-2.0

    def probes_wanted(self, iteration: Tensor) -> Tensor:
        """Return how many probes an iteration takes, (rows,) int64."""
        return (self.init_probes * iteration.double().sqrt()).long().clamp_max(self.max_probes)

    def probe_size(self, state: Columns) -> Tensor:
        """Return the l2 length of the probes, (rows,) float64."""
        size = state["x"][0].numel()
        factor = math.sqrt(size) if self.norm == "l2" else size
        later = factor * self.closeness(size) * state["reach"]
        return torch.where(state["iteration"] == 1, _FIRST_PROBE, later)

    def normal(self, state: Columns) -> Tensor:
        """Return the estimated normal of the boundary, pointing to where probes hit, of l2 length 1, like `x`."""
        answers, probes = state["answers"], state["probes"].clamp_min(1)
        mean = torch.where(answers.abs() == probes, 0.0, answers.double() / probes)
        estimate = state["signed"] - per_row(mean.to(state["x"].dtype), state["x"]) * state["total"]
        length = norms.norm(estimate, "l2").clamp_min(torch.finfo(estimate.dtype).tiny)
        return estimate / per_row(length, estimate)

    def ask(self, state: Columns) -> Tensor:
        phase = state["phase"]
        points = self._probe(state) if (phase == self._GRADIENT).any() else state["x"].clone()
        builders = (
            (START, self._first),
            (BLEND, self._blended),
            (self._PROJECT, self._drawn),
            (self._STEP, self._stepped),
        )
        for which, build in builders:
            # Few rows are in these phases: work is done for them alone.
            rows = (phase == which).nonzero()[:, 0]
            if len(rows):
                points[rows] = build(take(state, rows))
        return points

    @staticmethod
    def _first(state: Columns) -> Tensor:
        return opening.first_point(state, _NOISE, state["draws"])

    @staticmethod
    def _blended(state: Columns) -> Tensor:
        return opening.between(state["x"], state["far"], opening.middle(state))

    def _probe(self, state: Columns) -> Tensor:
        point, seed, draws = state["point"], state["seed"], state["draws"]
        if self.norm == "l2":
            offset = rng.normal(seed, _PROBE, draws, tuple(point.shape[1:]))
        else:
            # Halves of words, uniform over their range: the length does not matter.
            count = point[0].numel()
            words = rng.words(seed, _PROBE, draws, -(-count // 2)).view(torch.int32)
            offset = words[:, :count].float().view(point.shape)
        scale = self.probe_size(state) / norms.norm(offset, "l2")
        return offset.mul_(per_row(scale.to(offset.dtype), offset)).add_(point).clamp_(0, 1)

    def _drawn(self, state: Columns) -> Tensor:
        """Return the middle of the bracket: on the segment to `far` in l2, its clamp around x in linf."""
        x, far, share = state["x"], state["far"], opening.middle(state)
        if self.norm == "l2":
            return opening.between(x, far, share)
        radius = per_row((share * state["reach"]).to(x.dtype), x)
        return far.clamp(x - radius, x + radius).clamp_(0, 1)

    def _stepped(self, state: Columns) -> Tensor:
        x, point, normal = state["x"], state["point"], self.normal(state)
        length = self.threat.distance(x, point).double() / state["iteration"].clamp_min(1).double().sqrt()
        length = (length * 0.5 ** state["halvings"]).to(x.dtype)
        direction = normal if self.norm == "l2" else normal.sign()
        return (per_row(length, x) * direction).add_(point).clamp_(0, 1)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        x, phase = state["x"], state["phase"]
        hit = self.is_adversarial(state, answer)
        starting_points, blends, projects, probes, steps = (
            phase == which for which in (START, BLEND, self._PROJECT, self._GRADIENT, self._STEP)
        )
        self._remember(state, points, hit)
        if probes.any():
            self._count(state, points, probes, hit)
        torch.where(per_row(hit & ~probes, x), points, state["point"], out=state["point"])
        state["draws"] = state["draws"] + (starting_points | probes)

        width = opening.halve(state, blends | projects, hit)
        blended = blends & (width <= BLEND_GAP)
        projected = projects & (width <= self.closeness(x[0].numel()))
        probed = probes & (state["probes"] == self.probes_wanted(state["iteration"]))
        halvings = state["halvings"] + (steps & ~hit)
        stays = steps & ~hit & (halvings == _HALVINGS)
        turns = projected | stays
        bisects = hit & (starting_points | steps) | blended
        if bisects.any():
            torch.where(per_row(bisects, x), state["point"], state["far"], out=state["far"])
            reach = self.threat.distance(x, state["far"]).double()
            state["reach"] = torch.where(bisects, reach, state["reach"])
            state["low"] = state["low"].masked_fill(bisects, 0.0)
            state["high"] = state["high"].masked_fill(bisects, 1.0)
        if turns.any():
            for name in ("signed", "total"):
                state[name].masked_fill_(per_row(turns, x), 0)
        for name in ("probes", "answers"):
            state[name] = state[name].masked_fill(turns, 0)
        state["iteration"] = state["iteration"] + turns
        state["halvings"] = halvings.masked_fill(probed, 0)

        after_start = self._PROJECT if self.targeted else BLEND
        for rows, following in (
            (hit & starting_points, after_start),
            (blended | (hit & steps), self._PROJECT),
            (turns, self._GRADIENT),
            (probed, self._STEP),
        ):
            phase = phase.masked_fill(rows, following)
        state["phase"] = phase

    def _remember(self, state: Columns, points: Tensor, hit: Tensor) -> None:
        """Keep the nearest hit, and until there is one the last point."""
        distance = self.threat.distance(state["x"], points)
        nearer = hit & (distance < state["distance"])
        kept = per_row(nearer | state["distance"].isinf(), points)
        torch.where(kept, points, state["nearest"], out=state["nearest"])
        state["distance"] = torch.where(nearer, distance, state["distance"])

    def _count(self, state: Columns, points: Tensor, probes: Tensor, hit: Tensor) -> None:
        """Add the answers to probes to the sums of the iteration."""
        sign = torch.where(probes, 2 * hit.long() - 1, 0)
        # Offsets are taken after clipping. Their common length does not matter to the direction of the sums.
        offset = points - state["point"]
        offset.mul_(per_row(probes.to(offset.dtype), offset))
        state["total"].add_(offset)
        state["signed"].add_(offset.mul_(per_row(sign.to(offset.dtype), offset)))
        state["answers"] = state["answers"] + sign
        state["probes"] = state["probes"] + probes

    def best(self, state: Columns) -> Tensor:
        return self.threat.admit(state["x"], state["nearest"])

    def reports_success(self, state: Columns) -> Tensor:
        return state["distance"].isfinite() & self.threat.contains(state["x"], state["nearest"])

    def paper_ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        # The published loop looks at the budget before an iteration; the search for a start has no other end.
        between = (state["phase"] == self._GRADIENT) & (state["probes"] == 0)
        return (evaluated >= state["budget"]) & (between | (state["phase"] == START))
