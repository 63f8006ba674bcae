"""Fingerprint of a run: everything that decides its numbers. Resuming requires an equal fingerprint."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

import rfdlight
from rfdlight import _io
from rfdlight.data.sources import ImageSource
from rfdlight.errors import ResumeError, UserError
from rfdlight.records.run_directory import FINGERPRINT
from rfdlight.records.schema import SCHEMA, read_versioned
from rfdlight.victims.digest import weights_digest

FILE = FINGERPRINT
"""In a run directory: the fingerprint of the run; a folder without it holds no run that has begun."""

_LIBRARIES = ("rfdlight", "torch", "timm")
_CHUNK = 64
"""Images read at a time."""


def fingerprint(
    victim: nn.Module, images: ImageSource, parts: Iterable[object], facts: dict[str, Any]
) -> dict[str, Any]:
    """Return everything that decides the numbers of a run, as JSON values.

    These are the facts, the versions of libraries, and digests of weights, images and source code. The code of `parts`
    (attack, defenses, schedules, data, modules of the user) counts, and that of the victim's modules.
    """
    modules = {type(part).__module__ for part in [*victim.modules(), *parts]}
    modules |= {part.__module__ for part in parts if inspect.isfunction(part)}
    modules |= {part.__name__ for part in parts if inspect.ismodule(part)}
    return {
        "schema": SCHEMA,
        **facts,
        **{f"version of {name}": version(name) for name in _LIBRARIES},
        "weights": weights_digest(victim, attributes=False),
        "images": images_digest(images),
        "code of rfdlight": _sources_digest(sorted(Path(rfdlight.__file__).parent.rglob("*.py"))),
        **{f"code of {name}": _sources_digest([path]) for name, path in _user_sources(modules)},
    }


def check_same(run: Path, now: dict[str, Any]) -> None:
    """Compare the fingerprint of a run with a new one; a ResumeError names the differences."""
    before = read(run)
    now = json.loads(json.dumps(now))  # as the file has it: lists for tuples
    different = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if different:
        raise mixed(run, "; ".join(f"{name} is {now.get(name)}, was {before.get(name)}" for name in different))


def read(run: Path) -> dict[str, Any]:
    """Return the fingerprint in a run directory."""
    if not (run / FILE).exists():
        raise cannot_go_on(run, f"it has no {FILE}, so no run was begun there")
    try:
        return read_versioned(run / FILE, dict[str, Any])
    except UserError as error:
        raise cannot_go_on(run, str(error)) from error


def cannot_go_on(run: Path | str, why: str) -> ResumeError:
    """Build the error for a run that cannot be resumed."""
    return ResumeError(f"cannot resume {run}: {why}")


def mixed(run: Path, differences: str) -> ResumeError:
    """Build the error for a run with another fingerprint."""
    return cannot_go_on(run, f"two experiments would be mixed: {differences}")


def write(run: Path, found: dict[str, Any]) -> None:
    """Write the fingerprint of a run into its directory."""
    _io.write_file(run / FILE, json.dumps(found, indent=2) + "\n")


def images_digest(images: ImageSource) -> str:
    """Return the sha256 of images: their ids, labels and pixels, in their order."""
    digest = hashlib.sha256(json.dumps([images.ids, images.labels.tolist()]).encode())
    for start in range(0, len(images), _CHUNK):
        digest.update(images.read(list(range(start, min(start + _CHUNK, len(images))))).numpy().tobytes())
    return digest.hexdigest()


def _sources_digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _user_sources(modules: Iterable[str]) -> list[tuple[str, Path]]:
    """Return the files of the modules that belong neither to rfdlight nor to an installed library."""
    found = []
    for name in sorted(modules):
        file = getattr(sys.modules.get(name), "__file__", None)
        path = Path(file).resolve() if file else None
        if path and path.suffix == ".py" and name.partition(".")[0] != "rfdlight" and "site-packages" not in path.parts:
            found.append((name, path))
    return found
