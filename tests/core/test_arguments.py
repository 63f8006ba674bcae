"""Constructor arguments as text: complete, told apart, and without addresses in memory."""

from __future__ import annotations

import copy
import functools
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import rfdlight as rfd
from rfdlight.core.arguments import Configurable, argument, changed_arguments, text_of
from rfdlight.errors import UserError


class Base(Configurable):
    def __init__(self, size: int = 1, kind: str = "a") -> None:
        self.size, self.kind = size, kind


class Passing(Base):
    def __init__(self, tau: float = 5.0, level: float | None = None, **options) -> None:
        super().__init__(**options)
        self.secret = 2 * tau
        self.level = 0.25 if level is None else level


class Free(Base):
    def __init__(self, **options) -> None:
        super().__init__()
        self.chosen = options


class Fixed(Base):
    def __init__(self, kind: int, *extra: int) -> None:
        super().__init__(kind="b")


def plain(x):
    return x


class Held:
    def __init__(self, tau: int = 1) -> None:
        self._tau = tau


class Renamed:
    def __init__(self, tau: int = 1) -> None:
        self.rate = 1 / tau


@dataclass
class Parts:
    inner: Held
    rates: list[float]
    cache: dict = field(default_factory=dict, init=False)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (Base(), []),
        (Base(2, kind="b"), ["size 2", "kind b"]),
        (Passing(), ["level 0.25"]),
        (Passing(7), ["tau 7", "level 0.25"]),
        (Passing(tau=5, size=3), ["level 0.25", "size 3"]),
        (Free(size=3, tau=4, rate=0.5), ["size 3", "rate 0.5", "tau 4"]),
        (Fixed(1), ["kind 1"]),
        (Fixed(1, 2, 3), ["kind 1", "extra [2, 3]"]),
    ],
)
def test_arguments_that_are_not_at_their_defaults_are_named_whatever_the_class_keeps(made, expected):
    assert changed_arguments(made) == expected


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_has_the_arguments_of_the_original(twin):
    assert changed_arguments(twin(Passing(7))) == ["tau 7", "level 0.25"]
    assert changed_arguments(twin(Fixed(1))) == ["kind 1"]


def test_an_argument_that_is_set_later_is_the_new_one():
    made = Base(2)
    made.reconfigure(size=3)
    assert (made.size, argument(made, "size")) == (3, 3)


class Closed(Base):
    def __init__(self, tau: float = 5.0) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Base(siz=1), "unknown argument of Base 'siz'; did you mean size?"),
        (lambda: Closed(size=1), "unknown argument of Closed 'size'; known: tau"),
        (lambda: Base(1, "b", 3), "Base: too many positional arguments"),
        (lambda: Base(1, size=1), "Base: multiple values for argument 'size'"),
        (lambda: Fixed(extra=1), "Fixed: missing a required argument: 'kind'"),
        (lambda: rfd.attacks.FGSM(steps=5), "unknown argument of FGSM 'steps'; "),
        (lambda: rfd.attacks.RayS(ep=0.1), "unknown argument of RayS 'ep'; did you mean eps?"),
        (lambda: rfd.InputNoise(sigm=0.1), "unknown argument of InputNoise 'sigm'; did you mean sigma?"),
        (lambda: rfd.data.Digits(num_image=5), "unknown argument of Digits 'num_image'; did you mean num_images?"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_one_line(make, line):
    with pytest.raises(UserError) as refused:
        make()
    assert str(refused.value).startswith(line)


def test_a_constructor_that_passes_any_keyword_on_decides_itself():
    assert Free(colour=1).chosen == {"colour": 1}
    with pytest.raises(TypeError):
        Passing(colour=1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (0.1234567, "0.1234567"),
        (1 / 3, "0.3333333333333333"),
        (2.0, "2"),
        (float("inf"), "inf"),
        (True, "True"),
        (None, "None"),
        ("layer1.*", "'layer1.*'"),
        ("a, b 2", "'a, b 2'"),
        (Path("a/b"), "a/b"),
        ([0.5, ("x", None)], "[0.5, [x, None]]"),
        ({"b": 1, "a": [2]}, "{b: 1, a: [2]}"),
        ({3, 1}, "{1, 3}"),
        (torch.float16, "torch.float16"),
        (torch.tensor(0.5), "0.5"),
        (plain, f"{__name__}.plain"),
        (Base, f"{__name__}.Base"),
        (functools.partial(plain, 1, y=Held(3)), f"functools.partial({__name__}.plain, 1, y={__name__}.Held(_tau=3))"),
        (Renamed(4), f"{__name__}.Renamed(rate=0.25)"),
        (Parts(Held(), [0.5]), f"{__name__}.Parts(inner={__name__}.Held(_tau=1), rates=[0.5], cache={{}})"),
        (Passing(7), f"{__name__}.Passing(tau=7, level=0.25, size=1, kind=a)"),
        (object(), "builtins.object"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",  # an address in memory is none of a test's name
)
def test_a_value_is_written_without_an_address(value, text):
    assert text_of(value) == text


def test_two_tensors_differ_by_their_numbers_and_an_object_that_holds_itself_ends():
    assert text_of(torch.arange(3)) != text_of(torch.tensor([0, 1, 3]))
    assert text_of(torch.arange(3)) == text_of(torch.arange(3))
    knot = Held()
    knot._tau = knot
    assert "0x" not in text_of(knot)
