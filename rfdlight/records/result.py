"""The result of an evaluation, from the file that is written last: it says whether the evaluation is finished."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from msgspec import Raw, Struct

from rfdlight._io import read_bytes
from rfdlight.records import standard
from rfdlight.records.schema import Count, decode
from rfdlight.records.summary import Estimate

SUMMARY = "summary.json"
"""The last file of a run."""

LAST = (standard.FILE, SUMMARY)
"""The last file of a standard evaluation, and of a run; a folder with both holds a standard evaluation."""


class Size(NamedTuple):
    """The number of images that an evaluation attacks, and of queries per image."""

    images: int
    budget: int

    @property
    def queries(self) -> int:
        """The number of queries if no attack succeeds."""
        return self.images * self.budget


class _Share(Struct):
    value: float | None  # None of no images
    low: float | None
    high: float | None
    total: Count

    @property
    def estimate(self) -> Estimate:
        value, low, high = (math.nan if each is None else each for each in (self.value, self.low, self.high))
        return Estimate(value=value, low=low, high=high, total=self.total)


class _Shares(Struct):
    robust: _Share
    clean: _Share


class _Facts(Struct):
    num_images: Count
    budget: Count
    complete: bool


class _Summary(Struct):
    """The part of `summary.json` that is read."""

    run: _Facts
    mean_logits: Raw = Raw(b"null")


class _Standard(Struct):
    """The part of `standard.json` that is read."""

    settings: standard.Settings
    summary: Raw = Raw(b"null")


@dataclass(frozen=True)
class Result:
    """Size and accuracies of a finished evaluation; the accuracies are None where its summary lacks them."""

    size: Size
    robust: Estimate | None
    clean: Estimate | None


def result_of(folder: Path) -> Result | None:
    """Return the result of the finished run or standard evaluation in a folder, None if there is none or a damaged one.

    Images that failed count as done. The queries of a standard evaluation are those of all its stages.
    """
    for last in LAST:
        try:
            return _result(last, read_bytes(folder / last))
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            return None
    return None


def is_unfinished(folder: Path) -> bool:
    """Return whether the standard evaluation in a folder has no result yet; False of a damaged one, for its reader."""
    try:
        return _result(standard.FILE, read_bytes(folder / standard.FILE)) is None
    except (OSError, ValueError):
        return False


def _result(last: str, content: bytes) -> Result | None:
    """Return the result in a last file, None if the evaluation is not finished; a ValueError of damaged content."""
    if last == standard.FILE:
        whole = decode(content, _Standard)
        settings, shares = whole.settings, whole.summary
        complete, queries = bytes(shares) != b"null", settings.budget * len(settings.stages)
        size = Size(settings.num_images, queries)
    else:
        run = decode(content, _Summary)
        complete, shares, size = run.run.complete, run.mean_logits, Size(run.run.num_images, run.run.budget)
    return Result(size, *_accuracies(shares)) if complete else None


def _accuracies(shares: Raw) -> tuple[Estimate | None, Estimate | None]:
    try:
        found = decode(bytes(shares), _Shares)
    except ValueError:
        return None, None
    return found.robust.estimate, found.clean.estimate


def size_of(folder: Path) -> Size | None:
    """Return the size of the finished evaluation in a folder, None if there is none."""
    result = result_of(folder)
    return None if result is None else result.size
