import json
import math
import subprocess
import sys
import time

import msgspec
import pytest
from hand import adversarial, record
from hypothesis import given, settings
from hypothesis import strategies as st

from rfdlight.errors import UserError
from rfdlight.records import journal
from rfdlight.records.facts import InProgress, Rows
from rfdlight.records.journal import End, Entry
from rfdlight.records.records import Record, read_records
from rfdlight.records.schema import seal, unseal

TOTALS = Rows(attack=100, criterion=10, padding=5)
END = End(totals=TOTALS, forwarded=115, batch_size=8, in_progress=InProgress())


def written(run, attempt, rank, *contents):
    """Write a journal with entries of these fields."""
    (run / "journal").mkdir(exist_ok=True)
    book = journal.Journal(run, attempt, rank)
    for content in contents:
        book.append(Entry(time=time.time(), **content))
    book.close()
    return run / f"journal/{attempt}-{rank}.jsonl"


def write(run, attempt, records, rank=0, ended=True):
    return written(run, attempt, rank, *[{"record": each} for each in records], *([{"end": END}] if ended else []))


@given(position=st.integers(0), bit=st.integers(0, 7))
@settings(max_examples=50, deadline=None)
def test_no_flipped_bit_goes_through_unseen(position, bit):
    line = bytearray(seal(adversarial(3, at=7)))
    line[position % len(line)] ^= 1 << bit
    with pytest.raises(ValueError, match="damaged"):
        unseal(bytes(line), Record)


AWKWARD = 'a/ "\\\0\n\r\x0b\x1c\x7f\x85é\u2028\u2029\ufeff\U0001f600'


@settings(max_examples=25)
@given(st.floats(allow_nan=False, allow_infinity=False), st.text(st.sampled_from(AWKWARD)))
def test_a_sealed_record_comes_back_as_it_was(value, text):
    sealed = record(0, id=text, final_margin=value)
    assert unseal(seal(sealed), Record) == sealed


@pytest.mark.parametrize("character", AWKWARD, ids=ascii)
def test_no_character_of_an_id_ends_a_line_of_a_file(tmp_path, character):
    awkward = [record(0, id=f"a{character}b")]
    write(tmp_path, 0, awkward)
    past = journal.read_past(tmp_path)
    assert (past.records, past.facts["damaged_lines"]) == (awkward, 0)
    journal.write_records(tmp_path, awkward)
    assert read_records(tmp_path / "records.jsonl") == awkward


def test_several_ranks_and_attempts_make_one_file_in_order_of_id(tmp_path):
    write(tmp_path, 0, [record(5), record(1)], rank=0, ended=False)
    write(tmp_path, 0, [record(3)], rank=1, ended=False)
    write(tmp_path, 1, [record(2), record(5, linf=0.1)])
    past = journal.read_past(tmp_path)
    assert [each.id[-1] for each in past.records] == ["1", "2", "3", "5"]
    assert past.records[-1].linf == 0.2, "of two records of an image the first counts"
    facts = past.facts
    assert (facts["attempts"], facts["killed_attempts"], facts["damaged_lines"]) == (2, 1, 0)
    assert facts["totals"] == Rows(attack=190, criterion=370, padding=5)
    written(tmp_path, 2, 0, {"end": END}, {"sanity_checks": 0}, {"sanity_checks": 6})
    assert journal.read_past(tmp_path).facts["totals"] == Rows(attack=290, criterion=380, checks=6, padding=10)
    (tmp_path / "journal/2-0.jsonl").unlink()
    journal.write_records(tmp_path, past.records)
    assert read_records(tmp_path / "records.jsonl") == past.records
    again = journal.read_past(tmp_path)
    assert (again.records, again.facts) == (past.records, facts)


