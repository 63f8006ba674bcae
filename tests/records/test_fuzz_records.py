"""Whatever happens to a file of records, none comes out of it that was not put into it."""

import json
import re
import tempfile
from pathlib import Path

import pytest
from fuzz.record_files import damaged
from fuzz.running import bounded
from hand import adversarial, record
from hypothesis import given

from rfdlight.errors import UserError
from rfdlight.records import journal
from rfdlight.records.records import FIELDS, fault, read_records, seal

LINES = [seal(record(index)).encode() for index in range(3)] + [seal(adversarial(3, at=7)).encode()]
CONTENT = b"".join(line + b"\n" for line in LINES)
OTHERS = ("another/test/0001",)
"""Ids of whole records of other images that the damage may bring in; only what goes on with a run knows its images."""


def own(records) -> bool:
    return all(seal(found).encode() in LINES for found in records if found["id"] not in OTHERS)


@bounded(100)
@given(damaged(CONTENT, LINES[0]))
def test_final_records_are_read_as_they_were_written_or_refused_by_line(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records.jsonl")
        path.write_bytes(content)
        try:
            found = read_records(path)
        except UserError as error:
            said, found = str(error), []
        else:
            said = f"{path}, line "
    assert f"{path}, line " in said
    assert own(found) or b"crc32" not in content


@bounded(100)
@given(damaged(CONTENT, LINES[0]))
def test_what_is_damaged_in_a_journal_is_counted_and_left_out(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "journal", "records-0-0.jsonl")
        path.parent.mkdir()
        path.write_bytes(content)
        past = journal.look_back(Path(folder))
    assert own(past.records)
    assert len(past.records) + past.damaged <= len(content.decode(errors="replace").splitlines())


def test_a_line_without_a_checksum_among_others_that_have_one_is_damaged(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(seal(record(1)) + "\n" + json.dumps(record(2)) + "\n")
    with pytest.raises(UserError, match=r"records.jsonl, line 2, is damaged"):
        read_records(path)
    path.write_text(json.dumps(record(1)) + "\n" + json.dumps(record(2)) + "\n")
    assert read_records(path) == [record(1), record(2)]


@pytest.mark.parametrize("letter", range(5))
def test_a_checksum_whose_name_is_damaged_is_none(letter, tmp_path):
    path = tmp_path / "records.jsonl"
    name = bytearray(b"crc32")
    name[letter] ^= 1
    path.write_bytes(seal(record(1)).encode().replace(b"crc32", name))
    with pytest.raises(UserError, match=r"records.jsonl, line 1: the record has .*, which is no field of one"):
        read_records(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": 3}, "id cannot be 3"),
        ({"label": 1.5}, "label cannot be 1.5"),
        ({"billed": True}, "billed cannot be True"),
        ({"linf": "0.1"}, "linf cannot be '0.1'"),
        ({"l2": None}, "l2 cannot be None"),
        ({"verdict": "sound"}, "verdict cannot be 'sound'"),
        ({"final_evaluations": 0}, "final_evaluations cannot be 0"),
        ({"final_adversarial": 101}, "final_adversarial cannot be 101"),
    ],
)
def test_a_whole_line_whose_fields_are_of_other_types_is_refused_by_line(changes, said, tmp_path):
    assert fault(record(1)) is None
    said = f"{said}; it is {FIELDS[next(iter(changes))]}"
    assert fault(record(1, **changes)) == said
    path = tmp_path / "records.jsonl"
    path.write_text(seal(record(1)) + "\n" + seal(record(2, **changes)) + "\n")
    with pytest.raises(UserError, match=re.escape(f"records.jsonl, line 2: {said}")):
        read_records(path)
