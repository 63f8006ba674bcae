"""Schedules given as functions: rows scaled by their clock, on every noise, and the example of the docs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from rfdlight.cli import main as cli
from rfdlight.core import query_counts
from rfdlight.core.query_counts import ticking
from rfdlight.defenses import FeatureNoise, InputNoise, LogitNoise, Noise
from rfdlight.errors import UserError

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
NOISES = [partial(FeatureNoise, 0.5, layers="0"), partial(InputNoise, 0.5), partial(LogitNoise, 0.5)]


def tenth(clock: Tensor) -> Tensor:
    return clock / 10


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Identity())


@pytest.fixture
def my_schedule(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import my_schedule

    yield my_schedule
    sys.modules.pop("my_schedule")


def deviations(noise: Noise, model: nn.Module, clock: list[int]) -> list[float]:
    """The standard deviation of the noise of each row, of 60,000 numbers each."""
    torch.manual_seed(0)
    x = torch.full((len(clock), 3, 100, 200), 0.5)
    with noise.on(model), ticking(torch.tensor(clock)):
        return (model(x) - x).flatten(1).std(1).tolist()


@pytest.mark.parametrize("make", NOISES, ids=["feature", "input", "logit"])
class TestEveryNoise:
    def test_sigma_is_multiplied_by_the_factor_of_each_rows_clock(self, make, model):
        found = deviations(make(schedule=tenth), model, [0, 5, 10, 20])
        # The standard deviation of 60,000 normal numbers is right within 4 / sqrt(120,000) of itself.
        assert found == pytest.approx([0.0, 0.25, 0.5, 1.0], rel=0.0116)

    def test_outside_of_an_attack_the_clock_is_zero(self, make, model):
        x = torch.rand(2, 3, 4, 4)
        with make(schedule=tenth).on(model):
            assert torch.equal(model(x), x)

    def test_it_is_named(self, make, model):
        assert make(schedule=tenth).describe(model) == f"{make().describe(model)}, schedule {__name__}.tenth"


def test_a_schedule_of_ones_is_the_noise_without_one(model):
    x = torch.rand(4, 3, 4, 4)

    def answer(noise: Noise) -> Tensor:
        torch.manual_seed(0)
        with noise.on(model), ticking(torch.arange(4)):
            return model(x)

    assert torch.equal(answer(InputNoise(0.1, schedule=torch.ones_like)), answer(InputNoise(0.1)))


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (lambda clock: torch.tensor(1.0), "shape ()"),
        (lambda clock: torch.ones(len(clock), 1), "shape (3, 1)"),
        (lambda clock: 0.5, "a float"),
    ],
    ids=["one number", "a column", "no tensor"],
)
def test_anything_but_one_factor_per_row_is_refused(model, result, got):
    with InputNoise(0.1, schedule=result).on(model), pytest.raises(UserError) as caught:
        model(torch.rand(3, 3, 4, 4))
    assert str(caught.value) == f"a schedule must return one factor per row, a tensor of shape (3,), got {got}"


def test_a_description_never_holds_an_address(model):
    class Plain:
        def __call__(self, clock: Tensor) -> Tensor:
            return torch.ones_like(clock)

    assert InputNoise(0.1, schedule=Plain()).describe(model).endswith(".Plain")
    described = InputNoise(0.1, schedule=partial(tenth, other=2)).describe(model)
    assert described.endswith(f", schedule functools.partial({__name__}.tenth, other=2)")


class TestExample:
    def test_warming_grows_over_the_first_hundred_queries(self, my_schedule, model):
        found = deviations(InputNoise(0.5, schedule=my_schedule.warming), model, [0, 50, 100, 1000])
        assert found == pytest.approx([0.0, 0.25, 0.5, 0.5], rel=0.0116)

    def test_step_goes_to_its_factor_after_its_queries(self, my_schedule, model):
        step = my_schedule.Step(queries=20, factor=3.0)
        assert step(torch.tensor([0, 19, 20, 500])).tolist() == [1.0, 1.0, 3.0, 3.0]
        described = InputNoise(0.5, schedule=step).describe(model)
        assert described == "InputNoise sigma 0.5 on the pixels, schedule my_schedule.Step(queries=20, factor=3)"

    @pytest.mark.parametrize(
        ("defense", "options", "named"),
        [
            ("input_noise", ["--defense.schedule", "my_schedule.warming"], "schedule my_schedule.warming"),
            (
                "logit_noise",
                ["--defense.schedule", "my_schedule.Step", "--defense.schedule.queries", "20"],
                "schedule my_schedule.Step(queries=20, factor=2)",
            ),
        ],
    )
    def test_the_command_line_finds_it_by_its_import_path(
        self, my_schedule, defense, options, named, model, monkeypatch
    ):
        monkeypatch.setattr(cli.RFDLightCLI, "_run_subcommand", lambda self, subcommand: None)
        made = cli.RFDLightCLI(["test", "--attack", "random_noise", "--defense", defense, *options])
        (noise,) = (callback for callback in made.trainer.callbacks if isinstance(callback, Noise))
        assert noise.describe(model).endswith(named)


def test_no_clock_stays_after_passes_in_two_threads():
    first, second = ticking(torch.arange(2)), ticking(torch.arange(3))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert query_counts.current() is None
