"""Versions: real ranges of the installed package, and fakes on both sides of every bound."""

from importlib import metadata

import pytest

from rfdlight.cli import versions
from rfdlight.cli.versions import check_packages, check_python, requirements


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A machine on which everything has the lowest version that rfdlight takes; what the tests set wins."""
    chosen = {
        name: next(bound.version for bound in bounds if bound.operator == ">=")
        for name, bounds in requirements("rfdlight").items()
    }

    def version(name):
        if name not in chosen:
            raise metadata.PackageNotFoundError(name)
        return chosen[name]

    requires = metadata.requires
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: requires(name) if name == "rfdlight" else ["torch (>=2.11)"])
    monkeypatch.setattr(versions, "TESTED", tmp_path / "constraints.txt")
    return chosen


@pytest.mark.parametrize(
    ("version", "bounds", "inside"),
    [
        ("2.10", ">=2.9", True),  # by number, not by letter
        ("2.9", ">=2.10", False),
        ("2.11.0+cu128", "==2.11.0", True),
        ("2.11.0a0+nv25.1", ">=2.11", False),
        ("2.7.0", ">=2.6.6,<2.7", False),
        ("2.6.6", ">=2.6.6,<2.7", True),
        ("3", ">3", False),
        ("3", "<=3", True),
        ("1.0", "", True),
        ("2.1", "~=2.1", True),
        ("2.1", "!=2.1", False),
    ],
)
def test_a_version_lies_in_its_range(installed, monkeypatch, version, bounds, inside):
    requires = metadata.requires
    listed = [f"timm{bounds}"]
    monkeypatch.setattr(metadata, "requires", lambda name: listed if name == "rfdlight" else requires(name))
    installed["timm"] = version
    assert [found.check for found in check_packages() if found.state == "fail"] == ([] if inside else ["timm"])


def test_the_demands_are_those_of_the_package_without_its_extras(monkeypatch):
    found = requirements("rfdlight")
    assert {"torch", "lightning", "torchmetrics", "timm", "torchvision", "jsonargparse", "rich", "safetensors"} <= {
        *found
    }
    assert "pytest" not in found
    monkeypatch.setattr(
        metadata, "requires", lambda name: ["Scikit_Learn[all]>=1.6", "torch (>=2,<3)", "a; extra == 'b'"]
    )
    assert requirements("anything") == {"scikit-learn": ">=1.6", "torch": ">=2,<3"}


def test_python_in_and_below_its_range(monkeypatch):
    (finding,) = check_python()
    assert finding.state == "ok"
    monkeypatch.setattr("platform.python_version", lambda: "3.9.18")
    (finding,) = check_python()
    assert (finding.state, finding.found) == ("fail", "3.9.18, rfdlight needs >=3.11")


def test_packages_at_their_lowest_versions_are_fine(installed):
    (finding,) = check_packages()
    assert (finding.check, finding.state, finding.remedy) == ("packages", "ok", "")
    assert "timm 1.0.20" in finding.found.split(", ")


@pytest.mark.parametrize(
    ("name", "version", "found"),
    [
        ("lightning", "2.7.0", "2.7.0, rfdlight needs <2.7,>=2.6.6"),
        ("torch", "2.9.1+cpu", "2.9.1+cpu, rfdlight needs >=2.11"),
    ],
)
def test_a_package_out_of_its_range_fails_and_the_others_are_told(installed, name, version, found):
    installed[name] = version
    wrong, rest = check_packages()
    assert (wrong.check, wrong.state, wrong.found) == (name, "fail", found)
    assert wrong.remedy == f"pip install '{name}{requirements('rfdlight')[name]}'"
    assert rest.state == "ok"
    assert f"{name} " not in rest.found
    assert "rich 13" in rest.found


def test_a_missing_package_fails(installed):
    del installed["timm"]
    wrong, _ = check_packages()
    assert (wrong.check, wrong.state) == ("timm", "fail")
    assert wrong.found == "not installed, rfdlight needs >=1.0.20"


def test_a_torch_that_torchvision_was_not_built_for_fails(installed, monkeypatch):
    requires = metadata.requires
    other = ["torch==2.13.0"]
    monkeypatch.setattr(metadata, "requires", lambda name: other if name == "torchvision" else requires(name))
    wrong, _ = check_packages()
    assert (wrong.check, wrong.state, wrong.found) == ("torch", "fail", "2.11, torchvision needs ==2.13.0")
    installed["torch"] = "2.13.0+cu128"
    (finding,) = check_packages()
    assert finding.state == "ok"


def test_a_version_that_was_not_tested_is_a_warning_where_the_tested_ones_are_known(installed):
    versions.TESTED.write_text(f"# tested\nPyYAML=={installed['pyyaml']}\nrich==15.0.0\n")
    (finding,) = check_packages()
    assert finding.state == "warn"
    assert "rich 13 (tested: 15.0.0)" in finding.found
    assert f"pyyaml {installed['pyyaml']}," in finding.found
    assert "constraints.txt" in finding.remedy


def test_the_tested_versions_are_those_of_the_source_tree():
    assert versions.TESTED.is_file()
    tested = versions.tested_versions()
    assert all(tested[name] in bounds for name, bounds in requirements("rfdlight").items())
