"""Attacks with a surrogate in a whole evaluation: its name, its checks, resumption and report."""

import json

import pytest
import torch
from harness import centred_network, images
from torch import nn

import rfdlight as rfd
from rfdlight.attacks import PRGF, Transfer
from rfdlight.cli.main import main
from rfdlight.data import Digits
from rfdlight.evaluation import fingerprint
from rfdlight.records.run_folders import load_runs
from rfdlight.reporting.grid import build_grid

QUICK = {"budget": 3, "sanity_checks": False, "progress": False}


def network(classes=5, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, classes))


def evaluated(attack, **options):
    x = images(4, (3, 8, 8))
    victim = centred_network()
    with torch.no_grad():
        return rfd.evaluate(victim, (x, victim(x).argmax(1)), attack, **QUICK, **options)


def test_a_shipped_surrogate_is_loaded_by_its_name_and_named_with_its_weights(tmp_path):
    attack = Transfer("resnet8-digits", eps=0.05, points=2, steps=2)
    run = rfd.evaluate("resnet8-digits", Digits(num_images=4), attack, out=tmp_path / "run", **QUICK)
    facts = run.facts
    assert facts.options == "surrogate resnet8-digits, points 2, steps 2"
    assert facts.surrogate.startswith("resnet8-digits: resnet8 trained on digits, weights sha256 ")
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert stored["run"]["surrogate"] == facts.surrogate
    assert sum(vars_of(facts.totals)) == facts.forwarded


def vars_of(rows):
    return [getattr(rows, name) for name in rows.__struct_fields__]


def test_a_given_network_is_named_by_its_class_and_weights():
    one, other = (evaluated(PRGF(network(seed=seed), eps=0.05)).facts for seed in (0, 1))
    assert one.options == other.options == "surrogate Sequential, step 0.005"
    assert one.surrogate.startswith("Sequential, weights ")
    assert one.surrogate != other.surrogate


@pytest.mark.slow
def test_a_resumed_run_needs_the_same_surrogate(tmp_path):
    attack, out = Transfer(network(), eps=0.05, points=1, steps=1), tmp_path / "run"
    before = evaluated(attack, out=out)
    assert evaluated(attack, out=out, resume=True).records == before.records
    assert "weights of the surrogate" in fingerprint.read(out)
    changed = Transfer(network(seed=1), eps=0.05, points=1, steps=1)
    with pytest.raises(rfd.UserError, match=r"^cannot resume [^\n]*surrogate is Sequential[^\n]*$"):
        evaluated(changed, out=out, resume=True)


class Wrapped(nn.Module):
    """Answers with a dictionary that holds the logits."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        return {"features": x, "logits": self.inner(x)}


def test_logits_are_taken_out_of_the_surrogates_answer():
    plain, wrapped = (evaluated(Transfer(made, eps=0.05)) for made in (network(), Wrapped()))
    assert torch.equal(plain.adversarial, wrapped.adversarial)


class Rounds(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        return self.inner(x.detach())


@pytest.mark.parametrize(
    ("surrogate", "text"),
    [
        (network(7), r"expected a network of 5 classes, .*'Sequential'.*\(2, 7\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 5)), "'Sequential' does not take images of 3 x 8 x 8: "),
        (Rounds(), "expected a differentiable network, got 'Rounds'"),
        ("nothing", "unknown victim 'nothing'"),
        ("timm:nothing", "unknown network 'nothing'"),
    ],
)
def test_a_surrogate_that_does_not_fit_is_refused_in_one_line(surrogate, text):
    with pytest.raises(rfd.UserError, match=rf"^attack\.surrogate: {text}[^\n]*$"):
        evaluated(Transfer(surrogate, eps=0.05))


def test_without_a_surrogate_the_attack_is_refused():
    with pytest.raises(rfd.UserError, match=r"^attack\.surrogate: expected a network or its name, got None"):
        evaluated("transfer", eps=0.05)


def test_the_command_line_takes_a_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = [
        "test",
        "--attack",
        "prgf",
        "--data.num_images",
        "3",
        "--model.budget",
        "3",
        "--model.sanity_checks",
        "false",
    ]
    named = ["--attack.surrogate", "resnet8-digits", "--run", "run"]
    assert main([*line, *named]) == 0
    shown = capsys.readouterr().out
    assert "prgf with a surrogate resnet8-digits against resnet8-digits" in " ".join(shown.split())
    assert main(["test", "--resume", "run"]) == 0
    capsys.readouterr()
    for more in ([], ["--attack.surrogate", "nothing"]):
        assert main([*line, *more]) == 2
        error = capsys.readouterr().err
        assert "attack.surrogate" in error
        assert len(error.splitlines()) == 1


def test_a_report_puts_attacks_with_a_surrogate_apart(tmp_path):
    named = {"surrogate": Transfer(network(), eps=0.05), "square": "square", "noise": "random_noise"}
    for name, attack in named.items():
        eps = {} if name == "surrogate" else {"eps": 0.05}
        evaluated(attack, out=tmp_path / name, **eps)
    grid = build_grid(load_runs([str(tmp_path / name) for name in named]))
    labels = [(column.label, column.worst) for column in grid.columns]
    assert labels == [
        ("square", False),
        ("random_noise", False),
        ("transfer, surrogate Sequential", False),
        ("worst case", True),
    ]
    assert list(grid.rows[0].cells[-1].runs) == ["square", "random_noise"]
