"""Which runs are compared, at which number of queries, and which are refused."""

import logging

import pytest
from hand import adversarial, facts, record

import rfdlight as rfd
from rfdlight.records.runs import Run


def run_of(*records, **changes):
    return Run.of(records, facts(**changes))


@pytest.mark.parametrize(
    "changes",
    [{"defense": "noise"}, {"attack": "rays", "options": "others"}, {"victim": "another"}, {"eot": 5, "seed": 1}],
)
def test_defenses_attacks_and_victims_are_compared_in_silence(changes, caplog):
    first, second = run_of(adversarial(0, 3), record(1)), run_of(record(0), record(1), record(2), **changes)
    found = rfd.compare(first, second)
    assert (found.both, found.only_first, found.only_second, found.neither, found.queries) == (1, 0, 1, 0, 30)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eps", 0.1),
        ("norm", "l2"),
        ("targeted", True),
        ("criterion", "paper"),
        ("query counting", "paper"),
        ("data", "folder cats"),
    ],
)
def test_runs_under_another_threat_model_or_on_other_data_are_refused(name, value):
    changes = {name.replace(" ", "_"): value, "name": "other"}
    refused = rf"^runs: expected the same {name}, got .* and {value} in hand and other; "
    with pytest.raises(rfd.UserError, match=refused):
        rfd.compare(run_of(record(0)), run_of(record(0), defense="noise"), run_of(record(0), **changes))


def test_other_images_with_the_same_ids_are_refused():
    with pytest.raises(rfd.UserError, match=r"^runs: expected the same images, got other labels of 1 image ids "):
        rfd.compare(run_of(record(0), record(1)), run_of(record(0), record(1, label=4)))
    with pytest.raises(rfd.UserError, match=r"^runs: expected common images, got none "):
        rfd.compare(run_of(record(0)), run_of(record(1)))


def test_runs_of_different_budgets_are_compared_at_the_smaller_with_a_warning(caplog):
    long = run_of(adversarial(0, 20), adversarial(1, 45), budget=50, name="long")
    with caplog.at_level(logging.WARNING, "rfdlight"):
        found = rfd.compare(long, run_of(record(0), record(1)))
    # After 30 queries the longer run has found image 0 alone.
    assert (found.both, found.only_second, found.queries) == (1, 1, 30)
    (warning,) = caplog.messages
    assert warning.startswith("long has a budget of 50 queries and is compared at 30: ")
