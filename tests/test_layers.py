"""Who may import whom, by the import statements of every file."""

import ast
import configparser
import importlib
from pathlib import Path

import pytest

import rfdlight
from rfdlight.names import NAMES

PACKAGE = Path(rfdlight.__file__).parent
TESTS = Path(__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
BASE = {"errors", "tensors", "norms", "losses", "rng", "threat", "clock", "logits", "arguments", "activations"}
LAYERS = ["attacks", "adversaries", "engine", "protocol", "modules", "commands", "cli"]
"""Each may import the base and what stands before it, never what stands after it."""


def layer(module):
    """The first name below the package: "engine" for rfdlight.engine.pool."""
    return module.split(".")[1] if "." in module else ""


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Every module that a file imports, wherever in the file, with `from rfdlight import rng` as rfdlight.rng."""
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


IMPORTS = {name_of(path): imports(path) for path in FILES}


def ours(module):
    return {layer(found) for found in IMPORTS[module] if found.split(".")[0] == "rfdlight"}


def foreign(module):
    return {found.split(".")[0] for found in IMPORTS[module]} - {"rfdlight"}


@pytest.mark.parametrize("module", sorted(m for m in IMPORTS if layer(m) in LAYERS))
def test_a_layer_imports_nothing_above_it(module):
    above = set(LAYERS[LAYERS.index(layer(module)) + 1 :])
    assert not ours(module) & above, f"{module} imports a higher layer"


@pytest.mark.parametrize("module", sorted(m for m in IMPORTS if layer(m) in BASE))
def test_a_base_module_imports_base_modules_alone(module):
    assert ours(module) <= BASE
    assert not foreign(module) & {"lightning", "timm", "jsonargparse", "rich"}


@pytest.mark.parametrize("module", sorted(m for m in IMPORTS if layer(m) == "attacks"))
def test_attacks_import_the_base_and_torch_alone(module):
    assert ours(module) <= BASE | {"attacks"}
    assert not foreign(module) & {"lightning", "timm", "torchvision", "jsonargparse", "rich", "numpy", "scipy"}


@pytest.mark.parametrize("module", sorted(m for m in IMPORTS if layer(m) == "engine"))
def test_the_engine_knows_neither_lightning_nor_defenses_nor_victims(module):
    assert ours(module) <= BASE | {"attacks", "engine"}
    assert not foreign(module) & {"lightning", "timm", "torchvision", "jsonargparse", "rich"}


@pytest.mark.parametrize("module", sorted(m for m in IMPORTS if layer(m) == "defenses"))
def test_defenses_import_torch_lightning_and_the_base_alone(module):
    assert ours(module) <= BASE | {"defenses"}
    assert not foreign(module) & {"timm", "torchvision", "jsonargparse", "rich", "numpy", "scipy"}


@pytest.mark.parametrize("module", sorted(m for m in IMPORTS if layer(m) in ("data", "victims", "environment")))
def test_data_victims_and_environment_know_neither_attacks_nor_defenses_nor_the_engine(module):
    assert not ours(module) & {"attacks", "defenses", "engine", "modules", "commands", "cli"}


@pytest.mark.parametrize("module", sorted(m for m in IMPORTS if layer(m) == "results"))
def test_results_know_neither_attacks_nor_modules_nor_the_command_line(module):
    assert not ours(module) & {"attacks", "modules", "commands", "cli"}


def test_nothing_but_main_imports_the_command_line():
    importers = {module for module in IMPORTS if "cli" in ours(module)}
    assert importers <= {"rfdlight.__main__"}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in NAMES for name in NAMES[kind]])
def test_a_short_name_is_a_class_in_the_file_of_that_name(kind, name):
    module, _, cls = NAMES[kind][name].rpartition(".")
    assert module.rpartition(".")[2] == name
    chosen = getattr(importlib.import_module(module), cls)
    assert isinstance(chosen, type)
    assert chosen.__module__ == module


def test_references_import_torch_math_and_each_other_alone():
    files = sorted((TESTS / "reference").glob("*.py"))
    assert {"square", "rays", "random_noise", "draws"} <= {path.stem for path in files}
    for path in files:
        beside = {f"reference.{other.stem}" for other in files}
        assert imports(path) <= {"torch", "math"} | beside, path.name


def test_every_folder_with_code_or_configs_is_installed():
    root = PACKAGE.parent
    settings = configparser.ConfigParser()
    settings.read(root / "setup.cfg")
    packages = set(settings["options"]["packages"].split())
    folders = {path.parent.relative_to(root) for path in FILES}
    shipped = {path.parent.relative_to(root) for path in (root / "configs").rglob("*.yaml")} | {Path("checkpoints")}
    assert packages == {".".join(folder.parts) for folder in folders} | {
        ".".join(("rfdlight", *folder.parts)) for folder in shipped
    }


def test_the_package_never_imports_its_tests():
    assert not any(foreign(module) & {"tests", "reference", "pytest", "hypothesis"} for module in IMPORTS)
