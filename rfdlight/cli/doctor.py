"""`rfdlight doctor`: check the environment and print remedies."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from rfdlight._io import plain_console
from rfdlight.cli import devices, installed_files, launcher, versions
from rfdlight.data.base import ImageData
from rfdlight.errors import shown
from rfdlight.records.diagnostic import Diagnostic, guarded
from rfdlight.victims.resolve import card_path

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_AGAIN = "install rfdlight again, by pip install --force-reinstall --no-deps ."
_COPY = "copy the card and the weights from their run again"
_DATA = "see docs/victims-and-data.md"


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


def _launcher() -> list[Diagnostic]:
    has_terminal = sys.stdin is not None and sys.stdin.isatty()  # a service may have no input at all
    return launcher.check_launcher(os.environ, has_terminal)


def _checks(data: ImageData | None, own: dict[str, Path]) -> list[tuple[str, Callable[[], list[Diagnostic]], str]]:
    """Return the name, the check and the remedy if the check itself raises."""
    of_data = [
        ("data digits", installed_files.check_digits, "pip install --force-reinstall scikit-learn"),
        ("data cifar10", installed_files.check_cifar10, _DATA),
    ]
    return [
        ("Python", versions.check_python, "pip install ."),
        ("packages", versions.check_packages, "pip install ."),
        ("CPU", devices.check_cpu, "set OMP_NUM_THREADS"),
        ("bfloat16", devices.check_bfloat16, "keep --trainer.precision 32-true"),
        ("GPU", devices.check_gpus, "try --trainer.accelerator cpu"),
        ("launcher", _launcher, "start from a fresh shell"),
        *(of_data if data is None else [("data", partial(installed_files.check_data, data), _DATA)]),
        ("victims", partial(installed_files.check_shipped_victims, _AGAIN), _AGAIN),
        ("victims", partial(installed_files.check_victims, own, _COPY), _COPY),
        ("run folder", partial(installed_files.check_run_folder, Path("runs")), installed_files.ELSEWHERE),
    ]


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
