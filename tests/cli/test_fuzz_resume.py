"""A damaged run directory is refused, or what is damaged in it is left out: no record comes out of it changed."""

import json
import math

import pytest
from fuzz import record_files
from fuzz.running import bounded, workplace
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.slow
@bounded(3)
@given(data=st.data())
def test_any_damage_is_refused_or_left_out(original, data):
    record_files.low_watermark(data, original)


@pytest.mark.slow
@pytest.mark.parametrize("finished", [True, False])
def test_the_run_that_is_damaged_is_whole_before(finished, original):
    with workplace() as folder:
        record_files.write(folder / "run", original.whole if finished else original.killed)
        assert record_files.resume(folder, original).status == 0
        assert record_files.report(folder, original).status == 0


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "fingerprint.json",
            lambda content: DEEP,
            "cannot resume run: run/fingerprint.json: expected object, got array",
        ),
        ("config.yaml", lambda content: b"", "the config run/config.yaml must be a mapping of settings, got None"),
        (
            "records.jsonl",
            lambda content: content[:60] + b"\xff" + content[61:],
            "run/records.jsonl, line 1: damaged",
        ),
    ],
)
def test_a_file_that_is_damaged_is_named(name, change, said, original):
    with workplace() as folder:
        record_files.write(folder / "run", original.whole | {name: change(original.whole[name])})
        outcome = record_files.resume(folder, original)
    assert outcome.status in (2, 3)
    assert outcome.err.startswith(f"rfdlight: {said}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("budget", "many"),
        ("totals", {"attack": "x"}),
        ("wall_seconds", float("nan")),
    ],
)
def test_a_fact_of_another_type_is_named(name, value, original):
    summary = json.loads(original.whole["summary.json"])
    summary["run"][name] = value
    with workplace() as folder:
        record_files.write(folder / "run", original.whole | {"summary.json": json.dumps(summary).encode()})
        outcome = record_files.report(folder, original)
    assert outcome.err.startswith("rfdlight: run/summary.json: ")
    assert f"run.{name}" in outcome.err or name == "wall_seconds"  # NaN is no JSON


def test_a_whole_record_of_an_image_that_the_run_does_not_attack_is_refused(original):
    record = json.loads(original.records.splitlines()[0])
    del record["crc32"]
    line = record_files.sealed({"time": 1.0, "record": record | {"id": "another/test/0001"}}) + b"\n"
    with workplace() as folder:
        name = record_files.JOURNAL
        record_files.write(folder / "run", original.killed | {name: original.killed[name] + line})
        outcome = record_files.resume(folder, original)
    assert outcome.err == (
        "rfdlight: cannot resume run: two experiments would be mixed: it has a record of another/test/0001, which "
        "is no image of the run\n"
    )


@pytest.mark.slow
def test_a_journal_that_is_lost_costs_no_record(original):
    content = {name: part for name, part in original.killed.items() if name != record_files.JOURNAL}
    with workplace() as folder:
        record_files.write(folder / "run", content)
        outcome = record_files.resume(folder, original)
    assert (outcome.status, outcome.err) == (0, "")
    assert math.isfinite(json.loads(outcome.after["run/summary.json"])["run"]["wall_seconds"])
