"""What all tests share: one thread, small images and small victims with fixed random weights."""

import pytest
import torch
from harness import centred_resnet, images

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def resnet() -> torch.nn.Module:
    """A resnet8 with random weights and 5 classes, each of them some image's answer."""
    return centred_resnet()


@pytest.fixture
def clean(resnet: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten images of 3 x 16 x 16 with the labels that the resnet gives them."""
    x = images(10)
    with torch.no_grad():
        return x, resnet(x).argmax(1)
