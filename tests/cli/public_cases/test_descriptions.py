"""Runs that differ in an argument of a component, also of a user's own class: never one row, column or worst case."""

import json
import sys
from pathlib import Path

import pytest

from rfdlight.records.run_folders import load_runs
from rfdlight.reporting.grid import build_grid

OWN = """
from rfdlight.attacks.random_noise import RandomNoise
from rfdlight.data import Digits
from rfdlight.defenses import Defense, InputNoise
from rfdlight.defenses import InsertionPoint

class Tuned(InputNoise):
    def __init__(self, sigma: float = 0.02, tau: int = 5) -> None:
        super().__init__(sigma)
        self._threshold = 1 / tau

class Clipped(InputNoise):
    '''Has an argument of the same name as the base class, for another purpose.'''

    def __init__(self, sigma: float = 0.02, clip: int = 1) -> None:
        super().__init__(sigma)
        self.most = clip

class Silent(Defense):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    @property
    def is_random(self):
        return False

    def insertion_points(self, model):
        return [InsertionPoint("the logits", model, "output")]

    def transform(self, x, place):
        return self.factor * x

    def describe(self, model):
        return "scaled logits"

class Level:
    def __init__(self, factor: float = 1.0) -> None:
        self._level = 2 * factor

    def __call__(self, clock):
        return self._level * (clock + 1) / (clock + 1)

def level(clock):
    return (clock + 1) / (clock + 1)

class Patient(RandomNoise):
    def __init__(self, patience: int = 3, **ball) -> None:
        super().__init__(**ball)

class Shifted(Digits):
    def __init__(self, num_images: int = 4, shift: int = 0) -> None:
        super().__init__(num_images)
"""
LINE = (
    "test --data digits --data.num_images 4 --model.victim nearest_mean.NearestMean --model.budget 1 "
    "--model.final_evaluations 40 --model.batch_size 4 --model.keep_images 0 --model.sanity_checks false"
)
INPUT = "--attack random_noise --defense input_noise"


@pytest.fixture(autouse=True)
def own(nearest_mean, elsewhere):
    for module in ("own", "other"):
        (elsewhere / f"{module}.py").write_text(OWN)
    yield
    for module in ("own", "other"):
        sys.modules.pop(module, None)


PAIRS = {
    "an argument of a defense": (
        "--attack random_noise --defense own.Tuned --defense.tau 6",
        "--attack random_noise --defense own.Tuned --defense.tau 60",
    ),
    "an argument of a defense that describes nothing": (
        "--attack random_noise --defense own.Silent --defense.factor 2",
        "--attack random_noise --defense own.Silent --defense.factor 3",
    ),
    "an argument with the name of one of the base class": (
        "--attack random_noise --defense own.Clipped --defense.clip 2",
        "--attack random_noise --defense own.Clipped --defense.clip 3",
    ),
    "an argument of a schedule": (
        f"{INPUT} --defense.schedule own.Level --defense.schedule.factor 2",
        f"{INPUT} --defense.schedule own.Level --defense.schedule.factor 3",
    ),
    "functions of one name": (
        f"{INPUT} --defense.schedule own.level",
        f"{INPUT} --defense.schedule other.level",
    ),
    "classes of one name": (
        "--attack random_noise --defense own.Tuned",
        "--attack random_noise --defense other.Tuned",
    ),
    "the seventh digit of sigma": (
        f"{INPUT} --defense.sigma 0.1234567",
        f"{INPUT} --defense.sigma 0.1234568",
    ),
    "an argument of the data": (
        "--data own.Shifted --attack random_noise",
        "--data own.Shifted --data.shift 1 --attack random_noise",
    ),
    "the seed of the data": (
        "--attack random_noise --data.selection random",
        "--attack random_noise --data.selection random --data.seed 1",
    ),
}


def grid_of(*runs):
    return build_grid(load_runs(list(runs)))


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_runs_that_differ_in_an_argument_have_rows_of_their_own_and_no_joint_worst_case(command, pair):
    for run, options in zip(("first", "second"), pair, strict=True):
        line = LINE if "--data " not in options else LINE.replace("--data digits --data.num_images 4 ", "")
        assert command(*line.split(), *options.split(), "--run", run).status == 0
    grid = grid_of("first", "second")
    assert len(grid.rows) == 2
    assert not any(column.worst for column in grid.columns)


@pytest.mark.slow
def test_runs_that_differ_in_an_argument_of_their_attack_have_columns_of_their_own(command):
    for patience in ("4", "5"):
        line = f"{LINE} --attack own.Patient --attack.patience {patience} --run {patience}"
        assert command(*line.split()).status == 0
    labels = [column.label for column in grid_of("4", "5").columns if not column.worst]
    assert [label.partition(", ")[2] for label in labels] == ["patience 4", "patience 5"]


def test_the_description_names_the_argument_and_leaves_out_defaults(command):
    for run, options in (("default", ""), ("changed", "--defense.tau 50")):
        line = f"{LINE} --attack random_noise --defense own.Tuned {options} --run {run}"
        said = command(*line.split())
        assert said.status == 0
    described = [json.loads(Path(run, "summary.json").read_text())["run"]["defense"] for run in ("default", "changed")]
    assert described == ["own.Tuned sigma 0.02 on the pixels", "own.Tuned sigma 0.02 on the pixels, tau 50"]
    assert "tau 50" in said.out


@pytest.mark.slow
def test_a_calibrated_defense_that_describes_itself_names_the_sigma_that_was_found(command, elsewhere):
    (elsewhere / "own.py").write_text(
        OWN + "\nclass Quiet(InputNoise):\n    def describe(self, model):\n        return 'quiet'\n"
    )
    line = "calibrate nearest_mean.NearestMean --data digits --data.num_images 500 --defense own.Quiet "
    assert command(*line.split(), "--target_drop", "0.1", "--tolerance", "0.05", "--defense.sigma", "0.4").status == 0
    written = Path("calibrated.yaml").read_text()
    assert "quiet, sigma 0.4" not in written
    assert "quiet, sigma " in written
