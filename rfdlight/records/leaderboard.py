"""Entries of a leaderboard: what standard evaluations claim, and what fresh draws at their final points say."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec
from msgspec import Meta, Struct

from rfdlight._io import read_bytes, read_config, write_file
from rfdlight.core.balls import Norm
from rfdlight.errors import UserError, expect, nearest, shown
from rfdlight.records.records import Record
from rfdlight.records.run_directory import FINGERPRINT
from rfdlight.records.schema import Count, Fields, PositiveCount, decode, read_versioned
from rfdlight.records.standard import Access, Standard
from rfdlight.records.summary import Estimate

ABOUT = "submission.yaml"
"""In the folder of a standard evaluation: what the submitter says about it, YAML or JSON; it may be missing."""

FOLDER = "entries"
"""In the folder of a leaderboard: one JSON file per entry."""

_LINKS = ("link", "code")


class About(Fields, frozen=True, kw_only=True):
    """What a submitter says about an entry; each field may be empty."""

    name: str = ""  # of the method
    authors: str = ""
    link: str = ""  # of the paper
    venue: str = ""
    code: str = ""  # link
    architecture: str = ""
    additional_data: str = ""  # whether the training used data beyond the data set's own
    note: str = ""

    def __post_init__(self) -> None:
        for name in _LINKS:
            link = getattr(self, name)
            if link and not link.startswith(("https://", "http://")):
                raise ValueError(f"{name}: expected an address with https:// or http://, got {link}")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of these fields: plain values, or lists of them; no file is an empty one."""
        if not path.exists():
            return cls()
        content = read_config(path)
        unknown = next((name for name in content if name not in cls.__struct_fields__), None)
        if unknown is not None:
            raise UserError(f"{path}: unknown field '{unknown}'; {nearest(str(unknown), cls.__struct_fields__)}")
        try:
            return cls(**{name: _text(name, value) for name, value in content.items()})
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error


def _text(name: str, value: Any) -> str:
    """Return a value of YAML as a submitter typed it."""
    if isinstance(value, list):
        return ", ".join(_text(name, each) for each in value)
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    if not isinstance(value, str | int | float | date):
        raise ValueError(f"{name}: expected a text, got {value!r:.40}")
    return shown(value)


class Draws(Fields, frozen=True, kw_only=True):
    """Evaluations per final point, over the images that were right before the attack."""

    least: PositiveCount
    median: float
    most: PositiveCount

    @classmethod
    def of(cls, records: Iterable[Record]) -> Self | None:
        """Return the draws of records, None if no image was right."""
        counts = [record.final_evaluations for record in records if record.verdict != "misclassified"]
        if not counts:
            return None
        return cls(least=min(counts), median=statistics.median(counts), most=max(counts))


class Digests(Fields, frozen=True, kw_only=True):
    """Digests, sha256, of what an entry is about."""

    weights: str  # of the victim
    images: str  # ids, labels and pixels
    run: str  # of `records.jsonl` of all stages, in order


class Overturned(Fields, frozen=True, kw_only=True):
    """Images whose verdict fresh draws turn round, undecided ones by the sign of their mean margin."""

    to_robust: Count  # adversarial in the run
    to_adversarial: Count  # robust in the run


class Reevaluation(Fields, frozen=True, kw_only=True):
    """The accuracies by fresh draws at the clean images and at the final points."""

    clean: Estimate
    robust: Estimate
    robust_lower: Estimate  # undecided images as adversarial
    overturned: Overturned
    draws: Draws | None
    points: str  # sha256 of the final points
    seed: Count  # of the draws
    date: str


