"""Which places are tried, what is predicted of them, and that each spends an equal share, where all is known."""

import math

import pytest
import torch
from torch import nn

from rfdlight.analysis.candidates import LinearisedVictim, candidates, config_of, noise_of
from rfdlight.analysis.insertion_points import chosen_points
from rfdlight.analysis.theorem1 import margin_deviation, misled_frequency, misled_probability, predicted_drop
from rfdlight.core.losses import margin
from rfdlight.data import Images
from rfdlight.defenses import FeatureNoise, InputNoise
from rfdlight.errors import UserError

STEP, DROP = 0.3, 0.1


def as_predicted(candidate):
    """The cost of a victim that is as linear as it is taken to be."""
    return candidate


class Cubic(nn.Module):
    """Class 1 where the one pixel x is positive, with the margin x + x^3 / 3.

    The margin's gradient is 1 + x^2 at `first`, which is the pixel, and 1 at `last`, which is the margin.
    """

    def __init__(self):
        super().__init__()
        self.first, self.last, self.spare = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x):
        z = self.first(x.flatten(1))
        z = self.last(z + z**3 / 3)
        self.spare(z)
        return torch.cat([torch.zeros_like(z), z], 1)


@pytest.fixture(scope="module")
def images():
    values = torch.arange(25, 250, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Images(
        values, torch.ones(len(values), dtype=torch.int64), [f"{number:03d}" for number in range(len(values))]
    )


def linearised(images, layers=("first", "last", "spare")):
    victim = Cubic()
    places = chosen_points(victim, list(layers), None)
    return LinearisedVictim(victim, images, places, STEP, torch.device("cpu"))


class Chain(nn.Module):
    """Two linear layers between twelve pixels and the margin."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.one, self.two, self.out = (nn.Linear(a, b).double() for a, b in ((12, 8), (8, 5), (5, 2)))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).double()

    def forward(self, x):
        return self.out(self.two(self.one(x.flatten(1).double())))


@pytest.mark.slow
def test_noise_at_several_layers_misleads_as_often_as_predicted_on_a_linear_victim():
    victim, y = Chain(), torch.tensor([0, 1, 0, 1, 0, 1])
    pixels = torch.randint(256, (6, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    images = Images(pixels, y, list("abcdef"))
    layers, sigmas = ("one", "two"), [1.0, 3.0]
    linear = LinearisedVictim(victim, images, chosen_points(victim, list(layers), None), STEP, torch.device("cpu"))
    probability = misled_probability(linear.norms(layers), linear.at_image, sigmas, STEP)
    for number in (0, 1):  # both matter: neither alone predicts the same
        alone = misled_probability(linear.norms(layers)[:, number], linear.at_image, sigmas[number], STEP)
        assert bool((alone < probability - 0.01).all())
    torch.manual_seed(4)
    x = pixels.double() / 255
    frequency = misled_frequency(victim, FeatureNoise(sigmas, list(layers)), x, y, STEP, draws=1500)
    error = (probability * (1 - probability) / 1500).sqrt()
    assert bool(((frequency - probability).abs() < 4 * error).all())  # six images: below 1 in 1000 by chance


def test_the_deviation_of_the_margin_is_that_of_simulated_noise():
    victim, y = Chain(), torch.tensor([1])
    x = torch.full((1, 3, 2, 2), 0.5).double()
    image = Images((255 * x).to(torch.uint8), y, ["a"])
    linear = LinearisedVictim(victim, image, chosen_points(victim, ["one", "two"], None), STEP, torch.device("cpu"))
    predicted = float(margin_deviation(linear.norms(("one", "two")), [1.0, 3.0]))
    torch.manual_seed(5)
    with FeatureNoise([1.0, 3.0], ["one", "two"]).on(victim), torch.no_grad():
        margins = margin(victim(x.expand(20_000, -1, -1, -1)), y.expand(20_000))
    assert float(margins.std()) == pytest.approx(predicted, rel=4 / math.sqrt(2 * 20_000))


def test_one_layer_is_the_same_as_a_list_of_one():
    norms, image = torch.tensor([0.5, 2.0]), torch.tensor([1.0, 3.0])
    listed = misled_probability(norms[:, None], image, [0.7], STEP)
    assert torch.equal(misled_probability(norms, image, 0.7, STEP), listed)


def test_the_better_of_two_layers_is_that_of_the_closed_form(images):
    """At equal cost, noise behind `last` moves all margins alike, noise before them the steep ones more."""
    linear = linearised(images)
    x = images.pixels.double().flatten() / 255
    torch.testing.assert_close(linear.margins, x + x**3 / 3, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(linear.norms(("first",))[:, 0], 1 + x**2, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(linear.norms(("last",))[:, 0], torch.ones_like(x), rtol=1e-5, atol=1e-6)
    found, _ = candidates(linear, DROP, as_predicted)
    single = {one.layers: one for one in found if len(one.layers) < 2}
    for layers, gradient in ((("first",), 1 + x**2), (("last",), torch.ones_like(x)), ((), 1 + x**2)):
        (sigma,) = single[layers].sigmas
        drop = (1 - torch.special.ndtr((x + x**3 / 3) / (sigma * gradient))).mean()
        assert float(drop) == pytest.approx(DROP, abs=1e-5)
        expected = torch.atan(math.sqrt(2) * sigma * gradient / (STEP * (1 + x**2))) / math.pi
        assert single[layers].predicted == pytest.approx(float(expected.mean()), rel=1e-5)
    means = [one.predicted for one in found]
    assert means == sorted(means, reverse=True)
    assert single["first",].predicted == pytest.approx(single[()].predicted)


def test_each_place_of_several_spends_an_equal_share_and_together_they_cost_the_drop(images):
    linear = linearised(images)
    first, last = (linear.candidate((name,), [1.0], DROP).sigmas[0] for name in ("first", "last"))
    both = linear.candidate(("first", "last"), [first, last], DROP)
    assert both.sigmas[0] / first == pytest.approx(both.sigmas[1] / last, rel=1e-9)
    assert predicted_drop(linear.margins, margin_deviation(linear.norms(both.layers), list(both.sigmas)), 1.0) == (
        pytest.approx(DROP, abs=1e-5)
    )


def test_a_place_that_no_margin_depends_on_is_named_and_in_no_combination(images):
    found, without = candidates(linearised(images), DROP, as_predicted)
    assert without == [("spare",)]
    assert sorted(one.layers for one in found) == [(), ("first",), ("first", "last"), ("last",)]


class Ladder(nn.Module):
    """Five layers in a row, each of which changes nothing but the slope."""

    def __init__(self):
        super().__init__()
        for number in range(5):
            setattr(self, f"l{number}", nn.Identity())

    def forward(self, x):
        z = x.flatten(1)
        for number in range(5):
            z = getattr(self, f"l{number}")(z)
            z = z + z**3 / (3 + number)
        return torch.cat([torch.zeros_like(z), z], 1)


def test_the_best_two_the_best_three_and_all_are_tried_once_each_in_the_order_of_the_network(images):
    victim = Ladder()
    places = chosen_points(victim, "l*", None)
    found, without = candidates(LinearisedVictim(victim, images, places, STEP, torch.device("cpu")), DROP, as_predicted)
    ranked = [one.layers[0] for one in found if len(one.layers) == 1]
    expected = {(), *((name,) for name in ranked)}
    expected |= {tuple(sorted(ranked[:2])), tuple(sorted(ranked[:3])), tuple(sorted(ranked))}
    assert {one.layers for one in found} == expected
    assert len(found) == len(expected) == 9
    assert without == []


def test_places_are_ranked_and_combined_by_the_sigmas_that_cost_the_drop_in_truth(images):
    victim = Ladder()
    linear = LinearisedVictim(victim, images, chosen_points(victim, "l*", None), STEP, torch.device("cpu"))
    as_linear, _ = candidates(linear, DROP, as_predicted)
    least = [one.layers[0] for one in as_linear if len(one.layers) == 1][-1]

    def settle(candidate):
        if candidate.layers == ("l1",):
            return None
        tenfold = 10.0 if candidate.layers == (least,) else 1.0
        return linear.at_sigmas(candidate.layers, [tenfold * sigma for sigma in candidate.sigmas])

    found, without = candidates(linear, DROP, settle)
    assert without == [("l1",)]
    assert all("l1" not in one.layers for one in found)
    assert found[0].layers == (least,), "it takes ten times the noise, so it misleads most"
    pair = next(one for one in found if len(one.layers) == 2)
    assert least in pair.layers
    alone = {one.layers[0]: one.sigmas[0] for one in found if len(one.layers) == 1}
    shares = [sigma / alone[name] for name, sigma in zip(pair.layers, pair.sigmas, strict=True)]
    assert shares[0] == pytest.approx(shares[1])


def test_a_candidate_as_a_defense_has_its_sigmas_at_its_places(images):
    linear = linearised(images)
    both = linear.candidate(("first", "last"), [1.0, 2.0], DROP)
    noise = noise_of(both, "output")
    assert [place.name for place in noise.insertion_points(Cubic())] == ["first", "last"]
    assert noise.sigma == list(both.sigmas)
    assert config_of(noise) == {
        "class_path": "rfdlight.defenses.feature_noise.FeatureNoise",
        "init_args": {"sigma": list(both.sigmas), "layers": ["first", "last"], "at": "output"},
    }
    pixels = noise_of(linear.candidate((), [1.0], DROP), "output")
    assert type(pixels) is InputNoise
    assert config_of(pixels)["init_args"] == {"sigma": pixels.sigma}


def test_places_of_ones_own_come_in_the_order_in_which_noise_takes_its_sigmas():
    victim = Cubic()
    victim.insertion_points = ["last", "first"]
    assert [place.name for place in chosen_points(victim, None, None)] == ["first", "last"]


def test_a_victim_without_default_points_asks_for_layers():
    with pytest.raises(UserError) as refused:
        chosen_points(Cubic(), None, None)
    assert "--layers" in str(refused.value)
    assert "first, last, spare" in str(refused.value)


def test_a_layer_that_is_never_called_is_refused(images):
    victim = Cubic()
    victim.idle = nn.Identity()
    with pytest.raises(UserError, match="never calls the layer idle"):
        LinearisedVictim(victim, images, chosen_points(victim, "*", None), STEP, torch.device("cpu"))


def test_a_layer_that_is_called_twice_has_no_one_gradient_and_is_refused(images):
    victim = Cubic()
    victim.last = victim.first
    with pytest.raises(UserError, match="layer first more than once"):
        LinearisedVictim(victim, images, chosen_points(victim, "first", None), STEP, torch.device("cpu"))


class Strange(Cubic):
    """Fails in one of three ways."""

    def __init__(self, way):
        super().__init__()
        self.way = way

    def forward(self, x):
        if self.way == "raises":
            raise ValueError("no such image")
        logits = super().forward(x)
        if self.way == "a gradient without end":
            return logits + (x.flatten(1) - x.detach().flatten(1)).sqrt()
        return logits / 0


@pytest.mark.parametrize(
    ("way", "line"),
    [
        ("raises", "the victim raised ValueError: no such image"),
        ("a gradient without end", "the victim's gradient is NaN or infinity"),
        ("answers NaN", "the victim answered NaN or infinity"),
    ],
)
def test_a_victim_that_fails_is_refused_in_one_line(way, line, images):
    victim = Strange(way)
    with pytest.raises(UserError, match=line):
        LinearisedVictim(victim, images, chosen_points(victim, "first", None), STEP, torch.device("cpu"))


def test_a_victim_that_cuts_gradients_off_is_refused(images):
    victim = Cubic()
    victim.forward = torch.no_grad()(victim.forward)
    with pytest.raises(UserError, match="the gradient does not reach the image"):
        LinearisedVictim(victim, images, chosen_points(victim, "first", None), STEP, torch.device("cpu"))


class Windows(nn.Module):
    """Cuts images into two halves, the rows of `halves`."""

    def __init__(self):
        super().__init__()
        self.halves = nn.Identity()

    def forward(self, x):
        z = self.halves(x.reshape(2 * len(x), -1)).reshape(len(x), -1).sum(1, keepdim=True)
        return torch.cat([torch.zeros_like(z), z], 1)


def test_a_layer_of_several_rows_per_image_is_refused():
    images = Images(torch.full((3, 1, 2, 2), 9, dtype=torch.uint8), torch.ones(3, dtype=torch.int64), ["a", "b", "c"])
    victim = Windows()
    with pytest.raises(UserError, match="halves: expected a layer of 3 rows, one per image, got 6 rows"):
        LinearisedVictim(victim, images, chosen_points(victim, "halves", None), STEP, torch.device("cpu"))
