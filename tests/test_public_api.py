"""The public Python API: one test per rule of a call."""

import logging
import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from harness import centred_network, labelled, others_slow
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rfdlight as rfd

QUICK = {"attack": "square", "eps": 0.1, "budget": 12, "sanity_checks": False, "batch_size": 4}


@pytest.fixture
def model():
    return centred_network()


@pytest.fixture
def pair(model):
    return labelled(model, count=6, seed=0)


def test_every_public_name_resolves():
    for name in rfd.__all__:
        assert getattr(rfd, name) is not None
    assert set(rfd.__all__) <= set(dir(rfd))
    with pytest.raises(AttributeError):
        rfd.no_such_name  # noqa: B018


def test_import_is_light():
    code = (
        "import sys, rfdlight; print([m for m in ('torch', 'lightning', 'numpy', 'jsonargparse') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_run_has_the_habits_of_its_peers(model, pair):
    x, y = pair
    run = rfd.evaluate(model, (x, y), **QUICK)
    clean, robust = run
    assert float(clean) == 1.0
    assert 0 <= run.robust_accuracy.low <= float(robust) == run.robust_accuracy.value <= run.robust_accuracy.high <= 1
    assert run.adversarial.shape == x.shape
    assert float((run.adversarial - x).abs().max()) <= 0.1 + 1e-6
    assert run.queries.shape == run.success.shape == (6,)
    with torch.no_grad():
        assert torch.equal(model(run.adversarial).argmax(1) != y, run.success)
    frame = run.to_dataframe()
    assert list(frame["id"]) == [record.id for record in run.records]
    assert frame["billed"].tolist() == run.queries.tolist()
    assert "square" in str(run)
    assert "<table" in run._repr_html_()
    assert len(repr(run)) < 100
    assert "6 images" in repr(run)
    assert run.plot().get_xlabel()


def test_the_same_call_gives_the_same_records_as_the_command_line(tmp_path, model):
    from rfdlight.cli.main import main

    folder = tmp_path / "run"
    line = ["test", "--attack", "square", "--data.num_images", "8", "--model.budget", "20", "--model.batch_size", "4"]
    assert main([*line, "--model.sanity_checks", "false", "--run", str(folder)]) == 0
    data = rfd.data.Digits(num_images=8)
    run = rfd.evaluate("resnet8-digits", data, "square", budget=20, batch_size=4, sanity_checks=False)
    assert run.records == rfd.load_run(folder).records


@pytest.mark.parametrize(
    "form",
    others_slow(
        [
            lambda x, y: (x, y),
            lambda x, y: DataLoader(TensorDataset(x, y), batch_size=4),
            lambda x, y: [(x[:2], y[:2], ["a", "b"]), (x[2:], y[2:], ["c", "d", "e", "f"])],
            lambda x, y: zip(x, y, strict=True),
        ],
        2,
        3,
    ),
)
def test_all_forms_of_data_give_the_same_points(model, pair, form):
    runs = [rfd.evaluate(model, data, **QUICK) for data in (pair, form(*pair))]
    assert len(runs[1].records) == 6
    if "a" not in runs[1].by_id:
        assert torch.equal(runs[0].adversarial, runs[1].adversarial)


class Answer:
    def __init__(self, logits):
        self.loss, self.logits = None, logits


@pytest.mark.parametrize("wrap", others_slow([lambda z: (z, z), lambda z: {"logits": z}, Answer], 1))
def test_answers_that_hold_logits_are_unwrapped(model, pair, wrap):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return wrap(self.inner(x))

    one, other = rfd.evaluate(model, pair, **QUICK), rfd.evaluate(Wrapped(), pair, **QUICK)
    assert torch.equal(one.adversarial, other.adversarial)


def test_probabilities_are_warned_about(model, pair, caplog):
    with caplog.at_level(logging.WARNING, "rfdlight"):
        rfd.evaluate(nn.Sequential(model, nn.Softmax(1)), pair, **QUICK)
    assert sum("probabilities" in line for line in caplog.messages) == 1


@pytest.mark.parametrize(("precision", "lines"), [("tf32", 1), ("float32", 0)])
def test_tf32_without_a_cuda_device_is_warned_about(model, pair, caplog, precision, lines):
    with caplog.at_level(logging.WARNING, "rfdlight"):
        rfd.evaluate(model, pair, **QUICK, precision=precision, device="cpu")
    assert sum("tf32" in line for line in caplog.messages) == lines


def test_the_model_and_the_random_states_are_left_as_they_were(model, pair):
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    before = [(p.data_ptr(), p.stride(), p.requires_grad, p.clone()) for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    rfd.evaluate(model, pair, **QUICK, defense=rfd.InputNoise(sigma=0.05))
    after = [(p.data_ptr(), p.stride(), p.requires_grad, p.clone()) for p in model.parameters()]
    for old, new in zip(before, after, strict=True):
        assert old[:3] == new[:3]
        assert torch.equal(old[3], new[3])
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


def test_the_model_is_restored_after_an_error(model, pair):
    model.train()
    with pytest.raises(rfd.UserError):
        rfd.evaluate(model, pair, "square", budget=5)  # no eps
    assert all(module.training for module in model.modules())
    assert not model._forward_hooks


def test_an_attached_defense_is_honoured_like_a_given_one(model, pair):
    noise = rfd.InputNoise(sigma=0.3)
    given = rfd.evaluate(model, pair, **QUICK, final_evaluations=40, defense=noise)
    with noise.on(model):
        attached = rfd.evaluate(model, pair, **QUICK, final_evaluations=40)
    assert given.facts.defense == attached.facts.defense != "none"
    assert given.records == attached.records
    assert not given.facts.deterministic


def test_no_file_is_written_without_out(model, pair, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rfd.evaluate(model, pair, **QUICK)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


def test_a_run_directory_is_the_same_run(model, pair, tmp_path):
    run = rfd.evaluate(model, pair, **QUICK, out=tmp_path / "run")
    again = rfd.load_run(tmp_path / "run")
    assert again.records == run.records
    assert torch.equal(again.adversarial, run.adversarial)
    assert float(again.robust_accuracy) == float(run.robust_accuracy)
    before = (tmp_path / "run/fingerprint.json").read_bytes()
    with pytest.raises(rfd.UserError, match="already holds another run"):
        rfd.evaluate(model, pair, **QUICK | {"budget": 13}, out=tmp_path / "run")
    with pytest.raises(rfd.UserError, match="budget is 13, was 12"):
        rfd.evaluate(model, pair, **QUICK | {"budget": 13}, out=tmp_path / "run", resume=True)
    assert (tmp_path / "run/fingerprint.json").read_bytes() == before


@pytest.mark.parametrize("passes", others_slow([20, 26], 1))  # before and after the first images are finished
def test_an_interrupted_evaluation_goes_on(model, pair, tmp_path, passes):
    x, y = pair
    whole = rfd.evaluate(model, (x, y), **QUICK, pool_size=4)
    calls = 0

    def interrupt(module, inputs):
        nonlocal calls
        calls += 1
        if calls == passes:
            raise KeyboardInterrupt

    hook = model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        rfd.evaluate(model, (x, y), **QUICK, pool_size=4, out=tmp_path / "run")
    hook.remove()
    run = rfd.evaluate(model, (x, y), **QUICK, pool_size=4, out=tmp_path / "run", resume=True)
    assert run.records == whole.records
    assert torch.equal(run.adversarial, whole.adversarial)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eps": None}, ["eps"]),
        ({"attack": "squar"}, ["squar", "square"]),
        ({"attack": 3}, ["attack", "int"]),
        ({"budget": -1}, ["budget", "-1"]),
        ({"resume": True}, ["resume", "out"]),
        ({"defense": None}, ["defense", "None"]),
        ({"defense": "feature_noise.yaml"}, ["defense", "str"]),
        ({"defense": [rfd.InputNoise(0.1), torch.nn.Flatten()]}, ["defense", "Flatten"]),
        ({"defense": rfd.InputNoise}, ["defense", "the class InputNoise"]),
        ({"attack": rfd.attacks.RayS}, ["attack", "the class RayS"]),
        ({"eps": 12.0}, ["eps", "12"]),
    ],
)
def test_wrong_arguments_are_typed_errors_of_one_line(model, pair, changes, words):
    with pytest.raises(rfd.UserError) as caught:
        rfd.evaluate(model, pair, **QUICK | changes)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_an_attack_object_has_its_own_radius(model, pair):
    square = rfd.attacks.Square(eps=0.1)
    options = {"budget": 12, "sanity_checks": False, "batch_size": 4}
    assert torch.equal(
        rfd.evaluate(model, pair, square, **options).adversarial, rfd.evaluate(model, pair, **QUICK).adversarial
    )
    with pytest.raises(rfd.UserError, match="eps"):
        rfd.evaluate(model, pair, square, eps=0.2, **options)


def test_paired_comparison_and_report(model, pair, tmp_path):
    run = rfd.evaluate(model, pair, **QUICK)
    other = rfd.evaluate(model, pair, **QUICK | {"attack": "random_noise"})
    found = rfd.compare(run, other)
    assert found.both + found.only_first + found.only_second + found.neither == 6
    assert 0 <= found.p <= 1
    three = rfd.compare(run, other, run)
    assert len(three) == 3
    assert all(math.isfinite(one.p_holm) and one.p_holm >= one.p for one in three)
    rfd.report([run, other], tmp_path / "report")
    assert (tmp_path / "report" / "report.md").is_file() or list((tmp_path / "report").iterdir())


def test_lists_name_what_the_command_line_takes():
    assert {"square", "rays"} <= set(rfd.list_attacks())
    assert {"feature_noise", "aaa"} <= set(rfd.list_defenses())
    assert "digits" in rfd.list_data()
    assert "resnet8-digits" in rfd.list_victims()
    assert "sequential" in rfd.list_criteria()


def test_a_victim_adds_the_normalisation(pair):
    x, _ = pair
    network = nn.Flatten()
    assert torch.allclose(rfd.Victim(network, [0.5] * 3, [0.5] * 3)(x), ((x - 0.5) / 0.5).flatten(1))
    victim = rfd.load_victim("resnet8-digits")
    assert isinstance(victim, nn.Module)
    assert not victim.training
