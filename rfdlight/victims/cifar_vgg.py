"""A VGG for 32 x 32 images, thin enough to be shipped, registered with timm."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from torch import Tensor, nn

from rfdlight.victims.cifar_resnet import own_settings

_STAGES = ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4))
"""Multiple of the width, and number of convolutions, of the five stages of VGG19."""


class CifarVGG(nn.Module):
    """The sixteen convolutions of VGG19, with batch normalisation and one linear layer, for 32 x 32 images.

    Source: Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015,
    configuration E. Deviations, as is usual for small images: batch normalisation after every convolution (Ioffe and
    Szegedy, 2015), one linear layer after a global average instead of three, and `width` channels in the first stage
    instead of 64, all others in proportion.

    Args:
        width: Channels of the first stage; 22 gives 2.37 M parameters.
        num_classes: Outputs.
        in_chans: Channels of the image.

    Shape:
        (rows, in_chans, H, W) to logits (rows, num_classes), H and W at least 32.

    Example:
        >>> import torch
        >>> CifarVGG(22)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, width: int, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_chans
        for multiple, convolutions in _STAGES:
            outputs = multiple * width
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
                layers.append(nn.ReLU(inplace=True))
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # (rows, 8 width, H / 32, W / 32)
        return self.fc(x.mean((2, 3)))


@register_model
def vgg19_bn_thin(pretrained: bool = False, **settings: Any) -> CifarVGG:
    """VGG19 with batch normalisation for 32 x 32 images, width 22, 2.37 M parameters."""
    return CifarVGG(22, **own_settings(pretrained, settings))
