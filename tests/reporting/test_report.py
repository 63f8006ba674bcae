"""The files of `rfdlight report`, and what it shows."""

import csv

import pytest
from hand import adversarial, record
from scipy.stats import binomtest

from rfdlight.cli.report import report_runs
from rfdlight.records.run_folders import load_runs
from rfdlight.reporting import report_files
from rfdlight.reporting.comma_separated import grid_csv, paired_csv
from rfdlight.reporting.formats import markdown
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

Attacked in linf eps 0.2, 2 images, budget 30 to 60 queries per image.

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
| options | defaults | defaults |
| surrogate | none | none |
| victim | digits_small | digits_small |
| defense | none | feature_noise a\\|b |
| data | digits | digits |
| ball | linf eps 0.2 | linf eps 0.2 |
| queries per image | 30 | 60 |
| success criterion | sequential | sequential |
| query counting | exact | exact |
| evaluations per query | 1 | 1 |
| precision | float32 | float32 |
| images | 2 | 2 |
| clean accuracy (Definition 1) | 100.0% (34.2 to 100.0) | 100.0% (34.2 to 100.0) |
| robust accuracy (Definition 1) | 0.0% (0.0 to 65.8) | 50.0% (9.5 to 90.5) |
| undecided images as adversarial | 0.0% (0.0 to 65.8) | 0.0% (0.0 to 65.8) |
| undecided images as robust | 0.0% (0.0 to 65.8) | 50.0% (9.5 to 90.5) |
| by the success criterion during the attack | 0.0% (0.0 to 65.8) | 50.0% (9.5 to 90.5) |
| by the first 9-vote success | 0.0% (0.0 to 65.8) | - |
| majority-vote clean accuracy | 100.0% (34.2 to 100.0) | 100.0% (34.2 to 100.0) |
| majority-vote robust accuracy | 0.0% (0.0 to 65.8) | 0.0% (0.0 to 65.8) |
| expected single-query clean accuracy | 100.0% (34.2 to 100.0) | 100.0% (34.2 to 100.0) |
| expected single-query robust accuracy | 0.0% (0.0 to 65.8) | 25.0% (2.7 to 80.2) |
| attack success rate | 100.0% (34.2 to 100.0) | 50.0% (9.5 to 90.5) |
| misclassified before the attack | 0 | 0 |
| adversarial images | 2 | 1 |
| by the final evaluation only | 0 | 0 |
| unconfirmed successes | 0 | 0 |
| undecided images | 0, 0 with a heavy tail | 1, 0 with a heavy tail |
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
ROWS = "400 = 180 attack + 20 success check + 50 success criterion + 30 checks + 120 padding"


def compiled(names, *args):
    return compile_report(load_runs(names), *args)


def lines_of(text):
    return list(csv.DictReader(text.splitlines()))


def test_markdown_holds_the_runs_side_by_side(two):
    made = compiled(two)
    assert [caveat.split()[0] for caveat in made.caveats] == ["Numbers", "Brackets", "A"]
    texts = {"cell": READING_GRID, "pairs": READING_PAIRS, "rows": ROWS}
    assert markdown(made) == MARKDOWN.format(caveats="\n".join(f"- {caveat}" for caveat in made.caveats), **texts)


def test_csv_holds_every_number_of_each_run_at_each_budget(two):
    bare, early, noise = lines_of(grid_csv(compiled(two)))
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
        "heavy_tailed": "0",
        "majority_clean": "1.0",
        "majority_robust": "0.0",
        "single_query_clean": "1.0",
        "common_budget": "30",
        "median_linf": "0.2",
        "max_linf": "0.2",
        "attack_rows": "180",
        "gradient_rows": "0",
        "success_check_rows": "20",
        "criterion_rows": "50",
        "checks_rows": "30",
        "padding_rows": "120",
        "rows": "400",
        "criterion_ratio": "0.25",
        "padding_share": "0.3",
    }
    own = ["run", "budget", "defense", "deterministic", "adversarial", "undecided", "robust", "robust_at_common_budget"]
    own += ["single_query_robust", "attack_success", "median_queries", "mean_queries", "median_l2", "max_l2"]
    own += ["billed", "declared", "robust_upper", "first_9_vote_success"]
    first = ["bare", "30", "none", "True", "2", "0", "0.0", "0.0", "0.0", "1.0", "4.5", "4.5", "3.5", "4.0"]
    first += ["9", "0.0", "0.0", "0.0"]
    second = ["noise", "60", "feature_noise a|b", "False", "1", "1", "0.5", "0.5", "0.25", "0.5", "25", "25.0"]
    second += ["5.0", "5.0", "55", "0.5", "0.5", ""]

    def exact(row):
        return {name: value for name, value in row.items() if not name.endswith(("_low", "_high"))}

    assert exact(bare).items() >= {**common, **dict(zip(own, first, strict=True))}.items()
    assert exact(noise).items() >= {**common, **dict(zip(own, second, strict=True))}.items()
    shares = [
        "clean",
        "robust",
        "robust_lower",
        "robust_upper",
        "robust_at_common_budget",
        "majority_robust",
        "single_query_clean",
        "declared",
    ]
    for row in (bare, noise):
        for name in [*shares, "attack_success"]:
            low, high = binomtest(round(2 * float(row[name])), 2).proportion_ci(0.95, "wilson")
            assert (float(row[f"{name}_low"]), float(row[f"{name}_high"])) == pytest.approx((low, high), abs=1e-12)


