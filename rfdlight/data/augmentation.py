"""Augmentation of training batches."""

from __future__ import annotations

import torch
from torch import Tensor


def random_crop_flip(pixels: Tensor, padding: int = 4, mirror: bool = True) -> Tensor:
    """Shift each image by up to `padding` pixels over a black border, and mirror half of them.

    Source: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016,
    section 4.2.

    Args:
        pixels: (rows, C, H, W) uint8.
        padding: Width of the border, in pixels.
        mirror: Whether to mirror.

    Returns:
        The same shape and dtype.
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