class Entry(Fields, frozen=True, kw_only=True):
    """One entry of a leaderboard; docs/how-to/make-a-report.md explains the fields."""

    schema: Annotated[int, Meta(ge=1, le=1)] = 1
    name: Annotated[str, Meta(pattern=r"^[^/]+$")]
    status: Literal["claimed", "re-evaluated"] = "claimed"
    date: str  # on which the entry came to the leaderboard
    about: About = About()
    victim: str
    data: str
    defense: str
    norm: Norm
    eps: float  # in pixel units
    budget: Count  # queries per image and stage
    access: Access
    version: str
    stages: list[str]
    images: PositiveCount
    clean: Estimate
    robust: Estimate
    robust_lower: Estimate  # undecided images as adversarial
    draws: Draws | None
    digests: Digests
    reevaluation: Reevaluation | None = None

    def __post_init__(self) -> None:
        if (self.status == "re-evaluated") != (self.reevaluation is not None):
            raise ValueError(f"status: expected one that fits the field reevaluation, got {self.status}")

    @property
    def ranked(self) -> Estimate:
        """The robust accuracy by which the entry is ranked: that by fresh draws, where there is one."""
        return self.robust if self.reevaluation is None else self.reevaluation.robust

    def with_reevaluation(self, found: Reevaluation) -> Entry:
        """Return the entry, re-evaluated."""
        return msgspec.structs.replace(self, status="re-evaluated", reevaluation=found)


class _Fingerprint(Struct):
    """The part of a fingerprint that is read."""

    weights: str
    images: str


def today() -> str:
    """Return the date in UTC, such as 2026-01-31."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def entry_of(folder: Path) -> Entry:
    """Return the entry that the folder of a standard evaluation claims, with the folder's name.

    Raises:
        UserError: If it holds no finished standard evaluation of the stages of its version, images failed in it, or
            `ABOUT` cannot be used.
    """
    standard = Standard.load(folder)
    standard.check_version()
    settings, summary = standard.settings, standard.summary
    failed = settings.num_images - len(standard.images)
    expect(not failed, str(folder), f"results on all {settings.num_images:,} images", f"{failed:,} that failed")
    first = standard.stages[0].folder
    assert first is not None, "it was read from there"
    digests = read_versioned(first / FINGERPRINT, _Fingerprint, oldest=3)
    return Entry(
        name=shown(folder.resolve().name),
        date=today(),
        about=About.read(folder / ABOUT),
        images=len(standard.images),
        clean=summary.clean,
        robust=summary.robust,
        robust_lower=summary.robust_lower,
        draws=Draws.of(standard.records.values()),
        digests=Digests(weights=shown(digests.weights), images=shown(digests.images), run=_run_digest(standard)),
        **{
            name: getattr(settings, name)
            for name in ("victim", "data", "defense", "norm", "eps", "budget", "access", "version", "stages")
        },
    )


def _run_digest(standard: Standard) -> str:
    digest = hashlib.sha256()
    for stage in standard.stages:
        assert stage.folder is not None, "it was read from there"
        digest.update(read_bytes(stage.folder / "records.jsonl"))
    return digest.hexdigest()


def read_entries(folder: Path) -> dict[str, Entry]:
    """Read the entries of the leaderboard in a folder, by name; none of a folder without any."""
    found = {}
    for path in sorted((folder / FOLDER).glob("*.json")):
        try:
            entry = decode(read_bytes(path), Entry)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        expect(entry.name == path.stem, f"{path}: name", path.stem, entry.name)
        found[entry.name] = entry
    return found


def add_entries(folder: Path, entries: Sequence[Entry]) -> list[Entry]:
    """Add entries to the leaderboard in a folder, which is made if it is missing, and return all of its entries.

    An entry of the same run is replaced, but its date stays, and its re-evaluation unless the new one has its own.

    Raises:
        UserError: If two entries share a name and are of different runs, or a file cannot be read or written.
    """
    known = read_entries(folder)
    added: dict[str, Entry] = {}
    for entry in entries:
        before = added.get(entry.name) or known.get(entry.name)
        added[entry.name] = entry if before is None else _replaced(before, entry, folder)
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the leaderboard to {folder}: {error.strerror}") from error
    for name, entry in added.items():
        content = msgspec.json.format(msgspec.json.encode(entry), indent=2) + b"\n"
        write_file(folder / FOLDER / f"{name}.json", content)
    return [*(known | added).values()]


def _replaced(before: Entry, now: Entry, folder: Path) -> Entry:
    if before.digests.run != now.digests.run:
        raise UserError(f"{folder} has an entry {now.name} of another run; rename the folder of one of the two")
    kept = msgspec.structs.replace(now, date=before.date)
    if now.reevaluation is None and before.reevaluation is not None:
        return kept.with_reevaluation(before.reevaluation)
    return kept
