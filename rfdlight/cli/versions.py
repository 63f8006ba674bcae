"""Whether Python and the packages are those that rfdlight needs, and those that it was tested with."""

from __future__ import annotations

import operator
import platform
import re
from importlib import metadata
from pathlib import Path

from torch.torch_version import TorchVersion

from rfdlight.records.diagnostic import Finding

TESTED = Path(__file__).parents[2] / "constraints.txt"
"""Versions that the tests ran with; a source tree has them, an installed package has not."""

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[^]]*\])?\s*\(?(?P<bounds>[^;()]*)\)?\s*")
_BOUND = re.compile(r"\s*(?P<sign>>=|<=|==|<|>)\s*(?P<version>[\w.]+)\s*")
_HOLDS = {">=": operator.ge, "<=": operator.le, "==": operator.eq, "<": operator.lt, ">": operator.gt}


def check_python() -> list[Finding]:
    """Compare Python with the range that the installed package asks for."""
    version, bounds = platform.python_version(), metadata.metadata("rfdlight")["Requires-Python"]
    if lies_in(version, bounds):
        return [Finding("Python", "ok", version)]
    return [Finding("Python", "fail", f"{version}, rfdlight needs {bounds}", f"make an environment of Python {bounds}")]


def check_packages() -> list[Finding]:
    """Compare the packages that rfdlight needs with their ranges, and torch with what torchvision was built for.

    Versions within the ranges that differ from the tested ones are a warning.
    """
    needed = demands("rfdlight")
    findings = [wrong for name, bounds in needed.items() for wrong in _out_of_range(name, bounds, "rfdlight")]
    wrong = {finding.check for finding in findings}
    if not wrong & {"torch", "torchvision"}:
        findings += _out_of_range("torch", demands("torchvision").get("torch", ""), "this torchvision")
    wrong |= {finding.check for finding in findings}
    tested, differs, told = _tested(), False, []
    for name in sorted(needed.keys() - wrong):
        version = metadata.version(name).partition("+")[0]
        other = name in tested and version != tested[name]
        told.append(f"{name} {version} (tested: {tested[name]})" if other else f"{name} {version}")
        differs |= other
    remedy = "if something looks wrong: pip install -c constraints.txt -e ." if differs else ""
    return [*findings, Finding("packages", "warn" if differs else "ok", ", ".join(told), remedy)]


def demands(distribution: str) -> dict[str, str]:
    """Return the ranges that an installed distribution asks for, by package; those under a condition are left out."""
    found = {}
    for requirement in metadata.requires(distribution) or []:
        parts = _REQUIREMENT.fullmatch(requirement)
        if parts:
            found[_canonical(parts["name"])] = parts["bounds"].strip()
    return found


def lies_in(version: str, bounds: str) -> bool:
    """Say whether a version fulfils every bound; of a local version such as 2.11.0+cpu the public part counts.

    Raises:
        ValueError: If a bound is of a kind that is not compared here, such as "~=1.0" or "==1.*".

    Example:
        >>> lies_in("2.10.1+cpu", ">=2.9,<3"), lies_in("2.10.1", "<2.10"), lies_in("2.11.0rc1", ">=2.11")
        (True, False, False)
    """
    public = TorchVersion(version.partition("+")[0])
    for bound in bounds.split(",") if bounds else []:
        parts = _BOUND.fullmatch(bound)
        if not parts:
            raise ValueError(f"cannot compare a version with {bound!r}")
        if not _HOLDS[parts["sign"]](public, parts["version"]):
            return False
    return True


def _out_of_range(name: str, bounds: str, whose: str) -> list[Finding]:
    install = f"pip install '{name}{bounds}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return [Finding(name, "fail", f"not installed, {whose} needs {bounds or 'it'}", install)]
    if lies_in(version, bounds):
        return []
    return [Finding(name, "fail", f"{version}, {whose} needs {bounds}", install)]


def _tested() -> dict[str, str]:
    if not TESTED.is_file():
        return {}
    pairs = (line.partition("==") for line in TESTED.read_text().splitlines() if "==" in line)
    return {_canonical(name): version.strip() for name, _, version in pairs}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
