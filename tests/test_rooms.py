"""Import direction between the rooms, read from the import statements of every file."""

import ast
import importlib
from pathlib import Path

import pytest

import rfdlight
from rfdlight.core.registry import NAMES

PACKAGE = Path(rfdlight.__file__).parent
TESTS = Path(__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = [
    {"errors"},
    {"_io"},
    {"core"},
    {"attacks", "data", "defenses"},
    {"records", "victims"},
    {"engine", "reporting"},
    {"evaluation", "testing", "training"},
    {"analysis", "deployment"},
    {"cli"},
]
"""A room imports rooms of the floors above it in this list, never of its own floor or below."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
HEAVY = {"lightning", "timm", "torchvision", "jsonargparse", "rich"}


def room(module):
    """The first name below the package: "engine" for rfdlight.engine.pool."""
    return module.split(".")[1] if "." in module else ""


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Every module that a file imports, wherever in the file, with `from rfdlight import rng` as rfdlight.core.rng."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            whole = node.module or ""
            is_package = whole.split(".")[0] == "rfdlight" and (PACKAGE.parent / whole.replace(".", "/")).is_dir()
            found |= {f"{whole}.{a.name}" for a in node.names} if is_package else {whole}
    return found


@pytest.fixture(scope="module")
def imported():
    """What every file of the package imports, by the name of its module."""
    return {name_of(path): imports(path) for path in FILES}


def foreign(found):
    return {module.split(".")[0] for module in found} - {"rfdlight"}


def check_without(imported, rooms, refused):
    """No file of these rooms imports one of these packages."""
    for module, found in imported.items():
        assert room(module) not in rooms or not foreign(found) & refused, module


def test_a_room_imports_lower_rooms_alone(imported):
    for module, found in imported.items():
        own = room(module)
        others = {room(other) for other in found if other.split(".")[0] == "rfdlight"} - {own, ""}
        higher = {other for other in others if own in FLOOR and FLOOR[other] >= FLOOR[own]}
        assert not higher, f"{module} imports {higher}"


def test_every_room_stands_on_a_floor(imported):
    assert {room(module) for module in imported} - {"", "__main__"} == FLOOR.keys()


def test_attacks_and_their_tools_import_torch_alone(imported):
    check_without(imported, {"core"}, HEAVY)
    check_without(imported, {"attacks"}, HEAVY | {"numpy", "scipy"})


def test_the_engine_imports_neither_lightning_nor_a_user_interface(imported):
    check_without(imported, {"engine"}, HEAVY)


def test_records_and_reporting_import_no_torch(imported):
    check_without(imported, {"records", "reporting"}, {"torch", "lightning", "timm", "torchvision", "jsonargparse"})


def test_defenses_import_torch_and_lightning_alone(imported):
    check_without(imported, {"defenses"}, {"timm", "torchvision", "jsonargparse", "rich", "numpy", "scipy"})


def test_a_short_name_is_a_class_in_the_file_of_that_name():
    for kind, names in NAMES.items():
        for name, path in names.items():
            module, _, cls = path.rpartition(".")
            assert module.rpartition(".")[2] == ("adversary" if kind == "adversary" else name)
            chosen = getattr(importlib.import_module(module), cls)
            assert isinstance(chosen, type)
            assert chosen.__module__ == module


def test_references_import_torch_math_and_each_other_alone():
    files = sorted((TESTS / "reference").glob("*.py"))
    assert {"square", "rays", "random_noise", "draws"} <= {path.stem for path in files}
    for path in files:
        beside = {f"reference.{other.stem}" for other in files}
        assert imports(path) <= {"torch", "math"} | beside, path.name


def test_every_folder_with_code_is_a_package_that_is_found():
    assert [path.parent for path in FILES if not (path.parent / "__init__.py").is_file()] == []


def test_the_package_never_imports_its_tests(imported):
    check_without(imported, {room(module) for module in imported}, {"tests", "reference", "pytest", "hypothesis"})
