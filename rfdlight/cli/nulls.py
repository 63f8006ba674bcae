"""Values that are missing where the parser lets null pass: it takes null in a file for any option."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any, get_args, get_type_hints

from rfdlight.core.arguments import constructors
from rfdlight.errors import UserError


def refuse_nulls(given: Mapping[str, Any], setting: str = "", made: Callable[..., Any] | None = None) -> None:
    """Refuse null for a parameter that is never None, of a component or of what is going to be called itself.

    Args:
        given: Settings by name, parsed; a component is a dict with `class_path`.
        setting: What stands before their names on a command line.
        made: What they are the parameters of.

    Raises:
        UserError: Where one is null.
    """
    for name in _needed(made) if made else ():
        if name in given and given[name] is None:
            raise UserError(f"{setting}{name} needs a value, got null; leave it out for its default")
    for name, value in given.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping) and isinstance(item.get("class_path"), str):
                component = resolve_name(item["class_path"])
                refuse_nulls(item.get("init_args") or {}, f"{setting}{name}.", component)


def _needed(made: Callable[..., Any]) -> list[str]:
    """Return the parameters whose type excludes None and whose default is not None."""
    needed = []
    for function in constructors(made) if inspect.isclass(made) else [made]:
        try:
            hints, parameters = get_type_hints(function), inspect.signature(function).parameters
        except (NameError, TypeError, ValueError):  # a type that a user's module has for its type checker alone
            continue
        needed += [
            name
            for name, parameter in parameters.items()
            if parameter.default is not None and name in hints and _holds_no_none(hints[name])
        ]
    return needed


def _holds_no_none(hint: Any) -> bool:
    return hint is not Any and type(None) not in (hint, *get_args(hint))
