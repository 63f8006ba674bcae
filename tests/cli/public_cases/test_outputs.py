"""What runs print and store, after public reports: names as they are typed, and numbers that say what they are."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

import rfdlight
from rfdlight._io import plain_console
from rfdlight.data import CIFAR10
from rfdlight.engine import Oracle
from rfdlight.engine.evaluations import EvaluationState
from rfdlight.engine.probe import probe
from rfdlight.records.records import read_records
from rfdlight.records.runs import load_run

QUICK = (
    "--attack", "random_noise", "--data.num_images", "6", "--data.selection", "first", "--model.budget", "2",
    "--model.sanity_checks", "false", "--model.batch_size", "6",
)  # fmt: skip

OWN = """
import torch
from torch import nn
from nearest_mean import NearestMean
from rfdlight.data import ImageData, Images
from rfdlight.data.digits import Digits

class First(NearestMean):
    def forward(self, x):
        return super().forward(x[:, :1].expand(-1, 3, -1, -1))

class Base(ImageData):
    name = "own"; num_classes = 10; default_victim = "own.First"; reference_eps = 0.2
    classes = ["zero<b>", "[one]", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    def load(self, split):
        digits = Digits().images("test")
        pixels = digits.pixels[:8, :1].repeat(1, len(self.mean), 1, 1)
        return Images(pixels, digits.labels[:8].clone(), [f"own/test/{i}" for i in range(8)])

def of(channels):
    return type(f"Of{channels}", (Base,), {"mean": (0.5,) * channels, "std": (0.25,) * channels, "__module__": "own"})

Of1, Of2, Of13 = map(of, (1, 2, 13))

def soft():
    return nn.Sequential(NearestMean(), nn.Softmax(1))

class Shifted(Digits):
    def load(self, split):
        images = super().load(split)
        return Images(images.pixels, (images.labels + (torch.arange(len(images.labels)) % 2)) % 10, images.ids)
"""


@pytest.fixture
def own(elsewhere, nearest_mean):
    """Put a module with data of several channels, and victims that are quick on them, into the working folder."""
    (elsewhere / "own.py").write_text(OWN)
    yield
    sys.modules.pop("own", None)


# Brackets and other signs in names


@pytest.mark.slow
@pytest.mark.parametrize("name", ["[bold]:warning:$a_b$"])
def test_a_run_directory_is_printed_by_its_name(command, nearest_mean, name):
    """https://github.com/Textualize/rich/issues/2323 and https://github.com/Textualize/rich/issues/3203"""
    said = command("test", *QUICK, "--model.victim", "nearest_mean.NearestMean", "--run", name)
    assert said.status == 0
    assert said.out.splitlines()[-1].endswith(f": {name}")
    told = command("report", name, "--output", f"{name}-out")
    assert told.status == 0
    assert told.out.rstrip().endswith(f": {name}-out")


@pytest.mark.slow
def test_a_long_path_is_printed_in_one_line(command, nearest_mean, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    name = "/".join(["a_folder_with_a_long_name"] * 4)
    said = command("test", *QUICK, "--model.victim", "nearest_mean.NearestMean", "--run", name)
    assert said.out.splitlines()[-1].endswith(f": {name}")


def test_every_console_prints_brackets_as_they_are(capsys):
    plain_console().print("[bold]x[/bold] :warning:")
    assert capsys.readouterr().out == "[bold]x[/bold] :warning:\n"
    sources = Path(rfdlight.__file__).parent.rglob("*.py")
    assert [path.name for path in sources if re.search(r"\bConsole\(", path.read_text())] == ["_io.py"]


# Images of other numbers of channels


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "said"), [(1, ""), (13, "3 of 13")])
def test_images_of_any_number_of_channels_are_in_the_report(command, own, channels, said):
    """https://github.com/bethgelab/foolbox/issues/630 and https://github.com/cleverhans-lab/cleverhans/issues/392"""
    assert command("test", *QUICK, "--data", f"own.Of{channels}", "--run", "run").status == 0
    assert command("report", "run", "--output", "out").status == 0
    page = Path("out/report.html").read_text()
    assert page.count("data:image/png;base64,") == 1 + 3 * 6
    assert ("Pictures show" in page) == bool(said)
    assert said in page
    assert "label 0 zero&lt;b&gt;, predicted" in page
    assert load_run("run").facts.classes[1] == "[one]"


# Misclassified images and predictions


