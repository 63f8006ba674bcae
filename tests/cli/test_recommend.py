"""`rfdlight recommend`: what it writes is what `rfdlight test` takes, from images that are nobody else's."""

import hashlib
import sys
from pathlib import Path

import pytest
import torch
import yaml

from rfdlight.analysis import calibration
from rfdlight.analysis.clean_cost import CleanCostMeter, cost_of
from rfdlight.cli.recommend import split_held_out
from rfdlight.data import Digits
from rfdlight.data.given import GivenImages
from rfdlight.defenses import FeatureNoise, InputNoise
from rfdlight.evaluation.standard import StandardAttack, short_standard
from rfdlight.victims.resolve import resolve_victim

LINE = (
    "recommend nearest_mean.WithSpare --data digits --layers [spare,pixels,distances] "
    "--target_drop 0.05 --tolerance 0.03 --num_images 20 --budget 10 --confirm 2 "
)


@pytest.fixture(autouse=True)
def victim(nearest_mean):
    """The victim of these lines."""


def digest(ids):
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def test_the_three_sets_of_images_have_none_in_common():
    data = Digits()
    fresh, rest = split_held_out(data, 100, seed=0)
    sets = [set(data.attacked().ids), set(fresh.ids), set(rest.ids)]
    assert [len(ids) for ids in sets] == [200, 100, 299]
    assert len(set.union(*sets)) == 599
    assert set(split_held_out(data, 100, seed=1)[0].ids) != sets[1]


@pytest.mark.slow
def test_the_file_is_the_best_defense_and_says_why(command):
    said = command(*LINE.split())
    assert (said.status, said.err) == (0, "")
    written = yaml.safe_load(Path("recommended.yaml").read_text())
    measured, reasons = written["calibration"], written["recommendation"]

    # nothing depends on the spare layer
    assert "spare: no sigma costs 5 points" in said.out
    tried = {one["places"]: one for one in reasons["confirmed"]}
    assert tried.keys() < {"the pixels", "pixels", "distances", "pixels + distances"}
    assert len(tried) == 3
    best = max(tried.values(), key=lambda one: (one["robust"], one["predicted_misled"]))
    assert written["init_args"]["sigma"] == best["sigma"]
    assert f"best: {best['places']}, robust accuracy" in said.out
    assert best["drop"] == measured["drop"]

    fresh, rest = split_held_out(Digits(), 20, seed=0)
    assert (reasons["images"], reasons["image_ids_sha256"]) == (20, digest(fresh.ids))
    assert (measured["images"], measured["image_ids_sha256"]) == (len(rest), digest(rest.ids))
    assert (reasons["attack"], reasons["level"]) == ("bernoulli and bernoulli_multiscale", 0.0125)
    assert (reasons["eps"], reasons["step"], reasons["budget"]) == (0.2, 0.2, 10)
    assert "attacks by bernoulli and bernoulli_multiscale" in said.out
    assert "--attack standard" in said.out

    # by other draws than those of the command
    arguments = written["init_args"]
    defense = FeatureNoise(**arguments) if "layers" in arguments else InputNoise(**arguments)
    loaded = resolve_victim("nearest_mean.WithSpare", None, Digits()).module
    meter = CleanCostMeter(loaded, rest, seed=1)
    cost = cost_of(meter.undefended, meter.times_right(defense, 0, 100), 100)
    assert abs(cost.drop - 0.05) < 0.03 + 4 * cost.error


def test_a_drop_that_nothing_costs_is_one_line(command):
    said = command(*(LINE + "--target_drop 0.97").split())
    assert said.status == 2
    assert said.err == "rfdlight: no candidate has a sigma that costs 97 points\n"
    assert "the pixels: no sigma costs 97 points" in said.out
    assert not Path("recommended.yaml").exists()


def test_a_victim_without_default_points_asks_for_layers(command):
    said = command(*LINE.replace("--layers [spare,pixels,distances] ", "").split())
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("rfdlight: --layers: expected layers, got none")
    assert "spare, pixels, distances" in said.err


def test_a_named_attack_confirms_alone(command, monkeypatch):
    monkeypatch.setattr(calibration, "ROUGH_IMAGES", 40)
    said = command(
        *(LINE + "--attack random_noise --output own.yaml").replace("spare,pixels,distances", "pixels").split()
    )
    assert (said.status, said.err) == (0, "")
    reasons = yaml.safe_load(Path("own.yaml").read_text())["recommendation"]
    assert (reasons["attack"], reasons["level"]) == ("random_noise", 0.025)
    assert "--attack random_noise" in said.out


def test_the_short_form_is_the_first_two_stages_with_one_error_level(elsewhere):
    sys.path.insert(0, str(elsewhere))
    loaded = resolve_victim("nearest_mean.WithSpare", None, Digits()).module
    fresh, _ = split_held_out(Digits(), 20, seed=0)
    data = GivenImages(fresh, 10)
    attack = StandardAttack(eps=0.2, access="decision")
    run = short_standard(loaded, data, attack, budget=8, device=torch.device("cpu"), seed=3)
    assert [stage.facts.attack for stage in run.stages] == list(attack.short_stages)
    assert (run.settings.level, run.stages[1].facts.seed) == (0.0125, 1003)
    left = {record.id for record in run.stages[0].records if record.verdict == "robust"}
    assert 0 < len(left) < 20
    assert set(run.stages[1].ids) == left
    assert run.combined.robust_accuracy.value == sum(record.is_robust for record in run.stages[1].records) / 20
