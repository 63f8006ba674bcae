"""The files of `rfdlight report`, and what it shows."""

import csv

import matplotlib.image
import pytest
from hand import adversarial, record
from scipy.stats import binomtest

from rfdlight.cli.report import report
from rfdlight.records.runs import load_runs
from rfdlight.reporting.report import READING_GRID, READING_PAIRS, compile_report
from rfdlight.reporting.report_files import FILES, write_report

# Wilson's interval of 0.5 of 2, with z = 1.96: (0.25 + 0.960) / 2.921 = 0.414, give or take 0.671 * 0.578 = 0.388.
# The comparison is of 0 and 1 discordant images of 2: half an image in each
# cell, (1.5 - 0.5) / 4, give or take 1.96 * sqrt(2 - 4 / 16) / 4 = 0.648.
MARKDOWN = """\
# Robust accuracy

| victim | defense | clean | square, 30 queries | square, 60 queries |
| --- | --- | --- | --- | --- |
| digits_small | undefended | 100.0% (34.2 to 100.0) | 0.0% (0.0 to 65.8) | - |
| digits_small | feature_noise a\\|b | 100.0% (34.2 to 100.0) | 50.0% (9.5 to 90.5) | 50.0% (9.5 to 90.5) |

Attacked in linf eps 0.2.

{cell}

# Defenses on the same images

| on | A | B | both | only A | only B | neither | B - A | 95% interval | p | p Holm |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| digits_small: square, 30 queries | undefended | feature_noise a\\|b | 0 | 0 | 1 | 1 | +50.0 | -39.8 to +89.8 | 1 | 1 |

{pairs}

# Runs side by side

|  | bare | noise |
| --- | --- | --- |
| attack | square | square |
| victim | digits_small | digits_small |
| defense | none | feature_noise a\\|b |
| data | digits | digits |
| ball | linf eps 0.2 | linf eps 0.2 |
| queries per image | 30 | 60 |
| success criterion | sequential | sequential |
| query counting | exact | exact |
| precision | float32 | float32 |
| images | 2 | 2 |
| clean accuracy (Definition 1) | 100.0% (34.2 to 100.0) | 100.0% (34.2 to 100.0) |
| robust accuracy (Definition 1) | 0.0% (0.0 to 65.8) | 50.0% (9.5 to 90.5) |
| lower bound (undecided counted as adversarial) | 0.0% (0.0 to 65.8) | 0.0% (0.0 to 65.8) |
| by the success criterion during the attack | 0.0% (0.0 to 65.8) | 50.0% (9.5 to 90.5) |
| by the first 9-vote success | 0.0% (0.0 to 65.8) | 0.0% (0.0 to 65.8) |
| expected single-query clean accuracy | 100.0% (34.2 to 100.0) | 100.0% (34.2 to 100.0) |
| expected single-query robust accuracy | 0.0% (0.0 to 65.8) | 25.0% (2.7 to 80.2) |
| attack success rate | 100.0% (34.2 to 100.0) | 50.0% (9.5 to 90.5) |
| misclassified before the attack | 0 | 0 |
| adversarial images | 2 | 1 |
| by the final evaluation only | 0 | 0 |
| unconfirmed successes | 0 | 0 |
| undecided images | 0 | 1 |
| queries to success | median 4.5, mean 4.5 | median 25, mean 25 |
| linf (adversarial) | median 0.2, max 0.2 | median 0.2, max 0.2 |
| l2 (adversarial) | median 3.5, max 4 | median 5, max 5 |
| billed queries per image | 4.5 | 27.5 |
| attack rows per image | 100 | 100 |
| criterion rows per image | 25 | 25 |
| criterion rows per attack row | 0.25 | 0.25 |
| victim rows | {rows} | {rows} |
| time | 1.5 s | 1.5 s |
| robust accuracy at 30 queries | 0.0% (0.0 to 65.8) | 50.0% (9.5 to 90.5) |

{caveats}

![robust accuracy against queries](curves.png)
"""
ROWS = "400 = 180 attack + 20 success check + 50 success criterion + 150 padding"


