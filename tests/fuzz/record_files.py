"""The files of a run, damaged."""

from __future__ import annotations

import json
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from .configs import restructure
from .running import FAST, Outcome, check, files, run, workplace

TEST = (
    "test", "--attack", "square", *FAST, "--data.num_images", "6", "--model.budget", "8", "--model.batch_size", "4",
    "--model.final_evaluations", "40", "--model.keep_images", "2",
)  # fmt: skip


JOURNAL = "journal/0-0.jsonl"

COPIES = ("0-1", "1-0", "01-0", "9-9", f"{'9' * 100}-0")
"""Attempts and processes that the run had not."""


@dataclass
class Original:
    """A run that nothing stopped, as the content of its files, and the same as SIGKILL leaves it after four images."""

    whole: dict[str, bytes | None]
    killed: dict[str, bytes | None]

    @property
    def records(self) -> bytes:
        """What `records.jsonl` holds, of a victim that answers the same every time."""
        return self.whole["records.jsonl"] or b""


def make(folder: Path) -> Original:
    """Run a command line below a folder, where one has changed to."""
    outcome = run(folder, *TEST, "--run", "whole")
    assert outcome.status == 0, outcome
    whole = files(folder / "whole")
    killed = {name: content for name, content in whole.items() if "." not in name or name.split("/")[0] == "journal"}
    killed |= {name: whole[name] for name in ("config.yaml", "fingerprint.json")}
    entries = (whole[JOURNAL] or b"").splitlines(keepends=True)
    killed[JOURNAL] = b"".join(entries[:5])  # its start and four records
    shutil.rmtree(folder / "whole")
    return Original(whole, killed)


def write(folder: Path, content: dict[str, bytes | None]) -> None:
    """Write the files of a run."""
    folder.mkdir()
    for name in sorted(content):
        if content[name] is None:
            (folder / name).mkdir(parents=True, exist_ok=True)
        else:
            (folder / name).write_bytes(content[name] or b"")


def sealed(content: dict[str, Any]) -> bytes:
    """A line whose checksum is right, whatever it holds."""
    body = json.dumps(content).removesuffix("}").encode()
    return body + b',"crc32":"%08x"}' % zlib.crc32(body)


def _foreign(line: bytes) -> list[bytes]:
    """Lines that are none of the run's own; those whose checksum is right are of no image of the run."""
    content = json.loads(line)
    del content["crc32"]
    record = content.get("record", content)
    others = [
        record | {"id": "another/test/0001"}, {"id": "another/test/0002"}, record | {"id": 3}, record | {"id": ["a"]},
        record | {"id": None, "billed": "many"}, {"time": 1e999}, {"time": -1.0}, {"time": float("nan")},
    ]  # fmt: skip
    end = {"totals": {"attack": -1}, "forwarded": 10**30, "batch_size": "x", "in_progress": {"begun": 1, "robust": 2}}
    entries = [{"record": each} for each in others] + [{"end": {**end, "totals": {}}}, {"end": end}, {"failed": ["x"]}]
    return [
        b"", b"null", b"{}", b"[]", b"3", b'"a"', b"NaN", b"\x00" * 100, bytes(range(256)).replace(b"\n", b""),
        b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b'{"id": 1e999}', b'{"crc32": 3}', b'{"crc32":"00000000"}',
        json.dumps(record | {"billed": record["billed"] + 1}).encode(),
        line.replace(b'"robust"', b'"adversarial"').replace(b'"billed":', b'"billed":1'),
        *map(sealed, others), *(sealed({"time": 1.0, **entry}) for entry in entries),
    ]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, content: bytes, line: bytes) -> bytes:
    """A file's content with bits changed, parts lost or there twice, or something of another origin in it."""
    return draw(st.one_of(_bytes_damaged(content, line), _lines_damaged(content, line)))


