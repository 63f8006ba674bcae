"""How an image comes to the size that a network takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, center_crop, resize

from rfdlight.errors import UserError, unknown_name

Interpolation = Literal["nearest", "bilinear", "bicubic"]
CropMode = Literal["center", "squash"]


@dataclass(frozen=True)
class Preparation:
    """Enlarges or shrinks an image until its shorter side, or both, are size / crop, then cuts the middle out.

    Attributes:
        size: Height and width of the result, in pixels, >= 1.
        interpolation: With antialiasing.
        crop: Share of the shorter side that is kept, in (0, 1].
        crop_mode: Whether the image keeps its proportions, "center", or becomes a square first, "squash", as timm calls
            them.

    Raises:
        UserError: If a number is out of range, or a word unknown.

    Example:
        >>> import torch
        >>> Preparation(4, "bilinear", 0.5)(torch.zeros(1, 3, 6, 9, dtype=torch.uint8)).shape
        torch.Size([1, 3, 4, 4])
    """

    size: int
    interpolation: Interpolation = "bicubic"
    crop: float = 1.0
    crop_mode: CropMode = "center"

    def __post_init__(self) -> None:
        if type(self.size) is not int or type(self.crop) not in (int, float):
            raise UserError(f"a preparation needs a whole size and a crop, got {self.size!r} and {self.crop!r}")
        if self.interpolation not in get_args(Interpolation):
            raise unknown_name("interpolation of a preparation", str(self.interpolation), get_args(Interpolation))
        if self.crop_mode not in get_args(CropMode):
            raise unknown_name("crop_mode of a preparation", str(self.crop_mode), get_args(CropMode))
        if self.size < 1:
            raise UserError(f"data.size must be at least 1, got {self.size}")
        if not 0 < self.crop <= 1:
            raise UserError(f"the crop of a preparation must lie in (0, 1], got {self.crop}")

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return (..., C, size, size) from (..., C, H, W), of the same dtype; an image that fits is left as it is.

        Floats are clipped to [0, 1], which bicubic interpolation exceeds.
        """
        if self.crop == 1 and tuple(pixels.shape[-2:]) == (self.size, self.size):
            return pixels
        # The middle of an image as timm's and torchvision's evaluation transforms cut it.
        sides = [int(self.size / self.crop)] * (2 if self.crop_mode == "squash" else 1)
        enlarged = resize(pixels, sides, InterpolationMode(self.interpolation), antialias=True)
        cut = center_crop(enlarged, [self.size, self.size])
        return cut.clamp(0, 1) if cut.is_floating_point() else cut