def test_markdown_holds_the_runs_side_by_side(two, tmp_path):
    report(two, "out")
    caveats = compile_report(load_runs(two)).caveats
    assert [caveat.split()[0] for caveat in caveats] == ["Budgets", "No", "Brackets", "A"]
    texts = {"cell": READING_GRID, "pairs": READING_PAIRS, "rows": ROWS}
    expected = MARKDOWN.format(caveats="\n".join(f"- {caveat}" for caveat in caveats), **texts)
    assert (tmp_path / "out" / "report.md").read_text() == expected
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_csv_holds_every_number_of_each_run_at_each_budget(two, tmp_path):
    report(two, "out")
    with (tmp_path / "out" / "report.csv").open(newline="") as file:
        bare, early, noise = csv.DictReader(file)
    read = ("at_budget", "robust_at_budget", "robust_lower_at_budget", "method_clean")
    assert [[line.pop(name) for name in read] for line in (bare, early, noise)] == [
        ["30", "0.0", "0.0", "1.0"],
        ["30", "0.5", "0.0", "1.0"],
        ["60", "0.5", "0.0", "1.0"],
    ]
    for line in (bare, early, noise):
        for name in read[1:]:
            del line[f"{name}_low"], line[f"{name}_high"]
    assert early == noise
    common = {
        "attack": "square",
        "options": "defaults",
        "norm": "linf",
        "eps": "0.2",
        "criterion": "sequential",
        "query_counting": "exact",
        "eot": "1",
        "targeted": "False",
        "precision": "float32",
        "victim": "digits_small",
        "data": "digits",
        "seed": "0",
        "wall_seconds": "1.5",
        "complete": "True",
        "failed": "0",
        "num_images": "2",
        "images": "2",
        "initially_wrong": "0",
        "unconfirmed": "0",
        "late": "0",
        "clean": "1.0",
        "robust_lower": "0.0",
        "first_9_vote_success": "0.0",
        "single_query_clean": "1.0",
        "common_budget": "30",
        "median_linf": "0.2",
        "max_linf": "0.2",
        "attack_rows": "180",
        "gradient_rows": "0",
        "success_check_rows": "20",
        "criterion_rows": "50",
        "padding_rows": "150",
        "rows": "400",
        "criterion_ratio": "0.25",
        "padding_share": "0.375",
    }
    own = ["run", "budget", "defense", "deterministic", "adversarial", "undecided", "robust", "robust_at_common_budget"]
    own += ["single_query_robust", "attack_success", "median_queries", "mean_queries", "median_l2", "max_l2"]
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
        "first_9_vote_success",
        "single_query_clean",
        "declared",
    ]
    for row in (bare, noise):
        assert len(row) == len(common) + len(own) + 2 * 9
        for name in [*shares, "attack_success"]:
            low, high = binomtest(round(2 * float(row[name])), 2).proportion_ci(0.95, "wilson")
            assert (float(row[f"{name}_low"]), float(row[f"{name}_high"])) == pytest.approx((low, high), abs=1e-12)


def test_terminal_shows_the_runs_in_detail_and_nothing_is_written_by_default(two, tmp_path, capsys):
    report(two, details=True)
    shown = capsys.readouterr().out
    lines = [" ".join(each.split()) for each in shown.splitlines()]
    assert "bare noise" in lines
    assert "robust accuracy (Definition 1) 0.0% (0.0 to 65.8) 50.0% (9.5 to 90.5)" in lines
    assert "clean accuracy (Definition 1) 100.0% (34.2 to 100.0) 100.0% (34.2 to 100.0)" in lines
    assert max(map(len, shown.splitlines())) <= 80
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "noise"]


