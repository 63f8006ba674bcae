"""Reasons why an option or its value is refused: nearest options, and expected types."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Iterator
from pkgutil import resolve_name
from typing import Any, Literal, get_args, get_origin

from jsonargparse import Namespace

from rfdlight.cli.values import kind_of, parts
from rfdlight.core import registry
from rfdlight.errors import SettingError, nearest, one_line

_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_NEAR = 0.65
"""Similarity above which one option is suggested for another."""
_MOST_NAMED = 3
"""Options of the same name that an error lists."""
_SUBCLASSING = {
    "ImageData": "; subclass rfdlight.data.ImageData and return a dataset, or pixels, labels and ids, from its "
    "load(split): see docs/victims-and-data.md"
}
"""How a user writes a component of their own, by base class."""


class UnknownOption(SettingError):  # noqa: N818
    """An option that the parser of a command or of a component does not have."""

    def __init__(self, setting: str, known: Iterable[str]) -> None:
        self.known = sorted(known)
        super().__init__(setting, f"unknown option; {_near_options(setting, self.known)}")

    def below(self, group: str) -> UnknownOption:
        """Return the same error for an option of a component."""
        return UnknownOption(f"{group}.{self.setting}", [f"{group}.{name}" for name in self.known])


def reason(hint: Any, value: Any, error: BaseException) -> str:
    """Return why a value does not fit a type hint: the expected type and the given value."""
    accepted = list(parts(hint))
    choices = [str(choice) for part in accepted if get_origin(part) is Literal for choice in get_args(part)]
    if choices:
        return f"unknown value '{value}'; {nearest(str(value), choices)}"
    bases = tuple(part for part in accepted if isinstance(part, type) and part.__module__ != "builtins")
    of_class = (
        _reason_of_class(bases, value) if bases or any(get_origin(part) is Callable for part in accepted) else None
    )
    if of_class is not None:
        return of_class
    expected = next((_TYPES[part] for part in accepted if part in _TYPES), None)
    if expected is not None:
        return f"expected {expected}, got {'null; leave it out for its default' if value is None else repr(value)}"
    kind = kind_of(hint)
    if kind is not None and not list(_class_paths(value)):
        known = ", ".join(registry.names(kind))
        return f"expected --{registry.FLAGS[kind]} NAME for its options, got '{value}'; known: {known}"
    return one_line(error)


def _reason_of_class(bases: tuple[type, ...], value: Any) -> str | None:
    """Return why a class that a value names cannot be used; None if it can, or the value names no class."""
    for path in _class_paths(value):
        if path.partition(".")[0] in sys.stdlib_module_names:
            return (
                f"expected a short name or an import path outside of Python's own modules, got '{path}'; these may do "
                "harm when they are imported"
            )
        try:
            found = resolve_name(path)
        except (ImportError, AttributeError) as error:
            return f"cannot import '{path}': {one_line(error)}"
        if bases and isinstance(found, type) and not issubclass(found, bases):
            name = bases[0].__name__
            return f"expected a subclass of {name}, got '{path}'{_SUBCLASSING.get(name, '')}"
    return None


def _class_paths(value: Any) -> Iterator[str]:
    """Yield the import paths of classes in a value."""
    for item in value if isinstance(value, list) else [value]:
        path = item.get("class_path") if isinstance(item, dict | Namespace) else item
        if isinstance(path, str) and "." in path and all(part.isidentifier() for part in path.split(".")):
            yield path


def _near_options(setting: str, known: list[str]) -> str:
    """Return a hint: the nearest option of the same group, else options of the same or a similar name in others."""
    group, _, name = setting.rpartition(".")
    split = {option: option.rpartition(".") for option in known}
    beside = {last: option for option, (before, _, last) in split.items() if before == group}
    near = difflib.get_close_matches(name, beside, n=1, cutoff=_NEAR)
    if near and (group or near[0] == name):
        return f"did you mean {beside[near[0]]}?"
    same = [option for option, (_, _, last) in split.items() if last == name]
    if same:
        return f"did you mean {' or '.join(same[:_MOST_NAMED])}?"
    if group and beside:
        return f"known: {', '.join(beside.values())}"
    lasts = {last: option for option, (_, _, last) in reversed(split.items())}
    whole = difflib.get_close_matches(setting, known, n=1, cutoff=_NEAR)
    alike = whole or [lasts[last] for last in difflib.get_close_matches(name, lasts, n=2, cutoff=_NEAR)]
    return f"did you mean {' or '.join(alike)}?" if alike else "--help lists the options"
