"""The options of feature noise: distribution, side, and scales of the features."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rfdlight.core.query_counts import ticking
from rfdlight.defenses import FeatureNoise
from rfdlight.errors import UserError

KURTOSIS = {"gaussian": 3.0, "laplace": 6.0, "uniform": 1.8}
EIGHTH = {"gaussian": 105.0, "laplace": 2520.0, "uniform": 9.0}
"""The fourth and eighth moments of the distributions with standard deviation 1."""


@pytest.mark.parametrize("distribution", KURTOSIS)
@pytest.mark.parametrize("form", ["plain", "channels last", "tokens"])
def test_noise_has_mean_0_standard_deviation_1_and_the_tails_of_its_distribution(distribution, form):
    torch.manual_seed(0)
    x = torch.zeros(50, 16, 16, 16) if form != "tokens" else torch.zeros(50, 64, 64)
    if form == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    draws = FeatureNoise(1.0, distribution=distribution).noise(x)
    assert draws.shape == x.shape
    n, fourth = draws.numel(), KURTOSIS[distribution]
    draws = draws.double()
    # Bounds of four standard errors: the variances of the means of z, z^2 and z^4.
    assert abs(float(draws.mean())) < 4 / n**0.5
    assert abs(float(draws.square().mean()) - 1) < 4 * ((fourth - 1) / n) ** 0.5
    assert abs(float((draws**4).mean()) - fourth) < 4 * ((EIGHTH[distribution] - fourth**2) / n) ** 0.5


@pytest.mark.parametrize("distribution", KURTOSIS)
def test_noise_lies_in_memory_as_the_activation_does_and_differs_everywhere(distribution):
    torch.manual_seed(0)
    x = torch.zeros(3, 4, 5, 6).contiguous(memory_format=torch.channels_last)
    draws = FeatureNoise(1.0, distribution=distribution).noise(x)
    assert draws.stride() == x.stride()
    assert len(draws.unique()) == draws.numel()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("distribution", KURTOSIS)
def test_noise_is_finite_and_unbiased_in_any_precision(distribution, dtype):
    torch.manual_seed(0)
    draws = FeatureNoise(1.0, distribution=distribution).noise(torch.zeros(100_000, dtype=dtype))
    assert draws.dtype == dtype
    assert bool(draws.isfinite().all())
    # The largest of 1e5 Laplace draws is about ln(1e5) / sqrt(2) = 8.1; past 15 lies one in 3e9.
    assert float(draws.abs().max()) < 15
    assert abs(float(draws.double().mean())) < 4 / 100_000**0.5


def test_the_ends_of_the_uniform_draw_give_finite_laplace_noise(monkeypatch):
    monkeypatch.setattr(torch, "rand_like", lambda x, dtype: torch.tensor([0.0, 0.5, 1 - 2**-24]))
    draws = FeatureNoise(1.0, distribution="laplace").noise(torch.zeros(3))
    end = 24 * math.log(2) / math.sqrt(2)
    assert draws.tolist() == pytest.approx([-end, 0.0, end - math.log(2) / math.sqrt(2)], rel=1e-5)


class Halves(nn.Module):
    """Halves its input, and remembers what it got."""

    def forward(self, x):
        self.got = x
        return x / 2


def two_layers() -> nn.Sequential:
    return nn.Sequential(Halves(), Halves())


def test_noise_at_the_input_reaches_the_layer_and_noise_at_the_output_does_not():
    torch.manual_seed(0)
    x, count = torch.ones(400, 100), 40_000
    model = two_layers()
    with FeatureNoise(0.3, "1", at="input").on(model):
        out = model(x)
    error = model[1].got - x / 2
    assert abs(float(error.std()) - 0.3) < 4 * 0.3 / (2 * count) ** 0.5
    assert torch.equal(out, model[1].got / 2)
    with FeatureNoise(0.3, "1", at="output").on(model):
        out = model(x)
    assert torch.equal(model[1].got, x / 2)
    assert abs(float((out - x / 4).std()) - 0.3) < 4 * 0.3 / (2 * count) ** 0.5


def test_the_side_of_patterns_is_the_output_by_default_and_that_of_the_points_can_be_overruled():
    def sides(model, layers, at):
        return [(place.name, place.side) for place in FeatureNoise(0.1, layers, at=at).insertion_points(model)]

    model = two_layers()
    assert sides(model, "*", None) == [("0", "output"), ("1", "output")]
    assert sides(model, "*", "input") == [("0", "input"), ("1", "input")]
    model.insertion_points = ("1",)
    assert sides(model, None, None) == [("1", "output")]
    assert sides(model, None, "input") == [("1", "input")]


SCALES = torch.tensor([0.0, 0.5, 2.0])


@pytest.mark.parametrize("shape", [(40, 3, 30, 30), (40, 900, 3), (36_000, 3)], ids=["channels", "tokens", "features"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_scaled_noise_has_sigma_times_the_scale_of_each_feature(shape, layout):
    torch.manual_seed(0)
    x = torch.rand(shape)
    if len(shape) == 4:
        x = x.contiguous(memory_format=layout)
    model = two_layers()
    model.feature_scales = {"0:output": SCALES}
    clean = x / 2
    with FeatureNoise(0.4, "0", scale="feature").on(model):
        model(x)
    error = (model[1].got - clean).movedim(1 if len(shape) == 4 else -1, 0).flatten(1)
    assert torch.equal(error[0], torch.zeros(36_000))
    for found, scale in zip(error[1:].std(1).tolist(), SCALES[1:].tolist(), strict=True):
        assert abs(found - 0.4 * scale) < 4 * 0.4 * scale / (2 * 36_000) ** 0.5
    assert abs(float(torch.corrcoef(error[1:])[0, 1])) < 4 / 36_000**0.5


def test_scaled_noise_takes_the_scale_of_its_own_place_and_side():
    torch.manual_seed(0)
    model = two_layers()
    one = torch.ones(3)
    model.feature_scales = {"0:output": one, "0:input": 3 * one, "1:output": 0 * one, "1:input": 5 * one}
    x = torch.zeros(10_000, 3)
    with FeatureNoise([1.0, 1.0], "*", scale="feature").on(model):
        out = model(x)
    assert torch.equal(out, model[1].got / 2)
    bound = 4 / (2 * 30_000) ** 0.5
    assert abs(float(model[1].got.std()) - 1) < bound
    with FeatureNoise(1.0, "0", at="input", scale="feature").on(model):
        model(x)
    assert abs(float(model[0].got.std()) - 3) < 3 * bound


def test_scaled_noise_follows_the_schedule_and_the_precision_of_the_activation():
    torch.manual_seed(0)
    model = two_layers()
    model.feature_scales = {"0:output": torch.ones(3)}
    defense = FeatureNoise(1.0, "0", scale="feature", schedule=lambda clock: (clock > 0).float())
    x = torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16)
    with defense.on(model):
        with ticking(torch.tensor([0, 7])):
            out = model(x)
        assert torch.equal(model(x.float()), x.float())
    assert out.dtype == torch.bfloat16
    assert torch.equal(out[0], x[0])
    assert bool((out[1] != 0).all())


def test_scaled_noise_of_sigma_0_is_the_undefended_model_and_lets_gradients_through():
    model = two_layers()
    model.feature_scales = {"0:output": SCALES}
    x = torch.rand(5, 3, requires_grad=True)
    with FeatureNoise(0.0, "0", scale="feature").on(model):
        assert torch.equal(model(x), x / 4)
    with FeatureNoise(1.0, "0", scale="feature").on(model):
        model(x).sum().backward()
    assert torch.equal(x.grad, torch.full((5, 3), 0.25))


def test_missing_scales_name_the_command_that_measures_them_and_leave_no_hook():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model.feature_scales = {"0:input": torch.ones(2), "1:output": torch.ones(2)}
    with pytest.raises(UserError) as caught:
        FeatureNoise(0.1, "*", at="input", scale="feature").attach(model)
    assert str(caught.value) == (
        "defense.scale feature needs the stored scales of 1:input, 2:input; "
        "for a victim with a card, measure them: rfdlight scales VICTIM --data NAME --layers '[1,2]' --at input"
    )
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("distribution", "laplase", "unknown defense.distribution 'laplase'; did you mean laplace?"),
        ("at", "inptu", "unknown defense.at 'inptu'; did you mean input?"),
        ("scale", "none", "unknown defense.scale 'none'; known: feature, fixed"),
    ],
)
def test_an_unknown_choice_names_the_nearest(option, value, text):
    with pytest.raises(UserError) as caught:
        FeatureNoise(0.1, **{option: value})
    assert str(caught.value) == text


def test_the_description_says_what_is_not_the_default():
    model = two_layers()
    assert FeatureNoise(0.5, "1").describe(model) == "FeatureNoise sigma 0.5 at the output of 1"
    chosen = FeatureNoise(0.5, "1", distribution="laplace", at="input", scale="feature")
    assert chosen.describe(model) == (
        "FeatureNoise sigma 0.5 at the input of 1, laplace noise, in units of each feature's standard deviation"
    )