def test_only_the_last_attempts_failures_count_and_none_of_images_that_another_process_finished(tmp_path):
    for attempt, rank, failed in ((0, 0, "0001"), (1, 0, "0002"), (1, 1, "0003")):
        begun = InProgress(begun=3, robust=1 + rank)
        end = msgspec.structs.replace(END, batch_size=8 // (1 + rank), in_progress=begun)
        written(tmp_path, attempt, rank, {"failed": (f"digits/test/{failed}", f"reason {failed}")}, {"end": end})
    write(tmp_path, 1, [record(2)], rank=2, ended=False)
    facts = journal.read_past(tmp_path).facts
    assert facts["failed"] == {"digits/test/0003": "reason 0003"}
    assert facts["batch_size_used"] == 4, "the smallest"
    assert facts["in_progress"] == InProgress(begun=6, robust=3), "of the last attempt"
    assert facts["forwarded"] is None, "a process was killed"


def test_records_of_single_evaluations_are_void_once_a_process_finds_the_victim_random(tmp_path):
    write(tmp_path, 0, [record(1, clean_evaluations=1), record(2)])
    assert len(journal.read_past(tmp_path).records) == 2
    written(tmp_path, 1, 0, {"random": True})
    past = journal.read_past(tmp_path)
    assert (past.random, [each.id[-1] for each in past.records]) == (True, ["2"])


def test_an_attempt_that_is_killed_in_its_sanity_checks_has_the_rows_of_its_attack(tmp_path):
    written(tmp_path, 0, 0, {"end": END}, {"sanity_checks": 0})
    facts = journal.read_past(tmp_path).facts
    assert (facts["killed_attempts"], facts["forwarded"], facts["totals"]) == (1, None, TOTALS)
    written(tmp_path, 1, 0, {"end": END}, {"sanity_checks": 0}, {"sanity_checks": 6})
    facts = journal.read_past(tmp_path).facts
    assert (facts["killed_attempts"], facts["forwarded"]) == (1, None)
    assert facts["totals"] == Rows(attack=200, criterion=20, checks=6, padding=10)


def test_the_time_of_an_attempt_is_that_of_its_longest_process(tmp_path):
    (tmp_path / "journal").mkdir()
    for attempt, rank, seconds in ((0, 0, 5.0), (0, 1, 7.0), (1, 0, 2.0)):
        # The sanity checks come after the attack.
        checks = [Entry(time=300.0, sanity_checks=rows) for rows in (0, 6)]
        lines = [Entry(time=100.0), Entry(time=100.0 + seconds, end=END), *checks]
        path = tmp_path / f"journal/{attempt}-{rank}.jsonl"
        path.write_bytes(b"".join(seal(line) + b"\n" for line in lines))
    facts = journal.read_past(tmp_path).facts
    assert (facts["wall_seconds"], facts["attempts"], facts["killed_attempts"]) == (9.0, 2, 0)


@pytest.mark.parametrize("name", ["x-0.jsonl", "1.jsonl", "1-0.jsonl.bak", "-1-0.jsonl", f"{'9' * 30}-0.jsonl"])
def test_files_that_no_journal_wrote_are_left_alone(name, tmp_path):
    write(tmp_path, 0, [record(1)])
    (tmp_path / "journal" / name).write_text("anything\n")
    past = journal.read_past(tmp_path)
    assert (len(past.records), past.facts["damaged_lines"], past.facts["attempts"]) == (1, 0, 1)
    assert (tmp_path / "journal" / name).exists()


def forged(**changes):
    """A line whose seal is right and whose fields are not those of an entry."""
    return seal(msgspec.defstruct("Forged", list(changes))(**changes)) + b"\n"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1] + b"x",
        lambda content: content[:-30],
        lambda content: content + b'{"time": 1.0, "record": {"id": "digits/te',
        lambda content: content + b"someone else's line\n",
        lambda content: content + b'[1, 2]\n"text"\nnull\n',
        lambda content: content + msgspec.json.encode(Entry(time=1.0, record=record(9))) + b"\n",
        lambda content: content + forged(id="digits/test/0009"),
        lambda content: content + forged(time=1.0, record={"id": "digits/test/0009"}),
        lambda content: content + forged(time="x") + forged(time=math.nan) + forged(time=1e300),
        lambda content: content + forged(time=1.0, end={"totals": {}}) + forged(time=1.0, failed=["a"]),
        lambda content: content + b"\x00\x00\x00\n" + b"\xff\xfe\x00\n" + b"[" * 100_000,
        lambda content: content.replace(b'"robust"', b'"adversarial"', 1),
    ],
)
def test_damaged_lines_are_counted_and_left_out(damage, tmp_path):
    path = write(tmp_path, 0, [record(index) for index in range(4)], ended=False)
    before = path.read_bytes()
    path.write_bytes(damage(before))
    past = journal.read_past(tmp_path)
    assert all(found in [record(index) for index in range(4)] for found in past.records)
    assert past.facts["damaged_lines"] == len(set(path.read_bytes().splitlines()) - set(before.splitlines()))
    assert len(past.records) >= 3


