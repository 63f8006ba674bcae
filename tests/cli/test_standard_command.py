"""`rfdlight test --attack standard`, also from a file and in a sweep."""

import json
import signal
from pathlib import Path

import pytest

import rfdlight as rfd
from rfdlight.cli.main import main
from rfdlight.evaluation.attack_evaluation import AttackEvaluation
from rfdlight.evaluation.evaluation import Evaluation
from rfdlight.records.standard import STAGES

LINE = ["test", "--attack", "standard", "--data.num_images", "4", "--model.budget", "4", "--attack.access", "decision"]


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
    assert "already holds" in capsys.readouterr().err
    assert main(["test", "--resume", "out", "--model.budget", "5"]) == 3
    assert "model.budget is 5, was 4" in capsys.readouterr().err
    assert main(["test", "--resume", "out"]) == 0
    assert "standard-1 (decision)" in capsys.readouterr().out
    assert rfd.load_standard("out").stages[0].facts.attempts == 1
    assert main(["report", "out"]) == 0
    shown = capsys.readouterr().out
    assert "standard-1" in shown
    assert "access=decision" in shown
    assert "rays" not in shown


def test_a_file_names_it_with_its_options(capsys, elsewhere):
    Path("own.yaml").write_text("""
attack: {class_path: standard-1, init_args: {access: decision, eps: 8/255}}
model: {budget: 2}
data: {class_path: digits, init_args: {num_images: 3}}
""")
    assert main(["test", "--config", "own.yaml", "--attack.norm", "l2", "--attack.eps", "0.5", "--run", "out"]) == 0
    settings = rfd.load_standard("out").settings
    assert (settings.norm, settings.eps, settings.budget, settings.num_images) == ("l2", 0.5, 2, 3)
    assert settings.stages == list(STAGES["l2"]["decision"])


SWEEP = """
common:
  data: {class_path: digits, init_args: {num_images: 3}}
  model: {budget: 3}
axes:
  defense:
    none: {}
    noise: {defense: {class_path: input_noise, init_args: {sigma: 0.05}}}
  attack:
    square: {attack: square}
    standard: {attack: {class_path: standard, init_args: {access: decision}}}
"""


@pytest.mark.slow
def test_a_sweep_runs_it_as_a_cell_and_resumes_it(command, elsewhere):
    Path("both.yaml").write_text(SWEEP)
    plan = command("sweep", "both.yaml", "--dry_run", "true")
    assert (plan.status, plan.err) == (0, "")
    lines = [line.split() for line in plan.out.splitlines() if "none-standard" in line]
    assert lines[0][1:3] == ["3", "6"]
    assert command("sweep", "both.yaml").status == 0
    cell = Path("runs/both/noise-standard")
    report = (Path("runs/both/report-both/report.csv")).read_text().splitlines()
    assert [row.split(",")[0] for row in report[1:5]] == [
        "none-square", "none-standard", "noise-square", "noise-standard",
    ]  # fmt: skip
    # What a kill in the second stage leaves
    content = json.loads((cell / "standard.json").read_text())
    del content["summary"]
    (cell / "standard.json").write_text(json.dumps(content))
    (cell / "2-rays/summary.json").unlink()
    again = command("sweep", "both.yaml")
    assert again.status == 0
    assert "cell 1 of 1, noise-standard: robust" in again.out
    assert [stage.facts.attempts for stage in rfd.load_standard(cell).stages] == [1, 2]
    assert "0 of 4 to run" in command("sweep", "both.yaml", "--dry_run", "true").out


STANDARD_FIRST = """
common:
  data: {class_path: digits, init_args: {num_images: 3}}
  model: {budget: 3, victim: nearest_mean.NearestMean}
axes:
  attack:
    standard: {attack: {class_path: standard, init_args: {access: decision, eps: 0.001}}}
    square: {attack: square}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "stage"),
    [
        pytest.param("_end", "1-bernoulli_decision", id="at the end of the first stage"),
        pytest.param("run", "2-rays", id="at the begin of the second"),
    ],
)
def test_a_signal_in_a_stage_ends_the_sweep_which_goes_on_from_there(method, stage, command, nearest_mean, monkeypatch):
    Path("both.yaml").write_text(STANDARD_FIRST)
    unchanged = getattr(Evaluation, method)

    def signalled(self, argument):
        if self.writer.folder and self.writer.folder.name == stage:  # sanity checks have none
            signal.raise_signal(signal.SIGTERM)
        return unchanged(self, argument)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, method, signalled)
        said = command("sweep", "both.yaml")
    assert said.status == 1
    assert said.out.endswith("stopped; the same command goes on from here\n")
    assert not Path("runs/both/square").exists()
    assert Path("runs/both/standard/2-rays").exists() == (stage == "2-rays")
    assert command("sweep", "both.yaml").status == 0
    assert len(rfd.load_standard("runs/both/standard").stages) == 2


def test_a_cell_that_fails_in_its_second_stage_is_told_and_the_others_go_on(command, nearest_mean, monkeypatch):
    Path("both.yaml").write_text(STANDARD_FIRST)
    attack = Evaluation.run

    def fail(self, device):
        if self.writer.folder and self.writer.folder.name == "2-rays":
            raise rfd.UserError("the disk is full")
        attack(self, device)

    monkeypatch.setattr(Evaluation, "run", fail)
    said = command("sweep", "both.yaml")
    assert said.status == 1
    assert "standard failed: the disk is full" in said.out
    assert Path("runs/both/standard/1-bernoulli_decision/summary.json").exists()
    assert Path("runs/both/square/summary.json").exists()


@pytest.mark.parametrize("attack", [["standard", "--attack.access", "decision"], ["square"]], ids=" ".join)
def test_the_trainer_itself_reads_no_image(attack, nearest_mean, monkeypatch):
    read = []
    monkeypatch.setattr(AttackEvaluation, "test_step", lambda self, batch, index: read.append(batch))
    line = ["--data.num_images", "4", "--model.budget", "4", "--model.victim", "nearest_mean.NearestMean"]
    assert main(["test", "--attack", *attack, *line]) == 0
    assert read == []


def test_a_sweep_refuses_a_cell_that_cannot_run_before_the_first_runs(command, elsewhere):
    Path("both.yaml").write_text(SWEEP.replace("model: {budget: 3}", "model: {budget: 3, criterion: single}"))
    found = command("sweep", "both.yaml")
    assert found.status == 2
    assert "cell none-standard: " in found.err
    assert "model.criterion" in found.err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--attack", "standard-9"], "standard-1"),
        (["--attack", "standard", "--attack.rate", "2"], "attack.rate"),
        (["--attack", "standard", "--model.criterion", "single"], "model.criterion"),
        (["--attack", "standard", "--attack.access", "gradient"], "known: both, decision, score"),
        (["--attack", "standard", "--attack.norm", "l1"], "norm"),
        (["--attack", "standard", "--attack.norm", "l2"], "eps"),
    ],
)
def test_other_versions_and_options_are_refused_in_one_line(words, reason, capsys, elsewhere):
    assert main(["test", *words, "--data.num_images", "4"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert not list(elsewhere.iterdir())
