"""Success reports of random noise, which has no published code."""

from torch import Tensor

from rfdlight.attacks.paper.base import PaperBehaviour
from rfdlight.attacks.random_noise import RandomNoise
from rfdlight.core.tensors import Columns


class PaperRandomNoise(PaperBehaviour[RandomNoise]):
    """Reports every adversarial point."""

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return adversarial
