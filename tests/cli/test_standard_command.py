"""`rfdlight test --attack standard`."""

import json

import pytest

from rfdlight.cli.main import main

LINE = ["test", "--attack", "standard", "--data.num_images", "4", "--model.budget", "6", "--attack.access", "decision"]


def test_the_command_runs_all_stages_and_resumes(capsys, elsewhere):
    assert main([*LINE, "--run", "out", "--defense", "input_noise", "--defense.sigma", "0.02"]) == 0
    shown = capsys.readouterr().out
    assert "standard-1 (decision)" in shown
    assert "bernoulli_decision" in shown
    found = json.loads((elsewhere / "out/standard.json").read_text())
    assert found["settings"]["eps"] == 0.2
    assert "sigma" in found["settings"]["defense"]
    assert found["summary"]["counts"]["images"] == 4
    assert (elsewhere / "out/1-bernoulli_decision/summary.json").exists()
    assert main([*LINE, "--run", "out"]) == 2
    assert main([*LINE, "--resume", "out"]) == 3  # without its defense
    reasons = capsys.readouterr().err.splitlines()
    assert "already holds" in reasons[0]
    assert "defense is none" in reasons[1]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--attack", "standard-9"], "standard-1"),
        (["--attack", "standard", "--attack.rate", "2"], "--attack.rate"),
        (["--attack", "standard", "--model.criterion", "single"], "model.criterion"),
        (["--attack", "standard", "--attack.access", "gradient"], "access"),
        (["--attack", "standard", "--attack.norm", "l1"], "norm"),
    ],
)
def test_other_versions_and_options_are_refused_in_one_line(words, reason, capsys, elsewhere):
    assert main(["test", *words, "--data.num_images", "4"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert not list(elsewhere.iterdir())
