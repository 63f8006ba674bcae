import csv
import json

import pytest
from hand import broken, facts, record
from scipy.stats import binomtest

from rfdlight.commands.report import report
from rfdlight.errors import UserError


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a run directory below the current folder; return its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def write_run(name, records, **changes):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("seed_everything: 0\n")
        (folder / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
        # The numbers of the stored summary are wrong on purpose: the report computes its own.
        stored = {"run": facts(name=name, num_images=len(records), **changes), "mean_logits": "stale"}
        (folder / "summary.json").write_text(json.dumps(stored))
        return name

    return write_run


@pytest.fixture
def two(write):
    bare = write("bare", [broken(0, 1, l2=3.0), broken(1, 8, l2=4.0)], deterministic=True)
    noise = write(
        "noise",
        [record(0, first_screen9=9, candidates=1, votings=1, verdict="undecided", final_wrong=50), broken(1, 25)],
        budget=60,
        defense="feature_noise a|b",
    )
    return [bare, noise]


# Wilson's interval of 0.5 of 2, with z = 1.96: (0.25 + 0.960) / 2.921 = 0.414, give or take 0.671 * 0.578 = 0.388.
MARKDOWN = """\
# Runs side by side

|  | bare | noise |
| --- | --- | --- |
| attack | square | square |
| victim | digits_small | digits_small |
| defense | none | feature_noise a\\|b |
| data | digits | digits |
| ball | linf 0.2 | linf 0.2 |
| queries per image | 30 | 60 |
| judge | sequential | sequential |
| accounting | exact | exact |
| precision | float32 | float32 |
| images | 2 | 2 |
| mean logits: clean | 100.0% (34.2 to 100.0) | 100.0% (34.2 to 100.0) |
| mean logits: robust | 0.0% (0.0 to 65.8) | 50.0% (9.5 to 90.5) |
| lower, undecided as broken | 0.0% (0.0 to 65.8) | 0.0% (0.0 to 65.8) |
| robust at 30 queries | 0.0% (0.0 to 65.8) | 50.0% (9.5 to 90.5) |
| by the judge's calls | 0.0% (0.0 to 65.8) | 50.0% (9.5 to 90.5) |
| by the first 9-vote screen | 0.0% (0.0 to 65.8) | 0.0% (0.0 to 65.8) |
| single answer: clean | 100.0% (34.2 to 100.0) | 100.0% (34.2 to 100.0) |
| single answer: robust | 0.0% (0.0 to 65.8) | 25.0% (2.7 to 80.2) |
| attack success | 100.0% (34.2 to 100.0) | 50.0% (9.5 to 90.5) |
| undecided images | 0 | 1 |
| median queries to break | 4.5 | 25 |
| median linf of the broken | 0.2 | 0.2 |
| median l2 of the broken | 3.5 | 5 |
| billed per image | 4.5 | 27.5 |
| evaluated per image | 100 | 100 |
| judged per image | 25 | 25 |
| judge rows per attack row | 0.25 | 0.25 |

- Budgets differ: compare at 30 queries; an attack that plans with its budget may do better there when that is its budget.
- No run of random_noise is among these: it says what a ball of this size breaks by itself.
- Brackets hold 95% intervals. Take gaps within one pair only: mean logits or single answers.
- A run against a random victim can be repeated in distribution only.

![robust accuracy against queries](curves.png)
"""  # noqa: E501  a paragraph of Markdown


def test_markdown_holds_the_runs_side_by_side(two, tmp_path):
    report(two, "out")
    assert (tmp_path / "out" / "report.md").read_text() == MARKDOWN
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_csv_holds_every_number_of_each_run(two, tmp_path):
    report(two, "out")
    with (tmp_path / "out" / "report.csv").open(newline="") as file:
        bare, noise = csv.DictReader(file)
    common = {
        "attack": "square",
        "options": "defaults",
        "norm": "linf",
        "eps": "0.2",
        "judge": "sequential",
        "accounting": "exact",
        "eot": "1",
        "targeted": "False",
        "precision": "float32",
        "victim": "digits_small",
        "data": "digits",
        "seed": "0",
        "wall_seconds": "1.5",
        "complete": "True",
        "num_images": "2",
        "images": "2",
        "initially_wrong": "0",
        "unconfirmed": "0",
        "late": "0",
        "clean": "1.0",
        "robust_lower": "0.0",
        "first_screen9": "0.0",
        "single_draw_clean": "1.0",
        "common_budget": "30",
        "median_linf": "0.2",
        "max_linf": "0.2",
        "attack_rows": "180",
        "gradient_rows": "0",
        "observe_rows": "20",
        "judge_rows": "50",
        "padding_rows": "150",
        "rows": "400",
        "judge_ratio": "0.25",
        "padding_share": "0.375",
    }
    own = ["run", "budget", "defense", "deterministic", "broken", "undecided", "robust", "robust_at_common_budget"]
    own += ["single_draw_robust", "attack_success", "median_queries", "mean_queries", "median_l2", "max_l2"]
    own += ["billed", "declared"]
    first = ["bare", "30", "none", "True", "2", "0", "0.0", "0.0", "0.0", "1.0", "4.5", "4.5", "3.5", "4.0"]
    first += ["9", "0.0"]
    second = ["noise", "60", "feature_noise a|b", "False", "1", "1", "0.5", "0.5", "0.25", "0.5", "25", "25.0"]
    second += ["5.0", "5.0", "55", "0.5"]

    def exact(row):
        return {name: value for name, value in row.items() if not name.endswith(("_low", "_high"))}

    assert exact(bare) == {**common, **dict(zip(own, first, strict=True))}
    assert exact(noise) == {**common, **dict(zip(own, second, strict=True))}
    shares = [
        "clean",
        "robust",
        "robust_lower",
        "robust_at_common_budget",
        "first_screen9",
        "single_draw_clean",
        "declared",
    ]
    for row in (bare, noise):
        assert len(row) == len(common) + len(own) + 2 * 9
        for name in [*shares, "attack_success"]:
            low, high = binomtest(round(2 * float(row[name])), 2).proportion_ci(0.95, "wilson")
            assert (float(row[f"{name}_low"]), float(row[f"{name}_high"])) == pytest.approx((low, high), abs=1e-12)


def test_terminal_shows_the_runs_and_nothing_is_written_by_default(two, tmp_path, capsys):
    report(two)
    shown = capsys.readouterr().out
    lines = [" ".join(each.split()) for each in shown.splitlines()]
    assert "bare noise" in lines
    assert "mean logits: robust 0.0% (0.0 to 65.8) 50.0% (9.5 to 90.5)" in lines
    assert "mean logits: clean 100.0% (34.2 to 100.0) 100.0% (34.2 to 100.0)" in lines
    assert max(map(len, shown.splitlines())) <= 80
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "noise"]


