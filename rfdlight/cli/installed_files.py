"""Checks of the data, the victims and the folder of the runs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from rfdlight import _io
from rfdlight.data.base import ImageData
from rfdlight.data.cifar10 import CIFAR10
from rfdlight.data.digits import Digits
from rfdlight.errors import UserError
from rfdlight.records.diagnostic import Diagnostic, guarded
from rfdlight.victims.card import load_victim

ROOM = 1e9
"""Free bytes that a disk should have: a run takes some megabytes, the checkpoints of a training some hundred."""

ELSEWHERE = "give --run a folder elsewhere"
_CIFAR10_TEST = 10_000


def check_digits() -> list[Diagnostic]:
    """Read the digits of scikit-learn."""
    return check_data(Digits())


def check_cifar10() -> list[Diagnostic]:
    """Count the test images of CIFAR-10 below RFDLIGHT_DATA; without them, only CIFAR-10 cannot be used."""
    try:
        return check_data(CIFAR10())
    except UserError as error:
        return [Diagnostic("data cifar10", "warn", str(error), "for CIFAR-10 alone: export RFDLIGHT_DATA=FOLDER")]


def check_data(data: ImageData) -> list[Diagnostic]:
    """Find the test images of a data set and read one; those of CIFAR-10 are only counted.

    Raises:
        UserError: If the images cannot be found or read.
    """
    check = f"data {data.name}"
    if isinstance(data, CIFAR10):
        count = len(data.images("test"))
        found = f"{count:,} of {_CIFAR10_TEST:,} test images"
        if count == _CIFAR10_TEST:
            return [Diagnostic(check, "ok", found)]
        remedy = "complete the folder, or move it and give --data.download true to a run"
        return [Diagnostic(check, "warn", found, remedy)]
    shape = " x ".join(map(str, data.example().shape[1:]))
    return [Diagnostic(check, "ok", f"{len(data.images('test')):,} test images, the first of {shape}")]


def check_shipped_victims(remedy: str) -> list[Diagnostic]:
    """Load every shipped victim.

    Raises:
        UserError: If there is none.
    """
    folder = _io.shipped_folder("checkpoints")
    cards = {card.stem: card for card in sorted(folder.glob("*.json"))}
    if not cards:
        raise UserError(f"no victim cards in {folder}")
    return check_victims(cards, remedy)


def check_victims(cards: dict[str, Path], remedy: str) -> list[Diagnostic]:
    """Load victims and compare their weights with the sha256 of their cards; each bad victim is one diagnostic.

    Args:
        cards: The paths of the cards, by name of the victim.
        remedy: What to do about a bad victim.
    """
    bad, good = [], []
    for name, card in cards.items():

        def load(path: Path = card) -> list[Diagnostic]:
            load_victim(path)
            return []

        failures = guarded("victim", load, remedy)
        for failure in failures:
            named = str(card.with_suffix("")) in failure.found
            found = failure.found if named else f"{card}: {failure.found}"
            bad.append(Diagnostic("victim", "fail", found, remedy))
        good += [] if failures else [name]
    return [*bad, Diagnostic("victims", "ok", f"weights as on the cards: {', '.join(good)}")] if good else bad


def check_run_folder(runs: Path) -> list[Diagnostic]:
    """Write a file into the folder of the runs, remove it, and measure the free space of the disk.

    Args:
        runs: The folder of the runs; if it does not exist yet, the folder above is checked.
    """
    folder = runs if runs.exists() else runs.parent
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix="doctor-") as probe:
            (Path(probe) / "probe").write_bytes(b"1")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return [Diagnostic("run folder", "fail", f"cannot write into {folder.resolve()}: {error.strerror}", ELSEWHERE)]
    found = f"{folder.resolve()}, {free / 1e9:.1f} GB free"
    if free < ROOM:
        return [Diagnostic("run folder", "warn", found, f"make room, or {ELSEWHERE}")]
    return [Diagnostic("run folder", "ok", found)]
