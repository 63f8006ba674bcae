"""What two halves of a run must have in common, so that no table mixes two experiments."""

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
from rfdlight._io import parse_json, read_text
from rfdlight.data.base import ImageSource
from rfdlight.errors import ResumeError
from rfdlight.victims.weights import weights_digest

FILE = "identity.json"
"""In a run directory; see `identity`."""

_LIBRARIES = ("rfdlight", "torch", "timm")
_CHUNK = 64
"""Images read at a time."""


def identity(victim: nn.Module, images: ImageSource, parts: Iterable[object], facts: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the numbers of a run.

    Args:
        victim: Its weights and the code of its modules count.
        images: That are attacked; ids, labels and pixels count.
        parts: Attack, defenses, schedules, data, modules of the user's: their code counts.
        facts: Of the run, of types that JSON knows.

    Returns:
        Of types that JSON knows: the facts, versions of libraries, and digests of weights, images and sources.
    """
    modules = {type(part).__module__ for part in [*victim.modules(), *parts]}
    modules |= {part.__module__ for part in parts if inspect.isfunction(part)}
    modules |= {part.__name__ for part in parts if inspect.ismodule(part)}
    return {
        **facts,
        **{f"version of {name}": version(name) for name in _LIBRARIES},
        "weights": weights_digest(victim, attributes=False),
        "images": _images_digest(images),
        "code of rfdlight": _sources_digest(sorted(Path(rfdlight.__file__).parent.rglob("*.py"))),
        **{f"code of {name}": _sources_digest([path]) for name, path in _user_sources(modules)},
    }


def check_same(run: Path, now: dict[str, Any]) -> None:
    """Compare a run's identity with what would go on with it.

    Raises:
        ResumeError: If they differ, which says in what, or the run has none.
    """
    before = read(run)
    now = json.loads(json.dumps(now))  # as the file has it: lists for tuples
    different = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if different:
        told = "; ".join(
            f"{name} is {_short(now.get(name), before.get(name))}, was {_short(before.get(name), now.get(name))}"
            for name in different
        )
        raise mixed(run, told)


def read(run: Path) -> dict[str, Any]:
    """Return the identity that a run directory holds.

    Raises:
        ResumeError: If there is none, or it is damaged.
    """
    try:
        found = parse_json(read_text(run / FILE))
    except OSError as error:
        raise cannot_go_on(run, f"it has no {FILE}, so no run was begun there") from error
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise cannot_go_on(run, f"{run / FILE} is damaged")
    return found


def cannot_go_on(run: Path | str, why: str) -> ResumeError:
    """Build the error for a run that cannot be resumed."""
    return ResumeError(f"cannot go on with {run}: {why}")


def mixed(run: Path, differences: str) -> ResumeError:
    """Build the error for a run that is not the experiment that would go on with it."""
    return ResumeError(f"cannot go on with {run}, two experiments would be mixed: {differences}")


def write(run: Path, found: dict[str, Any]) -> None:
    """Write a run's identity into its directory.

    Raises:
        UserError: If it cannot be written.
    """
    _io.write_file(run / FILE, json.dumps(found, indent=2) + "\n")


def _images_digest(images: ImageSource) -> str:
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
    """Return the files of those modules that are neither rfdlight's nor of an installed library."""
    found = []
    for name in sorted(modules):
        file = getattr(sys.modules.get(name), "__file__", None)
        path = Path(file).resolve() if file else None
        if path and path.suffix == ".py" and name.partition(".")[0] != "rfdlight" and "site-packages" not in path.parts:
            found.append((name, path))
    return found


def _short(value: Any, other: Any) -> str:
    """Return a value in at most 40 characters, from where it differs from another one."""
    text, against = (each if isinstance(each, str) else json.dumps(each) for each in (value, other))
    if len(text) <= 40:
        return text
    start = next((i for i, pair in enumerate(zip(text, against, strict=False)) if len(set(pair)) > 1), 0)
    return f"{text[:12]}..." if start < 12 else f"...{text[start - 8 : start + 12]}..."
