import json
import subprocess
import sys

import pytest
from hand import adversarial, record
from hypothesis import given, settings
from hypothesis import strategies as st

from rfdlight.errors import UserError
from rfdlight.records import journal
from rfdlight.records.records import read_records, seal, unseal

TOTALS = {"attack": 100, "gradient": 0, "success_check": 0, "criterion": 10, "padding": 5}


def write(run, attempt, records, rank=0, ended=True):
    (run / "journal").mkdir(exist_ok=True)
    book = journal.Journal(run, attempt, rank)
    for each in records:
        book.record(each)
    if ended:
        book.event("end", totals=TOTALS)
    book.close()


@given(position=st.integers(0), bit=st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_no_flipped_bit_goes_through_unseen(position, bit):
    line = bytearray(seal(adversarial(3, at=7)).encode())
    position %= len(line)
    line[position] ^= 1 << bit
    try:
        found = unseal(line.decode(errors="replace"))
    except ValueError:
        return
    # What is left are the letters of the seal's own name: the journal then takes the line for no record.
    assert "crc32" not in line.decode(errors="replace")
    assert {name: value for name, value in found.items() if not name.startswith("c") or name in record(0)}


@given(st.floats(allow_nan=False), st.text())
def test_a_sealed_record_comes_back_as_it_was(value, text):
    assert unseal(seal({"id": text, "final_margin": value})) == {"id": text, "final_margin": value}


def test_several_ranks_and_attempts_make_one_file_in_order_of_id(tmp_path):
    write(tmp_path, 0, [record(5), record(1)], rank=0, ended=False)
    write(tmp_path, 0, [record(3)], rank=1, ended=False)
    write(tmp_path, 1, [record(2), record(5, linf=0.1)])
    past = journal.look_back(tmp_path)
    assert [each["id"][-1] for each in past.records] == ["1", "2", "3", "5"]
    assert past.records[-1]["linf"] == 0.2, "of two records of an image the first counts"
    assert (past.attempts, past.killed, past.damaged) == (2, 1, 0), "two processes of one attempt are one attempt"
    assert past.totals == {"attack": 190, "gradient": 0, "success_check": 0, "criterion": 370, "padding": 5}
    journal.conclude(tmp_path, past.records)
    assert read_records(tmp_path / "records.jsonl") == past.records
    assert not list((tmp_path / "journal").glob("records-*"))
    again = journal.look_back(tmp_path)
    assert (again.records, again.attempts) == (past.records, 2)


def test_only_the_last_attempts_failures_count_and_none_of_images_that_another_process_finished(tmp_path):
    for attempt, rank, failed in ((0, 0, "0001"), (1, 0, "0002"), (1, 1, "0003")):
        (tmp_path / "journal").mkdir(exist_ok=True)
        book = journal.Journal(tmp_path, attempt, rank)
        book.failure(f"digits/test/{failed}", f"reason {failed}")
        book.end(TOTALS, forwarded=100, batch_size=8 // (1 + rank))
        book.close()
    write(tmp_path, 1, [record(2)], rank=2)
    past = journal.look_back(tmp_path)
    assert past.failed == {"digits/test/0003": "reason 0003"}
    assert past.batch_size == 4, "the smallest"
    assert past.forwarded is None, "a process ended without a word"


def test_the_time_of_an_attempt_is_that_of_its_longest_process(tmp_path):
    (tmp_path / "journal").mkdir()
    for attempt, rank, seconds in ((0, 0, 5.0), (0, 1, 7.0), (1, 0, 2.0)):
        lines = [{"event": "start", "time": 100.0}, {"event": "end", "time": 100.0 + seconds, "totals": TOTALS}]
        path = tmp_path / f"journal/events-{attempt}-{rank}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    past = journal.look_back(tmp_path)
    assert (past.seconds, past.attempts, past.killed) == (9.0, 2, 0)


@pytest.mark.parametrize("name", ["events-x-0.jsonl", "records-1.jsonl", "records-1-0.jsonl.bak", "events--1-0.jsonl"])
def test_files_that_no_journal_wrote_are_left_alone(name, tmp_path):
    write(tmp_path, 0, [record(1)])
    (tmp_path / "journal" / name).write_text("anything\n")
    past = journal.look_back(tmp_path)
    assert (len(past.records), past.damaged, past.attempts) == (1, 0, 1)
    journal.conclude(tmp_path, past.records)
    assert (tmp_path / "journal" / name).exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-1],
        lambda text: text[:-30],
        lambda text: text + '{"id": "digits/te',
        lambda text: text + "someone else's line\n",
        lambda text: text + "[1, 2]\n",
        lambda text: text + '"text"\n',
        lambda text: text + json.dumps(record(9)) + "\n",
        lambda text: text + seal({"id": "digits/test/0009"}) + "\n",
        lambda text: text + "\x00\x00\x00\n",
        lambda text: text.replace('"robust"', '"adversarial"', 1),
    ],
)
def test_damaged_lines_are_counted_and_left_out(damage, tmp_path):
    write(tmp_path, 0, [record(index) for index in range(4)], ended=False)
    (path,) = (tmp_path / "journal").glob("records-*")
    before = path.read_text()
    path.write_text(damage(before))
    past = journal.look_back(tmp_path)
    whole = {seal(each) for each in past.records}
    assert whole <= set(before.splitlines())
    assert past.damaged == len(set(path.read_text().splitlines()) - set(before.splitlines()))
    assert len(past.records) >= 3


def test_bytes_that_are_no_text_are_counted_and_left_out(tmp_path):
    write(tmp_path, 0, [record(1)])
    (path,) = (tmp_path / "journal").glob("records-*")
    path.write_bytes(path.read_bytes() + b"\xff\xfe\x00\n")
    assert (len(journal.look_back(tmp_path).records), journal.look_back(tmp_path).damaged) == (1, 1)


def test_damaged_events_cost_no_record(tmp_path):
    write(tmp_path, 0, [record(1), record(2)])
    (path,) = (tmp_path / "journal").glob("events-*")
    path.write_text(path.read_text() + '{"event": "end"}\n{"event": 3}\nnull\n{"event": "image", "time": "x"}\n')
    past = journal.look_back(tmp_path)
    assert (len(past.records), past.totals, past.killed) == (2, TOTALS, 0)


def test_damaged_final_records_are_no_longer_trusted(tmp_path):
    journal.lock(tmp_path).release()
    journal.conclude(tmp_path, [record(1), record(2)])
    path = tmp_path / "records.jsonl"
    path.write_text(path.read_text().replace("0.2", "0.1", 1))
    with pytest.raises(UserError, match=r"records.jsonl, line 1, is damaged"):
        journal.look_back(tmp_path)


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


def test_a_full_disk_is_one_line():
    full = open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(UserError, match="cannot write /dev/full: No space left on device; what it has so far is kept"):
        journal._append(full, "a line")


def test_what_is_written_reaches_the_disk_at_once_a_second_at_most_and_at_the_end(tmp_path, monkeypatch):
    synced, now = [], [100.0]
    monkeypatch.setattr(journal.os, "fsync", lambda number: synced.append(now[0]))
    monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
    (tmp_path / journal.FOLDER).mkdir()
    written = journal.Journal(tmp_path, 0)
    for number in range(6):
        now[0] = 100 + 0.4 * number
        written.record(record(number))
    assert synced == pytest.approx([100, 100, 101.2, 101.2])
    written.end(dict.fromkeys(journal.ROWS, 0), 0, 1)
    assert synced[4:] == [now[0]] * 2
    written.close()
