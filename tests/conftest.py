"""What all tests share: one thread, small images and small victims with fixed random weights."""

import pytest
import torch
from harness import centred_network, images

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def network() -> torch.nn.Module:
    """A small network with random weights and 5 classes, each of them some image's answer."""
    return centred_network()


@pytest.fixture
def clean(network: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten images of 3 x 16 x 16 with the labels that the network gives them."""
    x = images(10)
    with torch.no_grad():
        return x, network(x).argmax(1)
