"""Combination of the records of several stages, from records written by hand."""

import csv
import io

import msgspec
import pytest
from hand import UNDECIDED, adversarial, facts, record
from written_runs import write_run
from written_runs import write_standard as write

from rfdlight.errors import UserError
from rfdlight.records.facts import Rows
from rfdlight.records.records import InterimEvaluation
from rfdlight.records.run_folders import load_runs
from rfdlight.records.runs import Run
from rfdlight.records.standard import Settings, Standard, combine, combined_record, summarize_standard, to_attack
from rfdlight.records.summary import is_robust_at
from rfdlight.reporting.comma_separated import grid_csv
from rfdlight.reporting.formats import markdown
from rfdlight.reporting.report import compile_report

NEGATIVE = {**UNDECIDED, "final_margin": -0.2}
WRONG = {"verdict": "misclassified", "clean_verdict": "wrong", "clean_margin": -1.0, "billed": 0, "final_margin": -1.0}

STAGES = [
    [
        adversarial(0, 7),
        record(1),
        record(2, **UNDECIDED),
        record(3, **WRONG),
        record(4, **NEGATIVE),
        record(5),
        record(6, **UNDECIDED),
        record(7),
        record(8, clean_verdict="undecided", clean_margin=-0.1),
    ],
    [
        adversarial(1, 12),
        record(2, **NEGATIVE, final_evaluations=1000),
        record(4, **UNDECIDED, final_evaluations=900),
        record(5),
        adversarial(6, 30, success_query=None),
        record(8),
    ],  # the victim failed on 7
]


def runs():
    return [Run.of(records, facts(failed={"digits/test/0007": "NaN"} if i else {})) for i, records in enumerate(STAGES)]


def record_of(index):
    by_stage = [run.by_id for run in runs()]
    name = f"digits/test/{index:04d}"
    return combined_record([records[name] for records in by_stage if name in records])


@pytest.fixture
def images():
    return {int(image.id[-1]): image for image in combine([run.by_id for run in runs()])}


def test_the_next_stage_attacks_robust_and_undecided_images():
    assert [int(name[-1]) for name in to_attack(STAGES[0])] == [1, 2, 4, 5, 6, 7, 8]


def test_verdicts_stages_and_queries(images):
    expected = {
        0: ("adversarial", 1, 7, 7),
        1: ("adversarial", 2, 42, 42),
        2: ("undecided", None, 60, None),
        3: ("misclassified", None, 0, None),
        4: ("undecided", None, 60, None),
        5: ("robust", None, 60, None),
        6: ("adversarial", 2, 60, 60),
        8: ("robust", None, 60, None),
    }
    assert {i: (r.verdict, r.stage, r.queries, r.success_query) for i, r in images.items()} == expected


def test_the_deciding_stage_is_the_last_with_the_verdict_of_all_and_the_latest_end():
    standard = Standard(SETTINGS, tuple(runs()))
    assert {int(name[-1]): number for name, number in standard.deciding.items()} == {
        0: 0, 1: 1, 2: 1, 3: 0, 4: 1, 5: 1, 6: 1, 8: 1,
    }  # fmt: skip
    early = {"success_query": 9}
    stages = (
        [record(0, **UNDECIDED), record(1, **UNDECIDED), record(2)],
        [record(0), record(1, **UNDECIDED, **early), record(2, **early)],
    )
    standard = Standard(SETTINGS, tuple(Run.of(records, facts()) for records in stages))
    assert [*standard.deciding.values()] == [0, 0, 0]


def test_undecided_images_count_by_the_mean_over_all_their_undecided_points(images):
    assert images[2].undecided_margin == pytest.approx((100 * 0.1 - 1000 * 0.2) / 1100)
    assert images[4].undecided_margin == pytest.approx((-100 * 0.2 + 900 * 0.1) / 1000)
    assert [record_of(i).is_robust for i in (2, 4)] == [False, True]
    assert [images[2].is_robust_at(queries) for queries in (29, 30)] == [True, False]
    assert not any(is_robust_at(record_of(i), 30, "adversarial") for i in (2, 4, 8))
    assert all(is_robust_at(record_of(i), 30, "robust") for i in (2, 4, 5, 8))


