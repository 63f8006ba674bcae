"""The attack of docs/examples, through the real engine, on victims whose minimum is known."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from harness import Constant, Linear, Run, drive, images, one_by_one

from rfdlight.attacks import RandomNoise

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
EPS = 0.05
SHAPE = (3, 8, 8)


@pytest.fixture
def my_attack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import my_attack

    yield my_attack
    sys.modules.pop("my_attack")


@pytest.fixture
def x() -> torch.Tensor:
    return images(6, SHAPE)


@pytest.fixture
def victim(x: torch.Tensor) -> Linear:
    """Its margin at the first image is half of what the ball can take away there."""
    victim = Linear(torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)), 0.0)
    value, least = victim(x[:1])[0, 0], victim.least_margin(x[:1], EPS)[0]
    victim.offset = float((value - least) / 2 - value)
    return victim


def fallen(records: list[dict]) -> int:
    return sum(record.verdict == "adversarial" for record in records)


def test_my_attack_breaks_a_linear_victim_that_random_noise_does_not(my_attack, victim, x):
    same, y = x[:1].repeat(6, 1, 1, 1), torch.zeros(6, dtype=torch.int64)
    # A random pattern changes the margin by about 192^-0.5 of the most that is possible, in standard deviations:
    # half of the most is more than four of them, in 6 x 300 tries. The search adds its gains up.
    ours = Run(victim, my_attack.MyAttack(eps=EPS), same, y, budget=300)
    noise = Run(victim, RandomNoise(eps=EPS), same, y, budget=300)
    assert (fallen(ours.records), fallen(noise.records)) == (6, 0)
    assert float(ours.column("linf").max()) <= EPS + 1e-6


def test_my_attack_keeps_to_the_budget_where_nothing_can_be_broken(my_attack, x):
    run = Run(Constant(), my_attack.MyAttack(eps=EPS), x, torch.zeros(6, dtype=torch.int64), budget=7)
    assert run.column("attack").tolist() == [7] * 6
    assert sum(run.total.values()) == run.oracle.forwarded
    assert {shape[0] for shape in run.shapes} == {4}


def test_my_attack_gives_the_same_records_for_any_pool_and_order(my_attack, victim, x):
    y = victim(x).argmax(1)
    one = Run(victim, my_attack.MyAttack(eps=EPS), x, y, budget=30, pool_size=4)
    other = Run(victim, my_attack.MyAttack(eps=EPS), x, y, budget=30, pool_size=9, order=[3, 5, 0, 1, 4, 2], chunk=2)
    assert one.records == other.records


def test_the_loss_of_my_attack_never_rises_and_is_the_margin_at_its_best_point(my_attack, victim, x):
    attack = my_attack.MyAttack(share=0.1, eps=EPS)
    answer = one_by_one(victim)
    y = torch.zeros(6, dtype=torch.int64)
    for before, _, _, after in drive(attack, answer, x, y, budget=20):
        assert (after["loss"] <= before["loss"]).all()
        torch.testing.assert_close(answer(attack.best(after))[:, 0], after["loss"])


def test_the_share_of_negated_signs_is_as_asked(my_attack, x):
    attack = my_attack.MyAttack(share=0.1, eps=EPS)
    y = torch.zeros(6, dtype=torch.int64)
    state = {"x": x, "y": y, "seed": torch.arange(6), "budget": y + 1, **attack.init(x, y, torch.arange(6))}
    attack.ask(state)
    flipped = (state["trial"] != state["signs"]).float()
    # 1,152 Bernoulli draws with p = 0.1: the standard deviation of their mean is 0.0088.
    assert abs(float(flipped.mean()) - 0.1) < 4 * 0.0088
