"""The whole path: a victim is trained, broken and defended, by the commands that a user types."""

import json
import math
import os
import signal
import statistics
import sys
from pathlib import Path

import pytest
import torch
from harness import others_slow
from msgspec.structs import asdict
from safetensors import safe_open

from rfdlight.cli import main as cli
from rfdlight.data import Digits
from rfdlight.engine import Engine
from rfdlight.evaluation.attack_evaluation import AttackEvaluation
from rfdlight.evaluation.evaluation import Evaluation
from rfdlight.records.records import read_records
from rfdlight.records.runs import load_run
from rfdlight.victims.answers import AsLogits
from rfdlight.victims.card import read_card

IMAGES, BUDGET = 16, 50
# RayS is the strongest attack here at so few queries; a row per image of a pass wastes the fewest.
ATTACK = [
    "test", "--attack", "rays", "--attack.eps", "0.3", "--model.budget", str(BUDGET), "--model.final_evaluations", "40",
    "--model.batch_size", str(IMAGES), "--data.num_images", str(IMAGES), "--data.selection", "random",
    "--model.sanity_checks", "false",
]  # fmt: skip
NOISE = ["--defense", "feature_noise", "--defense.layers", "[layer1,layer2,layer3]", "--defense.sigma", "0.6"]
TINY = ["--attack", "square", "--model.budget", "5", "--data.num_images", "5", "--model.batch_size", "5"]