def test_a_stage_counts_from_its_interim_evaluations_on():
    found = InterimEvaluation(queries=10, evaluations=50, margin=-0.1, verdict="undecided")
    stages = [{"0": record(0, interim=(found,))}, {"0": adversarial(0, 30, success_query=None, interim=(found,))}]
    (image,) = combine(stages)
    assert (image.success_query, image.queries) == (40, 60)
    assert [image.is_robust_at(queries) for queries in (10, 39, 40)] == [True, True, False]


def test_the_headlines_the_shares_and_the_ledger(images):
    void = [Run.of([record(0)], facts(totals=Rows(attack=5), wall_seconds=1.0, killed_attempts=1))]
    records = [record_of(i) for i in images]
    summary = summarize_standard(list(images.values()), records, runs(), 30, planned=3, void=void)
    assert summary.counts == {
        "images": 8, "failed": 1, "misclassified": 1, "adversarial": 3, "undecided": 2, "robust": 2,
    }  # fmt: skip
    shares = [summary.clean, summary.robust, summary.robust_lower, summary.robust_upper]
    assert [share.value * 8 for share in shares] == [7, 3, 1, 4]
    # Within 10 queries of a stage only image 0 is adversarial; the undecided points are their stages' last queries.
    assert summary.stage_share == 10
    split = [summary.split_budget, summary.split_budget_lower, summary.split_budget_upper]
    assert [share.value * 8 for share in split] == [6, 5, 6]
    assert {point.queries: point.value * 8 for point in summary.curve if point.queries in (3, 10, 30, 90)} == {
        3: 7, 10: 6, 30: 5, 90: 3,
    }  # fmt: skip
    assert [stage.adversarial for stage in summary.stages] == [1, 2]
    assert [stage.images for stage in summary.stages] == [9, 6]
    assert summary.ledger["rows"] == 2 * 400 + 5
    assert summary.ledger["attack"] == 2 * 180 + 5
    assert (summary.killed_attempts, summary.wall_seconds) == (1, 4.0)
    # Image 7 was lost in the second stage, and its queries in the first were billed.
    assert summary.ledger["queries"] == sum(stage.queries for stage in summary.stages) == 7 + 7 * 30 + 12 + 5 * 30


def test_an_equal_share_of_the_budget_counts_the_queries_of_each_stage_alone():
    assert [is_robust_at(record_of(1), queries) for queries in (11, 12)] == [True, False]
    assert not is_robust_at(record_of(3), 0)
    # An undecided point of an earlier stage counts in the lower bound, though a later stage succeeded.
    found = combined_record([record(6, **{**UNDECIDED, "success_query": 4}), adversarial(6, 30)])
    assert found.verdict == "adversarial"
    assert [is_robust_at(found, 10, how) for how in ("sign", "adversarial", "robust")] == [True, False, True]
    assert not is_robust_at(found, 30, "robust")


@pytest.mark.parametrize("stage", [0, 1])
def test_an_interim_evaluation_counts_in_whatever_stage_it_is(stage):
    found = InterimEvaluation(queries=10, evaluations=50, margin=-0.1, verdict="undecided")
    records = [record(0, **({"interim": (found,)} if stage == number else {})) for number in (0, 1)]
    combined = combined_record(records)
    assert [is_robust_at(combined, queries) for queries in (9, 10, 29, 30)] == [True, False, False, True]
    assert is_robust_at(combined, 10, "robust")
    # Two undecided evaluations count by the mean over both.
    other = InterimEvaluation(queries=10, evaluations=100, margin=0.1, verdict="undecided")
    records[1 - stage] = record(0, interim=(other,))
    assert is_robust_at(combined_record(records), 10)
    last = combined_record([records[stage], adversarial(0, 30, success_query=None, interim=(other,))])
    assert [is_robust_at(last, queries) for queries in (10, 30)] == [True, False]
    # A success that the final evaluation did not confirm ends that stage alone.
    records[1 - stage] = record(0, success_query=4)
    assert [is_robust_at(combined_record(records), queries) for queries in (5, 10)] == [True, False]


SETTINGS = Settings(
    version="standard-1", norm="linf", eps=0.2, budget=30, access="both", stages=["bernoulli", "square", "nes"],
    level=0.025 / 3, seed=0, victim="digits_small", defense="none", data="digits", num_images=10,
)  # fmt: skip


def evaluation():
    of_stage = [{"attack": "bernoulli"}, {"attack": "square", "num_images": 7, "seed": 1000}]
    stages = [
        Run.of(run.records, msgspec.structs.replace(run.facts, **own))
        for run, own in zip(runs(), of_stage, strict=True)
    ]
    third = Run.of([record(i) for i in (2, 4, 5, 8)], facts(attack="nes", num_images=4, seed=2000))
    return Standard(SETTINGS, (*stages, third))


