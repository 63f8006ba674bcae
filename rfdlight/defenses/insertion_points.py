"""Default insertion points of feature noise: those of the paper's code, network by network."""

from __future__ import annotations

from typing import Literal

from torch import nn

from rfdlight.core.activations import InsertionPoint

_RESNET = ("maxpool", "layer1", "layer2", "layer3", "layer4")
_TRANSFORMER = {"patch_embed", "patch_drop", "norm_pre", "blocks", "norm"}


def default_points(network: nn.Module) -> list[InsertionPoint]:
    """Return the insertion points of the paper's code, in the network's order, or none for other networks.

    `network` is the part of a victim after the normalisation. It is recognised by its child modules, in this order:

    - An attribute `insertion_points`, a sequence of module paths: after each of them. The `resnet8` and `resnet20` of
      rfdlight have it: after `layer3`, their last stage.
    - `maxpool` and `layer1` to `layer4`, in this order: the ResNets of timm and torchvision and their relatives
      (ResNeXt, SE-ResNet and others). After `maxpool`, `layer1`, `layer2` and `layer3`; nothing after `layer4`.
    - `features`, a Sequential of 3 x 3 convolutions of stride 1, max-pools, and normalisations or activations without
      child modules: the VGGs of timm and torchvision. Before each convolution; the first point is the normalised image.
    - `patch_embed`, `patch_drop`, `norm_pre`, `blocks` and `norm`: timm's VisionTransformer and
      VisionTransformerDistilled, which most of the names `vit_*` and `deit_*` build. Before each of `blocks`.

    Source: Nguyen, Lao, Pham, Wong, Doan, Understanding the Robustness of Randomized Feature Defense Against
    Query-Based Adversarial Attacks, ICLR 2024, as their published code places the noise.
    """
    children = dict(network.named_children())
    features = children.get("features")
    side: Literal["input", "output"] = "output"
    names: list[str] = []
    own = getattr(network, "insertion_points", None)
    if own is not None:
        names = list(own)
    elif tuple(name for name in children if name in _RESNET) == _RESNET:
        names = list(_RESNET[:-1])
    elif isinstance(features, nn.Sequential) and _is_vgg(features):
        side = "input"
        names = [f"features.{name}" for name, layer in features.named_children() if isinstance(layer, nn.Conv2d)]
    elif children.keys() >= _TRANSFORMER:
        side = "input"
        names = [f"blocks.{name}" for name, _ in children["blocks"].named_children()]
    return [InsertionPoint(name, network.get_submodule(name), side) for name in names]


def _is_vgg(features: nn.Sequential) -> bool:
    layers = list(features.children())
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    return (
        bool(convolutions)
        and any(isinstance(layer, nn.MaxPool2d) for layer in layers)
        and all((layer.kernel_size, layer.stride) == ((3, 3), (1, 1)) for layer in convolutions)
        and not any(list(layer.children()) for layer in layers)
    )
