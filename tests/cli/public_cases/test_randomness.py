"""Victims that only look deterministic, and victims whose answers depend on the other rows of the batch.

Noise near the decision boundary alone: Aithal and Li, Boundary Defense Against Black-Box Adversarial Attacks,
https://ar5iv.labs.arxiv.org/html/2201.13444 . Randomness that a report hid:
https://github.com/coeff-giving/unrestricted-adversarial-examples/issues/65 . Batch statistics:
https://github.com/yaodongyu/TRADES/issues/3 and
https://github.com/Trusted-AI/adversarial-robustness-toolbox/issues/484 .
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from harness import others_slow
from msgspec.structs import replace
from safetensors import safe_open

from rfdlight.records.journal import Entry
from rfdlight.records.records import read_records
from rfdlight.records.schema import seal, unseal

VICTIMS = """
import torch
from torch import nn
from nearest_mean import NearestMean


class Base(NearestMean):
    passes = 0

    def forward(self, x):
        self.passes += 1
        return self.change(super().forward(x))


class BoundaryDefense(Base):
    def change(self, y):
        top = y.topk(2, 1).values
        return torch.where(top[:, :1] - top[:, 1:] < 4, y + 4 * torch.randn_like(y), y)


class RareEvents(Base):
    def change(self, y):
        return y + 20 * torch.randn_like(y) * (torch.rand(len(y), 1) < 0.02)


class LateNoise(Base):
    def change(self, y):
        return y + torch.randn_like(y) * (self.passes > 15)


class OneBuffer(Base):
    def change(self, y):
        if self.passes == 1:
            self.answer = torch.zeros(8, 10)
        return self.answer[: len(y)].copy_(y + torch.randn_like(y))


class TwoNetworks(Base):
    def change(self, y):
        return y * (1 + self.passes % 2)


class Drifting(Base):
    def change(self, y):
        return y + 0.1 * self.passes * torch.arange(10) / 10


class Steady(Base):
    def change(self, y):
        return y


class BatchStatistics(Base):
    def change(self, y):
        return nn.functional.batch_norm(y, None, None, training=True)


class SoftmaxOverTheBatch(Base):
    def change(self, y):
        return y.softmax(0)


class OneSeed(Base):
    def change(self, y):
        torch.manual_seed(0)
        return y + 50 * torch.randn_like(y)
