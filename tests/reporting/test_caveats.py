"""What a report says of its runs, before their numbers are believed."""

import pytest
from hand import adversarial, record

from rfdlight.records.runs import load_runs
from rfdlight.reporting.report import compile_report


def notes_of(*names):
    return compile_report(load_runs(list(names))).notes


def test_each_stopped_run_has_a_note(write):
    few = [record(0), record(1)]
    names = [write(name, few, num_images=1000, complete=False, defense=name) for name in ("a", "b")]
    notes = notes_of(*names, write("whole", few))
    assert notes[:2] == ["INCOMPLETE: 2 of 1,000 images of a.", "INCOMPLETE: 2 of 1,000 images of b."]
    assert not any("whole" in note for note in notes if "INCOMPLETE" in note)


def test_a_run_can_be_stopped_after_images_of_it_failed(write):
    notes = notes_of(write("a", [record(0)], num_images=9, complete=False, failed={"digits/test/0001": "NaN"}))
    assert notes[:2] == ["INCOMPLETE: 1 of 9 images of a.", "FAILED: 1 of 9 images of a, in no number."]


@pytest.mark.parametrize(
    ("facts", "told"),
    [({"complete": False}, False), ({"failed": {"digits/test/0001": "NaN"}}, False), ({}, True)],
)
def test_the_audit_of_the_images_is_named_where_no_other_note_says_what_it_found(write, facts, told):
    # A run that calls itself complete, of whose images some have neither a record nor a reason, lost them later.
    notes = notes_of(write("a", [record(0)], num_images=9, **facts))
    assert any(note.startswith("The audit warns of a, images: ") for note in notes) is told


def test_runs_whose_last_draws_found_images_broken_say_so_where_they_are_read_at_smaller_budgets(write):
    late = record(2, verdict="adversarial", final_adversarial=90, final_margin=-1.0)
    names = [
        write("noise", [record(0), adversarial(1, 5), late]),
        write("none", [record(0), adversarial(1, 5), record(2)]),
    ]
    told = (
        "Too high below their own budget, since images that the final draws alone found broken stand there: noise (1). "
        "Run smaller budgets by themselves."
    )
    assert told not in compile_report(load_runs(names)).notes
    assert told in compile_report(load_runs(names), [10]).notes
