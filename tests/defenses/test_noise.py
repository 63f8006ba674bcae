"""What holds for every defense, and the noises: statistics where they are random, equality where they are not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from rfdlight.core.query_counts import ticking
from rfdlight.core.registry import NAMES
from rfdlight.defenses import AAA, Defense, FeatureNoise, InputNoise, LogitNoise, Noise, undefended
from rfdlight.errors import DefenseError, UserError
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
    ]


def name(defense: Defense) -> str:
    return f"{type(defense).__name__}-{getattr(defense, 'layers', None)}"


def test_the_contract_covers_every_defense():
    covered = {f"{type(case).__module__}.{type(case).__qualname__}" for case in contract_cases()}
    assert covered == set(NAMES["defense"].values())


@pytest.mark.parametrize("defense", contract_cases(), ids=name)
class TestContract:
    def test_outputs_change_inside_and_are_exactly_restored_outside(self, defense, victim, x):
        before = victim(x)
        with defense.on(victim):
            first, second = victim(x), victim(x)
        assert not torch.equal(first, before)
        assert torch.equal(first, second) is not defense.is_random
        assert torch.equal(victim(x), before)

    def test_an_exception_inside_restores_the_model(self, defense, victim, x):
        before = victim(x)
        with pytest.raises(ZeroDivisionError), defense.on(victim):
            raise ZeroDivisionError
        assert torch.equal(victim(x), before)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in victim.modules())

    def test_switched_off_it_is_the_undefended_model_bit_for_bit(self, defense, victim, x):
        before = victim(x)
        with defense.on(victim), undefended():
            assert torch.equal(victim(x), before)

    def test_weights_and_input_are_untouched(self, defense, victim, x):
        weights = {key: value.clone() for key, value in victim.state_dict().items()}
        pixels = x.clone()
        with defense.on(victim):
            victim(x)
        assert torch.equal(x, pixels)
        assert all(torch.equal(value, weights[key]) for key, value in victim.state_dict().items())

    def test_attaching_twice_is_refused(self, defense, victim):
        with defense.on(victim), pytest.raises(UserError, match="already defends a model"):
            defense.attach(victim)

    def test_a_compiled_model_is_refused(self, defense, victim):
        class Compiled(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self._orig_mod = inner

        with pytest.raises(UserError, match="compiled model ignores hooks"):
            defense.attach(Compiled(victim))


@pytest.mark.parametrize("defense", [case for case in contract_cases() if isinstance(case, Noise)], ids=name)
class TestNoises:
    def test_rows_get_independent_noise(self, defense, victim, x):
        same = x[:1].expand(4, -1, -1, -1)
        with defense.on(victim):
            out = victim(same)
        assert len({tuple(row.tolist()) for row in out}) == 4

    def test_sigma_zero_is_the_undefended_model_bit_for_bit(self, defense, victim, x):
        quiet = type(defense)(0.0)
        assert not quiet.is_random
        assert defense.is_random
        before = victim(x)
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


def test_the_default_of_resnet20_is_the_papers_insertion_point(victim):
    assert [place.name for place in FeatureNoise(0.1).insertion_points(victim)] == ["layer3"]


def test_patterns_match_in_the_networks_order(victim):
    places = FeatureNoise(0.1, ["layer3", "layer1"]).insertion_points(victim)
    assert [place.name for place in places] == ["layer1", "layer3"]


def test_a_star_does_not_reach_across_a_dot(victim):
    def names(pattern: str) -> list[str]:
        return [place.name for place in FeatureNoise(0.1, pattern).insertion_points(victim)]

    assert names("layer*") == ["layer1", "layer2", "layer3"]
    assert names("layer*.0") == ["layer1.0", "layer2.0", "layer3.0"]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_any_timm_network_can_be_defended_by_patterns(name, x):
    torch.manual_seed(0)
    settings = {"img_size": 32} if name == "test_vit" else {}
    network = timm.create_model(name, num_classes=10, **settings).eval()
    pattern = {"test_resnet": "layer2", "test_vit": "blocks.3", "test_convnext": "stages.1"}[name]
    before = network(x)
    with FeatureNoise(1.0, pattern).on(network):
        assert not torch.equal(network(x), before)
    assert torch.equal(network(x), before)


def test_noise_after_the_last_stage_of_resnet20_is_zero_mean_logit_noise(victim, x):
    """Only a mean and a linear layer follow, so the mean logits are the undefended ones (decision by Definition 1)."""
    clean = victim(x[:1]).double().detach()
    with torch.no_grad(), FeatureNoise(0.5, "layer3").on(victim):
        draws = torch.cat([victim(x[:1].expand(500, -1, -1, -1)) for _ in range(4)]).double()
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


def test_a_pattern_without_a_match_names_the_layers(victim):
    with pytest.raises(UserError) as caught:
        FeatureNoise(0.1, "layer9").attach(victim)
    text = str(caught.value)
    assert text.startswith("no layer matches 'layer9'; the network has layer")
    assert "\n" not in text


def test_another_number_of_sigmas_is_refused(victim):
    with pytest.raises(UserError, match="needs one value or 3, one per layer, got 2"):
        FeatureNoise([0.1, 0.2], "layer?").attach(victim)


def test_an_unknown_network_needs_layers():
    with pytest.raises(UserError, match=r"defense\.layers must be given for a Sequential"):
        FeatureNoise(0.1).attach(nn.Sequential(nn.Linear(2, 2)))


class TestExamples:
    @pytest.fixture
    def module(self, monkeypatch):
        monkeypatch.syspath_prepend(str(EXAMPLES))
        import my_noise

        yield my_noise
        sys.modules.pop("my_noise")

    def test_laplace_noise_has_standard_deviation_one_and_heavy_tails(self, module):
        torch.manual_seed(0)
        draws = module.LaplaceNoise(1.0).noise(torch.zeros(200_000))
        # Var of the sample variance of a Laplace variable is (kurtosis - 1) / n = 5 / n.
        assert abs(float(draws.var()) - 1) < 4 * (5 / 200_000) ** 0.5
        assert float((draws**4).mean()) > 5  # 6 for Laplace, 3 for normal

    def test_warming_noise_follows_the_clock_of_each_row(self, module, victim, x):
        before = victim(x)
        with module.WarmingNoise(0.5, queries=10).on(victim):
            with ticking(torch.tensor([0, 0, 5, 10, 10, 20])):
                out = victim(x)
            assert torch.equal(victim(x), before), "outside of an attack the clock stands at zero"
        assert torch.equal(out[:2], before[:2])
        assert not any(torch.equal(out[i], before[i]) for i in range(2, 6))

    def test_warming_noise_says_its_own_option(self, module, victim):
        assert module.WarmingNoise(0.5, queries=10).description(victim).endswith(", queries 10")


class Pair(nn.Module):
    """Answers two tensors, and wants its input by name."""

    def forward(self, *, x):
        return x, x


@pytest.mark.parametrize(
    ("at", "text"),
    [
        ("output", r"output at pair .* must be a tensor, got a tuple"),
        ("input", r"input at pair .* is called by keywords alone"),
    ],
)
def test_what_cannot_be_defended_is_said_in_one_line(at, text):
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            return self.pair(x=x)[0]

    with FeatureNoise(0.1, "pair", at=at).on(Around()) as model, pytest.raises(DefenseError, match=text):
        model(torch.zeros(1, 2))
