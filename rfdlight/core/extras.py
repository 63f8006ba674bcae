"""Packages of the extras, which are imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

from rfdlight.errors import UserError


def imported(package: str, extra: str, needed_for: str) -> ModuleType:
    """Import a package of an extra; raise a UserError with the command that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        hint = f"pip install 'rfdlight[{extra}]' installs it"
        raise UserError(f"{needed_for}: expected the package {package}, got none; {hint}") from error
