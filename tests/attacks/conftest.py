"""Smaller images than elsewhere: attacks and their references take many steps."""

import pytest
import torch
from harness import images


@pytest.fixture
def clean(network):
    """Ten images of 3 x 8 x 8 with the labels that the network gives them."""
    x = images(10, (3, 8, 8))
    with torch.no_grad():
        return x, network(x).argmax(1)
