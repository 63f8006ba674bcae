"""What an attack says of its options."""

import inspect
from pkgutil import resolve_name

import pytest
import torch
from harness import required

from rfdlight import attacks
from rfdlight.attacks import NES, Boundary, RandomNoise, Square
from rfdlight.core.registry import NAMES
from rfdlight.errors import UserError


@pytest.mark.parametrize("path", NAMES["attack"].values())
def test_every_option_is_an_attribute_of_its_name(path):
    made = resolve_name(path)
    attack = made(eps=0.1, **required(made))
    for parameter in inspect.signature(made.__init__).parameters.values():
        if parameter.default is not parameter.empty:
            assert hasattr(attack, parameter.name), parameter.name


def test_options_are_those_that_were_set_or_resolved():
    assert Square(eps=0.1).options() == "defaults"
    assert Square(p=0.1, refresh="every", eps=0.1, norm="l2", targeted=True).options() == "p 0.1, refresh every"
    assert NES(sigma=0.01, eps=0.1).options() == "pairs 20, sigma 0.01, step 0.01"
    assert RandomNoise(eps=0.1).options() == "defaults"


def test_the_ball_is_linf_where_the_attack_knows_it_else_l2():
    assert Square(eps=0.1).norm == "linf"
    assert Boundary(eps=0.1).norm == "l2"


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("AdaptiveNES", "grid"),
        ("Bandits", "prior_side"),
        ("Bernoulli", "grid"),
        ("BernoulliDecision", "grid"),
        ("BernoulliMultiscale", "grid"),
        ("Evolutionary", "grid"),
        ("NAttack", "grid"),
        ("Parsimonious", "block"),
    ],
)
def test_a_grid_finer_than_the_pixels_is_refused_in_one_line(name, option):
    x, y = torch.zeros(1, 3, 16, 20), torch.zeros(1, dtype=torch.int64)
    text = f"attack.{option}: expected at most 16, the shorter side of the images, got 32; lower attack.{option}"
    getattr(attacks, name)(eps=0.1, **{option: 16}).init(x, y, y)
    with pytest.raises(UserError, match=f"^{text}$"):
        getattr(attacks, name)(eps=0.1, **{option: 32}).init(x, y, y)