"""
RUN = ("--data", "digits", "--data.num_images", "20", "--model.batch_size", "8", "--model.budget", "40", "--run", "run")
FINDING = "randomness"


@pytest.fixture(autouse=True)
def victims(nearest_mean, elsewhere):
    (elsewhere / "own_victims.py").write_text(VICTIMS)
    torch.manual_seed(0)
    yield
    sys.modules.pop("own_victims", None)


@pytest.fixture
def tested(command):
    """Attack one of the victims; return the exit status, the output and the summary, None where there is none."""

    def run(victim, *args, attack="square"):
        line = ("test", "--attack", attack, "--model.victim", f"own_victims.{victim}", *RUN, *args)
        said = command(*line)
        path = Path("run/summary.json")
        return said, json.loads(path.read_text()) if path.exists() else None

    return run


def checked(summary):
    return next(finding["state"] for finding in summary["consistency_checks"] if finding["check"] == FINDING)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "revealed"),
    [
        ("BoundaryDefense", True),
        ("RareEvents", True),
        ("LateNoise", True),
        ("OneBuffer", False),
        ("TwoNetworks", False),
        ("Drifting", False),
    ],
)
def test_a_victim_that_answers_the_same_image_differently_is_judged_by_the_mean_of_draws(victim, revealed, tested):
    said, summary = tested(victim, "--attack.eps", "0.15")
    assert said.status == 0, said.out
    assert not summary["run"]["deterministic"]
    assert (summary["run"]["random"]["revealed"] is not None) == revealed
    assert ("attacked anew" in said.out) == revealed
    assert checked(summary) == "warn"
    records = [json.loads(line) for line in Path("run/records.jsonl").read_text().splitlines()]
    assert len(records) == 20
    assert all(record["clean_evaluations"] >= 20 for record in records)
    assert all(record["final_evaluations"] >= 40 for record in records if record["verdict"] != "misclassified")
    # No row is lost to the count, those of the first attempt included.
    assert sum(summary["run"]["totals"].values()) == summary["run"]["forwarded"]


@pytest.mark.slow
def test_robust_accuracy_behind_noise_near_the_boundary_is_that_of_the_mean_of_many_draws(tested):
    _, summary = tested("BoundaryDefense", "--attack.eps", "0.1", "--model.keep_images", "20", attack="rays")
    with safe_open("run/images.safetensors", "pt") as file:
        points, ids = file.get_tensor("adversarial"), json.loads(file.metadata()["ids"])
    lines = Path("run/records.jsonl").read_text().splitlines()
    labels = {record["id"]: record["label"] for record in map(json.loads, lines)}
    victim = sys.modules["own_victims"].BoundaryDefense().eval()
    with torch.no_grad():
        mean = sum(victim(points) for _ in range(1000)) / 1000
    true = sum(int(each.argmax()) == labels[name] for name, each in zip(ids, mean, strict=True)) / len(ids)
    assert summary["mean_logits"]["robust_lower"]["value"] <= true + 0.1
    assert true - 0.1 <= summary["mean_logits"]["robust"]["value"]


@pytest.mark.slow
def test_a_deterministic_victim_stays_one(tested):
    said, summary = tested("Steady")
    assert said.status == 0
    assert summary["run"]["deterministic"]
    assert checked(summary) == "ok"


@pytest.mark.parametrize("images", ["3"])
@pytest.mark.parametrize("victim", others_slow(["BatchStatistics", "SoftmaxOverTheBatch"], 0))
def test_a_victim_whose_answer_depends_on_its_batch_is_refused(victim, images, tested):
    said, summary = tested(victim, "--data.num_images", images, "--data.selection", "random")
    assert (said.status, summary) == (2, None)
    assert "depends on the other images of its batch" in said.err
    assert "--model.batch_size 1" in said.err
    assert len(said.err.splitlines()) == 1
    assert not Path("run").exists()


@pytest.mark.slow
def test_noise_that_restarts_from_one_seed_in_every_pass_depends_on_the_place_in_the_batch(tested):
    said, _ = tested("OneSeed")
    assert said.status == 2
    assert "depends on the other images of its batch" in said.err


@pytest.mark.slow
def test_an_image_alone_in_its_pass_depends_on_no_other(tested):
    said, summary = tested("SoftmaxOverTheBatch", "--model.batch_size", "1", "--data.num_images", "4")
    assert said.status == 0
    assert summary["run"]["deterministic"]


@pytest.mark.slow
def test_a_run_that_turned_out_random_goes_on_as_such(tested, command):
    _, whole = tested("LateNoise", "--attack.eps", "0.15")
    path = Path("run/journal/0-0.jsonl")
    entries = [unseal(line, Entry) for line in path.read_bytes().splitlines()]
    assert any(entry.random for entry in entries)
    # As a kill leaves it: some records of single evaluations, and some by draws.
    records = read_records(Path("run/records.jsonl"))
    few = {"clean_evaluations": 1, "final_evaluations": 1, "clean_wrong": 0, "final_adversarial": 0}
    once = [replace(record, **few) for record in records[:9]]
    left = [entries[0], Entry(time=1.0, random=True), *(Entry(time=1.0, record=each) for each in once + records[5:7])]
    path.write_bytes(b"".join(seal(entry) + b"\n" for entry in left))
    for name in ("records.jsonl", "summary.json"):
        Path("run", name).unlink()
    assert command("test", "--resume", "run").status == 0
    after = read_records(Path("run/records.jsonl"))
    assert [record.id for record in after] == [record.id for record in records]
    assert all(record.clean_evaluations >= 20 for record in after)
    assert after[5:7] == records[5:7]
    summary = json.loads(Path("run/summary.json").read_text())
    assert not summary["run"]["deterministic"]
    assert whole["counts"]["images"] == summary["counts"]["images"] == 20
