"""Several defenses on one model: their order, detaching one, and the switch that turns all off."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rfdlight.defenses import AAA, Defense, FeatureNoise, InputNoise, InsertionPoint, LogitNoise, undefended
from rfdlight.defenses.base import attached_defenses
from rfdlight.victims.victim import Victim


@pytest.fixture
def victim() -> Victim:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    return Victim(network, [0.5] * 3, [0.25] * 3).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def every() -> list[Defense]:
    return [FeatureNoise(0.3, ["0", "3"]), InputNoise(0.1, clip=True), LogitNoise(0.2), AAA()]


def attached(defenses: list[Defense], model: nn.Module) -> nn.Module:
    for defense in defenses:
        defense.attach(model)
    return model


def test_undefended_is_the_bare_model_bit_for_bit_with_every_defense_attached(victim, x, every):
    before = victim(x)
    attached(every, victim)
    state = torch.get_rng_state()
    with undefended():
        assert torch.equal(victim(x), before)
    assert torch.equal(torch.get_rng_state(), state), "no random numbers may be drawn"
    assert not torch.equal(victim(x), before)


def test_the_switch_nests_and_an_exception_turns_the_defenses_on_again(victim, x):
    before = victim(x)
    attached([LogitNoise(1.0)], victim)
    with undefended():
        with undefended():
            pass
        assert torch.equal(victim(x), before)
    with pytest.raises(ZeroDivisionError), undefended():
        raise ZeroDivisionError
    assert not torch.equal(victim(x), before)


def test_a_defense_attached_inside_the_switch_is_off_too(victim, x):
    before = victim(x)
    with undefended(), LogitNoise(1.0).on(victim):
        assert torch.equal(victim(x), before)


class Affine(Defense):
    """Multiplies and adds at the model's output or input, so that the order shows."""

    def __init__(self, side: str, factor: float, offset: float) -> None:
        super().__init__()
        self.side, self.factor, self.offset = side, factor, offset

    def insertion_points(self, model: nn.Module) -> list[InsertionPoint]:
        return [InsertionPoint("here", model, self.side)]

    def transform(self, x: Tensor, place: int) -> Tensor:
        return self.factor * x + self.offset

    def describe(self, model: nn.Module) -> str:
        return "affine"


@pytest.mark.parametrize("side", ["input", "output"])
def test_defenses_at_one_place_act_in_the_order_attached(side):
    double, add = Affine(side, 2.0, 0.0), Affine(side, 1.0, 3.0)
    one = torch.ones(1, 2)
    with double.on(nn.Identity()) as model, add.on(model):
        assert model(one).tolist() == [[5.0, 5.0]]
    with add.on(nn.Identity()) as model, double.on(model):
        assert model(one).tolist() == [[8.0, 8.0]]


def test_aaa_after_noise_answers_for_the_noisy_logits_and_noise_after_aaa_is_added_to_its_answer():
    logits = 3 * torch.randn(8, 10, generator=torch.Generator().manual_seed(0))

    def answer(*defenses: Defense) -> Tensor:
        model = attached(list(defenses), nn.Identity())
        torch.manual_seed(5)
        return model(logits)

    noise = answer(LogitNoise(1.0)) - logits
    noisy_first = answer(LogitNoise(1.0), AAA())
    assert torch.equal(noisy_first, AAA().transform(answer(LogitNoise(1.0)), 0))
    torch.testing.assert_close(answer(AAA(), LogitNoise(1.0)), AAA().transform(logits, 0) + noise)
    assert not torch.allclose(answer(AAA(), LogitNoise(1.0)), noisy_first)


def test_the_variances_of_two_input_noises_add():
    x = torch.full((8, 3, 64, 64), 0.5)
    torch.manual_seed(0)
    difference = attached([InputNoise(0.3), InputNoise(0.4)], nn.Identity())(x) - x
    count = difference.numel()  # about 98,000 normal draws
    assert abs(float(difference.std()) - 0.5) < 4 * 0.5 / (2 * count) ** 0.5


def test_detaching_one_defense_leaves_the_others(victim, x):
    first, second, aaa = InputNoise(0.1), LogitNoise(0.2), AAA()
    before = victim(x)
    attached([first, second, aaa], victim)
    second.detach()
    first.detach()
    assert torch.equal(victim(x), AAA().transform(before, 0))
    first.attach(victim)
    aaa.detach()
    assert not torch.equal(victim(x), victim(x))
    first.detach()
    assert torch.equal(victim(x), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in victim.modules())


def test_attached_defenses_are_found_once_each_in_their_order(victim, every):
    assert attached_defenses(attached(every, victim)) == every
    with undefended():
        assert attached_defenses(victim) == []
