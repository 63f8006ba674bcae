"""HopSkipJump as its published code ends and reports success."""

from torch import Tensor

from rfdlight.attacks.hsja import HSJA
from rfdlight.attacks.paper.base import PaperBehaviour
from rfdlight.core.tensors import Columns


class PaperHSJA(PaperBehaviour[HSJA]):
    """Checks its budget between iterations and starts, and reports success by the distance alone."""

    def between_iterations(self, state: Columns) -> Tensor:
        begins = (state["phase"] == self.attack.PROBE) & (state["probes"] == 0)
        return begins | (state["phase"] == self.attack.START)

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return state["distance"].isfinite() & self.attack.threat.contains(state["x"], state["nearest"])
