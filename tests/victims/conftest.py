"""A tiny shipped-like victim for the digits, with random weights."""

from pathlib import Path

import pytest
import timm
import torch

from rfdlight.data.digits import Digits
from rfdlight.victims import Victim, VictimCard
from rfdlight.victims.card import save_victim


@pytest.fixture(scope="session")
def digits() -> Digits:
    return Digits(num_images=10)


@pytest.fixture
def victim() -> Victim:
    torch.manual_seed(5)
    network = timm.create_model("resnet8", num_classes=10)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return Victim(network, Digits.mean, Digits.std).eval()


@pytest.fixture
def card(tmp_path: Path, victim: Victim) -> VictimCard:
    """The card of `tmp_path / "tiny.json"`."""
    return save_victim(
        victim,
        tmp_path / "tiny.json",
        network="resnet8",
        num_classes=10,
        image_shape=(3, 32, 32),
        data="digits",
        command="rfdlight fit",
        seed=5,
        clean_correct=73,
        clean_total=599,
        versions={"torch": torch.__version__},
    )
