"""The Boundary attack."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from rfdlight.attacks import opening
from rfdlight.attacks.base import Attack
from rfdlight.attacks.opening import BLEND, BLEND_GAP, START
from rfdlight.core import norms, rng
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row, take
from rfdlight.errors import UserError

_EVERY = 10
"""Proposals from one look at the success rates to the next."""

_SPHERE_WINDOW, _STEP_WINDOW = 100, 30
"""Looks over which the rates are taken, at spherical points and at whole proposals."""

_SPHERE_RATES, _STEP_RATES = (0.2, 0.5), (0.1, 0.25)
"""Below the first the steps shrink, above the second they grow."""

_LEAST, _MOST = 1e-7, 0.5
"""Steps stay between them: Foolbox ends at the first, and far beyond the second a step would pass x."""

_NOISE, _MOVE = range(2)
"""The streams of random numbers."""


class Boundary(Attack):
    """Walks at random along the decision boundary, a little nearer to x with each step, reading labels.

    It starts from uniform noise that is misclassified, drawn towards x by bisection, or from an image of the target
    class. Each proposal moves the best point sideways on the sphere around x, then towards x, and
    is kept if it hits and is nearer. Both steps adapt to the rates of success: they grow where the boundary
    looks flat, and shrink where it does not.

    Source: Brendel, Rauber and Bethge, Decision-Based Adversarial Attacks, ICLR 2018, algorithm 1, with the rates,
    windows and corrections of Foolbox's implementation. Deviations: every image has its own draws and steps; the
    start is bisected to a gap of 1/1000; the spherical point of every tenth proposal is asked before the
    proposal, not after; steps stay between 1e-7, where Foolbox ends, and 0.5; a targeted start is asked once, and
    again until it hits.

    Args:
        spherical_step: The first sideways step, as a share of the distance to x, in (0, 0.5].
        source_step: The first step towards x, as a share of that distance, in (0, 0.5].
        adaptation: By what steps grow and shrink, > 1.
        ball: `eps`, `norm` ("l2") and `targeted`, see `Attack`.

    State:
        phase: (rows,) int64: trying starts, blending, asking a spherical point, or asking a proposal.
        point: like x, the nearest hit; the last start tried before any hit.
        distance: (rows,) its l2 distance from x, infinite before any hit.
        far: like x, the start that the bisection leads to.
        low, high: (rows,) float64, its bracket.
        sideways, inwards: (rows,) float64, the two steps.
        sphere_hits: (rows, 100) bool, the latest answers at spherical points, as a ring; sphere_looks: (rows,) int64,
            how many there were since the steps last changed for them.
        step_hits, step_looks: (rows, 30) bool and (rows,) int64, the same at whole proposals.
        draws: (rows,) int64, random starts tried so far.
        step: (rows,) int64, proposals so far.
        opened: (rows,) int64, queries before the first proposal.

    Queries:
        One per start tried, 10 for the blend of noise, one per proposal, and one more at every tenth.

    Raises:
        UserError: If an option is out of range.
    """

    access = "decision"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    has_targeted_form = True
    needs_starting_point = True

    _SPHERE, _PROPOSAL = range(BLEND + 1, BLEND + 3)

    def __init__(
        self, spherical_step: float = 0.01, source_step: float = 0.01, adaptation: float = 1.5, **ball: Any
    ) -> None:
        super().__init__(**ball)
        if not 0 < spherical_step <= _MOST:
            raise UserError(f"attack.spherical_step must lie in (0, {_MOST}], got {spherical_step}")
        if not 0 < source_step <= _MOST:
            raise UserError(f"attack.source_step must lie in (0, {_MOST}], got {source_step}")
        if not adaptation > 1:
            raise UserError(f"attack.adaptation must be greater than 1, got {adaptation}")
        self.spherical_step = spherical_step
        self.source_step = source_step
        self.adaptation = adaptation

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        counts = ("phase", "sphere_looks", "step_looks", "draws", "step", "opened")
        return {
            **{name: torch.zeros_like(y) for name in counts},
            **opening.open_bisection(y),
            "point": x.clone(),
            "far": x.clone(),
            "distance": torch.full_like(y, torch.inf, dtype=x.dtype),
            "sideways": torch.full_like(y, self.spherical_step, dtype=torch.float64),
            "inwards": torch.full_like(y, self.source_step, dtype=torch.float64),
            "sphere_hits": torch.zeros(len(y), _SPHERE_WINDOW, dtype=torch.bool, device=y.device),
            "step_hits": torch.zeros(len(y), _STEP_WINDOW, dtype=torch.bool, device=y.device),
        }

    def ask(self, state: Columns) -> Tensor:
        phase = state["phase"]
        if (phase > BLEND).any():
            spherical, points = self._propose(state)
            torch.where(per_row(phase == self._SPHERE, points), spherical, points, out=points)
        else:
            points = state["x"].clone()
        # Few rows are in these phases: work is done for them alone.
        starting_points, blends = (phase == START).nonzero()[:, 0], (phase == BLEND).nonzero()[:, 0]
        if len(starting_points):
            own = take(state, starting_points)
            points[starting_points] = opening.first_point(own, _NOISE, own["draws"])
        if len(blends):
            own = take(state, blends)
            points[blends] = opening.between(own["x"], own["far"], opening.middle(own))
        return points

    def sidestep(self, state: Columns) -> Tensor:
        """Return the random move across the direction to x, of l2 length sideways times the distance, like `x`."""
        back = state["x"] - state["point"]
        length = norms.norm(back, "l2")
        tiny = torch.finfo(back.dtype).tiny
        unit = back / per_row(length.clamp_min(tiny), back)
        move = rng.normal(state["seed"], _MOVE, state["step"], tuple(back.shape[1:]))
        along = (move * unit).flatten(1).sum(1)
        move.sub_(unit.mul_(per_row(along, unit)))
        scale = state["sideways"].to(back.dtype) * length / norms.norm(move, "l2").clamp_min(tiny)
        return move.mul_(per_row(scale, move))

    def _propose(self, state: Columns) -> tuple[Tensor, Tensor]:
        """Return the point aside on the sphere around x, and the proposal nearer to x."""
        x, point = state["x"], state["point"]
        length = norms.norm(x - point, "l2")
        shrink = (1 + state["sideways"] ** 2).rsqrt().to(x.dtype)
        spherical = (self.sidestep(state) - (x - point)).mul_(per_row(shrink, x)).add_(x).clamp_(0, 1)
        back = x - spherical
        now = norms.norm(back, "l2")
        # Clipping and rounding took the point off the sphere: the step makes up for it.
        step = (state["inwards"].to(x.dtype) * length + (now - length)).clamp_min(0)
        share = step / now.clamp_min(torch.finfo(x.dtype).tiny)
        return spherical, back.mul_(per_row(share, x)).add_(spherical).clamp_(0, 1)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        x, phase = state["x"], state["phase"]
        hit = self.is_adversarial(state, answer)
        starting_points, blends, spheres, proposals = (
            phase == which for which in (START, BLEND, self._SPHERE, self._PROPOSAL)
        )
        distance = self.threat.distance(x, points)
        nearer = hit & (distance < state["distance"]) & ~spheres
        kept = per_row(nearer | state["distance"].isinf(), x)
        torch.where(kept, points, state["point"], out=state["point"])
        state["distance"] = torch.where(nearer, distance, state["distance"])
        if starting_points.any():
            torch.where(per_row(starting_points, x), points, state["far"], out=state["far"])
        state["draws"] = state["draws"] + starting_points
        state["opened"] = state["opened"] + (starting_points | blends)
        width = opening.halve(state, blends, hit)

        if spheres.any():
            self._look(state, "sphere", spheres, hit)
        state["step"] = state["step"] + proposals
        looks = proposals & (state["step"] % _EVERY == 0)
        if looks.any():
            self._look(state, "step", looks, hit)
            self._adapt(state, "sphere", looks, _SPHERE_RATES, ("sideways", "inwards"))
            self._adapt(state, "step", looks, _STEP_RATES, ("inwards",))

        following = torch.where((state["step"] + 1) % _EVERY == 0, self._SPHERE, self._PROPOSAL)
        moves = proposals | (blends & (width <= BLEND_GAP)) | (starting_points & hit & self.targeted)
        phase = torch.where(moves, following, phase)
        phase = phase.masked_fill(starting_points & hit & (not self.targeted), BLEND)
        state["phase"] = phase.masked_fill(spheres, self._PROPOSAL)

    @staticmethod
    def _look(state: Columns, which: str, rows: Tensor, hit: Tensor) -> None:
        """Write the answers of `rows` into their ring."""
        ring, looks = state[f"{which}_hits"], state[f"{which}_looks"]
        size = ring.shape[1]
        slot = (torch.arange(size, device=ring.device) == (looks % size)[:, None]) & rows[:, None]
        state[f"{which}_hits"] = torch.where(slot, hit[:, None], ring)
        state[f"{which}_looks"] = looks + rows

    def _adapt(
        self, state: Columns, which: str, rows: Tensor, rates: tuple[float, float], steps: tuple[str, ...]
    ) -> None:
        """Change the steps of those `rows` whose full window has a rate of success outside of `rates`."""
        ring, looks = state[f"{which}_hits"], state[f"{which}_looks"]
        rate = ring.sum(1) / ring.shape[1]
        full = rows & (looks >= ring.shape[1])
        grows, shrinks = full & (rate > rates[1]), full & (rate < rates[0])
        for name in steps:
            step = state[name]
            step = torch.where(grows, step * self.adaptation, torch.where(shrinks, step / self.adaptation, step))
            state[name] = step.clamp(_LEAST, _MOST)
        state[f"{which}_looks"] = looks.masked_fill(grows | shrinks, 0)

    def best(self, state: Columns) -> Tensor:
        return self.threat.admit(state["x"], state["point"])

    def reports_success(self, state: Columns) -> Tensor:
        return state["distance"].isfinite() & self.threat.contains(state["x"], state["point"])

    def paper_billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        return evaluated - self.repeats * state["opened"]

    def paper_ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        # The search for a start is not billed, and has no other end.
        searching = (state["phase"] == START) & (evaluated >= state["budget"])
        return searching | (self.paper_billed(state, evaluated) >= state["budget"])
