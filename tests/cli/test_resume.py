"""`rfdlight test --resume RUN`: the same records, whatever ended the run."""

import json
import shutil
from pathlib import Path

import pytest
from hand import cut_journal
from harness import others_slow

from rfdlight.cli import main as cli
from rfdlight.errors import ResumeError
from rfdlight.evaluation.evaluation import Evaluation
from rfdlight.records.records import read_records

TEST = ("test", "--attack", "square", "--data.num_images", "10", "--model.budget", "6", "--model.batch_size",
        "4", "--model.sanity_checks", "false")  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a run that nothing stopped."""
    run = tmp_path_factory.mktemp("made") / "whole"
    assert cli.main([*TEST, "--run", str(run)]) == 0
    return run


@pytest.fixture
def whole(made, elsewhere):
    """A copy of it."""
    return Path(shutil.copytree(made, "whole"))


def killed(whole: Path, finished: int, torn: str = "") -> Path:
    """Return a copy of a run as SIGKILL leaves it after some images."""
    run = Path("killed")
    shutil.copytree(whole, run)
    lines = (run / "records.jsonl").read_text().splitlines()
    for name in ("records.jsonl", "summary.json", "curves.png", "images.safetensors"):
        (run / name).unlink()
    cut_journal(run, {json.loads(line)["id"] for line in lines[:finished]}, torn)
    return run


@pytest.mark.parametrize("finished", others_slow([0, 9], 0))
def test_a_killed_run_ends_with_the_records_of_one_that_was_not(finished, whole, command):
    run = killed(whole, finished, torn='{"id": "digits/te')
    said = command("test", "--resume", str(run))
    assert (said.status, said.err) == (0, "")
    assert (run / "records.jsonl").read_bytes() == (whole / "records.jsonl").read_bytes()
    one, two = (json.loads((each / "summary.json").read_text()) for each in (whole, run))
    assert (two["run"]["attempts"], two["run"]["killed_attempts"], two["run"]["damaged_lines"]) == (2, 1, 1)
    assert two["run"]["totals"]["criterion"] == one["run"]["totals"]["criterion"]
    assert two["counts"] == one["counts"]
    assert two["mean_logits"] == one["mean_logits"]
    assert (run / "config.yaml").read_bytes() == (whole / "config.yaml").read_bytes()


@pytest.mark.slow
def test_a_complete_run_stays_as_it_is(whole, command):
    before = (whole / "records.jsonl").read_bytes()
    assert command("test", "--resume", "whole").status == 0
    assert (whole / "records.jsonl").read_bytes() == before


def test_a_run_is_not_gone_on_with_in_another_folder(whole, command):
    said = command("test", "--resume", "whole", "--run", "other")
    assert (said.status, said.err) == (
        3, "rfdlight: cannot resume whole: a run stays in its folder; leave --run out\n",
    )  # fmt: skip
    assert not Path("other").exists()


@pytest.mark.slow
def test_a_random_victim_answers_a_resumed_run_with_new_noise(command):
    noisy = (*TEST, "--defense", "input_noise", "--defense.sigma", "0.3", "--model.final_evaluations", "40")
    assert command(*noisy, "--run", "whole").status == 0
    run = killed(Path("whole"), finished=0)
    assert command("test", "--resume", str(run)).status == 0
    one, two = (read_records(each / "records.jsonl") for each in (Path("whole"), run))
    assert [each.id for each in one] == [each.id for each in two]
    assert [each.final_margin for each in one] != [each.final_margin for each in two]


@pytest.mark.slow
def test_pool_and_devices_may_change(whole, command):
    run = killed(whole, 4)
    line = ("--model.pool_size", "3", "--trainer.accelerator", "cpu", "--trainer.devices", "1")
    assert command("test", "--resume", str(run), *line).status == 0
    assert (run / "records.jsonl").read_bytes() == (whole / "records.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("changed", "name"),
    others_slow(
        [
            (("--model.budget", "7"), "model.budget is 7, was 6"),
            (("--attack.eps", "0.1"), "attack.init_args.eps is 0.1, was None"),
        ],
        1,
    ),
)
def test_other_settings_are_refused(changed, name, whole, command):
    run = killed(whole, 4)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    said = command("test", "--resume", str(run), *changed)
    assert said.status == ResumeError.exit_status
    assert said.err == f"rfdlight: cannot resume {run}: two experiments would be mixed: {name}\n"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_other_weights_images_and_code_are_refused(whole, command):
    run = killed(whole, 4)
    known = json.loads((run / "fingerprint.json").read_text())
    for name in ("weights", "code of rfdlight"):
        (run / "fingerprint.json").write_text(json.dumps({**known, name: "another"}))
        said = command("test", "--resume", str(run))
        assert said.status == ResumeError.exit_status
        assert said.err.startswith(f"rfdlight: cannot resume {run}: two experiments would be mixed: {name} is ")
        assert said.err.endswith(", was another\n")
        assert not (run / "records.jsonl").exists()


@pytest.mark.slow
def test_the_code_of_a_users_defense_counts(command, monkeypatch, elsewhere):
    source = "from rfdlight.defenses.input_noise import InputNoise\n\n\nclass Mine(InputNoise):\n    pass\n"
    Path("own_noise.py").write_text(source)
    assert command(*TEST, "--defense", "own_noise.Mine", "--run", "whole").status == 0
    run = killed(Path("whole"), 4)
    Path("own_noise.py").write_text(source.replace("pass", "factor = 2"))
    said = command("test", "--resume", str(run))
    assert said.status == ResumeError.exit_status
    assert "two experiments would be mixed: code of own_noise is " in said.err


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("missing", "cannot resume missing: there is no missing/config.yaml"),
        ("old", "cannot resume old: it has no fingerprint.json, so no run was begun there"),
    ],
)
def test_what_is_no_run_is_refused(run, said, whole, command):
    shutil.copytree(whole, "old")
    Path("old/fingerprint.json").unlink()
    found = command("test", "--resume", run)
    assert (found.status, found.err) == (ResumeError.exit_status, f"rfdlight: {said}\n")


@pytest.mark.slow
def test_weights_that_are_changed_on_the_way_are_refused_before_the_first_query(command, monkeypatch):
    attack_all = Evaluation.run

    def change(self, device):
        next(self.subject.victim.parameters()).data.add_(1e-3)
        attack_all(self, device)

    monkeypatch.setattr(Evaluation, "run", change)
    said = command(*TEST, "--run", "changed")
    assert said.status == 2
    assert said.err == (
        "rfdlight: the victim's weights were changed after they were loaded; rfdlight test changes none\n"
    )
    assert not Path("changed").exists()
