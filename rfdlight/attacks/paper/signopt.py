"""Sign-OPT as its published code queries and counts queries."""

from torch import Tensor

from rfdlight.attacks.paper.base import PaperBehaviour
from rfdlight.attacks.signopt import SignOPT
from rfdlight.core.tensors import Columns, per_row


class PublishedSignOPT(SignOPT):
    """Sign-OPT that searches starts and steps beyond the best radius, and does not clip to [0, 1]."""

    def point(self, x: Tensor, theta: Tensor, reach: Tensor) -> Tensor:
        return x + per_row(reach.to(x.dtype), x) * theta

    def start_radius(self, state: Columns, length: Tensor) -> Tensor:
        return length.double()

    def reject_step(self, state: Columns, rows: Tensor) -> None:
        state["phase"] = state["phase"].masked_fill(rows, self.GROW)


class PaperSignOPT(PaperBehaviour[SignOPT]):
    """Does not bill one query per search, ends once its budget is exceeded, and reports success by the radius alone."""

    steps = PublishedSignOPT

    def billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        return evaluated - self.attack.eot * state["unbilled"]

    def between_iterations(self, state: Columns) -> Tensor:
        begins = (state["phase"] == self.attack.SAMPLE) & (state["sampled"] == 0)
        return begins | (state["phase"] == self.attack.START)

    def ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        return self.between_iterations(state) & (self.billed(state, evaluated) > state["budget"])

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return state["radius"] <= self.attack.threat.eps
