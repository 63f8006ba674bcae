"""Checks of the versions of Python and of the packages, against the required and the tested versions."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from rfdlight.records.diagnostic import Diagnostic

TESTED = Path(__file__).parents[2] / "constraints.txt"
"""The versions that the tests ran with; the file exists in a source tree, not in an installed package."""


def check_python() -> list[Diagnostic]:
    """Compare the version of Python with the range that the installed package requires."""
    version, bounds = platform.python_version(), metadata.metadata("rfdlight")["Requires-Python"]
    if SpecifierSet(bounds).contains(version, prereleases=True):
        return [Diagnostic("Python", "ok", version)]
    remedy = f"make an environment of Python {bounds}"
    return [Diagnostic("Python", "fail", f"{version}, rfdlight needs {bounds}", remedy)]


def check_packages() -> list[Diagnostic]:
    """Compare the required packages with their ranges, and torch with the version that torchvision was built for.

    A version within its range that differs from the tested version is a warning.
    """
    needed = requirements("rfdlight")
    wrong = {name: _mismatch(name, bounds, "rfdlight") for name, bounds in needed.items()}
    if not wrong.get("torch") and not wrong.get("torchvision"):
        wrong["torch"] = _mismatch("torch", requirements("torchvision").get("torch", SpecifierSet()), "torchvision")
    tested, differs, listed = tested_versions(), False, []
    for name in sorted(name for name in needed if not wrong[name]):
        version = Version(metadata.version(name)).public
        other = name in tested and version != tested[name]
        listed.append(f"{name} {version} (tested: {tested[name]})" if other else f"{name} {version}")
        differs |= other
    remedy = "if something looks wrong: pip install -c constraints.txt -e ." if differs else ""
    found = Diagnostic("packages", "warn" if differs else "ok", ", ".join(listed), remedy)
    return [*(diagnostic for diagnostic in wrong.values() if diagnostic), found]


def requirements(distribution: str) -> dict[str, SpecifierSet]:
    """Return the unconditional requirements of an installed distribution: the range of versions, by package."""
    listed = map(Requirement, metadata.requires(distribution) or [])
    return {canonicalize_name(each.name): each.specifier for each in listed if each.marker is None}


def tested_versions() -> dict[str, str]:
    """Return the versions in `TESTED`, by package; none where there is no such file."""
    lines = TESTED.read_text().splitlines() if TESTED.is_file() else []
    pairs = (line.partition("==") for line in lines if "==" in line)
    return {canonicalize_name(name): version.strip() for name, _, version in pairs}


def _mismatch(name: str, bounds: SpecifierSet, required_by: str) -> Diagnostic | None:
    install = f"pip install '{name}{bounds}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Diagnostic(name, "fail", f"not installed, {required_by} needs {bounds}", install)
    if bounds.contains(version, prereleases=True):
        return None
    return Diagnostic(name, "fail", f"{version}, {required_by} needs {bounds}", install)