@pytest.mark.slow
def test_an_image_misclassified_before_the_attack_has_a_verdict_of_its_own(command, own):
    line = ("--data", "own.Shifted", "--model.victim", "nearest_mean.NearestMean", "--run", "run")
    assert command("test", *QUICK, *line).status == 0
    records = read_records(Path("run/records.jsonl"))
    wrong = [record for record in records if not record.clean_correct]
    assert len(wrong) == 3
    assert {record.verdict for record in wrong} == {"misclassified"}
    assert all(record.clean_prediction == record.final_prediction != record.label for record in wrong)
    right = [record for record in records if record.clean_correct]
    assert right
    assert all(record.clean_prediction == record.label for record in right)
    for record in right:
        assert (record.verdict == "adversarial") == (record.final_prediction != record.label)
    assert json.loads(Path("run/summary.json").read_text())["counts"]["initially_wrong"] == len(wrong)
    assert command("report", "run", "--output", "out").status == 0
    assert "misclassified before the attack" in Path("out/report.html").read_text()


def test_a_tie_of_the_clean_logits_goes_to_the_first_class_and_the_prediction_says_so():
    evaluations = EvaluationState.open(torch.tensor([0, 1]), 3, 1)
    rows = torch.tensor([0, 1])
    evaluations.add(rows, torch.zeros(2, 3))
    assert evaluations.mean_label(rows).tolist() == [0, 0]


# Probabilities instead of logits


def test_a_victim_that_answers_with_probabilities_is_cautioned_before_the_attack(command, own):
    said = command("test", *QUICK, "--model.victim", "own.soft", "--run", "soft")
    assert said.status == 0
    cautions = [line for line in said.out.splitlines() if line.startswith("warning")]
    assert len(cautions) == 1
    assert "probabilities" in cautions[0]
    assert said.out.index("warning") < said.out.index("robust accuracy (Definition 1)")
    assert "warning" not in command("test", *QUICK, "--model.victim", "nearest_mean.NearestMean").out


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (torch.nn.Softmax(1), True),
        (torch.nn.Identity(), False),
        (torch.nn.LogSoftmax(1), False),
        (torch.nn.Sigmoid(), False),
        (torch.nn.ReLU(), False),
    ],
)
def test_only_rows_that_add_up_to_one_are_probabilities(last, expected):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5), last)
    points = torch.rand(4, 3, 2, 2)
    assert probe(Oracle(network, 4), points).probabilities is expected
    if expected:
        assert probe(Oracle(torch.nn.Sequential(network, Half()), 4), points).probabilities


class Half(torch.nn.Module):
    """Rounds to half precision, as after automatic mixed precision."""

    def forward(self, x):
        return x.bfloat16()


# What reports say


@pytest.mark.slow
def test_the_audit_names_the_checks_that_were_not_made_and_the_page_shows_all(command, nearest_mean):
    said = command("test", *QUICK, "--model.victim", "nearest_mean.NearestMean", "--run", "run")
    line = next(line for line in said.out.splitlines() if "skipped: " in line and "step" in line)
    assert "eps 0, random noise, step" in line
    assert command("report", "run", "--output", "out").status == 0
    page = Path("out/report.html").read_text()
    assert "<h2>Consistency checks</h2>" in page
    for check in ("eps 0", "clean accuracy", "rows"):
        assert f"<td>{check}</td>" in page


@pytest.mark.slow
def test_the_ball_of_the_runs_is_in_every_form_of_the_report(command, nearest_mean):
    for eps in ("0.1", "0.2"):
        line = ("--model.victim", "nearest_mean.NearestMean", "--attack.eps", eps, "--run", f"runs/{eps}")
        assert command("test", *QUICK, *line).status == 0
    said = command("report", "runs", "--output", "out")
    assert said.status == 0
    texts = [said.out, *(Path("out", f"report.{kind}").read_text() for kind in ("md", "html", "tex"))]
    assert all("linf eps 0.1 and linf eps 0.2" in " ".join(text.split()) for text in texts)


@pytest.mark.slow
def test_a_folder_of_runs_is_reported_without_those_that_are_not_finished(command, nearest_mean):
    for name in ("runs/a", "runs/below/b"):
        line = ("--model.victim", "nearest_mean.NearestMean", "--run", name)
        assert command("test", *QUICK, *line).status == 0
    Path("runs/unfinished/journal").mkdir(parents=True)
    said = command("report", "runs", "--output", "out")
    assert said.status == 0
    runs = {line.partition(",")[0] for line in Path("out/report.csv").read_text().splitlines()[1:]}
    assert {"a", "b"} <= runs
    assert command("report", "runs", "runs/a").status == 2
    Path("empty").mkdir()
    refused = command("report", "empty")
    assert refused.status == 2
    assert re.fullmatch(r"rfdlight: empty .*\n", refused.err)


def test_the_classes_of_cifar10_have_names():
    assert len(CIFAR10.classes) == CIFAR10.num_classes
