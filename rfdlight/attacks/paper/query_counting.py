"""Attacks whose published code takes our steps, and counts queries or reports success in its own way."""

from torch import Tensor

from rfdlight.attacks.boundary import Boundary
from rfdlight.attacks.hsja import HSJA
from rfdlight.attacks.paper.base import PaperBehaviour
from rfdlight.attacks.random_noise import RandomNoise
from rfdlight.attacks.signflip import SignFlip
from rfdlight.attacks.simba import SimBA
from rfdlight.core.norms import norm
from rfdlight.core.tensors import Columns


class PaperBoundary(PaperBehaviour[Boundary]):
    """Boundary Attack: does not bill the search for a start, and reports success by the distance alone."""

    def billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        return evaluated - self.attack.eot * state["opened"]

    def ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        # The search for a start, which is not billed, would have no end.
        searching = (state["phase"] == self.attack.START) & (evaluated >= state["budget"])
        return searching | super().ended(state, evaluated)

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return state["distance"].isfinite() & self.attack.threat.contains(state["x"], state["nearest"])


class PaperHSJA(PaperBehaviour[HSJA]):
    """HopSkipJump: checks its budget between iterations and starts, and reports success by the distance alone."""

    def between_iterations(self, state: Columns) -> Tensor:
        begins = (state["phase"] == self.attack.PROBE) & (state["probes"] == 0)
        return begins | (state["phase"] == self.attack.START)

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return state["distance"].isfinite() & self.attack.threat.contains(state["x"], state["nearest"])


class PaperRandomNoise(PaperBehaviour[RandomNoise]):
    """Random noise, which has no published code: reports every adversarial point."""

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return adversarial


class PaperSignFlip(PaperBehaviour[SignFlip]):
    """SignFlip: does not bill the first query, and checks budget and radius between iterations."""

    def billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        return self.without_first(evaluated)

    def between_iterations(self, state: Columns) -> Tensor:
        return (state["phase"] == self.attack.DRAW) | (state["phase"] == self.attack.PROJECT)

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        radius = norm(state["delta"], "linf")
        return (state["phase"] == self.attack.PROJECT) & (radius <= self.attack.threat.eps)


class PaperSimBA(PaperBehaviour[SimBA]):
    """SimBA: does not bill the first query, and reports success at a kept step.

    The published code also evaluates the second sign if the first one succeeds, without billing it, and checks each
    iterate: neither is reproduced.
    """

    def billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        return self.without_first(evaluated)

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return adversarial & state["kept"]
