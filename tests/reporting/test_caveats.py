"""The caveats of a report, which limit how its numbers may be read."""

import pytest
from hand import adversarial, record

from rfdlight.records.records import InterimEvaluation
from rfdlight.records.run_folders import load_runs
from rfdlight.reporting.report import compile_report


def caveats_of(names, budgets=None):
    return compile_report(load_runs(names), budgets).caveats


def test_each_stopped_run_has_a_caveat(write):
    few = [record(0), record(1)]
    names = [write(name, few, num_images=1000, complete=False, defense=name) for name in ("a", "b")]
    caveats = caveats_of([*names, write("whole", few)])
    assert [caveat for caveat in caveats if "INCOMPLETE" in caveat] == [
        "a: INCOMPLETE: 2 of 1,000 images.",
        "b: INCOMPLETE: 2 of 1,000 images.",
    ]


def test_a_run_can_be_stopped_after_images_of_it_failed(write):
    caveats = caveats_of([write("a", [record(0)], num_images=9, complete=False, failed={"digits/test/0001": "NaN"})])
    assert [caveat.split()[1] for caveat in caveats[:3]] == ["INCOMPLETE:", "BIASED:", "FAILED:"]
    assert "1 of 9 images" in caveats[2]


def test_a_complete_run_that_lost_images_has_a_warning(write):
    assert any(
        "the consistency check images warns" in each for each in caveats_of([write("a", [record(0)], num_images=9)])
    )


def test_runs_with_late_adversarial_images_are_named_where_they_are_read_at_smaller_budgets(write):
    late = record(2, verdict="adversarial", final_adversarial=90, final_margin=-1.0)
    names = [
        write("noise", [record(0), adversarial(1, 5), late]),
        write("none", [record(0), adversarial(1, 5), record(2)]),
    ]
    assert not any("own budget is too high" in caveat for caveat in caveats_of(names))
    (caveat,) = [caveat for caveat in caveats_of(names, [10]) if "own budget is too high" in caveat]
    assert "noise (1)" in caveat
    assert "none" not in caveat


def test_runs_with_interim_evaluations_are_read_at_their_queries(write):
    found = InterimEvaluation(queries=10, evaluations=20, margin=1.0, verdict="robust")
    late = record(2, verdict="adversarial", final_adversarial=90, final_margin=-1.0, interim=(found,))
    names = [write("noise", [record(0), late])]
    assert not any("own budget is too high" in caveat for caveat in caveats_of(names, [10]))
    assert any("own budget is too high" in caveat for caveat in caveats_of(names, [20]))


@pytest.mark.parametrize(
    ("records", "changes", "expected"),
    [
        ([record(1), record(2)], {}, "NOT COMPARABLE: b and a have only 1 images in common."),
        ([record(0), record(1)], {"data": "cifar10"}, "NOT COMPARABLE: the data of b and a differ."),
        ([record(0), record(1)], {"eps": 0.1, "criterion": "paper"}, "The runs differ in eps, criterion."),
        (
            [record(0), record(1)],
            {"precision": "bfloat16"},
            "Attacked in bfloat16, which weakens score-based attacks: b.",
        ),
    ],
)
def test_runs_that_differ_have_a_caveat(write, records, changes, expected):
    a = write("a", [record(0), record(1)])
    assert expected in caveats_of([a, write("b", records, **changes)])
    assert expected not in caveats_of([a])
