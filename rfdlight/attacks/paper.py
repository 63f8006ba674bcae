"""The published code of the attacks: its steps, query counting and success reports where these differ from ours.

The paper is Nguyen et al., Understanding the Robustness of Randomized Feature Defense Against Query-Based Adversarial
Attacks, ICLR 2024. Its code is that of the attacks' authors with changes of its own.
"""

from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from rfdlight import attacks
from rfdlight.attacks.base import Attack
from rfdlight.attacks.decision_based import NearestPointAttack
from rfdlight.attacks.geoda import query_split
from rfdlight.attacks.gradient_estimation import GradientEstimation
from rfdlight.core import norms
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row

A = TypeVar("A", bound=Attack)


class PaperBehaviour(Generic[A]):
    """Query counting and success reports of an attack's published code, for the paper's query counting and criterion.

    The defaults are those of code that bills every evaluation, checks its budget after each query and reports no
    success. `evaluated`, (rows,) int64, counts evaluations without success checks.
    """

    steps: ClassVar[type[Attack] | None] = None  # the attack's subclass with the published steps, if these differ
    # The phase and the counter, 0, of an iteration's first query, if the budget is checked there and at starts alone.
    iteration: ClassVar[tuple[int, str] | None] = None

    def __init__(self, attack: A) -> None:
        self.attack = attack

    @property
    def confirmed_by_votes(self) -> bool:
        """Whether votes have to confirm a reported success."""
        return self.attack.access != "decision"

    def billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        """Return the evaluations that the published code bills between two queries, (rows,) int64."""
        return evaluated

    def begins(self, state: Columns) -> Tensor:
        """Return the rows that begin an iteration, (rows,) bool."""
        if self.iteration is None:
            return torch.ones_like(state["y"], dtype=torch.bool)
        phase, counter = self.iteration
        return (state["phase"] == phase) & (state[counter] == 0)

    def between_iterations(self, state: Columns) -> Tensor:
        """Return the rows for which the published code checks its budget now, (rows,) bool."""
        begins = self.begins(state)
        return begins if self.iteration is None else begins | (state["phase"] == 0)

    def ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        """Return the rows that the published code ends now because of their budget, (rows,) bool."""
        return self.between_iterations(state) & (self.billed(state, evaluated) >= state["budget"])

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        """Return the rows whose success the published code reports after `tell` with these answers, (rows,) bool."""
        return torch.zeros_like(adversarial)


class ReportsAdversarial(PaperBehaviour[Attack]):
    """Reports every adversarial point; random noise has no published code."""

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return adversarial


class FirstQueryFree(PaperBehaviour[A]):
    """Does not bill the first query, and reports success at a kept step.

    The published code of SimBA also evaluates the second sign if the first one succeeds, without billing it, and checks
    each iterate: neither is reproduced.
    """

    def billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        return (evaluated - self.attack.eot).clamp_min(0)

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return adversarial & state["kept"]


class PublishedSquare(attacks.Square):
    """Square Attack whose schedule counts iterations, from squares of the paper's share."""

    default_clock = "iterations"
    default_p = 0.05


