"""`rfdlight doctor`: whether this environment is fit for runs, and what to mend."""

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
from rfdlight.records.diagnostic import Finding, guarded
from rfdlight.victims.resolve import card_path

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_AGAIN = "install rfdlight again, by pip install --force-reinstall --no-deps ."
_COPY = "take the card and the weights from their run again"
_DATA = "see docs/victims-and-data.md"
_Check = tuple[str, Callable[[], list[Finding]], str]
"""The name of a check, itself, and what to do if it breaks."""


def doctor(data: ImageData | None = None, victims: str | list[str] | None = None) -> int:
    """Check the environment: versions, devices, launcher variables, data, victims and the run folder.

    Prints what was found and what to do about it. Nothing stays on the disk.

    Args:
        data: Whose test images are looked for; by default the digits', and CIFAR-10's below RFDLIGHT_DATA.
        victims: Names of shipped victims or paths of cards, to be checked beside all those that come with rfdlight.

    Returns:
        The exit status: 0, or 1 if a check failed. A warning is none.

    Raises:
        UserError: If there is no such shipped victim, or a path is not that of a card.
    """
    own = {spec: card_path(spec) for spec in ([victims] if isinstance(victims, str) else victims or [])}
    findings = [finding for check in _checks(data, own) for finding in guarded(*check)]
    states = Counter(finding.state for finding in findings)
    console = plain_console()
    console.print(_table(findings))
    console.print(Text(f"{states['ok']} ok, {states['warn']} to look at, {states['fail']} failed"))
    return 1 if states["fail"] else 0


def _launcher() -> list[Finding]:
    has_terminal = sys.stdin is not None and sys.stdin.isatty()  # a service may have no input at all
    return launcher.check_launcher(os.environ, has_terminal)


def _checks(data: ImageData | None, own: dict[str, Path]) -> list[_Check]:
    checks: list[_Check] = [
        ("Python", versions.check_python, "pip install ."),
        ("packages", versions.check_packages, "pip install ."),
        ("CPU", devices.check_cpu, "set OMP_NUM_THREADS"),
        ("bfloat16", devices.check_bfloat16, "keep --trainer.precision 32-true"),
        ("GPU", devices.check_gpus, "try --trainer.accelerator cpu"),
        ("launcher", _launcher, "start from a fresh shell"),
    ]
    if data is None:
        checks += [
            ("data digits", installed_files.check_digits, "pip install --force-reinstall scikit-learn"),
            ("data cifar10", installed_files.check_cifar10, _DATA),
        ]
    else:
        checks.append(("data", partial(installed_files.check_data, data), _DATA))
    return [
        *checks,
        ("victims", partial(installed_files.check_shipped_victims, _AGAIN), _AGAIN),
        ("victims", partial(installed_files.check_victims, own, _COPY), _COPY),
        ("run folder", partial(installed_files.check_run_folder, Path("runs")), installed_files.ELSEWHERE),
    ]


def _table(findings: list[Finding]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("found", overflow="fold", ratio=3)
    table.add_column("what to do", overflow="fold", ratio=2)
    for finding in findings:
        state = Text(finding.state, style=_STYLES[finding.state])
        table.add_row(Text(finding.check), state, Text(shown(finding.found)), Text(finding.remedy))
    return table
