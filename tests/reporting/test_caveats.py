"""What a report says of its runs, before their numbers are believed."""

import pytest
from hand import adversarial, record

from rfdlight.records.runs import load_runs
from rfdlight.reporting.report import compile_report


def caveats_of(*names):
    return compile_report(load_runs(list(names))).caveats


def test_each_stopped_run_has_a_caveat(write):
    few = [record(0), record(1)]
    names = [write(name, few, num_images=1000, complete=False, defense=name) for name in ("a", "b")]
    caveats = caveats_of(*names, write("whole", few))
    assert [caveat for caveat in caveats if "INCOMPLETE" in caveat] == [
        "a: INCOMPLETE: 2 of 1,000 images.",
        "b: INCOMPLETE: 2 of 1,000 images.",
    ]


def test_a_run_can_be_stopped_after_images_of_it_failed(write):
    caveats = caveats_of(write("a", [record(0)], num_images=9, complete=False, failed={"digits/test/0001": "NaN"}))
    assert [caveat.split()[1] for caveat in caveats[:3]] == ["INCOMPLETE:", "BIASED:", "FAILED:"]
    assert "1 of 9 images" in caveats[2]


@pytest.mark.parametrize(
    ("facts", "named"),
    [({"complete": False}, False), ({"failed": {"digits/test/0001": "NaN"}}, False), ({}, True)],
)
def test_the_check_of_the_images_is_named_where_no_other_caveat_explains_it(write, facts, named):
    # A run that calls itself complete, of whose images some have neither a record nor a reason, lost them later.
    caveats = caveats_of(write("a", [record(0)], num_images=9, **facts))
    assert any(caveat.startswith("a: the consistency check images warns: ") for caveat in caveats) is named


def test_runs_with_late_adversarial_images_are_named_where_they_are_read_at_smaller_budgets(write):
    late = record(2, verdict="adversarial", final_adversarial=90, final_margin=-1.0)
    names = [
        write("noise", [record(0), adversarial(1, 5), late]),
        write("none", [record(0), adversarial(1, 5), record(2)]),
    ]

    def too_high(budgets):
        return [
            c for c in compile_report(load_runs(names), budgets).caveats if "below a run's own budget is too high" in c
        ]

    assert too_high(None) == []
    (caveat,) = too_high([10])
    assert "noise (1)" in caveat
    assert "none" not in caveat
