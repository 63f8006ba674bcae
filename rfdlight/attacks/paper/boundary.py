"""Boundary Attack as its published code counts queries."""

from torch import Tensor

from rfdlight.attacks.boundary import Boundary
from rfdlight.attacks.paper.base import PaperBehaviour
from rfdlight.core.tensors import Columns


class PaperBoundary(PaperBehaviour[Boundary]):
    """Does not bill the search for a start, and reports success by the distance alone."""

    def billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        return evaluated - self.attack.eot * state["opened"]

    def ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        # The search for a start, which is not billed, would have no end.
        searching = (state["phase"] == self.attack.START) & (evaluated >= state["budget"])
        return searching | super().ended(state, evaluated)

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return state["distance"].isfinite() & self.attack.threat.contains(state["x"], state["nearest"])
