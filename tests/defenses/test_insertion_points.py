"""The default insertion points are those of the paper's code; other networks have none."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from rfdlight.defenses import FeatureNoise
from rfdlight.defenses.insertion_points import default_points
from rfdlight.victims import Victim

STAGES = [(name, "output") for name in ("maxpool", "layer1", "layer2", "layer3")]
VGG16 = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG19_BN = (0, 3, 7, 10, 14, 17, 20, 23, 27, 30, 33, 36, 40, 43, 46, 49)


def before(prefix: str, numbers) -> list[tuple[str, str]]:
    return [(f"{prefix}.{number}", "input") for number in numbers]


def points(network: nn.Module) -> list[tuple[str, str]]:
    return [(point.name, point.side) for point in default_points(network)]


def meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name).eval()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet8", [("layer3", "output")]),
        ("resnet20", [("layer3", "output")]),
        ("test_resnet", STAGES),
        ("resnet50", STAGES),
        ("seresnet50", STAGES),
        ("resnext50_32x4d", STAGES),
        ("vgg16", before("features", VGG16)),
        ("vgg19_bn", before("features", VGG19_BN)),
        ("test_vit", before("blocks", range(6))),
        ("vit_base_patch16_siglip_224", before("blocks", range(12))),
        ("deit_tiny_distilled_patch16_224", before("blocks", range(12))),
    ],
)
def test_a_network_of_the_paper_has_its_points(name, expected):
    assert points(meta(name)) == expected


@pytest.mark.slow
def test_other_networks_have_none():
    for name in (
        "mixer_s32_224", "test_convnext", "test_efficientnet", "densenet121", "resnetv2_50", "hrnet_w18_small",
        "legacy_seresnet18", "beit_base_patch16_224", "pit_ti_224", "vit_relpos_small_patch16_224", "regnetx_002",
    ):  # fmt: skip
        assert points(meta(name)) == [], name


def test_the_networks_of_torchvision_are_recognised_where_they_are_the_papers():
    def build(name: str) -> nn.Module:
        with torch.device("meta"):
            return torchvision.models.get_model(name)

    assert points(build("resnet18")) == STAGES
    assert points(build("vgg19_bn")) == before("features", VGG19_BN)
    for name in ("alexnet", "squeezenet1_1", "mobilenet_v2"):
        assert points(build(name)) == []


SHAPES = {
    "resnet50": [(64, 56, 56), (256, 56, 56), (512, 28, 28), (1024, 14, 14)],
    "vgg19_bn": [
        (3, 224, 224), (64, 224, 224), (64, 112, 112), (128, 112, 112), (128, 56, 56), *[(256, 56, 56)] * 3,
        (256, 28, 28), *[(512, 28, 28)] * 3, *[(512, 14, 14)] * 4,
    ],
    "vit_tiny_patch16_224": [(197, 192)] * 12,
    "resnet20": [(64, 8, 8)],
}  # fmt: skip
"""Of the activations, for one image of 224 (32 for resnet20), as the paper's code has them."""


@pytest.mark.parametrize("name", SHAPES)
def test_noise_meets_the_activations_of_the_papers_code_one_after_the_other(name):
    seen = []

    class Seeing(FeatureNoise):
        def transform(self, x, place):
            seen.append((place, tuple(x.shape[1:])))
            return x

    network, size = meta(name), 32 if name == "resnet20" else 224
    with Seeing().on(network), torch.no_grad():
        network(torch.zeros(1, 3, size, size, device="meta"))
    assert seen == list(enumerate(SHAPES[name]))


def test_the_first_point_of_a_vgg_is_the_normalised_image():
    class Kept(FeatureNoise):
        def transform(self, x, place):
            self.kept = [*getattr(self, "kept", []), x]
            return x

    torch.manual_seed(0)
    small = nn.Module()
    small.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3))
    small.forward = small.features.forward
    victim, x = Victim(small, [0.5] * 3, [0.25] * 3), torch.rand(2, 3, 12, 12)
    defense = Kept()
    with defense.on(victim):
        victim(x)
    assert torch.equal(defense.kept[0], (x - 0.5) / 0.25)
    assert torch.equal(defense.kept[1], small.features[:3]((x - 0.5) / 0.25))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_default_noise_changes_a_timm_network_and_leaves_it_as_it_was(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10).eval()
    x = torch.rand(2, *network.default_cfg["input_size"])
    with torch.no_grad():
        clean = network(x)
        with FeatureNoise(0.5).on(network):
            assert not torch.equal(network(x), clean)
        assert torch.equal(network(x), clean)
