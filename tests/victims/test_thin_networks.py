import pytest
import timm
import torch
from torch import nn

from rfdlight.defenses.insertion_points import default_points
from rfdlight.errors import UserError
from rfdlight.victims.cifar_vgg import CifarVGG
from rfdlight.victims.networks import create_network


@pytest.mark.parametrize(
    ("name", "parameters", "most"),
    [("vgg19_bn_thin", 2_371_456, 2_500_000), ("vit_thin_patch4_32", 1_007_370, 2_900_000)],
)
def test_the_thin_networks_have_the_promised_number_of_parameters(name, parameters, most):
    network = create_network(name, num_classes=10, in_chans=3)
    found = sum(parameter.numel() for parameter in network.parameters())
    assert found == parameters <= most


def test_the_thin_vgg_has_the_layers_of_vgg19_in_proportion():
    # timm's own VGG19 with batch normalisation, 64 channels in the first stage.
    with torch.device("meta"):
        theirs = timm.create_model("vgg19_bn").features
        ours = CifarVGG(64).features
    for kind in (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d):
        positions = [i for i, layer in enumerate(theirs) if isinstance(layer, kind)]
        assert positions == [i for i, layer in enumerate(ours) if isinstance(layer, kind)]
    channels = [layer.out_channels for layer in theirs if isinstance(layer, nn.Conv2d)]
    assert channels == [layer.out_channels for layer in ours if isinstance(layer, nn.Conv2d)]
    thin = [layer.out_channels for layer in CifarVGG(22).features if isinstance(layer, nn.Conv2d)]
    assert [64 * count for count in thin] == [22 * count for count in channels]


@pytest.mark.parametrize(("name", "places"), [("vgg19_bn_thin", 16), ("vit_thin_patch4_32", 5)])
def test_the_thin_networks_have_the_insertion_points_of_their_kind(name, places):
    assert len(default_points(create_network(name))) == places


@pytest.mark.parametrize("name", ["vgg19_bn_thin", "vit_thin_patch4_32"])
def test_the_thin_networks_take_classes_and_channels(name):
    network = create_network(name, num_classes=7, in_chans=1).eval()
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", ["vgg19_bn_thin", "vit_thin_patch4_32", "resnet20"])
def test_timm_has_no_weights_for_our_networks(name):
    with pytest.raises(UserError, match="rfdlight ships some as victims"):
        create_network(name, pretrained=True)


def test_leaving_patches_out_changes_no_weight_and_nothing_in_evaluation():
    whole, dropping = (create_network("vit_thin_patch4_32", patch_drop_rate=rate).eval() for rate in (0.0, 0.5))
    dropping.load_state_dict(whole.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(whole(x), dropping(x))
    assert not torch.allclose(whole.train()(x), dropping.train()(x))
