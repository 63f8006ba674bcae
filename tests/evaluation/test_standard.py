"""The standard evaluation on small victims whose truth is known."""

import json
from collections import Counter

import pytest
import torch
from harness import centred_network, images, labelled
from scipy.stats import binom
from torch import nn

import rfdlight as rfd
from rfdlight.core.row_counter import RowCounter
from rfdlight.evaluation.config import EvaluationConfig
from rfdlight.evaluation.evaluate import prepared
from rfdlight.evaluation.processes import Processes
from rfdlight.evaluation.standard import StandardAttack, run_standard, standard
from rfdlight.records import run_directory
from rfdlight.records.standard import STAGES
from rfdlight.reporting import plots
from rfdlight.testing.small_victims import IidVictim, normal

QUICK = {"eps": 0.02, "budget": 12, "batch_size": 4}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Stages draw no curves: how they look is tested where they are drawn."""
    monkeypatch.setattr(plots, "draw_curves", lambda *_, **__: None)
    monkeypatch.setattr(plots, "save", lambda *_: None)


@pytest.fixture
def model():
    return centred_network()


@pytest.fixture
def pair(model):
    x, y = labelled(model, count=8, seed=0)
    y[0] = (y[0] + 1) % 5
    return x, y


def test_the_stages_attack_what_earlier_ones_left_and_the_ledger_has_every_row(model, pair, tmp_path):
    with RowCounter(model) as counter:
        run = standard(model, pair, **QUICK, out=tmp_path)
    assert run.rows.total == run.summary.ledger["rows"] == counter.rows
    assert [stage.facts.attack for stage in run.stages] == list(STAGES["linf"]["both"])
    left = {image.id for image in run.images}
    assert len(left) == 8
    for number, stage in enumerate(run.stages, 1):
        assert set(stage.ids) == left
        taken = {record.id for record in stage.records if record.verdict == "adversarial"}
        assert taken == {image.id for image in run.images if image.stage == number}
        assert run.summary.stages[number - 1].adversarial == len(taken)
        left -= taken | {record.id for record in stage.records if record.verdict == "misclassified"}
        folder = f"{number}-{stage.facts.attack}"
        assert rfd.load_run(tmp_path / folder).records == stage.records
        begun = json.loads((tmp_path / folder / "fingerprint.json").read_text())
        assert (begun["level"], begun["attacks_misclassified"]) == (0.025 / 6, number > 1)
    assert Counter(image.verdict for image in run.images)["misclassified"] == 1
    assert Counter(image.verdict for image in run.images)["adversarial"] >= 2
    assert {image.id for image in run.images if image.verdict == "robust"} == left
    assert run.summary.robust.value == len(left) / 8
    assert [image.id for image in run.images] == [f"image/{i:05d}" for i in range(8)]
    spent = Counter()
    for stage in run.stages:
        spent.update({record.id: record.billed for record in stage.records})
    assert all(image.queries == spent[image.id] for image in run.images)
    x = pair[0]
    with torch.no_grad():
        fooled = model(run.adversarial).argmax(1) != pair[1]
    assert fooled.tolist() == [image.verdict in ("adversarial", "misclassified") for image in run.images]
    assert float((run.adversarial - x).abs().max()) <= QUICK["eps"] + 1e-6
    assert "standard-1" in str(run)
    loaded = rfd.load_standard(tmp_path)
    assert str(loaded) == str(run)
    assert loaded.images == run.images
    assert torch.equal(loaded.adversarial, run.adversarial)
    assert tuple(run) == (run.clean_accuracy, run.robust_accuracy)


def test_a_stage_equals_the_ordinary_run_on_its_images(model, pair):
    run = standard(model, pair, **QUICK, access="score")
    for number in (0, 1):
        stage = run.stages[number]
        seed = 1000 * number
        alone = rfd.evaluate(model, pair, attack=stage.facts.attack, **QUICK, seed=seed, sanity_checks=False)
        assert stage.records == tuple(record for record in alone.records if record.id in stage.by_id)


def test_an_interrupted_evaluation_goes_on_in_its_second_stage(model, pair, tmp_path):
    whole = standard(model, pair, **QUICK, access="decision")
    calls = 0

    def interrupt(module, inputs):
        nonlocal calls
        calls += (tmp_path / "2-rays/fingerprint.json").exists()
        if calls == 12:
            raise KeyboardInterrupt

    hook = model.register_forward_pre_hook(interrupt)
    with RowCounter(model) as first, pytest.raises(KeyboardInterrupt):
        standard(model, pair, **QUICK, access="decision", out=tmp_path)
    hook.remove()
    with pytest.raises(rfd.UserError, match="finished"):
        rfd.load_standard(tmp_path)
    with pytest.raises(rfd.UserError, match="already holds"):
        standard(model, pair, **QUICK, access="decision", out=tmp_path)
    with pytest.raises(rfd.UserError, match="budget is 13, was 12"):
        standard(model, pair, **QUICK | {"budget": 13}, access="decision", out=tmp_path, resume=True)
    with RowCounter(model) as second:
        run = standard(model, pair, **QUICK, access="decision", out=tmp_path, resume=True)
    assert [stage.records for stage in run.stages] == [stage.records for stage in whole.stages]
    assert run.images == whole.images
    assert run.rows.total == first.rows + second.rows
    assert [stage.facts.attempts for stage in run.stages] == [1, 2]


def test_an_image_that_failed_in_a_finished_stage_stays_failed_when_a_later_one_goes_on(model, pair, tmp_path):
    x, _ = pair
    failing = [True]

    def fail(module, inputs, logits):
        bad = (inputs[0] == x[5]).flatten(1).all(1) & failing[0]
        return logits.masked_fill(bad[:, None], float("nan"))

    model.register_forward_hook(fail)
    run = standard(model, pair, **QUICK, access="decision", out=tmp_path)
    assert set(run.stages[0].facts.failed) == {"image/00005"}
    assert len(run.stages[1].records) >= 2
    failing[0] = False
    (tmp_path / "2-rays/summary.json").unlink()
    again = standard(model, pair, **QUICK, access="decision", out=tmp_path, resume=True)
    assert again.images == run.images
    assert again.summary.counts["failed"] == 1
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    with pytest.raises(rfd.UserError, match="two experiments"):
        standard(model, pair, **QUICK, access="decision", out=tmp_path, resume=True)


def test_the_standard_is_refused_in_the_place_of_one_attack(model, pair, tmp_path):
    with pytest.raises(rfd.UserError, match=r"got standard-1, which has several; call rfdlight\.standard"):
        rfd.evaluate(model, pair, StandardAttack(eps=0.1), budget=2, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_holds_one_evaluation(model, pair, tmp_path):
    alone = {**QUICK, "budget": 1}
    rfd.evaluate(model, pair, **alone, sanity_checks=False, out=tmp_path / "runs/one")
    for place in ("runs/one", "runs"):
        with pytest.raises(rfd.UserError, match="already holds another run"):
            standard(model, pair, **alone, access="decision", out=tmp_path / place)
    standard(model, pair, **alone, access="decision", out=tmp_path / "standard")
    with pytest.raises(rfd.UserError, match="already holds a standard evaluation"):
        rfd.evaluate(model, pair, **alone, out=tmp_path / "standard")
    assert not (tmp_path / "standard/journal").exists()


def test_an_error_before_the_first_query_leaves_no_folder(model, pair, tmp_path):
    calls, checks = [], [10**6]

    def fail(module, inputs):
        calls.append(len(inputs[0]))
        if len(calls) > checks[0]:
            raise rfd.UserError("model: not of this size")

    hook = model.register_forward_pre_hook(fail)
    with prepared(model, pair, (), None, 4):
        checks[0] = len(calls)
    calls.clear()
    with pytest.raises(rfd.UserError, match="not of this size"):
        standard(model, pair, **QUICK, access="decision", out=tmp_path / "out")
    hook.remove()
    assert not (tmp_path / "out").exists()


def test_a_kill_before_the_settings_are_written_leaves_a_folder_that_can_be_used(model, pair, tmp_path):
    config = tmp_path / "out/config.yaml"

    def killed():
        config.write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_standard(
            model,
            pair,
            StandardAttack(eps=0.02, access="decision"),
            EvaluationConfig(budget=12),
            Processes(),
            folder=config.parent,
            on_ready=killed,
        )
    assert run_directory.plan(str(config.parent), "") == config.parent
    standard(model, pair, **QUICK, access="decision", out=config.parent)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eps": None}, ["eps"]),
        ({"norm": "l1"}, ["norm", "l1"]),
        ({"norm": ["linf"]}, ["norm", "['linf']"]),
        ({"access": "gradient"}, ["access", "gradient"]),
        ({"access": ["score"]}, ["access", "['score']"]),
        ({"budget": "10"}, ["budget", "whole number", "'10'"]),
        ({"budget": 1.5}, ["budget", "whole number", "1.5"]),
        ({"seed": "a"}, ["seed", "whole number", "'a'"]),
        ({"eps": "a"}, ["eps", "positive number", "a"]),
        ({"resume": True}, ["resume", "out"]),
        ({"defense": [rfd.InputNoise]}, ["defense", "the class InputNoise"]),
    ],
)
def test_wrong_arguments_are_errors_of_one_line(model, pair, changes, words):
    with pytest.raises(rfd.UserError) as caught:
        standard(model, pair, **QUICK | changes)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)
    if not {"access", "resume"} & changes.keys():
        with pytest.raises(rfd.UserError) as caught:
            rfd.evaluate(model, pair, **QUICK | changes)
        assert all(word in str(caught.value) for word in words)


@pytest.mark.slow
def test_a_victim_that_is_right_in_the_mean_is_rarely_called_adversarial():
    torch.manual_seed(0)
    x, y = images(16, (1, 4, 4)), torch.zeros(16, dtype=torch.int64)
    model = IidVictim(normal(0.4), right_at_gray=False)
    run = standard(model, (x, y), eps=0.1, budget=6, batch_size=256)
    wrong = sum(image.verdict == "adversarial" for image in run.images)
    assert wrong <= binom.isf(1e-4, len(run.images), 0.05)
    assert run.summary.robust.value >= 0.85
    assert len(run.stages) == 6
    assert run.settings.level == 0.025 / 6


class LateNoise(nn.Module):
    """Predicts class 0, with noise from the 61st forward pass on."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        margin = 1.0 + 0 * x.flatten(1).sum(1)
        if self.passes > 60:
            margin = margin + 0.1 * torch.randn(len(x))
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def test_stages_are_void_if_the_victim_turns_out_to_be_random_later(tmp_path):
    x, y = images(3, (1, 4, 4)), torch.zeros(3, dtype=torch.int64)
    model = LateNoise()
    with RowCounter(model) as counter:
        run = standard(model, (x, y), eps=0.1, budget=8, access="decision", out=tmp_path)
    assert len(run.void) >= 2
    assert run.void[0].facts.deterministic
    assert not any(stage.facts.deterministic for stage in run.stages)
    assert all(record.final_evaluations > 1 for stage in run.stages for record in stage.records)
    assert run.rows.total == run.summary.ledger["rows"] == counter.rows
    assert (tmp_path / "random/1-bernoulli_decision/summary.json").exists()
    again = standard(model, (x, y), eps=0.1, budget=8, access="decision", out=tmp_path, resume=True)
    assert [stage.records for stage in again.void] == [stage.records for stage in run.void]
    assert again.images == run.images
    assert again.rows.total == counter.rows
