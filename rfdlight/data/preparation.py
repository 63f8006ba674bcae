"""Resizing of images to the size that a network needs, and augmentation of training batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, center_crop, resize

from rfdlight.errors import UserError, unknown_name

Interpolation = Literal["nearest", "bilinear", "bicubic"]
CropMode = Literal["center", "squash"]
Size = int | tuple[int, int]
"""Height and width in pixels; one number is both."""


@dataclass(frozen=True)
class Preparation:
    """Resizes an image until its shorter side, or both, are size / crop, then crops the centre.

    The size is that of the result, in pixels; resizing is with antialiasing; `crop` is the share of the shorter side
    that is kept, in (0, 1]. With the crop mode "center" the image keeps its proportions, with "squash" it is first
    resized to those of the result.

    Example:
        >>> import torch
        >>> Preparation(4, "bilinear", 0.5)(torch.zeros(1, 3, 6, 9, dtype=torch.uint8)).shape
        torch.Size([1, 3, 4, 4])
    """

    size: Size
    interpolation: Interpolation = "bicubic"
    crop: float = 1.0
    crop_mode: CropMode = "center"

    def __post_init__(self) -> None:
        if self.interpolation not in get_args(Interpolation):
            raise unknown_name("interpolation of a preparation", str(self.interpolation), get_args(Interpolation))
        if self.crop_mode not in get_args(CropMode):
            raise unknown_name("crop_mode of a preparation", str(self.crop_mode), get_args(CropMode))
        if min(self.height_width) < 1:
            raise UserError(f"data.size must be at least 1, got {self.size}")
        if not 0 < self.crop <= 1:
            raise UserError(f"the crop of a preparation must lie in (0, 1], got {self.crop}")

    @property
    def height_width(self) -> tuple[int, int]:
        """Height and width of the result, in pixels."""
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return height, width

    def __call__(self, pixels: Tensor) -> Tensor:
        """Resize (..., C, H, W) to (..., C, height, width), of the same dtype; pixels of that size are not changed.

        Floats are clipped to [0, 1], which bicubic interpolation exceeds.
        """
        height, width = self.height_width
        if self.crop == 1 and tuple(pixels.shape[-2:]) == (height, width):
            return pixels
        # As timm's and torchvision's evaluation transforms crop it.
        sides = [int(height / self.crop), int(width / self.crop)]
        if self.crop_mode == "center":
            sides = _covering(pixels.shape[-2], pixels.shape[-1], *sides)
        enlarged = resize(pixels, sides, InterpolationMode(self.interpolation), antialias=True)
        cut = center_crop(enlarged, [height, width])
        return cut.clamp(0, 1) if cut.is_floating_point() else cut


def _covering(height: int, width: int, least_height: int, least_width: int) -> list[int]:
    """Return the smallest height and width of an image of the same proportions that are not below the given ones."""
    if width * least_height >= height * least_width:
        return [least_height, max(least_width, int(least_height * width / height))]
    return [max(least_height, int(least_width * height / width)), least_width]


def random_crop_flip(pixels: Tensor, padding: int = 4, mirror: bool = True) -> Tensor:
    """Shift each image, (rows, C, H, W) uint8, by up to `padding` pixels over a black border, and mirror half of them.

    Source: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.
    """
    rows, channels, height, width = pixels.shape
    padded = torch.nn.functional.pad(pixels, (padding,) * 4)
    top, left = torch.randint(2 * padding + 1, (2, rows, 1))
    down = top + torch.arange(height)  # (rows, H)
    across = left + torch.arange(width)  # (rows, W)
    if mirror:
        across = torch.where(torch.rand(rows, 1) < 0.5, across, across.flip(1))
    row = torch.arange(rows)[:, None, None, None]
    channel = torch.arange(channels)[:, None, None]
    return padded[row, channel, down[:, None, :, None], across[:, None, None, :]]
