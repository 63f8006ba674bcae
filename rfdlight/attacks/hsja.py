"""The HopSkipJump attack."""

import math
from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.base import check_count
from rfdlight.attacks.decision_based import BLEND_GAP, NearestPointAttack, Phases, along, begin_bisection, halve, middle
from rfdlight.core import norms, rng
from rfdlight.core.tensors import Columns, may_hold, per_row
from rfdlight.errors import UserError

_FIRST_PROBE = 0.1  # length of the first iteration's probes, as a share of the pixel range (the authors' value)
_HALVINGS = 20  # steps tried per iteration; the last is a millionth of the first
_NOISE, _PROBE = range(2)  # streams of random numbers


class HSJA(NearestPointAttack):
    """HopSkipJump: decision-based attack in linf or l2 that estimates the normal of the decision boundary.

    The start is misclassified uniform noise, or an image of the target class; bisection towards the clean image gives a
    boundary point b. Iteration t probes b in floor(init_probes sqrt(t)) random directions, takes the mean of those that
    are adversarial less those that are not as the normal, steps along it by D / sqrt(t), with D the distance of b,
    halved until it is adversarial, and bisects again. Queries: one per start tried, 10 to bisect noise,
    ceil(log2(1 / gap)) per later bisection, one per probe, one per length of the step.

    Source: Chen, Jordan and Wainwright, HopSkipJumpAttack, IEEE S&P 2020, algorithms 1 and 2. From the published code:
    bisection of the start to a gap of 1/1000, a first probe size of 0.1, and later sizes of sqrt(d) gap D' (l2) and
    d gap D' (linf), with D' the distance before the last bisection towards x.
    Deviations: misclassification refers to the true label, not to the predicted one; a targeted start is queried once,
    and again until it is adversarial; an iteration leaves b unchanged after 20 halvings, where the authors go on for
    ever; the nearest of all adversarial points is submitted, not the last one; `gap` is not an option of the authors.

    Args:
        init_probes: Probes in the first iteration, >= 1. The authors take 100, of larger budgets and images.
        max_probes: Largest number of probes in an iteration, >= 1.
        gap: Share of the way to x at which bisection stops, in (0, 1); it also sets the probe size. By default the
            authors' d^-1.5 in l2 and d^-2 in linf. Behind a random victim these are far below its noise, and take 18
            and 24 queries at 32 x 32; 0.001 takes 10. Set it in linf on large images too, where the authors' probes
            are too short for float32.
    """

    norms = ("linf", "l2")
    has_targeted_form = True
    needs_starting_point = True

    START, BLEND, PROJECT, PROBE, STEP = range(5)

    def __init__(self, init_probes: int = 40, max_probes: int = 10_000, gap: float | None = None, **ball: Any) -> None:
        super().__init__(**ball)
        check_count(init_probes=init_probes, max_probes=max_probes)
        if gap is not None and not 0 < gap < 1:
            raise UserError(f"attack.gap must lie strictly between 0 and 1, got {gap}")
        self.init_probes = init_probes
        self.max_probes = max_probes
        self.gap = gap

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        return {
            **super().init(x, y, seed),
            "point": x.clone(),  # the last adversarial point apart from probes: b while probing and stepping
            "reach": torch.zeros_like(y, dtype=torch.float64),  # length of the segment
            "iteration": torch.zeros_like(y),  # t, counted from 1
            "probes": torch.zeros_like(y),  # number of probes in this iteration,
            "answers": torch.zeros_like(y),  # sum of their signs,
            "signed": torch.zeros_like(x),  # and sums of their offsets from b with
            "total": torch.zeros_like(x),  # and without the signs
            "halvings": torch.zeros_like(y),  # of this step
            "draws": torch.zeros_like(y),  # random starts and probes
        }

    @property
    def first_bisection(self) -> int:
        """The phase after a start."""
        return self.PROJECT if self.targeted else self.BLEND

    def phases(self) -> Phases:
        return (
            (self._start, self._after_start),
            (self.halfway, self._after_blend),
            (self._projected, self._after_projection),
            (self._probe, self._after_probe),
            (self._stepped, self._after_step),
        )

    def _start(self, state: Columns) -> Tensor:
        return self.starting_point(state, _NOISE)

    def _after_start(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        self._move(state, points, adversarial)
        state["draws"] = state["draws"] + 1
        self._bisect(state, adversarial, self.first_bisection)

    def _after_blend(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        self._move(state, points, adversarial)
        self._bisect(state, halve(state, adversarial) <= BLEND_GAP, self.PROJECT)

    def _projected(self, state: Columns) -> Tensor:
        return self.projection(state, middle(state))

    def projection(self, state: Columns, share: Tensor) -> Tensor:
        """Return the points at a share, (rows,), of the way to `far`: on the segment in l2, `far` clamped in linf."""
        if self.norm == "l2":
            return along(state, share).clamp_(0, 1)
        x = state["x"]
        radius = per_row((share * state["reach"]).to(x.dtype), x)
        return state["far"].clamp(x - radius, x + radius).clamp_(0, 1)

    def _after_projection(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        self._move(state, points, adversarial)
        self._iterate(state, halve(state, adversarial) <= self.closeness(points[0].numel()))

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

    def _after_probe(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        self._count(state, points, adversarial)
        state["draws"] = state["draws"] + 1
        complete = state["probes"] == self.wanted(state)
        state["halvings"] = state["halvings"].masked_fill(complete, 0)
        state["phase"] = state["phase"].masked_fill(complete, self.STEP)

    def _count(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        """Add the answers at probes to the sums of the iteration."""
        sign = 2 * adversarial.long() - 1
        # Offsets are taken after clipping. Their common length does not change the direction of the sums.
        offset = points - state["point"]
        state["total"] = state["total"] + offset
        state["signed"] = state["signed"] + offset * per_row(sign.to(offset.dtype), offset)
        state["answers"] = state["answers"] + sign
        state["probes"] = state["probes"] + 1

    def _stepped(self, state: Columns) -> Tensor:
        x, point, normal = state["x"], state["point"], self.normal(state)
        length = self.threat.distance(x, point).double() / state["iteration"].clamp_min(1).double().sqrt()
        length = (length * 0.5 ** state["halvings"]).to(x.dtype)
        direction = normal if self.norm == "l2" else normal.sign()
        return (per_row(length, x) * direction).add_(point).clamp_(0, 1)

    def _after_step(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        self._move(state, points, adversarial)
        state["halvings"] = state["halvings"] + ~adversarial
        self._bisect(state, adversarial, self.PROJECT)
        self._iterate(state, ~adversarial & (state["halvings"] == _HALVINGS))

    @staticmethod
    def _move(state: Columns, points: Tensor, adversarial: Tensor) -> None:
        state["point"] = torch.where(per_row(adversarial, points), points, state["point"])

    def _bisect(self, state: Columns, rows: Tensor, phase: int) -> None:
        """Begin the bisection between x and the points of `rows`."""
        if not may_hold(rows):
            return
        begin_bisection(state, state["point"], rows)
        reach = self.threat.distance(state["x"], state["far"]).double()
        state["reach"] = torch.where(rows, reach, state["reach"])
        state["phase"] = state["phase"].masked_fill(rows, phase)

    def _iterate(self, state: Columns, rows: Tensor) -> None:
        """Begin the next iteration of `rows`."""
        if not may_hold(rows):
            return
        for name in ("signed", "total", "probes", "answers"):
            state[name] = state[name].masked_fill(per_row(rows, state[name]), 0)
        state["iteration"] = state["iteration"] + rows
        state["phase"] = state["phase"].masked_fill(rows, self.PROBE)

    def closeness(self, size: int) -> float:
        """Return the share of the way to x at which bisection stops, for images of `size` values."""
        if self.gap is not None:
            return self.gap
        return size**-1.5 if self.norm == "l2" else size**-2.0

    def probes_wanted(self, iteration: Tensor) -> Tensor:
        """Return the number of probes of an iteration, (rows,) int64."""
        return (self.init_probes * iteration.double().sqrt()).long().clamp_max(self.max_probes)

    def wanted(self, state: Columns) -> Tensor:
        """Return the number of probes of this iteration, (rows,) int64."""
        return self.probes_wanted(state["iteration"])

    def probe_size(self, state: Columns) -> Tensor:
        """Return the l2 length of the probes, (rows,) float64."""
        size = state["x"][0].numel()
        factor = math.sqrt(size) if self.norm == "l2" else size
        later = factor * self.closeness(size) * state["reach"]
        return torch.where(state["iteration"] == 1, _FIRST_PROBE, later)

    def normal(self, state: Columns) -> Tensor:
        """Return the estimated normal of the boundary on its adversarial side, of l2 length 1, like `x`."""
        answers, probes = state["answers"], state["probes"].clamp_min(1)
        mean = torch.where(answers.abs() == probes, 0.0, answers.double() / probes)
        estimate = state["signed"] - per_row(mean.to(state["x"].dtype), state["x"]) * state["total"]
        length = norms.norm(estimate, "l2").clamp_min(torch.finfo(estimate.dtype).tiny)
        return estimate / per_row(length, estimate)
