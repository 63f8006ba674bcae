"""The reference pages against the code: public names, commands and the table of attacks."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import sys

import pytest
from pages import ROOT

import rfdlight
from rfdlight.cli.commands import TEXTS
from rfdlight.core.registry import component
from rfdlight.core.signatures import parameters
from rfdlight.errors import UserError
from rfdlight.testing import check_criterion, check_defense

REFERENCE = ROOT / "docs" / "reference"


def documented() -> set[str]:
    """The names that the page on the Python API documents, without the package."""
    page = (REFERENCE / "api.md").read_text()
    return {path.removeprefix("rfdlight.") for path in re.findall(r"^\.\. auto\w+:: (\S+)", page, re.MULTILINE)}


@pytest.mark.parametrize("room", ["", "attacks", "data", "defenses", "testing", "training", "victims"])
def test_the_page_on_the_api_documents_every_public_name(room):
    module = importlib.import_module(f"rfdlight.{room}".rstrip("."))
    names = [name for name in module.__all__ if not inspect.ismodule(getattr(module, name))]
    found = documented()
    missing = [name for name in names if name not in found and f"{room}.{name}" not in found]
    assert missing == []


def test_every_documented_name_exists_and_says_what_it_is():
    for path in documented():
        target: object = rfdlight
        parts = path.split(".")
        for position, part in enumerate(parts):
            if inspect.ismodule(target) and not hasattr(target, part):
                target = importlib.import_module(".".join(["rfdlight", *parts[: position + 1]]))
            else:
                target = getattr(target, part)
        assert inspect.getdoc(target), path


def test_the_page_on_commands_has_every_command():
    shown = re.findall(r"help_texts/(\w+)\.txt", (REFERENCE / "commands.md").read_text())
    assert sorted(shown) == sorted(path.stem for path in TEXTS.glob("*.txt"))


@pytest.fixture
def attack_tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("attack_tables")


def test_the_tables_of_the_page_on_attacks_are_those_of_the_classes(attack_tables):
    page = attack_tables.PAGE.read_text()
    assert attack_tables.written(page) == page, "run python docs/attack_tables.py"


def test_the_page_on_attacks_has_the_options_of_every_attack(attack_tables):
    page = attack_tables.PAGE.read_text()
    shared = {"bernoulli_decision": "bernoulli"}  # with the same options
    for name in attack_tables.QUERIES:
        table = attack_tables.options(shared.get(name, name))
        assert table in page or table.count("\n") == 2, name


def test_every_option_of_the_tables_is_one_that_its_attack_takes(attack_tables):
    for name in attack_tables.QUERIES:
        attack = component("attack", name)
        for option in re.findall(r"^\| `--attack\.(\w+)`", attack_tables.options(name), re.MULTILINE):
            with contextlib.suppress(UserError):  # of a missing surrogate; a TypeError would be of the option
                # past the check of names, which compares with the same `parameters`
                attack.__init__(object.__new__(attack), **{option: parameters(attack)[option].default})


def test_the_criterion_and_the_defenses_of_the_pages_keep_the_contracts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    check_defense(importlib.import_module("my_noise").LaplaceNoise(sigma=0.3, layers="2"))
    check_criterion(importlib.import_module("my_criterion").EightOfTen)
    for name in ("my_noise", "my_criterion"):
        sys.modules.pop(name)


def test_the_page_on_defenses_shows_the_defense_of_the_package():
    shown = (ROOT / "docs/how-to/write-a-defense.md").read_text()
    assert (ROOT / "tests/outside_package/outside_defense.py").read_text() in shown