def test_the_combined_run_has_the_numbers_of_the_standard_evaluation():
    standard = evaluation()
    run, summary = standard.combined, standard.summary
    assert run.summary.counts["images"] == 8
    found = run.summary.mean_logits
    assert (found.clean, found.robust) == (summary.clean, summary.robust)
    assert (found.robust_lower, found.robust_upper) == (summary.robust_lower, summary.robust_upper)
    assert run.summary.ledger["rows"] == standard.rows.total == 1200
    assert run.summary.ledger["billed"] == summary.ledger["queries"]
    assert (run.facts.attack, run.facts.budget, run.facts.num_images) == ("standard-1", 30, 10)
    # The point on the curve of the budget's share is the accuracy of the split budget.
    assert {point.queries: point.value for point in run.summary.curve}[10] == summary.split_budget.value
    assert run.by_id["digits/test/0001"].success_query == 12
    assert run.by_id["digits/test/0002"].final_margin == standard.images[2].undecided_margin
    checks = {found.check for found in run.diagnostics}
    assert {"bernoulli: clean accuracy", "bernoulli: queries", "square: queries", "nes: rows"} <= checks
    assert "square: clean accuracy" not in checks


def test_a_report_has_one_column_for_a_standard_evaluation_and_none_for_its_stages(tmp_path):
    write(evaluation(), tmp_path / "all/standard")
    write(evaluation(), tmp_path / "all/stopped", finished=False)
    write_run(Run.of([record(i) for i in range(9)], facts(num_images=9)), tmp_path / "all/square")
    loaded = load_runs([tmp_path / "all"])
    assert [run.label for run in loaded] == ["square", "standard"]
    report = compile_report(loaded)
    assert [column.label for column in report.grid.columns] == ["square", "standard-1", "worst case"]
    (row,) = report.grid.rows
    assert (row.cells[1].robust.value, row.cells[1].lower.value, row.cells[1].upper.value) == (3 / 8, 1 / 8, 4 / 8)
    text = markdown(report)
    assert "37.5% (13.7 to 69.4) bounds 12.5-50.0" in text
    assert "robust in every stage" in text
    assert "is an upper bound" not in text
    below = markdown(compile_report(loaded, [10]))
    assert "Below its own budget the number of a standard evaluation is an upper bound" in below
    lines = list(csv.DictReader(io.StringIO(grid_csv(report))))
    assert [line["attack"] for line in lines] == ["square", "standard-1", "worst case"]
    assert lines[1]["robust_at_budget"] == "0.375"
    assert [run.label for run in load_runs([tmp_path / "all/standard/2-square"])] == ["2-square"]
    assert compile_report(load_runs([tmp_path / "all/standard"])).grid.columns[0].label == "standard-1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "standard.json").write_text("{}"), ["settings"]),
        (lambda folder: (folder / "standard.json").unlink(), ["standard.json"]),
        (lambda folder: (folder / "3-nes/summary.json").unlink(), ["finished", "resume"]),
        (lambda folder: (folder / "3-nes").rename(folder / "2-square/x"), ["finished", "resume"]),
        (lambda folder: write_run(Run.of([], facts(eps=0.1)), folder / "random"), ["finished"]),
    ],
)
def test_a_damaged_or_unfinished_evaluation_is_an_error_of_one_line(change, words, tmp_path):
    write(evaluation(), tmp_path / "one")
    change(tmp_path / "one")
    with pytest.raises(UserError) as caught:
        Standard.load(tmp_path / "one")
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "records", "different"),
    [
        ({"eps": 0.1}, slice(None), "eps"),
        ({"data": "digits, seed=1"}, slice(None), "data"),
        ({"seed": 1}, slice(None), "seed"),
        ({}, slice(1), "selection of images"),
        ({"failed": {}}, slice(None), "selection of images"),
    ],
)
def test_a_stage_of_another_evaluation_is_refused(changes, records, different, tmp_path):
    standard = evaluation()
    stage = standard.stages[1]
    other = Run.of(stage.records[records], msgspec.structs.replace(stage.facts, **changes))
    write(Standard(SETTINGS, (standard.stages[0], other, standard.stages[2])), tmp_path / "one")
    with pytest.raises(UserError, match=f"got one of other {different}"):
        Standard.load(tmp_path / "one")
