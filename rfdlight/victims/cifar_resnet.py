"""The residual networks for 32 x 32 images, registered with timm."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from torch import Tensor, nn
from torch.nn.functional import pad, relu

_OF_TIMM = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""Arguments that timm passes to every network besides the user's options."""


def own_settings(pretrained: bool, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the user's options of a network, which has no pretrained weights at timm."""
    if pretrained:
        raise ValueError("timm has no weights for this network; rfdlight ships some as victims")
    return {key: value for key, value in settings.items() if key not in _OF_TIMM}


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without parameters (option A of the paper)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.new_channels = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new_channels, self.new_channels))
        return relu(x + y)


class CifarResNet(nn.Module):
    """A residual network of depth 6n + 2 for images of 32 x 32.

    Source: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.

    Args:
        depth: 6n + 2 for some n of at least 1; 20 has 0.27 M parameters.
        num_classes: Outputs.
        in_chans: Channels of the image.

    Example:
        >>> import torch
        >>> CifarResNet(20)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    insertion_points = ("layer3",)
    """Where the paper on the randomized feature defense puts its noise: after the third stage."""

    def __init__(self, depth: int, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6n + 2 with n of at least 1, got {depth}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, stride=1)
        self.layer2 = self._stage(16, 32, blocks, stride=2)
        self.layer3 = self._stage(32, 64, blocks, stride=2)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        first = _Block(inputs, outputs, stride)
        return nn.Sequential(first, *(_Block(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))  # (rows, 64, H / 4, W / 4)
        return self.fc(x.mean((2, 3)))


@register_model
def resnet8(pretrained: bool = False, **settings: Any) -> CifarResNet:
    """Residual network of depth 8 for 32 x 32 images, 0.08 M parameters."""
    return CifarResNet(8, **own_settings(pretrained, settings))


@register_model
def resnet20(pretrained: bool = False, **settings: Any) -> CifarResNet:
    """Residual network of depth 20 for 32 x 32 images, 0.27 M parameters."""
    return CifarResNet(20, **own_settings(pretrained, settings))