def said(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_terminal_shows_the_runs_in_detail_and_nothing_is_written_by_default(two, tmp_path, capsys):
    report_runs(two, details=True)
    shown = capsys.readouterr().out
    lines = [" ".join(each.split()) for each in shown.splitlines()]
    assert "bare noise" in lines
    assert "robust accuracy (Definition 1) 0.0% (0.0 to 65.8) 50.0% (9.5 to 90.5)" in lines
    assert "robust accuracy at 30 queries 0.0% (0.0 to 65.8) 50.0% (9.5 to 90.5)" in lines
    assert max(map(len, shown.splitlines())) <= 80
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "noise"]


def test_many_runs_are_shown_in_several_tables(write, capsys):
    report_runs([write(f"run{i}", [record(0)]) for i in range(5)], details=True)
    shown = capsys.readouterr().out
    assert all(f"run{i}" in shown for i in range(5))
    assert shown.count("\nrobust accuracy (Definition 1)") == 3
    assert max(map(len, shown.splitlines())) <= 80


def test_runs_of_one_budget_have_no_line_for_a_smaller_one(write, capsys):
    report_runs([write("a", [record(0)]), write("b", [record(0)])])
    shown = said(capsys)
    assert "robust accuracy at" not in shown
    assert "own budget" not in shown
    assert "NOT COMPARABLE" not in shown


def test_runs_of_one_name_have_their_paths_as_labels(write, capsys):
    report_runs([write("x/run", [record(0)]), write("y/run", [record(0)])], details=True)
    assert "x/run y/run" in said(capsys)


def test_comparisons_have_a_line_each_in_a_csv_file_of_their_own(four, two):
    square, rays = lines_of(paired_csv(compiled(four)))
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
    assert paired_csv(compiled(two[:1])).count("\n") == 1


def test_a_name_is_no_formula_of_a_spreadsheet(write):
    (line,) = lines_of(grid_csv(compiled([write("=run", [record(0)], defense="@noise", victim="-1+1")])))
    assert (line["run"], line["defense"], line["victim"]) == ("'=run", "'@noise", "'-1+1")


def test_the_files_of_loaded_runs_are_those_of_the_command_and_compare_attacks(four, tmp_path):
    report_runs(four, "out", [10, 30], compare="attacks")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    written = write_report(load_runs(four), tmp_path / "own", [10, 30], "attacks")
    assert written.subject == "attacks"
    for name in FILES:
        assert (tmp_path / "own" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "curves.pdf").read_bytes().startswith(b"%PDF-")
    found = [
        line
        for line in lines_of((tmp_path / "out" / "paired.csv").read_text())
        if (line["defense_b"], line["budget_a"]) == ("none", "30")
    ]
    assert [(line["attack_a"], line["attack_b"], line["only_b"]) for line in found] == [("square", "rays", "3")]
    texts = {name: (tmp_path / "out" / f"report.{name}").read_text() for name in ("md", "tex", "html")}
    assert "| digits_small: undefended, 30 queries | square | rays | 0 | 1 | 3 | 0 | +50.0 |" in texts["md"]
    assert "rays $-$ square & $3$ : $1$ & $+50.0$" in texts["tex"]
    assert "digits_small: undefended, 30 queries" in texts["html"]
    assert all("Attacks on the same images" in text for text in texts.values())


def test_many_runs_of_several_attacks_are_drawn_in_panels(write, four):
    more = write("more-rays", [record(0)], attack="rays", defense="more")
    few, many = (report_files._curves(compiled(names)) for names in (four, [*four, more]))
    assert [axes.get_title() for axes in few.axes] == [""]
    assert [axes.get_title() for axes in many.axes] == ["square", "rays"]


def test_worst_cases_stand_in_the_csv_file_too(four):
    lines = lines_of(grid_csv(compiled(four, [10, 30])))
    assert len(lines) == 8 + 4
    found = [
        [line[name] for name in ("run", "defense", "at_budget", "robust_at_budget", "robust_lower_at_budget", "images")]
        for line in lines
        if line["attack"] == "worst case"
    ]
    noise, none = "noise-square + noise-rays", "none-square + none-rays"
    assert found == [
        [noise, "noise", "10", "1.0", "1.0", "4"],
        [none, "none", "10", "0.25", "0.25", "4"],
        [noise, "noise", "30", "0.5", "0.25", "4"],
        [none, "none", "30", "0.0", "0.0", "4"],
    ]


def test_worst_cases_in_the_csv_file_have_their_query_counting_and_the_queries_that_their_runs_share(write):
    runs = [
        write(f"{attack}-{query_counting}", [record(0)], attack=attack, query_counting=query_counting, budget=budget)
        for query_counting, budgets in (("exact", (30, 30)), ("paper", (30, 60)))
        for attack, budget in zip(("square", "rays"), budgets, strict=True)
    ]
    worst = [line for line in lines_of(grid_csv(compiled(runs))) if line["attack"] == "worst case"]
    assert [(line["query_counting"], line["at_budget"]) for line in worst] == [("exact", "30"), ("paper", "")]


def test_runs_under_the_papers_criterion_can_be_counted_as_its_code_does(write, capsys):
    # Adversarial at the end alone, adversarial by the criterion and at the end, robust, adversarial by the criterion.
    records = [record(1, verdict="adversarial"), adversarial(2, 9), record(3)]
    records += [adversarial(number, 5, verdict="robust") for number in (0, 4)]
    runs = [write("paper", records, criterion="paper", query_counting="paper"), write("own", records)]
    for as_declared, expected in ((False, "60.0% (23.1 to 88.2) 60.0%"), (True, "40.0% (11.8 to 76.9) 60.0%")):
        report_runs(runs, details=True, as_declared=as_declared)
        assert f"robust accuracy (Definition 1) {expected}" in said(capsys)
