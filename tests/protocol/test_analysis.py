"""The measurements of every place, on victims where each is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from rfdlight.data import Images
from rfdlight.defenses import FeatureNoise
from rfdlight.protocol.analysis import Attacker, measure_points, ranked
from rfdlight.protocol.analysis_plots import draw_magnitudes, draw_misled, draw_ratios


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
    places = FeatureNoise(layers=["tenfold", "unused"]).places(victim)
    return measure_points(victim, images, places, Attacker(step=0.1, eps=0.05, draws=40), drop=0.05)


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


def test_the_same_seed_measures_the_same(images):
    victim = Scaled()
    places = FeatureNoise(layers="tenfold").places(victim)
    first, again, other = (
        measure_points(victim, images.take([10, 20, 30, 40]), places, Attacker(0.1, 0.05, 5), 0.05, seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first[1].measured, again[1].measured)
    assert not torch.equal(first[1].measured, other[1].measured)


@pytest.mark.parametrize("draw", [draw_ratios, draw_magnitudes, draw_misled])
def test_a_place_without_influence_does_not_spoil_the_pictures(points, draw, tmp_path):
    draw(points, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
