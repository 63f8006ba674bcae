"""`rfdlight reevaluate`: genuine and forged final points of a standard evaluation, and what it refuses."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from rfdlight.cli import main as cli
from rfdlight.data import Digits
from rfdlight.defenses import InputNoise
from rfdlight.errors import UserError
from rfdlight.evaluation.reevaluation import reevaluate
from rfdlight.evaluation.standard import load_standard
from rfdlight.records.images import FILE, read_images, read_points
from rfdlight.records.images import save as save_images
from rfdlight.records.leaderboard import entry_of, read_entries
from rfdlight.reporting import plots
from rfdlight.victims.resolve import resolve_victim

VICTIM = "nearest_mean.NearestMean"
NOISE = ["--defense", "input_noise", "--defense.sigma", "0.05"]
DATA = ["--data", "digits", "--data.num_images", "8"]
STANDARD = ["--attack", "standard", "--attack.access", "score", "--attack.eps", "0.3", "--model.budget", "20"]
EPS = 0.3


@pytest.fixture(scope="module")
def ran_once(tmp_path_factory):
    """A standard evaluation that keeps all final points."""
    folder = tmp_path_factory.mktemp("ran")
    (folder / "nearest_mean.py").write_text(Path(__file__).with_name("nearest_mean.py").read_text())
    line = ["test", *STANDARD, *DATA, *NOISE, "--model.victim", VICTIM, "--model.keep_images", "null", "--run", "run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(plots, "draw_curves", lambda *_, **__: None)
        patch.setattr(plots, "save", lambda *_: None)
        assert cli.main(line) == 0
    del sys.modules["nearest_mean"]
    return folder / "run"


@pytest.fixture
def run(ran_once, nearest_mean, elsewhere):
    """The run, where command lines find it."""
    sys.path.insert(0, str(elsewhere))
    shutil.copytree(ran_once, "run")
    return load_standard("run")


def again(run, points=None, defense=(), data=None):
    """Re-evaluate the run with other final points, or behind another defense."""
    path = None
    if points is not None:
        path = Path("points.safetensors")
        save_file({"adversarial": np.stack([*points.values()])}, path, {"ids": json.dumps([*points])})
    data = data or Digits(num_images=8)
    defense = defense or [InputNoise(sigma=0.05)]
    return reevaluate(run, entry_of(run.folder).digests, resolve_victim(VICTIM, None, data), data, defense, path)


def clean_images(run):
    clean, _, ids = read_images(run.folder / "1-bernoulli" / FILE)
    return dict(zip(ids, clean, strict=True))


def strongest(run):
    """The points in the ball where the linear victim's mean margin is smallest."""
    weights = resolve_victim(VICTIM, None, Digits(num_images=8)).module.distances.weight.data
    labels = {record.id: record.label for record in run.stages[0].records}
    points = {}
    for name, x in clean_images(run).items():
        toward = weights - weights[labels[name]]
        found = (torch.from_numpy(x) + EPS * toward.sign().view(-1, *x.shape)).clamp(0, 1)
        gained = (found.flatten(1) * toward).sum(1) - weights.square().sum(1) / 2
        gained[labels[name]] = -torch.inf
        points[name] = found[gained.argmax()].numpy()
    return points


def test_genuine_points_confirm_the_claim_and_stay_on_the_leaderboard(run, command):
    line = [*DATA, *NOISE, "--submission", "run", "--leaderboard", "board"]
    said = command("reevaluate", VICTIM, *line)
    assert (said.status, said.err) == (0, "")
    assert "turned round: 0 adversarial images are robust, 0 robust ones adversarial" in said.out
    entry = read_entries(Path("board"))["run"]
    found = entry.reevaluation
    assert entry.status == "re-evaluated"
    adversarial = run.summary.counts["adversarial"]
    assert 0 < adversarial < 8
    assert (found.robust, found.clean) == (run.robust_accuracy, run.clean_accuracy) == (entry.robust, entry.clean)
    assert found.draws.most >= 20  # fresh evaluations of a random victim, as many as the verdicts need
    page = Path("board/index.html").read_text()
    assert "0 of 8 turned round" in page
    # The draws are others each time, and the claim alone does not take the re-evaluation away.
    assert command("reevaluate", VICTIM, *line).status == 0
    second = read_entries(Path("board"))["run"].reevaluation
    assert second.seed != found.seed
    assert second.points == found.points
    assert command("report", "run", "--leaderboard", "board").status == 0
    assert read_entries(Path("board"))["run"].reevaluation == second


def test_the_point_of_an_image_is_that_of_the_stage_that_decided(run):
    kept = [read_points(stage.folder / FILE) for stage in run.stages]
    assert [points.keys() for points in kept] == [stage.by_id.keys() for stage in run.stages]
    number = {
        image.id: {"adversarial": (image.stage or 0) - 1, "misclassified": 0, "robust": -1}[image.verdict]
        for image in run.images
    }
    assert len({*number.values()}) == 3
    deciding = {name: kept[at][name] for name, at in number.items()}
    assert again(run).points == again(run, deciding).points != again(run, kept[0]).points


