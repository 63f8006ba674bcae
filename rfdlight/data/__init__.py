"""Image data: pixels in [0, 1], a label and an image id, and the subset of it that is attacked."""

from rfdlight.data.base import ImageData
from rfdlight.data.cifar10 import CIFAR10
from rfdlight.data.digits import Digits
from rfdlight.data.sources import Images

__all__ = ["CIFAR10", "Digits", "ImageData", "Images"]
