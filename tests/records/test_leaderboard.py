"""Entries of a leaderboard against the records of standard evaluations written by hand, and its page."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import msgspec
import pytest
from hand import adversarial, facts, record
from written_runs import write_standard

from rfdlight.cli import front
from rfdlight.records.leaderboard import Entry, entry_of, read_entries
from rfdlight.records.runs import Run
from rfdlight.records.schema import decode
from rfdlight.records.standard import Settings, Standard

SETTINGS = Settings(
    version="standard-1", norm="linf", eps=0.2, budget=30, access="decision", stages=["bernoulli_decision", "rays"],
    level=0.0125, seed=0, victim="digits_small", defense="none", data="digits", num_images=4,
)  # fmt: skip
WRONG = {"clean_verdict": "wrong", "clean_margin": -1.0, "verdict": "misclassified", "final_evaluations": 20}
UNDECIDED = {"verdict": "undecided", "final_margin": 0.1, "final_evaluations": 1500}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, broken=1, **changes):
    """Write an evaluation of four images: `broken` of the first two adversarial, one undecided, one wrong."""
    settings = msgspec.structs.replace(SETTINGS, **changes)
    own = {key: getattr(settings, key) for key in ("eps", "budget", "defense", "data", "norm")} | {"num_images": 4}
    first = [adversarial(i, 5, final_evaluations=40, final_adversarial=40) if i < broken else record(i) for i in (0, 1)]
    first += [record(2), record(3, **WRONG)]
    second = [record(i) for i in range(broken, 2)] + [record(2, **UNDECIDED)]
    stages = (
        Run.of(first, facts(attack="bernoulli_decision", **own)),
        Run.of(second, facts(attack="rays", seed=1000, **own)),
    )
    return write_standard(Standard(settings, stages), Path(name))


def report(*words, capsys):
    status = front.main(["report", *map(str, words)])
    said = capsys.readouterr()
    return status, said.err


def test_an_entry_has_the_numbers_of_the_records(capsys):
    folder = write("runs/mine")
    (folder / "submission.yaml").write_text(
        "name: Mine\nauthors: [A, B]\nlink: https://a.org/x?a=1&b=2\nvenue: 2024\nadditional_data: no\ncode:\n"
    )
    assert report(folder, "--leaderboard", "board", capsys=capsys) == (0, "")
    entry = decode(Path("board/entries/mine.json").read_bytes(), Entry)
    summary = Standard.load(folder).summary
    assert (entry.clean, entry.robust, entry.robust_lower) == (summary.clean, summary.robust, summary.robust_lower)
    assert [share.value for share in (entry.clean, entry.robust, entry.robust_lower)] == [3 / 4, 2 / 4, 1 / 4]
    for name in ("victim", "data", "defense", "norm", "eps", "budget", "access", "version", "stages"):
        assert getattr(entry, name) == getattr(SETTINGS, name)
    # 40 at the adversarial point, 100 and 1500 at the others; the wrong image's are of no final point.
    assert (entry.draws.least, entry.draws.median, entry.draws.most) == (40, 100, 1500)
    text = b"".join(path.read_bytes() for path in sorted(folder.glob("*/records.jsonl")))
    assert entry.digests.run == hashlib.sha256(text).hexdigest()
    assert (entry.digests.weights, entry.digests.images) == ("w" * 64, "i" * 64)
    assert (entry.status, entry.reevaluation) == ("claimed", None)
    about = entry.about
    assert (about.name, about.authors, about.venue, about.code) == ("Mine", "A, B", "2024", "")
    assert about.additional_data == "no"
    page = Path("board/index.html").read_text()
    assert 'href="https://a.org/x?a=1&amp;b=2"' in page
    assert "50.0%" in page
    assert "at least 25.0%" in page


def test_the_page_lists_all_entries_by_setting_and_robust_accuracy(capsys):
    write("runs/c-two", broken=2)
    write("runs/b-none", broken=0)
    assert report("runs", "--leaderboard", "board", capsys=capsys)[0] == 0
    write("more/a-one")
    write("more/small", budget=10)
    write("more/<b>", broken=2, eps=0.1)
    assert report("more", "--leaderboard", "board", capsys=capsys)[0] == 0
    page = Path("board/index.html").read_text()
    heads = re.findall(r"<h2>(digits.*)</h2>", page)
    assert [re.search(r"eps (\S+), (\S+) queries", head).groups() for head in heads] == [
        ("0.1", "30"), ("0.2", "10"), ("0.2", "30"),
    ]  # fmt: skip
    assert re.findall(r"<tr><th><b>(.*?)</b>", page) == ["&lt;b&gt;", "small", "b-none", "a-one", "c-two"]
    Path("board/index.html").unlink()
    assert report("--leaderboard", "board", capsys=capsys)[0] == 0
    assert Path("board/index.html").read_text() == page


def test_a_run_given_again_keeps_its_date_and_another_of_its_name_is_refused(capsys):
    report(write("runs/mine"), "--leaderboard", "board", capsys=capsys)
    path = Path("board/entries/mine.json")
    path.write_text(path.read_text().replace(read_entries(Path("board"))["mine"].date, "2001-02-03"))
    Path("runs/mine/submission.yaml").write_text('{"name": "Ours"}')
    report("runs/mine", "--leaderboard", "board", capsys=capsys)
    entry = read_entries(Path("board"))["mine"]
    assert (entry.date, entry.about.name) == ("2001-02-03", "Ours")
    before = path.read_bytes()
    status, said = report(write("other/mine", broken=2), "--leaderboard", "board", capsys=capsys)
    assert status == 2
    assert said == "rfdlight: board has an entry mine of another run; rename the folder of one of the two\n"
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("autors: A", ["unknown field 'autors'", "authors"]),
        ("link: javascript:alert(1)", ["link: expected", "https://"]),
        ("name: {a: b}", ["name: expected a text"]),
        ("[]", ["mapping"]),
        ("name: [", ["submission.yaml"]),
    ],
)
def test_a_submission_that_cannot_be_used_is_one_line(content, words, capsys):
    folder = write("runs/mine")
    (folder / "submission.yaml").write_text(content)
    status, said = report(folder, "--leaderboard", "board", capsys=capsys)
    assert (status, said.count("\n")) == (2, 1)
    assert all(word in said for word in words)
    assert not Path("board").exists()


def test_other_runs_and_damaged_entries_are_one_line(capsys):
    folder = write("runs/mine")
    status, said = report(folder / "2-rays", "--leaderboard", "board", capsys=capsys)
    assert (status, said) == (
        2, "rfdlight: leaderboard: expected folders of standard evaluations, got the run 2-rays\n",
    )  # fmt: skip
    report(folder, "--leaderboard", "board", capsys=capsys)
    path = Path("board/entries/mine.json")
    content = json.loads(path.read_text())
    for change in ({"status": "re-evaluated"}, {"name": "x"}, {"robust": 3}, {"about": {"code": "javascript:0"}}):
        path.write_text(json.dumps(content | change))
        status, said = report("--leaderboard", "board", capsys=capsys)
        assert (status, said.count("\n")) == (2, 1)
        assert said.startswith(f"rfdlight: {path}: ")


def test_failed_images_are_no_way_to_a_higher_share():
    folder = write("runs/mine", num_images=5)
    with pytest.raises(ValueError, match="expected results on all 5 images, got 1 that failed"):
        entry_of(folder)


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"stages": ["bernoulli_decision"]}, "standard-1 with bernoulli_decision"),
        ({"stages": ["bernoulli_decision", "rays", "rays"]}, "standard-1 with bernoulli_decision, rays, rays"),
        ({"stages": ["rays", "bernoulli_decision"]}, "standard-1 with rays, bernoulli_decision"),
        ({"version": "standard-1, short form"}, "standard-1, short form with bernoulli_decision, rays"),
    ],
)
def test_other_stages_than_those_of_the_version_are_one_line(changes, got, capsys):
    settings = msgspec.structs.replace(SETTINGS, **changes)
    own = {"eps": 0.2, "budget": 30, "num_images": 4}
    found = [facts(attack=name, seed=1000 * number, **own) for number, name in enumerate(settings.stages)]
    folder = write_standard(Standard(settings, tuple(Run.of([record(0)], each) for each in found)), Path("runs/mine"))
    status, said = report(folder, "--leaderboard", "board", capsys=capsys)
    assert (status, said) == (2, f"rfdlight: {folder}: expected standard-1 with bernoulli_decision, rays, got {got}\n")
    assert not Path("board").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("options", "steps=3"), ("criterion", "single"), ("query_counting", "paper"), ("eot", 4), ("targeted", True),
        ("precision", "bfloat16"), ("eps", 0.1), ("budget", 10),
    ],
)  # fmt: skip
def test_a_stage_of_other_options_is_one_line(name, value, capsys):
    folder = write("runs/mine")
    path = folder / "2-rays/summary.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"run": content["run"] | {name: value}}))
    status, said = report(folder, "--leaderboard", "board", capsys=capsys)
    assert (status, said) == (
        2, f"rfdlight: {path.parent}: expected a stage of standard-1 in {folder}, got one of other {name}\n",
    )  # fmt: skip


def test_a_missing_stage_is_one_line(capsys):
    folder = write("runs/mine")
    shutil.rmtree(folder / "2-rays")
    status, said = report(folder, "--leaderboard", "board", capsys=capsys)
    assert (status, said.count("\n")) == (2, 1)
    assert "expected a finished standard evaluation, got one with images left" in said
