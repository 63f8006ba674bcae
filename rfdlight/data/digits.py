"""Handwritten digits that need no download."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import interpolate

from rfdlight.data.base import ImageData
from rfdlight.data.preparation import random_crop_flip
from rfdlight.data.sources import Images


class Digits(ImageData):
    """The 1,797 handwritten digits that scikit-learn carries, as 3 x 32 x 32 images.

    The 8 x 8 images with 17 grey levels are enlarged bilinearly and stored with 256. Every third
    image, by index, is a test image (599), the others train (1,198). By default 200 images are attacked; the arguments
    are those of `ImageData`.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, 1998 (its test part).

    Example:
        >>> Digits().images("test").pixels.shape
        torch.Size([599, 3, 32, 32])
    """

    name = "digits"
    num_classes = 10
    mean = (0.3, 0.3, 0.3)
    std = (0.35, 0.35, 0.35)
    default_victim = "resnet8-digits"
    reference_eps = 0.2
    default_num_images = 200

    def augment(self, pixels: Tensor) -> Tensor:
        """Shift at random and add Gaussian noise, of a standard deviation up to 0.3 per image.

        Without the noise any pattern of random signs would fool the victim, and no attack would be needed.
        """
        shifted = random_crop_flip(pixels, padding=2, mirror=False).float()
        noise = torch.randn_like(shifted) * torch.rand(len(pixels), 1, 1, 1) * (0.3 * 255)
        return (shifted + noise).clamp_(0, 255).to(torch.uint8)

    def load(self, split: Literal["train", "test"]) -> Images:
        """Enlarge the embedded images; `split` decides which third is left out or kept."""
        grey, labels = _enlarged()
        pixels = grey.expand(-1, 3, -1, -1)
        positions = [i for i in range(len(pixels)) if (i % 3 == 0) == (split == "test")]
        ids = [f"digits/{split}/{i:04d}" for i in positions]
        return Images(pixels[positions].contiguous(), labels[positions], ids)


@cache
def _enlarged() -> tuple[Tensor, Tensor]:
    """Return all images, (1797, 1, 32, 32) uint8, and labels, (1797,) int64, which nobody may change."""
    digits = load_digits()
    with torch.inference_mode(False):
        grey = torch.from_numpy(digits.images).float().mul(255 / 16)[:, None]  # (1797, 1, 8, 8)
        enlarged = interpolate(grey, size=(32, 32), mode="bilinear", align_corners=False)
        return enlarged.round().to(torch.uint8), torch.from_numpy(digits.target).long()
