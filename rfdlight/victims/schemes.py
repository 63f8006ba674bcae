"""Schemes of victims, such as `onnx:FILE`: prefixes that say how a victim is loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rfdlight._io import check_regular
from rfdlight.errors import UserError

TIMM = "timm"
"""The scheme of a network of timm."""

SCHEMES = (TIMM, "hf", "onnx", "torchscript", "torch-export", "http", "https")

FORMS = f"a shipped name, a card (.json), an import path such as my_file.py:my_function, or {':, '.join(SCHEMES)}:"
"""All forms of a victim in words."""


def scheme_of(spec: str) -> str | None:
    """Return the scheme of a victim, None if it is given in another form.

    Example:
        >>> scheme_of("onnx:net.onnx"), scheme_of("my_file.py:net")
        ('onnx', None)
    """
    prefix, colon, _ = spec.partition(":")
    return prefix if colon and prefix in SCHEMES else None


def place_of(spec: str) -> str:
    """Return what follows the scheme of a victim."""
    return spec.partition(":")[2]


def file_digest(path: Path) -> str:
    """Return the sha256 of a victim's file; raise a UserError if it cannot be read."""
    try:
        check_regular(path)
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read the victim {path}: {error.strerror}") from error
