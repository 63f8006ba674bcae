"""Whether the data, the victims and the folder of the runs are there."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from rfdlight import _io
from rfdlight.data.base import ImageData
from rfdlight.data.cifar10 import CIFAR10
from rfdlight.data.digits import Digits
from rfdlight.errors import UserError
from rfdlight.records.diagnostic import Finding, guarded
from rfdlight.victims.card import load_victim

ROOM = 1e9
"""Bytes that a disk should have free: a run takes a few megabytes, a training's checkpoints hundreds."""

ELSEWHERE = "give --run a folder elsewhere"
_CIFAR10_TEST = 10_000


def check_digits() -> list[Finding]:
    """Read the digits that scikit-learn carries."""
    return check_data(Digits())


def check_cifar10() -> list[Finding]:
    """Count the test images of CIFAR-10 below RFDLIGHT_DATA; a warning, since nothing else needs them."""
    try:
        return check_data(CIFAR10())
    except UserError as error:
        return [Finding("data cifar10", "warn", str(error), "for CIFAR-10 alone: export RFDLIGHT_DATA=FOLDER")]


def check_data(data: ImageData) -> list[Finding]:
    """Find the test images of some data and read one; those of CIFAR-10 are counted, which fills no cache.

    Raises:
        UserError: If they cannot be found or read.
    """
    check = f"data {data.name}"
    if isinstance(data, CIFAR10):
        count = data.count("test")
        found = f"{count:,} of {_CIFAR10_TEST:,} test images"
        if count == _CIFAR10_TEST:
            return [Finding(check, "ok", found)]
        return [Finding(check, "warn", found, "complete the folder, or move it and give --data.download true to a run")]
    shape = " x ".join(map(str, data.example().shape[1:]))
    return [Finding(check, "ok", f"{len(data.images('test')):,} test images, the first of {shape}")]


def check_shipped_victims(remedy: str) -> list[Finding]:
    """Load every victim that comes with rfdlight.

    Raises:
        UserError: If there is none.
    """
    folder = _io.shipped_folder("checkpoints")
    cards = {card.stem: card for card in sorted(folder.glob("*.json"))}
    if not cards:
        raise UserError(f"no victim cards in {folder}")
    return check_victims(cards, remedy)


def check_victims(cards: dict[str, Path], remedy: str) -> list[Finding]:
    """Load victims, with the weights that their cards name by sha256; those that cannot be loaded are told one by one.

    Args:
        cards: The `.json` files, by what the victims are called.
        remedy: What to do about a bad one.
    """
    bad = {name: guarded("victim", partial(_load, card), remedy) for name, card in cards.items()}
    findings = [_naming(cards[name], finding) for name, adversarial in bad.items() for finding in adversarial]
    sound = [name for name, adversarial in bad.items() if not adversarial]
    return [*findings, Finding("victims", "ok", f"weights as on the cards: {', '.join(sound)}")] if sound else findings


def _naming(card: Path, finding: Finding) -> Finding:
    """Put the file before what was found, where that does not name it."""
    named = str(card.with_suffix("")) in finding.found
    return finding if named else replace(finding, found=f"{card}: {finding.found}")


def _load(card: Path) -> list[Finding]:
    load_victim(card)
    return []


def check_run_folder(runs: Path) -> list[Finding]:
    """Make a folder with a file where runs go, take it away again, and look how much room there is.

    Args:
        runs: Where runs go; where it is not there yet, the folder above it is looked at.
    """
    folder = runs if runs.exists() else runs.parent
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix="doctor-") as probe:
            (Path(probe) / "probe").write_bytes(b"1")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return [Finding("run folder", "fail", f"cannot write into {folder.resolve()}: {error.strerror}", ELSEWHERE)]
    found = f"{folder.resolve()}, {free / 1e9:.1f} GB free"
    if free < ROOM:
        return [Finding("run folder", "warn", found, f"make room, or {ELSEWHERE}")]
    return [Finding("run folder", "ok", found)]