class PaperSquare(FirstQueryFree[attacks.Square]):
    """Makes a fixed number of iterations, in l2 one more."""

    steps = PublishedSquare

    def ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        iterations = (state["budget"] // self.attack.eot).clamp_min(1) + (self.attack.norm == "l2")
        return state["step"] >= torch.where(state["budget"] > 0, iterations, 0)


class PaperSignFlip(FirstQueryFree[attacks.SignFlip]):
    """Checks budget and radius between iterations."""

    def between_iterations(self, state: Columns) -> Tensor:
        return (state["phase"] == self.attack.DRAW) | (state["phase"] == self.attack.PROJECT)

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        radius = norms.norm(state["delta"], "linf")
        return (state["phase"] == self.attack.PROJECT) & (radius <= self.attack.threat.eps)


class ReportsDistance(PaperBehaviour[NearestPointAttack]):
    """Reports success by the distance alone."""

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return state["distance"].isfinite() & self.attack.threat.contains(state["x"], state["nearest"])


class PaperBoundary(ReportsDistance):
    """Does not bill the search for a start."""

    def billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        return evaluated - self.attack.eot * state["opened"]

    def ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        # The search for a start, which is not billed, would have no end.
        searching = (state["phase"] == attacks.Boundary.START) & (evaluated >= state["budget"])
        return searching | super().ended(state, evaluated)


class PaperHSJA(ReportsDistance):
    """Checks its budget between iterations and starts."""

    iteration = (attacks.HSJA.PROBE, "probes")


class PublishedGeoDA(attacks.GeoDA):
    """GeoDA that queries the clean image first, and clips the points of walks alone."""

    first_try = 0

    def in_range(self, points: Tensor) -> Tensor:
        return points


class PaperGeoDA(PaperBehaviour[attacks.GeoDA]):
    """Checks its budget between iterations and starts, ends with its split, and confirms success by votes."""

    steps = PublishedGeoDA
    iteration = (attacks.GeoDA.PROBE, "probed")
    confirmed_by_votes = True

    def ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        done = torch.zeros_like(state["y"], dtype=torch.bool)
        for budget in state["budget"].unique().tolist():
            iterations = len(query_split(budget // self.attack.eot))
            done |= (state["budget"] == budget) & (state["iteration"] >= iterations)
        return super().ended(state, evaluated) | (self.begins(state) & done)

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        distance = state["high"] * norms.norm(state["far"] - state["x"], self.attack.norm)
        return self.begins(state) & (distance <= self.attack.threat.eps)


class PublishedRayS(attacks.RayS):
    """RayS that submits the nearest point that it found."""

    def best(self, state: Columns) -> Tensor:
        point, inside = _nearest_on_ray(self, state)
        return torch.where(per_row(inside, point), point, super().best(state))


class PaperRayS(PaperBehaviour[attacks.RayS]):
    """Checks its budget between directions, and reports success by the radius alone."""

    steps = PublishedRayS

    def between_iterations(self, state: Columns) -> Tensor:
        return state["phase"] == self.attack.CHECK

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return _nearest_on_ray(self.attack, state)[1]


def _nearest_on_ray(attack: attacks.RayS, state: Columns) -> tuple[Tensor, Tensor]:
    """Return the nearest point found, and whether it lies in the ball."""
    point = attack.point(state["x"], state["direction"], state["radius"])
    return point, attack.threat.contains(state["x"], point) & state["radius"].isfinite()


class AuthorsSignOPT(attacks.SignOPT):
    """Sign-OPT with the authors' lengths and line search."""

    shrink = 0.99
    beta = 1e-3
    gap = 1 / 500
    start_gap = 1e-5

    @property
    def lengths(self) -> Norm:
        return self.norm


class PublishedSignOPT(AuthorsSignOPT):
    """Sign-OPT that also searches beyond the best radius, and does not clip to [0, 1]."""

    def point(self, x: Tensor, theta: Tensor, reach: Tensor) -> Tensor:
        return x + per_row(reach.to(x.dtype), x) * theta

    def start_radius(self, state: Columns, length: Tensor) -> Tensor:
        return length.double()

    def reject_step(self, state: Columns, rows: Tensor) -> None:
        state["phase"] = state["phase"].masked_fill(rows, self.GROW)

    def farthest(self, state: Columns) -> Tensor:
        return torch.full_like(state["radius"], 20.0)


class PaperSignOPT(PaperBehaviour[attacks.SignOPT]):
    """Does not bill one query per search, ends once its budget is exceeded, and reports success by the radius alone."""

    steps = PublishedSignOPT
    iteration = (attacks.SignOPT.SAMPLE, "sampled")

    def billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        return evaluated - self.attack.eot * state["unbilled"]

    def ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        return self.between_iterations(state) & (self.billed(state, evaluated) > state["budget"])

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return state["radius"].isfinite() & self.attack.threat.contains(state["x"], self.attack.nearest(state))


class PublishedSignHunt(attacks.SignHunt):
    """SignHunter that queries the base, checks its iterate after each step and projects the submitted point alone.

    The second pass starts at the current iterate, in the paper's code at the one before: one value may differ.
    """

    LOOK = 2

    @property
    def first_phase(self) -> int:
        return self.PROBE if self.base_query is False else self.BASE

    def probe(self, state: Columns, signs: Tensor) -> Tensor:
        return self.unprojected(state, signs)

    def submitted(self, state: Columns) -> Tensor:
        offset = self.unprojected(state, state["signs"]) - state["x"]
        return state["x"] + norms.project(offset, self.norm, self.threat.eps)

    def ask(self, state: Columns) -> Tensor:
        points = super().ask(state)
        return torch.where(per_row(self.is_success_check(state), points), self.best(state), points)

    def is_success_check(self, state: Columns) -> Tensor:
        return state["phase"] == self.LOOK

    def move_on(self, state: Columns, flips: Tensor, score: Tensor) -> None:
        super().move_on(state, flips, score)
        state["phase"].masked_fill_(flips, self.LOOK)

    def pass_is_over(self, state: Columns) -> Tensor:
        return super().pass_is_over(state) & ~self.is_success_check(state)


class PaperSignHunt(PaperBehaviour[attacks.SignHunt]):
    """Bills one query per step and two more per pass, although the base is queried each time."""

    steps = PublishedSignHunt

    def billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        if self.attack.first_phase != self.attack.BASE:
            return evaluated
        return self.attack.eot * (state["flips"] + 2 * state["passes"])

    def between_iterations(self, state: Columns) -> Tensor:
        # The first step of a pass includes the probe of v = +1.
        half = (state["score"] > -torch.inf) & (state["level"] + state["chunk"] == 0)
        return (state["phase"] == self.attack.first_phase) & ~half

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        checked = isinstance(self.attack, PublishedSignHunt)
        return adversarial & (self.between_iterations(state) if checked else state["kept"])


class Unclipped(GradientEstimation):
    """Gradient estimation that clips neither probes nor iterates to [0, 1]; iterates are projected on the ball."""

    paper_constants = True

    def in_range(self, probe: Tensor) -> Tensor:
        return probe

    def projected(self, x: Tensor, point: Tensor) -> Tensor:
        return x + norms.project(point - x, self.norm, self.threat.eps)

    def steps_within(self, budget: int) -> int:
        # Success checks are free, and the last iteration may exceed the budget.
        return -(-budget // ((self.cycle - 1) * self.eot))


class PublishedNES(Unclipped, attacks.NES):
    """NES without clipping."""


class PublishedBandits(Unclipped, attacks.Bandits):
    """Bandits without clipping; its prior, which the paper's code moves the wrong way, moves the right way."""


class PublishedZOSignSGD(Unclipped, attacks.ZOSignSGD):
    """ZO-signSGD that queries the iterate after each probe, checks each new iterate and never clips to [0, 1].

    Positions in the cycle: even at probes, odd at the iterate, 2n at the success check.
    """

    @property
    def cycle(self) -> int:
        return 2 * self.samples + 1

    def ask(self, state: Columns) -> Tensor:
        position = self.position(state)
        return self.query(state, position // 2, (position % 2 == 0) & (position < 2 * self.samples))

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss, position = self.objective(state, answer), self.position(state)
        second = position % 2 == 1
        fall = torch.where(second, loss - state["first"], 0.0)
        state["first"] = torch.where(second, state["first"], loss)
        self.collect(state, fall, position == 2 * self.samples - 1)

    def is_success_check(self, state: Columns) -> Tensor:
        return GradientEstimation.is_success_check(self, state)


class PaperNES(PaperBehaviour[GradientEstimation]):
    """Checks its budget and success between iterations."""

    steps: ClassVar[type[Attack] | None] = PublishedNES

    def between_iterations(self, state: Columns) -> Tensor:
        return self.attack.position(state) == 0

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return adversarial & self.between_iterations(state)


class PaperBandits(PaperNES):
    """As NES."""

    steps = PublishedBandits


class PaperZOSignSGD(PaperNES):
    """As NES; with our steps, success shows at the query at the iterate."""

    steps = PublishedZOSignSGD

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        shown = 0 if isinstance(self.attack, PublishedZOSignSGD) else 1
        return adversarial & (self.attack.position(state) == shown)


BEHAVIOURS: dict[type[Attack], type[PaperBehaviour[Any]]] = {
    attacks.AdaptiveSquare: PaperBehaviour,  # without published code, unlike Square
    attacks.Bandits: PaperBandits,
    attacks.Boundary: PaperBoundary,
    attacks.GeoDA: PaperGeoDA,
    attacks.HSJA: PaperHSJA,
    attacks.NES: PaperNES,
    attacks.PopSkipJump: PaperBehaviour,  # that code was not read, unlike HopSkipJump's
    attacks.RandomNoise: ReportsAdversarial,
    attacks.RayS: PaperRayS,
    attacks.SignFlip: PaperSignFlip,
    attacks.SignHunt: PaperSignHunt,
    attacks.SignOPT: PaperSignOPT,
    attacks.SimBA: FirstQueryFree,
    attacks.Square: PaperSquare,
    attacks.ZOSignSGD: PaperZOSignSGD,
}  # subclasses have the behaviour of their attack, and all others the defaults of the base class


def _class_for(attack: Attack) -> type[PaperBehaviour[Any]]:
    return next((BEHAVIOURS[base] for base in type(attack).__mro__ if base in BEHAVIOURS), PaperBehaviour)


def paper_behaviour(attack: Attack) -> PaperBehaviour[Any]:
    """Return the behaviour of the published code for an attack that the engine configured."""
    return _class_for(attack)(attack)


def with_published_steps(attack: Attack) -> Attack:
    """Return a copy of an attack that takes the steps of its published code, or the attack if it takes them already."""
    steps = _class_for(attack).steps
    return attack if steps is None or isinstance(attack, steps) else attack.extended_by(steps)
