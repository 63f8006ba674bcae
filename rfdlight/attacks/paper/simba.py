"""SimBA as its published code counts queries."""

from torch import Tensor

from rfdlight.attacks.paper.base import PaperBehaviour
from rfdlight.attacks.simba import SimBA
from rfdlight.core.tensors import Columns


class PaperSimBA(PaperBehaviour[SimBA]):
    """Does not bill the first query, and reports success at a kept step.

    The published code also evaluates the second sign if the first one succeeds, without billing it, and checks each
    iterate: neither is reproduced.
    """

    def billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        return (evaluated - self.attack.eot).clamp_min(0)

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return adversarial & state["kept"]
