"""Null where a value is needed."""

import pytest

from rfdlight.cli.nulls import refuse_nulls
from rfdlight.errors import UserError


class Part:
    def __init__(self, size: int, name: str | None = None, loose: float = None, anything=3) -> None:  # noqa: RUF013
        pass


class Passing(Part):
    def __init__(self, width: int = 1, **options) -> None:
        super().__init__(**options)


def whole(part: Part, count: int = 3) -> None:
    pass


def below(**given):
    return {"class_path": f"{__name__}.Part", "init_args": given}


@pytest.mark.parametrize(
    "given", [{"size": 1, "name": None}, {"size": 1, "loose": None}, {"size": 1, "anything": None}, {}]
)
def test_null_passes_where_none_is_a_value_or_the_default(given):
    refuse_nulls(given, made=Part)
    refuse_nulls({"part": below(**given), "count": 1}, made=whole)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"part": below(size=1), "count": None}, "count"),
        ({"part": None}, "part"),
        ({"part": below(size=None)}, "part.size"),
        ({"parts": [below(size=1), below(size=None)]}, "parts.size"),
        ({"part": below(size=1, name=below(size=None))}, "part.name.size"),
    ],
)
def test_null_is_refused_at_any_depth_by_its_name(given, name):
    with pytest.raises(UserError, match=rf"^trainer\.{name} needs a value, got null; leave it out for its default$"):
        refuse_nulls(given, "trainer.", whole)


@pytest.mark.parametrize("name", ["width", "size"])
def test_null_is_refused_for_parameters_that_are_passed_on_to_a_base(name):
    with pytest.raises(UserError, match=rf"^data\.{name} needs a value"):
        refuse_nulls({"size": 1, "width": 1, name: None}, "data.", Passing)


def test_types_that_cannot_be_resolved_refuse_nothing():
    def odd(size: "Missing") -> None:  # noqa: F821
        pass

    refuse_nulls({"size": None}, made=odd)
