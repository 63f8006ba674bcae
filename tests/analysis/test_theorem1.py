"""The theorem on linear victims, where it is exact, and the gradients against finite differences."""

import math

import numpy as np
import pytest
import timm
import torch
from harness import others_slow
from scipy.stats import norm
from torch import nn

import rfdlight.victims.networks  # noqa: F401  registers the networks
from rfdlight.analysis.gradients import gradients
from rfdlight.analysis.theorem1 import misled_frequency, misled_probability, predicted_drop, predicted_sigma
from rfdlight.core.losses import margin
from rfdlight.defenses import FeatureNoise, InputNoise


class Linear(nn.Module):
    """Two classes, and a hidden layer of eight features between twelve pixels and the margin."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.hidden, self.out = nn.Linear(12, 8).double(), nn.Linear(8, 2).double()
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).double()

    def forward(self, x):
        return self.out(self.hidden(x.flatten(1)))


@pytest.fixture
def linear():
    x = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(2)).double()
    return Linear(), x, torch.tensor([0, 1, 0, 1, 0, 1])


def places(victim, layers, at=None):
    return FeatureNoise(layers=layers, at=at).insertion_points(victim)


def test_the_norms_of_a_linear_victim_are_those_of_its_weights(linear):
    victim, x, y = linear
    found = gradients(victim, [(x, y)], places(victim, ["hidden", "out"]))
    difference = (victim.out.weight[0] - victim.out.weight[1]).detach()
    expected = torch.stack([difference.norm(), torch.tensor(2.0).double().sqrt()])
    torch.testing.assert_close(found.at_layers, expected.expand(6, 2))
    torch.testing.assert_close(found.at_image, (difference @ victim.hidden.weight.detach()).norm().expand(6))
    torch.testing.assert_close(found.margins, margin(victim(x), y).detach())


@pytest.mark.parametrize("side", ["input", "output"])
def test_the_norms_at_the_layers_of_a_network_agree_with_finite_differences(side):
    """Moves each activation along its own gradient, whose slope is the norm, by hooks that know nothing of the code."""
    torch.manual_seed(0)
    victim = timm.create_model("resnet8", num_classes=10).double().eval()
    x, y = torch.rand(3, 3, 32, 32).double(), torch.tensor([0, 5, 9])
    layers = ["layer1.0", "layer3.0.conv2"]
    found = gradients(victim, [(x, y)], places(victim, layers, side))
    for number, layer in enumerate(layers):
        module = victim.get_submodule(layer)
        kept = {}

        def move(activation, by, kept=kept):
            kept.setdefault("shape", activation.shape)
            return activation + by

        def at(by, module=module, move=move):
            if side == "input":
                handle = module.register_forward_pre_hook(lambda m, i: (move(i[0], by),))
            else:
                handle = module.register_forward_hook(lambda m, i, o: move(o, by))
            try:
                return margin(victim(x), y)
            finally:
                handle.remove()

        at(torch.zeros(()))
        delta = torch.zeros(kept["shape"]).double().requires_grad_()
        (gradient,) = torch.autograd.grad(at(delta).sum(), delta)
        unit = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        h = 1e-6
        with torch.no_grad():
            slope = (at(h * unit) - at(-h * unit)) / (2 * h)
        torch.testing.assert_close(found.at_layers[:, number], slope, rtol=1e-4, atol=1e-7)


def test_the_direction_at_the_image_agrees_with_finite_differences(linear):
    victim, x, y = linear
    found = gradients(victim, [(x, y)], places(victim, "hidden"))
    u = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        change = margin(victim(x + u), y) - margin(victim(x), y)
    torch.testing.assert_close((found.direction * u).flatten(1).sum(1), change)


@pytest.mark.parametrize(("layer", "sigma", "step"), others_slow([("hidden", 0.3, 1.0), ("image", 4.0, 0.5)], 0))
def test_the_probability_is_the_frequency_on_a_linear_victim(linear, sigma, step, layer):
    victim, x, y = linear
    found = gradients(victim, [(x, y)], places(victim, "hidden"))
    at_layer = found.at_layers[:, 0] if layer == "hidden" else found.at_image
    probability = misled_probability(at_layer, found.at_image, sigma, step)
    defense = FeatureNoise(sigma, "hidden") if layer == "hidden" else InputNoise(sigma)
    torch.manual_seed(4)
    frequency = misled_frequency(victim, defense, x, y, step, draws=1500)
    error = (probability * (1 - probability) / 1500).sqrt()
    assert bool(((frequency - probability).abs() < 4 * error).all())  # six images: below 1 in 1000 by chance


def test_the_probability_is_what_the_theorem_says():
    at_layer, at_image, sigma, step = torch.tensor([0.7]), torch.tensor([2.0]), 0.4, 0.3
    nu, mu = sigma**2, step**2
    inner = (2 * nu / mu * at_layer**2 / at_image**2) ** -0.5
    assert float(misled_probability(at_layer, at_image, sigma, step)) == pytest.approx(
        0.5 + math.atan(-float(inner)) / math.pi
    )


def test_every_defense_meets_the_same_steps_in_every_draw():
    """The victim that is asked takes down what is asked of it."""

    class Diary(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.pages = nn.Identity(), []

        def forward(self, x):
            self.pages.append(x.clone())
            return self.first(x.flatten(1))

    x, y = torch.full((4, 3, 1, 1), 0.5), torch.zeros(4, dtype=torch.int64)
    asked = []
    for defense, seed in ((FeatureNoise(1.0, "first"), 7), (InputNoise(1.0), 7), (FeatureNoise(1.0, "first"), 8)):
        victim = Diary()
        misled_frequency(victim, defense, x, y, 0.1, draws=3, seed=seed)
        asked.append(torch.stack(victim.pages[1::3]))  # x, then three times: the probe, and both behind noise
    assert torch.equal(asked[0], asked[1])
    assert not torch.equal(asked[0], asked[2])
    assert len(asked[0].unique(dim=0)) == 3


def test_no_noise_misleads_nobody(linear):
    victim, x, y = linear
    assert float(misled_frequency(victim, InputNoise(0.0), x, y, 0.1, draws=3).sum()) == 0


def test_a_victim_that_answers_nothing_misleads_half_the_time(linear):
    victim, x, y = linear
    victim.out.weight.data.zero_()
    assert misled_frequency(victim, InputNoise(0.1), x, y, 0.1, draws=2).tolist() == [0.5] * 6


def test_the_predicted_sigma_costs_the_drop_that_simulated_noise_has():
    generator = torch.Generator().manual_seed(5)
    margins = torch.randn(400, generator=generator).double() + 2
    norms = torch.rand(400, generator=generator).double() + 0.5
    sigma = predicted_sigma(margins, norms, 0.03)
    assert predicted_drop(margins, norms, sigma) == pytest.approx(0.03, abs=1e-6)
    noise = torch.randn(20_000, 400, generator=generator).double()
    simulated = (margins > 0).double().mean() - (margins + sigma * norms * noise > 0).double().mean()
    assert float(simulated) == pytest.approx(0.03, abs=4 * 0.5 / math.sqrt(20_000 * 400))


def test_the_sigma_of_equal_images_is_that_of_the_closed_form():
    sigma = predicted_sigma(torch.full((9,), 3.0), torch.full((9,), 2.0), 0.02)
    assert sigma == pytest.approx(-1.5 / norm.ppf(0.02), rel=1e-5)


def test_a_drop_beyond_one_half_and_a_layer_without_influence_have_no_sigma():
    assert predicted_sigma(torch.ones(4), torch.ones(4), 0.6) is None
    assert predicted_sigma(torch.ones(4), torch.zeros(4), 0.02) is None
    assert predicted_drop(torch.ones(4), torch.zeros(4), 100.0) == 0
    assert not np.isnan(predicted_drop(torch.tensor([1.0, -1.0]), torch.zeros(2), 1.0))


def test_a_victim_that_is_mostly_wrong_has_a_sigma_where_one_costs_the_drop():
    """Half of the images are hopelessly wrong, so endless noise costs nothing at all; a little costs a lot."""
    generator = torch.Generator().manual_seed(5)
    margins = torch.cat([torch.rand(1000, generator=generator), -5 - torch.rand(1000, generator=generator)]).double()
    norms = torch.ones(2000).double()
    assert predicted_drop(margins, norms, 1e9) == pytest.approx(0, abs=1e-6)
    sigma = predicted_sigma(margins, norms, 0.02)
    assert predicted_drop(margins, norms, sigma) == pytest.approx(0.02, abs=1e-6)
    assert predicted_drop(margins, norms, sigma / 2) < 0.02, "it is the least that does"
    assert predicted_sigma(margins, norms, 0.4) is None


def test_an_image_whose_margin_is_0_and_depends_on_nothing_is_wrong_at_any_sigma():
    margins, norms = torch.tensor([0.0, 1.0, 1.0]).double(), torch.tensor([0.0, 1.0, 1.0]).double()
    sigma = predicted_sigma(margins, norms, 0.1)
    assert 2 / 3 * norm.cdf(-1 / sigma) == pytest.approx(0.1, abs=1e-6)
