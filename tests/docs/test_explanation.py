"""The Python of the explanations runs, and their figures are those of the stored records."""

import re
import tarfile

import pytest
from pages import ROOT, blocks

from rfdlight.core.statistics import mcnemar, wilson
from rfdlight.records.runs import load_run

EXPLANATION = ROOT / "docs/explanation"
RUNS = ("square", "signhunt", "rays", "signflip", "random", "nes")
VICTIMS = {"resnet20": "resnet20", "thin VGG19": "vgg19", "small ViT": "vit"}


def cells(text, head):
    """The rows of the table with a head, as lists of cells."""
    below = text[text.index(head) :]
    rows = re.match(r"(?:\|.*\n)+", below).group().splitlines()[2:]
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in rows]


@pytest.mark.parametrize("page", sorted(EXPLANATION.glob("*.md")), ids=lambda page: page.name)
def test_the_python_of_the_page_runs(page, quick_runs, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    bodies = blocks(page, "python")
    assert bodies
    for body in bodies:
        exec(body, {})
    assert capsys.readouterr().out


@pytest.fixture(scope="module")
def robust(tmp_path_factory):
    """Robust accuracy in percent of the stored runs behind the tables, by victim, noise and attack."""
    folder = tmp_path_factory.mktemp("paper")
    names = {f"{v}-{n}-{attack}" for v in VICTIMS.values() for n in ("feature", "input") for attack in RUNS}
    with tarfile.open(ROOT / "docs/results/reproduction-records.tar.xz") as archive:
        members = [each for each in archive if each.isfile() and each.name.split("/")[2] in names]
        archive.extractall(folder, members, filter="data")
    found = {}
    for run in sorted((folder / "runs/paper").iterdir()):
        victim, noise, attack = run.name.split("-")
        found[victim, noise, attack] = f"{100 * load_run(run).summary.mean_logits.robust.value:.1f}"
    return found


def test_the_attacks_on_the_page_leave_what_their_records_say(robust):
    rows = cells((EXPLANATION / "adaptive-attackers.md").read_text(), "| attack | how it uses")
    shown = {row[0].replace("random_noise", "random"): row[2] for row in rows}
    assert shown.pop("bernoulli") == "0.0 %"  # of the standard evaluation
    assert shown == {attack: f"{robust['resnet20', 'feature', attack]} %" for attack in RUNS}


def test_the_other_attacks_on_the_images_of_the_standard_leave_what_their_records_say(robust):
    head = "| victim | noise | `square`"
    page = (ROOT / "docs/results/standard-results.md").read_text()
    attacks = ("square", "signhunt", "rays", "signflip", "random", "nes")
    for victim, noise, *shown in cells(page, head):
        for attack, share in zip(attacks, shown, strict=False):
            assert share in ("-", robust.get((VICTIMS[victim], noise, attack)))


def test_the_intervals_and_the_least_number_of_images_of_the_page_on_statistics():
    text = (EXPLANATION / "statistics.md").read_text()
    for total, *shown in cells(text, "| images | 0 % robust"):
        for share, interval in zip((0, 0.1, 0.5), shown, strict=True):
            low, high = wilson(share * int(total), int(total))
            assert interval == f"{100 * low:.1f} to {100 * high:.1f}"
    assert "At least 6 such" in " ".join(text.split())
    assert mcnemar(0, 6) < 0.05 < mcnemar(0, 5)