@pytest.mark.parametrize("undecided", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_point_of_an_undecided_image_is_that_of_its_last_undecided_stage(run, undecided):
    name = next(image.id for image in run.images if image.verdict == "robust")
    stages = list(run.stages)
    for number, stage in enumerate(stages[:undecided]):
        own = msgspec.structs.replace(stage.by_id[name], verdict="undecided", final_margin=0.5)
        stages[number] = replace(stage, records=tuple((stage.by_id | {name: own}).values()))
    changed = replace(run, stages=tuple(stages))
    image = next(image for image in changed.images if image.id == name)
    assert (image.verdict, changed.records[name].is_robust) == ("undecided", True)
    # A later stage found the image robust, by a weaker point, which is no evidence against the undecided one.
    points = [read_points(stage.folder / FILE)[name] for stage in run.stages]
    assert not np.array_equal(points[undecided - 1], points[-1])
    everywhere = dict(zip(run.ids, run.adversarial.numpy(), strict=True))
    found = again(changed)
    assert found.points == again(changed, everywhere | {name: points[undecided - 1]}).points
    assert np.array_equal(changed.adversarial[run.ids.index(name)].numpy(), points[undecided - 1])
    assert (found.robust, found.overturned.to_adversarial) == (run.robust_accuracy, 0)
    clean, _, ids = read_images(changed.stages[undecided - 1].folder / FILE)
    kept = read_points(changed.stages[undecided - 1].folder / FILE) | {name: strongest(run)[name]}
    save_images(changed.stages[undecided - 1].folder / FILE, {i: (x, kept[i]) for i, x in zip(ids, clean, strict=True)})
    assert again(changed).overturned.to_adversarial == 1


def test_points_that_are_not_adversarial_do_not_support_a_claim(run):
    found = again(run, clean_images(run))
    assert found.overturned.to_robust == run.summary.counts["adversarial"] > 0
    assert found.overturned.to_adversarial == 0
    assert found.robust == found.clean


def test_adversarial_points_refute_a_claim_of_robustness(run):
    found = again(run, strongest(run))
    assert found.overturned.to_adversarial > 0
    assert found.robust.value == run.robust_accuracy.value - found.overturned.to_adversarial / 8


def beyond(point, size):
    return np.where(point > 0.5, point - size, point + size).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda point: beyond(point, EPS + 1e-5), ["distance of at most 0.3 in linf, got 0.30001"]),
        (lambda point: point - 0.01, ["pixels in [0, 1], got from -0.01 to"]),
        (lambda point: point * np.float32(np.nan), ["pixels in [0, 1], got from nan"]),
    ],
)
def test_a_point_outside_the_ball_or_the_pixel_range_is_one_line(change, words, run):
    points = clean_images(run)
    last = [*points][-1]
    points[last] = change(points[last])
    with pytest.raises(UserError) as caught:
        again(run, points)
    assert str(caught.value).startswith(f"the point of {last}: expected ")
    assert all(word in str(caught.value) for word in words)


def test_points_of_other_images_shapes_and_types_are_one_line(run):
    points = clean_images(run)
    name, *rest = points
    shape = points[name].shape
    for changed, words in [
        ({other: points[other] for other in rest}, f"those of 8 images, got none of {name}; give one for each"),
        (points | {"digits/test/x\n": points[name]}, r"an unknown image digits/test/x\n"),
        ({each: point[:, :4] for each, point in points.items()}, f"expected the shape {shape}"),
        ({each: point.astype(np.float64) for each, point in points.items()}, "expected float32 points"),
    ]:
        with pytest.raises(UserError) as caught:
            again(run, changed)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    (run.folder / "5-parsimonious" / FILE).unlink()
    with pytest.raises(UserError, match=r"run with --model\.keep_images null"):
        again(run)


def test_another_victim_defense_or_data_than_the_runs_is_one_line(run):
    with pytest.raises(UserError, match=r"defense: expected InputNoise sigma 0.05 .*, got InputNoise sigma 0.04"):
        again(run, defense=[InputNoise(sigma=0.04)])
    with pytest.raises(UserError, match="give the --data options of the run"):
        again(run, data=Digits(num_images=4))
    digests = entry_of(run.folder).digests
    for name, claimed in {"weights": "victim: expected the weights", "images": "data: expected the images"}.items():
        data, other = Digits(num_images=8), msgspec.structs.replace(digests, **{name: "x"})
        victim = resolve_victim(VICTIM, None, data)
        with pytest.raises(UserError, match=claimed):
            reevaluate(run, other, victim, data, [InputNoise(sigma=0.05)])


def test_an_evaluation_with_fewer_stages_is_no_standard(run):
    settings = msgspec.structs.replace(run.settings, stages=["bernoulli"])
    with pytest.raises(UserError, match=r"expected standard-1 with bernoulli, .*, got standard-1 with bernoulli$"):
        again(replace(run, settings=settings))
