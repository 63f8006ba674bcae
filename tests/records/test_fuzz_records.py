"""Whatever happens to a file of records, none comes out of it that was not put into it."""

import re
import tempfile
from pathlib import Path

import msgspec
import pytest
from fuzz.record_files import damaged
from fuzz.running import bounded
from hand import adversarial, record
from hypothesis import given

from rfdlight.errors import UserError
from rfdlight.records import journal
from rfdlight.records.journal import Entry
from rfdlight.records.records import read_records
from rfdlight.records.schema import seal

RECORDS = [record(0), record(1), record(2), adversarial(3, at=7)]
OTHERS = ("another/test/0001",)
"""Ids of whole records of other images that the damage may bring in; only what goes on with a run knows its images."""


def lines(items):
    return [seal(item) for item in items]


def own(records) -> bool:
    return all(found in RECORDS for found in records if found.id not in OTHERS)


@bounded(25)
@given(damaged(b"".join(line + b"\n" for line in lines(RECORDS)), lines(RECORDS)[0]))
def test_final_records_are_read_as_they_were_written_or_refused_by_line(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records.jsonl")
        path.write_bytes(content)
        try:
            found, told = read_records(path), f"{path}, line "
        except UserError as error:
            found, told = [], str(error)
    assert f"{path}, line " in told
    assert own(found)


ENTRIES = lines(Entry(time=100.0 + i, record=each) for i, each in enumerate(RECORDS))


@bounded(25)
@given(damaged(b"".join(line + b"\n" for line in ENTRIES), ENTRIES[0]))
def test_what_is_damaged_in_a_journal_is_counted_and_left_out(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "journal", "0-0.jsonl")
        path.parent.mkdir()
        path.write_bytes(content)
        past = journal.read_past(Path(folder))
    assert own(past.records)
    assert len(past.records) + past.facts["damaged_lines"] <= len(content.splitlines())


def test_a_line_without_a_checksum_is_damaged(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(seal(record(1)) + b"\n" + msgspec.json.encode(record(2)) + b"\n")
    with pytest.raises(UserError, match=r"records.jsonl, line 2: damaged"):
        read_records(path)


def altered(changes):
    """A sealed line of a record with fields that are not a record's."""
    content = msgspec.structs.asdict(record(2)) | changes
    return seal(msgspec.defstruct("Altered", list(content))(**content))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"id": 3}, "id: expected str, got int"),
        ({"label": 1.5}, "label: expected int, got float"),
        ({"label": -1}, "label: expected int >= 0"),
        ({"label": 2**60}, "label: expected int <= "),
        ({"billed": True}, "billed: expected int, got bool"),
        ({"linf": "0.1"}, "linf: expected float, got str"),
        ({"l2": None}, "l2: expected float, got null"),
        ({"verdict": "sound"}, "verdict: invalid enum value 'sound'"),
        ({"final_evaluations": 0}, "final_evaluations: expected int >= 1"),
        ({"final_adversarial": 101}, "final_adversarial: expected at most 100"),
        ({"judge": 3}, "object contains unknown field judge"),
    ],
)
def test_a_whole_line_whose_fields_are_of_other_types_is_refused_by_line(changes, told, tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(seal(record(1)) + b"\n" + altered(changes) + b"\n")
    with pytest.raises(UserError, match=re.escape(f"records.jsonl, line 2: {told}")):
        read_records(path)


def test_a_missing_field_is_named(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(seal(msgspec.defstruct("Short", ["id"])("a")) + b"\n")
    with pytest.raises(UserError, match=r"records.jsonl, line 1: object missing required field label"):
        read_records(path)