def run(folder: Path, *args: str) -> int:
    return cli.main([*args, "--run", str(folder)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The run directory of a few epochs of training."""
    folder = tmp_path_factory.mktemp("end_to_end") / "trained"
    options = [
        "--data.batch_size",
        "32",
        "--trainer.max_epochs",
        "2",
        "--trainer.enable_progress_bar",
        "false",
        "--trainer.accelerator",
        "cpu",
    ]
    assert run(folder, "fit", "-c", "fit/resnet8_digits", *options) == 0
    return folder


@pytest.fixture(scope="module")
def attacked(tmp_path_factory) -> Path:
    """The run directory of the attack on the undefended, shipped victim."""
    folder = tmp_path_factory.mktemp("undefended") / "attacked"
    assert run(folder, *ATTACK) == 0
    return folder


@pytest.fixture(scope="module")
def defended(attacked: Path) -> Path:
    """The run directory of the same attack on the defended victim."""
    folder = attacked.parent / "defended"
    assert run(folder, *ATTACK, *NOISE) == 0
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def withstood(folder: Path) -> list[int]:
    """Whether no query was a success, in order of the images' ids; what RayS submits at its end was never queried."""
    records = read_records(folder / "records.jsonl")
    return [int(record.clean_correct and record.success_query is None) for record in records]


def test_a_small_victim_trains_in_seconds(trained):
    card = read_card(trained / "victim.json")
    assert card.clean_total == 599
    assert card.clean_accuracy > 0.7
    assert card.command.startswith("rfdlight fit -c fit/resnet8_digits ")
    assert (trained / "config.yaml").is_file()


def test_the_attack_succeeds_and_noise_hides_successes_from_it(attacked, defended):
    adversarial, kept = summary_of(attacked), summary_of(defended)
    assert adversarial["mean_logits"]["clean"]["value"] > 0.85
    assert adversarial["mean_logits"]["robust"]["value"] < 0.5
    assert adversarial["run"]["deterministic"]
    assert not kept["run"]["deterministic"]
    assert kept["run"]["defense"] == "FeatureNoise sigma 0.6 at the output of layer1, layer2, layer3"

    # The images are the same, so the errors are those of their differences; two more images, one that the noise
    # saves and one that it loses, keep the error above zero where all differences agree (Agresti and Coull).
    gains = [after - before for before, after in zip(withstood(attacked), withstood(defended), strict=True)]
    gains += [1, -1]
    assert statistics.mean(gains) > 2 * statistics.stdev(gains) / math.sqrt(len(gains))


@pytest.mark.parametrize("which", ["attacked", "defended"])
def test_a_run_directory_is_complete_and_agrees_with_itself(request, which):
    folder = request.getfixturevalue(which)
    files = {
        "config.yaml",
        "fingerprint.json",
        "journal",
        "records.jsonl",
        "summary.json",
        "curves.png",
        "images.safetensors",
    }
    assert {path.name for path in folder.iterdir()} == files
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    records, summary = read_records(folder / "records.jsonl"), summary_of(folder)
    findings = summary["consistency_checks"]
    assert [finding["check"] for finding in findings if finding["state"] == "fail"] == []
    assert summary == json.loads(load_run(folder).summary_json())
    assert summary["run"]["complete"]
    assert len({record.id for record in records}) == IMAGES
    totals = summary["run"]["totals"]
    for kind in ("attack", "gradient", "success_check", "criterion"):
        # The look at the victim before the attack belongs to no image.
        assert sum(asdict(record)[kind] for record in records) <= totals[kind]
    assert sum(record.attack for record in records) == totals["attack"]
    for record in records:
        assert record.billed == record.attack + record.success_check <= BUDGET
        assert record.linf <= 0.3 + 1e-6


def test_the_kept_pixels_are_those_of_the_records(attacked):
    records = {record.id: record for record in read_records(attacked / "records.jsonl")}
    with safe_open(attacked / "images.safetensors", "pt") as file:
        ids = json.loads(file.metadata()["ids"])
        clean, adversarial = file.get_tensor("clean"), file.get_tensor("adversarial")
    data = Digits(num_images=IMAGES, selection="random").attacked()
    assert 8 < len(ids) <= 16
    assert torch.equal(clean, data.read([data.ids.index(image_id) for image_id in ids]) / 255)
    changes = (adversarial - clean).abs().amax((1, 2, 3)).tolist()
    assert changes == pytest.approx([records[image_id].linf for image_id in ids])


def test_both_runs_attack_the_same_images(attacked, defended):
    one, two = (read_records(folder / "records.jsonl") for folder in (attacked, defended))
    assert [record.id for record in one] == [record.id for record in two]
    assert [record.label for record in one] == [record.label for record in two]


def test_the_report_puts_both_side_by_side(attacked, defended, elsewhere, capsys):
    assert cli.main(["report", str(attacked), str(defended), "--output", "report", "--details", "true"]) == 0
    assert {path.name for path in Path("report").iterdir()} == {
        "report.html", "report.md", "report.tex", "report.csv", "paired.csv", "curves.png",
        "curves.pdf",
    }  # fmt: skip
    text = Path("report/report.md").read_text()
    assert "NOT COMPARABLE" not in text
    shown = capsys.readouterr().out
    for folder in (attacked, defended):
        robust = f"{100 * summary_of(folder)['mean_logits']['robust']['value']:.1f}%"
        for place in (text, shown):
            assert folder.name in place
            assert robust in place


def test_one_set_of_weights_gives_the_same_records_by_card_by_timm_and_by_import(trained, elsewhere):
    (elsewhere / "end_to_end_victim.py").write_text(
        "from pathlib import Path\n"
        "from rfdlight.victims.card import load_victim\n\n\n"
        f"def build():\n    return load_victim(Path({str(trained / 'victim.json')!r}))[0]\n"
    )
    weights = str(trained / "victim.safetensors")
    forms = {
        "card": ["--model.victim", str(trained / "victim.json")],
        "timm": ["--model.victim", "timm:resnet8", "--model.checkpoint", weights],
        "import": ["--model.victim", "end_to_end_victim.build"],
    }
    for name, form in forms.items():
        assert run(elsewhere / name, "test", *TINY, "--model.sanity_checks", "false", *form) == 0
    sys.modules.pop("end_to_end_victim")
    lines = {name: sorted((elsewhere / name / "records.jsonl").read_bytes().splitlines()) for name in forms}
    assert len(lines["card"]) == 5
    assert lines["card"] == lines["timm"] == lines["import"]
    assert summary_of(elsewhere / "timm")["run"]["victim"].startswith(f"timm:resnet8 with {weights}, weights sha256 ")


@pytest.mark.parametrize("number", others_slow([signal.SIGINT, signal.SIGTERM], 1))
def test_a_signal_ends_the_run_with_what_it_has(trained, elsewhere, monkeypatch, capsys, number):
    write = Evaluation.on_record

    def write_and_signal(self, record):
        write(self, record)
        if self._done == 2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Evaluation, "on_record", write_and_signal)
    before = signal.getsignal(number)
    # Five rows at a time, so that most images still wait when the second one is done.
    status = run(
        elsewhere / "stopped", "test", *TINY, "--data.num_images", "60", "--model.pool_size", "5",
        "--model.victim", str(trained / "victim.json"),
    )  # fmt: skip
    assert status == 1
    assert capsys.readouterr().err == "rfdlight: stopped before all images were done; the records so far are kept\n"
    assert signal.getsignal(number) == before
    records, summary = read_records(elsewhere / "stopped/records.jsonl"), summary_of(elsewhere / "stopped")
    assert 2 <= len(records) < 20
    assert not summary["run"]["complete"]
    assert (summary["counts"]["images"], summary["run"]["num_images"]) == (len(records), 60)
    findings = summary["consistency_checks"]
    assert [finding["check"] for finding in findings if finding["state"] == "fail"] == []
    assert summary == json.loads(load_run(elsewhere / "stopped").summary_json())


def test_a_failure_inside_the_engine_leaves_signals_and_hooks_as_they_were(trained, elsewhere, monkeypatch, capsys):
    def fail(self, ready):
        raise RuntimeError("a fault of the test's")

    seen = []
    setup = AttackEvaluation.setup
    monkeypatch.setattr(AttackEvaluation, "setup", lambda self, stage: (setup(self, stage), seen.append(self))[0])
    monkeypatch.setattr(Engine, "_query", fail)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert run(elsewhere / "failed", "test", *TINY, *NOISE, "--model.victim", str(trained / "victim.json")) == 2
    # The fault is in a file that is neither rfdlight's nor a library's, as that of a user's attack.
    assert "a fault of the test's (" in capsys.readouterr().err
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    for module in seen[0].victim.modules():
        assert all(isinstance(hook, AsLogits) for hook in module._forward_hooks.values())  # part of every victim
        assert not module._forward_pre_hooks