def test_many_runs_are_shown_in_several_tables(write, capsys):
    report([write(f"run{i}", [record(0)]) for i in range(5)])
    shown = capsys.readouterr().out
    assert all(f"run{i}" in shown for i in range(5))
    assert shown.count("mean logits: robust") == 3
    assert max(map(len, shown.splitlines())) <= 80


def test_runs_of_one_budget_have_no_line_for_a_smaller_one(write, capsys):
    report([write("a", [record(0)]), write("b", [record(0)])])
    shown = capsys.readouterr().out
    assert "robust at" not in shown
    assert "Budgets differ" not in shown
    assert "NOT COMPARABLE" not in shown


def test_a_budget_is_cut_to_the_smaller_one(write, capsys):
    late = broken(1, 50)
    report([write("a", [record(0), record(1)]), write("b", [record(0), late], budget=60)])
    lines = [" ".join(each.split()) for each in capsys.readouterr().out.splitlines()]
    assert "robust at 30 queries 100.0% (34.2 to 100.0) 100.0% (34.2 to 100.0)" in lines
    assert "mean logits: robust 100.0% (34.2 to 100.0) 50.0% (9.5 to 90.5)" in lines


def said(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_other_images_are_said_to_be_incomparable(write, capsys):
    report([write("a", [record(0), record(1)]), write("b", [record(1), record(2)])])
    assert "NOT COMPARABLE: b and a have only 1 images in common." in said(capsys)


def test_other_data_are_said_to_be_incomparable(write, capsys):
    report([write("a", [record(0)]), write("b", [record(0)], data="cifar10")])
    assert "NOT COMPARABLE: the data of b and a differ." in said(capsys)


def test_other_rules_are_named(write, capsys):
    report([write("a", [record(0)]), write("b", [record(0)], eps=0.1, judge="paper")])
    assert "The runs differ in eps, judge." in said(capsys)


def test_an_incomplete_run_is_marked(write, capsys):
    name = write("a", [record(0)], complete=False)
    report([name])
    assert "INCOMPLETE: 1 of 1 images" in said(capsys)


def test_runs_of_one_name_are_told_apart_by_their_paths(write, capsys):
    report([write("x/run", [record(0)]), write("y/run", [record(0)])])
    assert "x/run y/run" in said(capsys)


def refusal(*args):
    with pytest.raises(UserError) as caught:
        report(*args)
    return str(caught.value)


def test_refusals_name_what_is_wrong(write, tmp_path):
    run = write("square-digits", [record(0)])
    assert refusal([]) == "expected at least one run directory, got none"
    assert refusal(["sqare-digits"]) == (
        "expected a run directory, got sqare-digits, which is no folder; did you mean square-digits?"
    )
    assert refusal(["elsewhere"]) == "expected a run directory, got elsewhere, which is no folder"
    assert refusal([run, f"./{run}"]) == "the run square-digits is given twice"
    assert refusal([run], run) == "square-digits is a run directory; give --output another folder"
    (tmp_path / "file").write_text("")
    assert refusal([run], "file") == "cannot write the report to file: File exists"


@pytest.mark.parametrize("output", [None, "out"])
def test_a_folder_that_is_no_run_is_refused_before_anything_is_written(write, tmp_path, output):
    run = write("run", [record(0)])
    (tmp_path / "run" / "summary.json").unlink()
    assert refusal([run], output) == "run is no run directory: it lacks summary.json"
    (tmp_path / "run" / "config.yaml").unlink()
    assert refusal([run], output) == "run is no run directory: it lacks config.yaml, summary.json"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stored", ["", "[]", "{}", '{"run": 3}', '{"run": null}', '"run"'])
def test_a_broken_summary_is_refused(write, tmp_path, stored):
    run = write("run", [record(0)])
    (tmp_path / "run" / "summary.json").write_text(stored)
    assert refusal([run]) == "run/summary.json is no summary of a run"


def test_a_summary_without_a_fact_is_refused(write, tmp_path):
    run = write("run", [record(0)])
    lacking = facts()
    del lacking["budget"]
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"run": lacking}))
    assert refusal([run]) == "run/summary.json lacks run.budget"


def test_a_broken_record_is_refused(write, tmp_path):
    run = write("run", [record(0)])
    with (tmp_path / "run" / "records.jsonl").open("a") as file:
        file.write('{"id": ')
    assert refusal([run]) == "run/records.jsonl, line 2, is no record"
