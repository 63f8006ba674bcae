"""Noise at about a cost: what has none is told from a victim that fails."""

import pytest
import torch
from harness import Constant
from torch import nn

from rfdlight.analysis import calibration
from rfdlight.analysis.calibration import calibrate_roughly, rough_meter
from rfdlight.data import Images
from rfdlight.defenses import InputNoise
from rfdlight.engine.failures import VictimError


class Fragile(nn.Module):
    """Class 0, until a pixel leaves [0, 1]."""

    def forward(self, x):
        if x.min() < 0:
            raise ValueError("no such image")
        return torch.cat([1 + 0 * x.flatten(1), 0 * x.flatten(1)], 1)


@pytest.fixture
def images():
    names = [f"{number:02d}" for number in range(20)]
    return Images(torch.full((20, 1, 1, 1), 128, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64), names)


def test_noise_that_never_costs_so_much_has_no_cost(images):
    assert calibrate_roughly(rough_meter(Constant(), images), InputNoise(0.1), 0.1) is None


def test_a_victim_that_fails_is_not_taken_for_one_that_no_noise_harms(images):
    with pytest.raises(VictimError, match="the victim raised ValueError: no such image"):
        calibrate_roughly(rough_meter(Fragile(), images), InputNoise(1.0), 0.1)


def test_of_many_images_so_many_are_looked_at(images, monkeypatch):
    monkeypatch.setattr(calibration, "ROUGH_IMAGES", 7)
    assert len(rough_meter(Constant(), images).images) == 7
