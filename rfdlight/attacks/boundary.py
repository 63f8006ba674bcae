"""The Boundary attack."""

from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.decision_based import BLEND_GAP, NearestPointAttack, Phases, halve
from rfdlight.core import norms, rng
from rfdlight.core.tensors import Columns, per_row
from rfdlight.errors import UserError, expect

_SPHERE_RATES, _PROPOSAL_RATES = (0.2, 0.5), (0.1, 0.25)  # steps shrink below the first rate and grow above the second
_LEAST, _MOST = 1e-7, 0.5  # of both steps: Foolbox ends at the first, and far beyond the second a step would pass x
_NOISE, _MOVE = range(2)  # streams of random numbers


class Boundary(NearestPointAttack):
    """Boundary Attack: decision-based random walk along the decision boundary in l2.

    The start is misclassified uniform noise, bisected towards the clean image x, or an image of the target class. Each
    proposal moves the best point sideways on the sphere around x, then towards x; both steps adapt to success rates.
    Queries: one per start tried, 10 to bisect noise, one per proposal, and one more at every fifth.

    Source: Brendel, Rauber and Bethge, Decision-Based Adversarial Attacks, ICLR 2018, algorithm 1, with the rates and
    corrections of Foolbox's implementation.
    Deviations: success rates are taken oftener and over fewer answers than Foolbox's, which first change a step after
    300 proposals; the start is bisected to a gap of 1/1000; a spherical point is queried before its proposal, not
    after; steps stay between 1e-7, where Foolbox ends, and 0.5; a targeted start is queried once, and again until it is
    adversarial.

    Args:
        spherical_step: First sideways step, as a share of the distance to x, in (0, 0.5]; Foolbox takes 0.01.
        source_step: First step towards x, as a share of that distance, in (0, 0.5]; Foolbox takes 0.01.
        adaptation: Factor by which steps grow and shrink, > 1.
        every: Proposals from one look at the success rates to the next, >= 1; Foolbox takes 10.
        sphere_window: Spherical points over which their rate is taken, >= 1; Foolbox takes 100.
        proposal_window: Proposals over which their rate is taken, >= 1; Foolbox takes 30.
    """

    norms = ("l2",)
    has_targeted_form = True
    needs_starting_point = True

    START, BLEND, SPHERE, PROPOSAL = range(4)

    def __init__(
        self,
        spherical_step: float = 0.03,
        source_step: float = 0.03,
        adaptation: float = 1.5,
        every: int = 5,
        sphere_window: int = 10,
        proposal_window: int = 10,
        **ball: Any,
    ) -> None:
        super().__init__(**ball)
        for name, step in (("spherical_step", spherical_step), ("source_step", source_step)):
            if not 0 < step <= _MOST:
                raise UserError(f"attack.{name} must lie in (0, {_MOST}], got {step}")
        if not adaptation > 1:
            raise UserError(f"attack.adaptation must be greater than 1, got {adaptation}")
        for name, count in (("every", every), ("sphere_window", sphere_window), ("proposal_window", proposal_window)):
            expect(count >= 1, f"attack.{name}", "at least 1", count)
        self.spherical_step = spherical_step
        self.source_step = source_step
        self.adaptation = adaptation
        self.every = every
        self.sphere_window = sphere_window
        self.proposal_window = proposal_window

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        return {
            **super().init(x, y, seed),
            "draws": torch.zeros_like(y),  # starts tried
            "opened": torch.zeros_like(y),  # queries before the first proposal
            "step": torch.zeros_like(y),  # proposals
            "sphere_count": torch.zeros_like(y),  # answers since this ring last changed the steps
            "proposal_count": torch.zeros_like(y),
            "sideways": torch.full_like(y, self.spherical_step, dtype=torch.float64),
            "inwards": torch.full_like(y, self.source_step, dtype=torch.float64),
            "sphere_hits": torch.zeros(len(y), self.sphere_window, dtype=torch.bool, device=y.device),
            "proposal_hits": torch.zeros(len(y), self.proposal_window, dtype=torch.bool, device=y.device),
        }

    def phases(self) -> Phases:
        return (
            (self._start, self._after_start),
            (self.halfway, self._after_blend),
            (self._spherical, self._after_sphere),
            (self._proposal, self._after_proposal),
        )

    def keep_nearest(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        super().keep_nearest(state, points, adversarial & (state["phase"] != self.SPHERE))

    def _start(self, state: Columns) -> Tensor:
        return self.starting_point(state, _NOISE)

    def _after_start(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        state["far"] = points.clone()
        state["draws"] = state["draws"] + 1
        state["opened"] = state["opened"] + 1
        if self.targeted:
            self._propose_next(state, adversarial)
        else:
            state["phase"] = state["phase"].masked_fill(adversarial, self.BLEND)

    def _after_blend(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        state["opened"] = state["opened"] + 1
        self._propose_next(state, halve(state, adversarial) <= BLEND_GAP)

    def sidestep(self, state: Columns) -> Tensor:
        """Return the random move across the direction to x, of l2 length sideways times the distance, like `x`."""
        back = state["x"] - state["nearest"]
        length = norms.norm(back, "l2")
        tiny = torch.finfo(back.dtype).tiny
        unit = back / per_row(length.clamp_min(tiny), back)
        move = rng.normal(state["seed"], _MOVE, state["step"], tuple(back.shape[1:]))
        along = (move * unit).flatten(1).sum(1)
        move.sub_(unit.mul_(per_row(along, unit)))
        scale = state["sideways"].to(back.dtype) * length / norms.norm(move, "l2").clamp_min(tiny)
        return move.mul_(per_row(scale, move))

    def _spherical(self, state: Columns) -> Tensor:
        """Return the sidestepped points, back on the sphere around x."""
        x, nearest = state["x"], state["nearest"]
        shrink = (1 + state["sideways"] ** 2).rsqrt().to(x.dtype)
        return (self.sidestep(state) - (x - nearest)).mul_(per_row(shrink, x)).add_(x).clamp_(0, 1)

    def _after_sphere(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        self._count(state, "sphere", torch.ones_like(adversarial), adversarial)
        state["phase"] = torch.full_like(state["phase"], self.PROPOSAL)

    def _proposal(self, state: Columns) -> Tensor:
        """Return the spherical points, moved towards x."""
        x = state["x"]
        length = norms.norm(x - state["nearest"], "l2")
        spherical = self._spherical(state)
        back = x - spherical
        now = norms.norm(back, "l2")
        # Clipping and rounding took the point off the sphere: the step makes up for it.
        step = (state["inwards"].to(x.dtype) * length + (now - length)).clamp_min(0)
        share = step / now.clamp_min(torch.finfo(x.dtype).tiny)
        return back.mul_(per_row(share, x)).add_(spherical).clamp_(0, 1)

    def _after_proposal(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        state["step"] = state["step"] + 1
        seen = state["step"] % self.every == 0
        self._count(state, "proposal", seen, adversarial)
        self._adapt(state, "sphere", seen, _SPHERE_RATES, ("sideways", "inwards"))
        self._adapt(state, "proposal", seen, _PROPOSAL_RATES, ("inwards",))
        self._propose_next(state, torch.ones_like(seen))

    def _propose_next(self, state: Columns, rows: Tensor) -> None:
        """Send `rows` to their next proposal, some to their spherical point first."""
        following = torch.where((state["step"] + 1) % self.every == 0, self.SPHERE, self.PROPOSAL)
        state["phase"] = torch.where(rows, following, state["phase"])

    @staticmethod
    def _count(state: Columns, which: str, rows: Tensor, adversarial: Tensor) -> None:
        """Write the answers of `rows` into their ring."""
        ring, count = state[f"{which}_hits"], state[f"{which}_count"]
        slot = (torch.arange(ring.shape[1], device=ring.device) == (count % ring.shape[1])[:, None]) & rows[:, None]
        state[f"{which}_hits"] = torch.where(slot, adversarial[:, None], ring)
        state[f"{which}_count"] = count + rows

    def _adapt(
        self, state: Columns, which: str, rows: Tensor, rates: tuple[float, float], steps: tuple[str, ...]
    ) -> None:
        """Change the steps of `rows` whose full ring has a success rate outside `rates`."""
        ring, count = state[f"{which}_hits"], state[f"{which}_count"]
        rate = ring.sum(1) / ring.shape[1]
        full = rows & (count >= ring.shape[1])
        grows, shrinks = full & (rate > rates[1]), full & (rate < rates[0])
        for name in steps:
            step = state[name]
            step = torch.where(grows, step * self.adaptation, torch.where(shrinks, step / self.adaptation, step))
            state[name] = step.clamp(_LEAST, _MOST)
        state[f"{which}_count"] = count.masked_fill(grows | shrinks, 0)
