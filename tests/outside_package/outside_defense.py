"""A defense in a package of its own: input quantization."""

from torch import Tensor, nn

from rfdlight.core.activations import InsertionPoint
from rfdlight.defenses import Defense


class Quantization(Defense):
    """Rounds the pixels of every query to a few levels.

    Args:
        levels: Levels from 0 to 1, >= 2.
    """

    def __init__(self, levels: int = 16) -> None:
        super().__init__()
        self.levels = levels

    @property
    def is_random(self) -> bool:
        return False

    def insertion_points(self, model: nn.Module) -> list[InsertionPoint]:
        return [InsertionPoint("the image", model, "input")]

    def transform(self, x: Tensor, point: int) -> Tensor:
        return (x * (self.levels - 1)).round() / (self.levels - 1)

    def describe(self, model: nn.Module) -> str:
        return f"Quantization of the pixels to {self.levels} levels"
