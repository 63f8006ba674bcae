"""`rfdlight doctor`: check the environment and print remedies."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich import box
from rich.table import Table
from rich.text import Text

from rfdlight._io import plain_console, shipped_folder
from rfdlight.cli.launcher import check_launcher
from rfdlight.data.base import ImageData
from rfdlight.data.cifar10 import CIFAR10
from rfdlight.data.digits import Digits
from rfdlight.errors import UserError, shown
from rfdlight.records.diagnostic import Diagnostic, guarded
from rfdlight.victims.card import load_victim
from rfdlight.victims.resolve import card_path

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_AGAIN = "install rfdlight again, by pip install --force-reinstall --no-deps ."
_COPY = "copy the card and the weights from their run again"
_DATA = "see docs/reference/victims-and-data.md"
_ELSEWHERE = "give --run a folder elsewhere"
_CIFAR10_TEST = 10_000
_ROOM = 1e9
"""Free bytes that a GPU and a disk should have: a training's checkpoints take some hundred megabytes."""


def doctor(data: ImageData | None = None, victims: str | list[str] | None = None) -> int:
    """Check the environment: versions, devices, launcher variables, data, victims and the run folder.

    Prints the findings and their remedies. Nothing stays on the disk.

    Args:
        data: The data set whose test images are checked; by default the digits, and CIFAR-10 below RFDLIGHT_DATA.
        victims: Names of shipped victims or paths of cards, checked besides all shipped victims.

    Returns:
        The exit status: 0, or 1 if a check failed; a warning is no failure.

    Raises:
        UserError: If a victim is neither shipped nor the path of a card.
    """
    own = {spec: card_path(spec) for spec in ([victims] if isinstance(victims, str) else victims or [])}
    diagnostics = [diagnostic for check in _checks(data, own) for diagnostic in guarded(*check)]
    states = Counter(diagnostic.state for diagnostic in diagnostics)
    console = plain_console()
    console.print(_table(diagnostics))
    console.print(Text(f"{states['ok']} ok, {states['warn']} to look at, {states['fail']} failed"))
    return 1 if states["fail"] else 0


def _checks(data: ImageData | None, own: dict[str, Path]) -> list[tuple[str, Callable[[], list[Diagnostic]], str]]:
    """Return the name, the check and the remedy if the check itself raises."""
    shipped = {card.stem: card for card in sorted(shipped_folder("checkpoints").glob("*.json"))}
    of_data = [("data digits", lambda: check_data(Digits()), _AGAIN), ("data cifar10", check_cifar10, _DATA)]
    return [
        ("packages", check_packages, "pip install ."),
        ("GPU", check_gpus, "try --trainer.accelerator cpu"),
        ("launcher", lambda: check_launcher(os.environ), "start from a fresh shell"),
        *(of_data if data is None else [("data", partial(check_data, data), _DATA)]),
        ("victims", partial(check_victims, shipped, _AGAIN), _AGAIN),
        ("victims", partial(check_victims, own, _COPY), _COPY),
        ("run folder", partial(check_run_folder, Path("runs")), _ELSEWHERE),
    ]


def check_packages() -> list[Diagnostic]:
    """Compare the versions of Python and of the required packages with the ranges that rfdlight requires."""
    needed = {"Python": SpecifierSet(metadata.metadata("rfdlight")["Requires-Python"])}
    found = {"Python": platform.python_version()}
    for requirement in map(Requirement, metadata.requires("rfdlight") or []):
        if requirement.marker is None:
            needed[requirement.name] = requirement.specifier
            found[requirement.name] = metadata.version(requirement.name)
    wrong = {name: bounds for name, bounds in needed.items() if not bounds.contains(found[name], prereleases=True)}
    listed = ", ".join(f"{name} {found[name]}" for name in needed if name not in wrong)
    return [
        Diagnostic("packages", "ok", listed),
        *(
            Diagnostic(name, "fail", f"{found[name]}, rfdlight needs {bounds}", f"install '{name}{bounds}'")
            for name, bounds in wrong.items()
        ),
    ]


def check_gpus() -> list[Diagnostic]:
    """Compute a sum on every GPU, and measure its free memory."""
    if torch.cuda.is_available():
        return [_cuda(index) for index in range(torch.cuda.device_count())]
    if shutil.which("nvidia-smi") is not None:
        found = f"there is an NVIDIA driver, but torch {torch.__version__} finds no GPU"
        remedy = "look at nvidia-smi and CUDA_VISIBLE_DEVICES, or install a torch build for it, see pytorch.org"
        return [Diagnostic("GPU", "warn", found, remedy)]
    return [Diagnostic("GPU", "ok", "none")]


def _cuda(index: int) -> Diagnostic:
    check = f"GPU {index}"
    free, total = torch.cuda.mem_get_info(index)
    found = f"{torch.cuda.get_device_name(index)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    if free < _ROOM:
        return Diagnostic(check, "warn", found, "end what fills it, or choose another with --trainer.devices")
    torch.ones(2, device=f"cuda:{index}").sum().item()
    return Diagnostic(check, "ok", found)


def check_cifar10() -> list[Diagnostic]:
    """Count the test images of CIFAR-10 below RFDLIGHT_DATA; without them, only CIFAR-10 cannot be used."""
    try:
        return check_data(CIFAR10())
    except UserError as error:
        return [Diagnostic("data cifar10", "warn", str(error), "for CIFAR-10 alone: export RFDLIGHT_DATA=FOLDER")]


def check_data(data: ImageData) -> list[Diagnostic]:
    """Find the test images of a data set and read one; those of CIFAR-10 are only counted."""
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


def check_victims(cards: dict[str, Path], remedy: str) -> list[Diagnostic]:
    """Load victims, by name, and compare their weights with their cards; each bad victim is one diagnostic."""
    bad, good = [], []
    for name, card in cards.items():
        try:
            load_victim(card)
            good.append(name)
        except UserError as error:
            bad.append(Diagnostic("victim", "fail", str(error), remedy))
    return [*bad, Diagnostic("victims", "ok", f"weights as on the cards: {', '.join(good)}")] if good else bad


def check_run_folder(runs: Path) -> list[Diagnostic]:
    """Write a file into the folder of the runs, or into the folder above it, and measure the free space of the disk."""
    folder = runs if runs.exists() else runs.parent
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix="doctor-") as probe:
            (Path(probe) / "probe").write_bytes(b"1")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return [Diagnostic("run folder", "fail", f"cannot write into {folder.resolve()}: {error.strerror}", _ELSEWHERE)]
    found = f"{folder.resolve()}, {free / 1e9:.1f} GB free"
    if free < _ROOM:
        return [Diagnostic("run folder", "warn", found, f"make room, or {_ELSEWHERE}")]
    return [Diagnostic("run folder", "ok", found)]


def _table(diagnostics: list[Diagnostic]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("found", overflow="fold", ratio=3)
    table.add_column("what to do", overflow="fold", ratio=2)
    for each in diagnostics:
        state = Text(each.state, style=_STYLES[each.state])
        table.add_row(Text(each.check), state, Text(shown(each.found)), Text(each.remedy))
    return table
