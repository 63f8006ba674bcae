"""A vision transformer for 32 x 32 images, small enough to be shipped, registered with timm."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

from rfdlight.victims.cifar_resnet import own_settings


@register_model
def vit_thin_patch4_32(pretrained: bool = False, **settings: Any) -> VisionTransformer:
    """Vision transformer for 32 x 32 images: patches of 4, width 128, 5 blocks, 4 heads, 1.01 M parameters.

    Source: Dosovitskiy and others, An Image is Worth 16 x 16 Words, ICLR 2021. Deviation: the mean of
    the patches' tokens is classified, there is no class token.
    """
    return VisionTransformer(
        img_size=32,
        patch_size=4,
        embed_dim=128,
        depth=5,
        num_heads=4,
        class_token=False,
        global_pool="avg",
        **own_settings(pretrained, settings),
    )
