"""Null as the value of a setting, and fractions, by the type of the setting."""

import sys
from pathlib import Path

import pytest

OWN = """
from rfdlight.attacks import Square

class Own(Square):
    def __init__(self, size: int = 1, name: str | None = None, loose: float = None, rates: list[float] = [1.0]):
        super().__init__(eps=0.1)
        self.given = (size, name, loose, rates)
"""


@pytest.fixture(autouse=True)
def own(elsewhere: Path):
    (elsewhere / "own_attack.py").write_text(OWN)
    yield
    sys.modules.pop("own_attack", None)


def config(options: str) -> tuple[str, ...]:
    Path("own.yaml").write_text(f"attack: {{class_path: own_attack.Own, init_args: {{{options}}}}}\n")
    return "test", "-c", "own.yaml"


@pytest.mark.parametrize("options", ["name: null", "loose: null", ""])
def test_null_passes_where_none_is_a_value_or_the_default(built, options):
    assert built(*config(options)).model.attack.given[0] == 1


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (("attack", "size: null"), "attack.size"),
        (("attack", "rates: null"), "attack.rates"),
        (("model", "budget: null"), "model.budget"),
        (("trainer", "accelerator: null"), "trainer.accelerator"),
    ],
)
def test_null_is_refused_at_any_depth_by_its_name(command, line, name):
    group, options = line
    args = config(options if group == "attack" else "")
    Path("more.yaml").write_text("{}" if group == "attack" else f"{group}: {{{options}}}\n")
    said = command(*args, "-c", "more.yaml", "--run", "run")
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith(f"rfdlight: {name}: expected ")
    assert said.err.endswith("got null; leave it out for its default\n")


@pytest.mark.parametrize("form", [("--attack.rates=[8/255,1/4]",), ("--attack.rates", "[8/255, 1/4]"), ()])
def test_a_fraction_is_a_number_wherever_a_number_is_expected(built, form):
    given = built(*config("" if form else "rates: [8/255, 0.25]"), *form, "--attack.loose", "3/4", "--run", "1/2")
    assert given.model.attack.given[2:] == (0.75, [8 / 255, 0.25])
    assert given.config.test.run == "1/2"
