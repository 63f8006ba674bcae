"""Victims that a user gives by an import path: `my_module.my_net` or `my_file.py:my_net`."""

from __future__ import annotations

import copy
import functools
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from rfdlight._io import expanded
from rfdlight.core import user_code
from rfdlight.errors import UserError, one_line, unknown_name
from rfdlight.victims.answers import as_module
from rfdlight.victims.schemes import scheme_of

_FILE = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)")
"""A file of Python, and a name in it."""

_OF_PYTHON = sys.stdlib_module_names | {"pip", "pkg_resources", "setuptools"}
"""Packages without victims, whose functions without arguments do other things: os.abort, pip.main."""


def is_import_path(spec: str) -> bool:
    """Return whether a victim is given by an import path."""
    if scheme_of(spec) is not None:
        return False
    return bool(_FILE.fullmatch(spec)) or user_code.is_import_path(spec.replace(":", ".", 1))


def has_card(spec: str) -> bool:
    """Return whether a victim is given by a shipped name or the path of a card."""
    return scheme_of(spec) is None and not is_import_path(spec)


def maker_module(spec: str | None) -> ModuleType | None:
    """Return the imported module of a victim's import path; None for other victims."""
    if spec is None or not is_import_path(spec):
        return None
    place, _ = _divided(spec)
    return sys.modules.get(_name_of_file(place) if isinstance(place, Path) else place)


def import_victim(spec: str) -> nn.Module:
    """Return the module that an import path names or makes, in eval mode."""
    place, attribute = _divided(spec)
    if isinstance(place, Path):
        module = _module_of_file(spec, place)
    else:
        _check_own(spec, place)
        module = user_code.import_module(place, f"the victim '{spec}'")
    if not hasattr(module, attribute):
        public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise unknown_name(f"name in the module {place}:", attribute, public)
    make = getattr(module, attribute)
    if isinstance(make, nn.Module):
        with user_code.guarded(f"cannot copy the victim '{spec}', give a function that makes it"):
            make = copy.deepcopy(make)  # several runs of a process may need it
        return as_module(make, spec)
    _check_maker(spec, make)
    with user_code.guarded(f"cannot make the victim '{spec}'"):
        victim = make()
    return as_module(victim, spec)


def _divided(spec: str) -> tuple[Path | str, str]:
    """Return the file or the module of an import path, and the name in it."""
    file = _FILE.fullmatch(spec)
    if file:
        return expanded(file["file"]), file["name"]
    module, _, name = spec.replace(":", ".", 1).rpartition(".")
    return module, name


def _name_of_file(path: Path) -> str:
    """Return the name of the module of a file, with a prefix that other modules do not have."""
    return f"victim_file_{path.stem}"


def _module_of_file(spec: str, path: Path) -> ModuleType:
    """Import a file of Python, which may import its neighbours."""
    name, path = _name_of_file(path), path.resolve()
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return known
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None or not path.is_file():
        raise UserError(f"cannot import the victim '{spec}': there is no file {spec.rpartition(':')[0]}")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    try:
        with user_code.guarded(f"cannot import the victim '{spec}'"):
            found.loader.exec_module(module)
    except UserError:
        del sys.modules[name]
        raise
    return module


def _check_own(spec: str, module_name: str | None) -> None:
    """Refuse modules of Python itself: they make no networks, and importing or calling them may do anything."""
    if str(module_name).partition(".")[0] in _OF_PYTHON:
        raise UserError(
            f"'{spec}' is of Python itself; expected a class or a function of yours that makes a module, in a file "
            "whose name Python does not have"
        )


def _check_maker(spec: str, make: Any) -> None:
    """Refuse to call anything but a user's class of modules, or function without arguments."""
    no_maker = UserError(f"'{spec}' must be a module, a class of modules or a function that makes a module")
    if not callable(make):
        raise no_maker
    inner = make
    while isinstance(inner, functools.partial):
        inner = inner.func
    named = inspect.isclass(inner) or inspect.isroutine(inner)
    _check_own(spec, (inner if named else type(inner)).__module__)
    if inspect.isbuiltin(inner) or (inspect.isclass(inner) and not issubclass(inner, nn.Module)):
        raise no_maker
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise UserError(f"'{spec}' must need no arguments: {one_line(error)}; wrap it in a function") from error
