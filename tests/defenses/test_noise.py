"""The contract of every defense, and the noises: statistics where they are random, equality where they are not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from rfdlight.core.registry import NAMES
from rfdlight.defenses import (
    AAA,
    AveragedAnswers,
    Blacklight,
    Defense,
    FeatureNoise,
    InputNoise,
    LogitNoise,
    Noise,
    QueryPolicy,
)
from rfdlight.errors import UserError
from rfdlight.testing import check_defense
from rfdlight.victims.victim import Victim

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def victim() -> Victim:
    torch.manual_seed(0)
    return Victim(timm.create_model("resnet8", num_classes=10), [0.5] * 3, [0.25] * 3).eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def contract_cases() -> list[Defense]:
    return [
        FeatureNoise(0.3, ["layer*"]),
        FeatureNoise(0.3),
        InputNoise(0.1),
        InputNoise(0.1, clip=True),
        LogitNoise(0.3),
        AAA(),
        AveragedAnswers(),
        Blacklight(),
    ]


def name(defense: Defense) -> str:
    return f"{type(defense).__name__}-{getattr(defense, 'layers', None)}"


def test_the_contract_covers_every_defense():
    covered = {f"{type(case).__module__}.{type(case).__qualname__}" for case in contract_cases()}
    assert covered == set(NAMES["defense"].values())


@pytest.mark.parametrize("defense", contract_cases(), ids=name)
def test_a_defense_keeps_the_contract_and_restores_the_model_after_an_exception(defense, victim, x):
    before = victim(x)
    with defense.on(victim):
        assert isinstance(defense, (AveragedAnswers, QueryPolicy)) or not torch.equal(victim(x), before)
        with pytest.raises(UserError, match="already defends a model"):
            defense.attach(victim)
    with pytest.raises(ZeroDivisionError), defense.on(victim):
        raise ZeroDivisionError
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in victim.modules())
    check_defense(defense, victim)
    if isinstance(defense, Noise):
        quiet = type(defense)(0.0)
        assert (quiet.is_random, defense.is_random) == (False, True)
        with quiet.on(victim):
            assert torch.equal(victim(x), before)


def activation(victim: Victim, layer: str, x: torch.Tensor) -> torch.Tensor:
    """Return what leaves a layer after all hooks."""
    seen = []
    handle = victim.network.get_submodule(layer).register_forward_hook(lambda m, i, o: seen.append(o))
    victim(x)
    handle.remove()
    return seen[0]


def test_feature_noise_has_the_standard_deviation_of_each_layer(victim, x):
    clean = activation(victim, "layer1", x)
    with FeatureNoise([0.5, 0.0, 0.0], "layer*").on(victim):
        difference = (activation(victim, "layer1", x) - clean).detach()
    count = difference.numel()  # about 98,000 normal draws
    assert abs(float(difference.mean())) < 4 * 0.5 / count**0.5
    assert abs(float(difference.std()) - 0.5) < 4 * 0.5 / (2 * count) ** 0.5


def test_input_noise_is_in_pixel_units_and_not_clipped(x):
    model = nn.Identity()
    with InputNoise(0.2).on(model):
        noisy = model(x)
    difference = noisy - x
    count = difference.numel()
    assert abs(float(difference.std()) - 0.2) < 4 * 0.2 / (2 * count) ** 0.5
    assert float(noisy.min()) < 0
    assert float(noisy.max()) > 1


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (None, ["layer3"]),
        (["layer3", "layer1"], ["layer1", "layer3"]),
        ("layer*", ["layer1", "layer2", "layer3"]),
        ("layer*.0", ["layer1.0", "layer2.0", "layer3.0"]),
    ],
)
def test_patterns_match_in_the_networks_order_and_a_star_does_not_reach_across_a_dot(victim, patterns, found):
    assert [point.name for point in FeatureNoise(0.1, patterns).insertion_points(victim)] == found


def test_noise_after_the_last_stage_of_resnet20_is_zero_mean_logit_noise(victim, x):
    """Only a mean and a linear layer follow, so the mean logits are the undefended ones (decision by Definition 1)."""
    small = x[:1, :, :8, :8]
    clean = victim(small).double().detach()
    with torch.no_grad(), FeatureNoise(0.5, "layer3").on(victim):
        draws = victim(small.expand(2000, -1, -1, -1)).double()
    z = (draws.mean(0) - clean[0]) / (draws.std(0) / len(draws) ** 0.5)
    assert float(z.abs().max()) < 4.5  # ten normal deviates


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: FeatureNoise(-0.1), "defense.sigma must be at least 0, got -0.1"),
        (lambda: FeatureNoise([0.1, -1.0]), "defense.sigma must be at least 0, got -1.0"),
        (lambda: InputNoise(float("nan")), "defense.sigma must be at least 0, got nan"),
    ],
)
def test_bad_sigmas_are_refused(make, text):
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("defense", "text"),
    [
        (FeatureNoise(0.1, "layer9"), "no layer matches 'layer9'; the network has layer"),
        (FeatureNoise(0.1, "layer1,layer2"), r"several layers are a list: \[layer1,layer2\]"),
        (FeatureNoise([0.1, 0.2], "layer?"), "defense.sigma needs one value or 3, one per layer, got 2"),
    ],
)
def test_layers_that_do_not_fit_the_network_are_refused_and_leave_no_hook(victim, defense, text):
    with pytest.raises(UserError, match=text) as caught:
        defense.attach(victim)
    assert "\n" not in str(caught.value)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in victim.modules())


def test_an_unknown_network_needs_layers():
    with pytest.raises(UserError, match=r"defense\.layers must be given for a Sequential"):
        FeatureNoise(0.1).attach(nn.Sequential(nn.Linear(2, 2)))


def test_the_noise_of_the_documentation_has_standard_deviation_one_and_heavy_tails(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import my_noise

    torch.manual_seed(0)
    draws = my_noise.LaplaceNoise(1.0).noise(torch.zeros(200_000))
    sys.modules.pop("my_noise")
    # Var of the sample variance of a Laplace variable is (kurtosis - 1) / n = 5 / n.
    assert abs(float(draws.var()) - 1) < 4 * (5 / 200_000) ** 0.5
    assert float((draws**4).mean()) > 5  # 6 for Laplace, 3 for normal


def test_the_description_of_a_users_noise_names_the_arguments_that_are_not_at_their_defaults(victim):
    class Tuned(LogitNoise):
        def __init__(self, sigma: float = 0.5, queries: int = 100) -> None:
            super().__init__(sigma)

    assert Tuned(queries=10).description(victim).endswith("Tuned sigma 0.5 on the logits, queries 10")
    assert LogitNoise(0.7).description(victim) == "LogitNoise sigma 0.7 on the logits"
