"""SignFlip as its published code counts queries."""

from torch import Tensor

from rfdlight.attacks.paper.base import PaperBehaviour
from rfdlight.attacks.signflip import SignFlip
from rfdlight.core.norms import norm
from rfdlight.core.tensors import Columns


class PaperSignFlip(PaperBehaviour[SignFlip]):
    """Does not bill the first query, and checks budget and radius between iterations."""

    def billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        return (evaluated - self.attack.eot).clamp_min(0)

    def between_iterations(self, state: Columns) -> Tensor:
        return (state["phase"] == self.attack.DRAW) | (state["phase"] == self.attack.PROJECT)

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        radius = norm(state["delta"], "linf")
        return (state["phase"] == self.attack.PROJECT) & (radius <= self.attack.threat.eps)