def test_damaged_final_records_are_no_longer_trusted(tmp_path):
    journal.write_records(tmp_path, [record(1), record(2)])
    path = tmp_path / "records.jsonl"
    path.write_text(path.read_text().replace("0.2", "0.1", 1))
    with pytest.raises(UserError, match=r"records.jsonl, line 1: damaged"):
        journal.read_past(tmp_path)


def test_a_folder_has_one_writer_at_a_time_and_none_after_its_end(tmp_path):
    code = f"from pathlib import Path; from rfdlight.records import journal; journal.lock(Path({str(tmp_path)!r}))"
    held = journal.lock(tmp_path)
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        f"{tmp_path} is being written by another process; wait for it, or give --run another folder" in refused.stderr
    )
    held.release()
    # The child ends without releasing it, as one that is killed.
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    journal.lock(tmp_path).release()


def test_a_full_disk_is_one_line_and_later_lines_are_whole(tmp_path):
    (tmp_path / journal.FOLDER).mkdir()
    book = journal.Journal(tmp_path, 0)
    whole = book._file
    book._file = open("/dev/full", "wb")  # noqa: SIM115
    with pytest.raises(UserError, match="cannot write /dev/full: No space left on device"):
        book.append(Entry(time=1.0, record=record(1)))
    book.close()
    whole.close()


@pytest.mark.parametrize("number", [journal.errno.EINVAL, journal.errno.EIO])
def test_a_file_system_without_fsync_is_no_error(number, tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(number, "no")

    monkeypatch.setattr(journal.os, "fsync", fsync)
    (tmp_path / journal.FOLDER).mkdir()
    if number == journal.errno.EINVAL:
        journal.Journal(tmp_path, 0).close()
    else:
        with pytest.raises(UserError, match="cannot write"):
            journal.Journal(tmp_path, 0)


def test_what_is_written_reaches_the_disk_at_once_a_second_at_most_and_at_the_end(tmp_path, monkeypatch):
    synced, now = [], [100.0]
    monkeypatch.setattr(journal.os, "fsync", lambda number: synced.append(now[0]))
    monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
    (tmp_path / journal.FOLDER).mkdir()
    book = journal.Journal(tmp_path, 0)
    for number in range(6):
        now[0] = 100 + 0.4 * number
        book.append(Entry(time=1.0, record=record(number)))
    assert synced == pytest.approx([100, 101.2])
    book.append(Entry(time=2.0, end=END))
    assert synced[2:] == [now[0]]
    book.close()


def test_a_journal_is_json_lines(tmp_path):
    lines = write(tmp_path, 0, [record(1)]).read_text().splitlines()
    start, one, end = map(json.loads, lines)
    assert start.keys() == {"time", "crc32"}
    assert one["record"]["id"] == "digits/test/0001"
    assert end["end"]["totals"]["attack"] == 100
