"""NES and Bandits as the paper's code queries and counts queries."""

from torch import Tensor

from rfdlight.attacks.bandits import Bandits
from rfdlight.attacks.gradient_estimation import GradientEstimation
from rfdlight.attacks.nes import NES
from rfdlight.attacks.paper.base import PaperBehaviour
from rfdlight.core import norms
from rfdlight.core.tensors import Columns


class Unclipped(GradientEstimation):
    """Gradient estimation that clips neither probes nor iterates to [0, 1]; iterates are projected on the ball."""

    def in_range(self, x: Tensor, probe: Tensor) -> Tensor:
        return probe

    def projected(self, x: Tensor, point: Tensor) -> Tensor:
        return x + norms.project(point - x, self.norm, self.threat.eps)

    def steps_within(self, budget: int) -> int:
        # Success checks are free, and the last iteration may exceed the budget.
        return -(-budget // ((self.cycle - 1) * self.eot))


class PublishedNES(Unclipped, NES):
    """NES without clipping, whatever `probe_clip` is."""


class PublishedBandits(Unclipped, Bandits):
    """Bandits without clipping.

    The paper's code moves the prior the wrong way, so that the margin rises: that is not reproduced.
    """


class PaperGradientEstimation(PaperBehaviour[GradientEstimation]):
    """Checks its budget and success between iterations."""

    def between_iterations(self, state: Columns) -> Tensor:
        return self.attack.position(state) == 0

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return adversarial & self.between_iterations(state)


class PaperNES(PaperGradientEstimation):
    """See `PaperGradientEstimation`."""

    steps = PublishedNES


class PaperBandits(PaperGradientEstimation):
    """See `PaperGradientEstimation`."""

    steps = PublishedBandits
