import pytest
import timm
import torch
from torch import nn

from rfdlight.errors import UserError
from rfdlight.victims.cifar_resnet import CifarResNet
from rfdlight.victims.victim import Victim


def counted(depth: int, classes: int, channels: int) -> int:
    """Parameters of the paper's table: 3 x 3 kernels without bias, two per batch norm channel, one linear layer."""
    blocks = (depth - 2) // 6
    total = 9 * channels * 16 + 2 * 16
    inputs = 16
    for width in (16, 32, 64):
        for _ in range(blocks):
            total += 9 * inputs * width + 2 * width + 9 * width * width + 2 * width
            inputs = width
    return total + 64 * classes + classes


@pytest.mark.parametrize("depth", [8, 20, 32])
@pytest.mark.parametrize(("classes", "channels"), [(10, 3), (7, 1)])
def test_the_parameters_are_those_of_the_paper(depth, classes, channels):
    network = CifarResNet(depth, classes, channels)
    assert sum(p.numel() for p in network.parameters()) == counted(depth, classes, channels)


def test_resnet20_is_the_papers_0_27_m_with_option_a_shortcuts():
    network = timm.create_model("resnet20", num_classes=10)
    # Projections (option B) would be 16 * 32 + 32 * 64 weights and 2 * (32 + 64) batch norm parameters more: 272,474.
    assert sum(p.numel() for p in network.parameters()) == counted(20, 10, 3) == 269_722


@pytest.mark.parametrize(("name", "layers"), [("resnet8", 8), ("resnet20", 20)])
def test_a_registered_network_has_its_depth_and_shape(name, layers):
    network = timm.create_model(name, num_classes=6, in_chans=2)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()) == layers
    assert network(torch.zeros(3, 2, 32, 32)).shape == (3, 6)
    assert network.layer3(network.layer2(network.layer1(torch.zeros(1, 16, 32, 32)))).shape == (1, 64, 8, 8)


def test_a_shortcut_keeps_the_old_channels_in_the_middle_of_the_new():
    block = CifarResNet(8).layer2[0].eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 16, 6, 6)
    y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


@pytest.mark.parametrize("depth", [2, 7, 9, 18])
def test_another_depth_is_refused(depth):
    with pytest.raises(ValueError, match=f"^depth must be 6n \\+ 2 with n of at least 1, got {depth}$"):
        CifarResNet(depth)


def test_there_are_no_pretrained_weights():
    with pytest.raises(ValueError, match="timm has no weights for this network"):
        timm.create_model("resnet8", pretrained=True)


def test_a_victim_normalises_pixels_and_keeps_the_statistics_out_of_its_weights():
    victim = Victim(nn.Flatten(), mean=[0.5, 0.25], std=[0.5, 0.25])
    x = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    assert victim(x).tolist() == [[1.0, -1.0]]
    assert victim.state_dict() == {}


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([123.7], [0.25]),
        ([0.5], [58.4]),
        ([-0.1], [0.25]),
        ([0.5], [0.0]),
        ([float("nan")], [0.25]),
        ([0.5], [0.2, 0.2]),
    ],
)
def test_statistics_that_are_not_of_pixels_in_0_to_1_are_one_line(mean, std):
    with pytest.raises(UserError, match=r"^mean, std: expected .+, got .+$"):
        Victim(nn.Flatten(), mean, std)


def test_statistics_may_leave_pixels_as_they_are_or_make_them_smaller_and_may_be_those_of_a_victim():
    victim = Victim(nn.Flatten(), [0.0, 0.0], [1.0, 256 / 255])
    again = Victim(nn.Flatten(), victim.mean, victim.std)
    x = torch.rand(1, 2, 2, 2)
    assert torch.equal(again(x), victim(x))