def test_many_runs_are_shown_in_several_tables(write, capsys):
    report([write(f"run{i}", [record(0)]) for i in range(5)], details=True)
    shown = capsys.readouterr().out
    assert all(f"run{i}" in shown for i in range(5))
    assert shown.count("\nrobust accuracy (Definition 1)") == 3
    assert max(map(len, shown.splitlines())) <= 80


def test_runs_of_one_budget_have_no_line_for_a_smaller_one(write, capsys):
    report([write("a", [record(0)]), write("b", [record(0)])])
    shown = capsys.readouterr().out
    assert "robust accuracy at" not in shown
    assert "Budgets differ" not in shown
    assert "NOT COMPARABLE" not in shown


def test_a_budget_is_cut_to_the_smaller_one(write, capsys):
    late = adversarial(1, 50)
    report([write("a", [record(0), record(1)]), write("b", [record(0), late], budget=60)], details=True)
    lines = [" ".join(each.split()) for each in capsys.readouterr().out.splitlines()]
    assert "robust accuracy at 30 queries 100.0% (34.2 to 100.0) 100.0% (34.2 to 100.0)" in lines
    assert "robust accuracy (Definition 1) 100.0% (34.2 to 100.0) 50.0% (9.5 to 90.5)" in lines


def said(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_other_images_are_said_to_be_incomparable(write, capsys):
    report([write("a", [record(0), record(1)]), write("b", [record(1), record(2)])])
    assert "NOT COMPARABLE: b and a have only 1 images in common." in said(capsys)


def test_other_data_are_said_to_be_incomparable(write, capsys):
    report([write("a", [record(0)]), write("b", [record(0)], data="cifar10")])
    assert "NOT COMPARABLE: the data of b and a differ." in said(capsys)


def test_other_rules_are_named(write, capsys):
    report([write("a", [record(0)]), write("b", [record(0)], eps=0.1, criterion="paper")])
    assert "The runs differ in eps, success criterion." in said(capsys)


def test_an_incomplete_run_is_marked(write, capsys):
    name = write("a", [record(0)], complete=False)
    report([name])
    assert "INCOMPLETE: 1 of 1 images" in said(capsys)


def test_runs_of_one_name_are_told_apart_by_their_paths(write, capsys):
    report([write("x/run", [record(0)]), write("y/run", [record(0)])], details=True)
    assert "x/run y/run" in said(capsys)


def test_all_files_are_written_and_the_comparisons_to_one_of_their_own(four, tmp_path):
    report(four, "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    with (tmp_path / "out" / "paired.csv").open(newline="") as file:
        square, rays = csv.DictReader(file)
    low, high = (float(square.pop(f"difference_{bound}")) for bound in ("low", "high"))
    assert (low, high) == pytest.approx((-0.1657, 0.8323), abs=1e-4)
    assert square == {
        "victim": "digits_small",
        "data": "digits",
        "defense_a": "none",
        "attack_a": "square",
        "budget_a": "30",
        "defense_b": "noise",
        "attack_b": "square",
        "budget_b": "30",
        "images": "4",
        "both": "1",
        "only_a": "0",
        "only_b": "2",
        "neither": "1",
        "difference": "0.5",
        "p": "0.5",
        "p_holm": "1.0",
    }
    assert (rays["attack_b"], rays["only_a"], rays["only_b"]) == ("rays", "1", "1")


def test_loaded_runs_have_the_report_of_the_command(four, tmp_path):
    report(four, "out", [10, 30], compare="attacks")
    written = write_report(load_runs(four), tmp_path / "own", [10, 30], "attacks")
    assert written.subject == "attacks"
    for name in FILES:
        assert (tmp_path / "own" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_the_curves_are_a_picture_for_papers_too_the_same_at_every_time(four, tmp_path):
    report(four, "out")
    first = (tmp_path / "out" / "curves.pdf").read_bytes()
    report(four, "out")
    assert first.startswith(b"%PDF-")
    assert (tmp_path / "out" / "curves.pdf").read_bytes() == first


def test_every_file_says_that_attacks_are_compared(four, tmp_path):
    report(four, "out", compare="attacks")
    with (tmp_path / "out" / "paired.csv").open(newline="") as file:
        noise, none = csv.DictReader(file)
    assert (none["defense_b"], none["attack_a"], none["attack_b"], none["only_b"]) == ("none", "square", "rays", "3")
    assert (noise["defense_b"], noise["only_b"]) == ("noise", "1")
    texts = {name: (tmp_path / "out" / f"report.{name}").read_text() for name in ("md", "tex", "html")}
    assert "| digits_small: undefended, 30 queries | square | rays | 0 | 1 | 3 | 0 | +50.0 |" in texts["md"]
    assert "rays $-$ square & $3$ : $1$ & $+50.0$" in texts["tex"]
    assert "digits_small: undefended, 30 queries" in texts["html"]
    assert all("Attacks on the same images" in text for text in texts.values())


def test_many_runs_of_several_attacks_are_drawn_in_panels(write, four, tmp_path):
    def width(folder):
        return matplotlib.image.imread(tmp_path / folder / "curves.png").shape[1]

    report(four, "few")
    report([*four, write("more-rays", [record(0)], attack="rays", defense="more")], "many")
    assert (width("few"), width("many")) == (1125, 1080)


def test_worst_cases_stand_in_the_csv_file_too(four, tmp_path):
    report(four, "out", [10, 30])
    with (tmp_path / "out" / "report.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 8 + 4
    told = [
        [line[name] for name in ("run", "defense", "at_budget", "robust_at_budget", "robust_lower_at_budget", "images")]
        for line in lines
        if line["attack"] == "worst case"
    ]
    noise, none = "noise-square + noise-rays", "none-square + none-rays"
    assert told == [
        [noise, "noise", "10", "1.0", "1.0", "4"],
        [none, "none", "10", "0.25", "0.25", "4"],
        [noise, "noise", "30", "0.5", "0.25", "4"],
        [none, "none", "30", "0.0", "0.0", "4"],
    ]


def test_worst_cases_in_the_csv_file_say_their_accounting_and_the_queries_that_their_runs_share(write, tmp_path):
    runs = [
        write(f"{attack}-{query_counting}", [record(0)], attack=attack, query_counting=query_counting, budget=budget)
        for query_counting, budgets in (("exact", (30, 30)), ("paper", (30, 60)))
        for attack, budget in zip(("square", "rays"), budgets, strict=True)
    ]
    report(runs, "out")
    with (tmp_path / "out" / "report.csv").open(newline="") as file:
        worst = [line for line in csv.DictReader(file) if line["attack"] == "worst case"]
    assert [(line["query_counting"], line["at_budget"]) for line in worst] == [("exact", "30"), ("paper", "")]


def test_comparisons_of_an_earlier_report_do_not_stay_behind(two, tmp_path):
    report(two, "out")
    report(two[:1], "out")
    assert (tmp_path / "out" / "paired.csv").read_text().count("\n") == 1


def test_runs_under_the_papers_criterion_can_be_counted_as_its_code_does(write, capsys):
    # Called broken but standing, standing by the calls but broken at the end, and both agreed.
    records = [record(1, verdict="adversarial"), adversarial(2, 9), record(3)]
    records += [adversarial(number, 5, verdict="robust") for number in (0, 4)]
    runs = [write("paper", records, criterion="paper", query_counting="paper"), write("own", records)]
    report(runs, "final")
    report(runs, "declared", as_declared=True)
    capsys.readouterr()

    def cells(folder):
        with open(f"{folder}/report.csv") as file:
            return {row["criterion"]: float(row["robust"]) for row in csv.DictReader(file) if row["run"]}

    assert cells("final") == {"paper": 0.6, "sequential": 0.6}
    assert cells("declared") == {"paper (as declared)": 0.4, "sequential": 0.6}