@st.composite
def _bytes_damaged(draw: st.DrawFn, content: bytes, line: bytes) -> bytes:
    first, last = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    how = draw(st.sampled_from(("bits", "cut", "hole", "zeros", "other")))
    if how == "cut":
        return content[:first]
    if how == "hole":
        return content[:first] + content[last:]
    if how == "zeros":
        return content[:first] + bytes(last - first) + content[last:]
    if how == "other" or not content:
        others = (b"", b"\n", b"null", b"[]", b"{}", b"\xff\xfe\x00", b"[" * 100_000, line, line * 3)
        return draw(st.sampled_from(others))
    changed = bytearray(content)
    for at in draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        changed[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


@st.composite
def _lines_damaged(draw: st.DrawFn, content: bytes, line: bytes) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    at = draw(st.integers(0, len(lines)))
    how = draw(st.sampled_from(("repeat", "reorder", "foreign", "foreign", "glue")))
    if how == "repeat":
        lines.insert(at, draw(st.sampled_from(lines)))
    elif how == "reorder":
        lines = list(draw(st.permutations(lines)))
    elif how == "foreign":
        end = draw(st.sampled_from((b"\n", b"\r\n", b"\x0c", b"")))
        lines.insert(at, draw(st.sampled_from(_foreign(line))) + end)
    else:
        lines[at - 1] = lines[at - 1].rstrip(b"\n")
    return b"".join(lines)


def _typed(draw: st.DrawFn, content: bytes) -> bytes:
    """A JSON file with values of other types."""
    try:
        return json.dumps(restructure(draw, json.loads(content)), default=str).encode()
    except (ValueError, TypeError, RecursionError):  # it holds itself, or has a key that is none
        return b"[" * 400


@st.composite
def damaged_runs(draw: st.DrawFn, content: dict[str, bytes | None], original: Original) -> dict[str, bytes | None]:
    """The files of a run, one or two of them damaged, missing, or a folder where there was a file."""
    content = dict(content)
    line = original.records.splitlines()[draw(st.integers(0, 5))]
    names = [name for name in content if content[name] is not None and name != "curves.png" and "lock" not in name]
    for name in draw(st.lists(st.sampled_from(sorted(names)), min_size=1, max_size=2, unique=True)):
        how = draw(st.sampled_from(("damaged",) * 10 + ("missing", "folder", "copied", "typed", "typed")))
        if how == "missing":
            del content[name]
        elif how == "folder":
            content[name] = None
        elif how == "copied" and "journal" in name:
            content[name.replace("0-0", draw(st.sampled_from(COPIES)))] = content[name]
        elif how == "typed" and name.endswith(".json"):
            content[name] = _typed(draw, content[name] or b"")
        else:
            content[name] = draw(damaged(content[name] or b"", line))
    return content


def report(folder: Path, original: Original) -> Outcome:
    """Report on the run that `folder/run` holds."""
    outcome = run(folder, "report", "run", "--output", "report")
    check(outcome)
    if outcome.status == 0:
        own = set(original.records.splitlines())
        found = (outcome.after["run/records.jsonl"] or b"").splitlines()
        assert set(found) <= own, outcome
        assert len(set(found)) == len(found), outcome
    return outcome


def resume(folder: Path, original: Original) -> Outcome:
    """Go on with the run that `folder/run` holds."""
    outcome = run(folder, "test", "--resume", "run")
    check(outcome)
    if outcome.status not in (2, 3):
        assert outcome.after["run/records.jsonl"] == original.records, outcome
    if outcome.status == 1:
        assert json.loads(outcome.after["run/summary.json"] or b"")["run"]["failed"], outcome
    return outcome


def low_watermark(data: st.DataObject, original: Original) -> None:
    """Damage a run, report on it or go on with it, and check what comes of it."""
    finished, then = data.draw(st.sampled_from(((True, report), (True, resume), (False, resume))))
    with workplace() as folder:
        write(folder / "run", data.draw(damaged_runs(original.whole if finished else original.killed, original)))
        then(folder, original)
