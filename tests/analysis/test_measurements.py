"""The measurements of every place, on victims where each is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from rfdlight.analysis.clean_cost import CleanCostMeter
from rfdlight.analysis.measurements import Attacker, measure_points, ranked
from rfdlight.analysis.theorem1 import predicted_sigma
from rfdlight.data import Images
from rfdlight.defenses import FeatureNoise


class Scaled(nn.Module):
    """Two classes by the mean of the four pixels, which `tenfold` multiplies by 10 on the way."""

    def __init__(self):
        super().__init__()
        self.flat, self.tenfold, self.unused = nn.Flatten(), nn.Linear(4, 4, bias=False), nn.Identity()
        self.tenfold.weight.data = 10 * torch.eye(4)

    def forward(self, x):
        z = self.tenfold(self.flat(x))
        self.unused(z)
        score = z.sum(1, keepdim=True) / 40 - 0.5
        return torch.cat([-score, score], 1)


@pytest.fixture(scope="module")
def images():
    pixels = torch.randint(256, (150, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = (pixels.float().mean((1, 2, 3)) > 127.5).long()
    labels[:9] = 1 - labels[:9]
    return Images(pixels, labels, [f"{number:03d}" for number in range(150)])


@pytest.fixture(scope="module")
def points(images):
    victim = Scaled()
    places = FeatureNoise(layers=["tenfold", "unused"]).insertion_points(victim)
    ids, points = measure_points(
        CleanCostMeter(victim, images), images, places, Attacker(step=0.1, eps=0.05, draws=40), drop=0.05
    )
    assert ids == images.ids
    return points


def test_norms_ratios_and_margins_are_those_of_the_weights(points, images):
    image, tenfold, unused = points
    assert [point.name for point in points] == ["the image", "tenfold", "unused"]
    # The margin is twice the mean of the pixels less 1.
    sign = images.labels.double() * 2 - 1
    expected = sign * (images.pixels.double().mean((1, 2, 3)) / 255 * 2 - 1)
    torch.testing.assert_close(image.margins, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(image.norms, torch.ones(150).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(tenfold.ratios, torch.full((150,), 0.1).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(tenfold.ratios_after, tenfold.ratios)
    assert unused.norms.tolist() == [0.0] * 150
    assert unused.sigma is None
    assert unused.quantile is None
    assert unused.magnitudes.tolist() == [0.0] * 150


def test_the_quantile_is_over_the_images_that_are_right(points):
    image, tenfold, _ = points
    right = image.margins[image.margins > 0].numpy()
    assert 139 <= len(right) <= 141  # a mean of one half has no margin
    assert image.quantile == pytest.approx(np.quantile(right, 0.01), rel=1e-4)
    assert tenfold.quantile == pytest.approx(10 * image.quantile, rel=1e-4)
    torch.testing.assert_close(tenfold.magnitudes, image.magnitudes, rtol=1e-4, atol=0)


def test_a_sigma_ten_times_larger_misleads_as_often_behind_a_tenfold_scale(points):
    image, tenfold, _ = points
    assert tenfold.sigma == pytest.approx(10 * image.sigma, rel=1e-3)
    torch.testing.assert_close(tenfold.predicted, image.predicted, rtol=1e-3, atol=0)
    for point in (image, tenfold):
        probability = float(point.predicted[0])
        assert probability == pytest.approx(math.atan(math.sqrt(2) * image.sigma / 0.1) / math.pi, rel=1e-3)
        error = math.sqrt(probability * (1 - probability) / (150 * 40))
        assert abs(float(point.measured.mean()) - probability) < 4 * error


def test_the_ranking_leaves_out_what_has_no_sigma(points):
    assert {point.name for point in ranked(points)} == {"the image", "tenfold"}
    means = [float(point.predicted.mean()) for point in ranked(points)]
    assert means == sorted(means, reverse=True)


@pytest.mark.slow
def test_the_same_seed_measures_the_same(images):
    victim = Scaled()
    places = FeatureNoise(layers="tenfold").insertion_points(victim)
    few = images.take([10, 20, 30, 40])
    first, again, other = (
        measure_points(CleanCostMeter(victim, images), few, places, Attacker(0.1, 0.05, 5), 0.05, seed)[1]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first[1].measured, again[1].measured)
    assert not torch.equal(first[1].measured, other[1].measured)


class Cubic(nn.Module):
    """Class 1 where the one pixel x is positive, with the margin x + x^3 / 3."""

    def __init__(self):
        super().__init__()
        self.last = nn.Identity()

    def forward(self, x):
        z = x.flatten(1)
        z = self.last(z + z**3 / 3)
        return torch.cat([torch.zeros_like(z), z], 1)


def test_after_a_step_the_ratios_are_those_of_the_point_stepped_to():
    values = torch.arange(25, 250, dtype=torch.uint8).view(-1, 1, 1, 1)
    images = Images(values, torch.ones(225, dtype=torch.int64), [f"{number:03d}" for number in range(225)])
    victim, drop = Cubic(), 0.1
    places = FeatureNoise(layers="last").insertion_points(victim)
    _, (image, last) = measure_points(
        CleanCostMeter(victim, images), images, places, Attacker(step=0.3, eps=0.05, draws=2), drop
    )
    x = values.flatten().double() / 255
    torch.testing.assert_close(last.ratios, 1 / (1 + x**2), atol=1e-5, rtol=0)
    torch.testing.assert_close(last.ratios_after, 1 / (1 + (x - 0.05) ** 2), atol=1e-5, rtol=0)
    # An image is wrong where the noise takes the pixel, or the margin, below 0.
    for point, reach in ((image, x), (last, x + x**3 / 3)):
        assert point.drop == pytest.approx(drop, abs=0.025)
        in_truth = float((1 - torch.special.ndtr(reach / point.sigma)).mean())
        assert in_truth == pytest.approx(point.drop, abs=4 * (0.25 / 225 / 4) ** 0.5)


def test_a_steep_victim_gets_the_sigma_that_costs_the_drop_and_not_that_of_its_slope():
    """Its slope at the images says that noise costs next to nothing; beyond a step of 0.1 every answer is wrong."""

    class Cliff(nn.Module):
        def forward(self, x):
            z = x.flatten(1)
            flat = 1 + 0.01 * z
            score = torch.where((z - 0.5).abs() < 0.1, flat, -flat)
            return torch.cat([torch.zeros_like(score), score], 1)

    pixels = torch.full((400, 1, 1, 1), 127, dtype=torch.uint8)
    images = Images(pixels, torch.ones(400, dtype=torch.int64), [f"{number:03d}" for number in range(400)])
    meter = CleanCostMeter(Cliff(), images)
    _, (image,) = measure_points(meter, images.take([0, 1]), [], Attacker(0.3, 0.05, 2), 0.02)
    inside = torch.special.ndtr(torch.tensor([0.6 - 127 / 255, 0.4 - 127 / 255]).double() / image.sigma)
    assert 1 - float(inside[0] - inside[1]) == pytest.approx(0.02, abs=0.01)
    assert predicted_sigma(image.margins, image.norms, 0.02) > 100 * image.sigma
