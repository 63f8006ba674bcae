"""Signatures of constructors, with those of base classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return the parameters of a constructor, with those of base classes to which it passes keywords on.

    Those that the class gives its base class itself are named in its attribute `fixed_options`.
    """
    found: dict[str, inspect.Parameter] = {}
    for _, own in _constructors(cls):
        for parameter in own:
            if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in getattr(cls, "fixed_options", ()):
                found.setdefault(parameter.name, parameter)
    return found


def takes_any_keyword(cls: type) -> bool:
    """Return whether a constructor from outside rfdlight takes any keyword, some of which it may not pass on."""
    return any(
        parameter.kind is parameter.VAR_KEYWORD and init.__module__.partition(".")[0] != "rfdlight"
        for init, own in _constructors(cls)
        for parameter in own
    )


def _constructors(cls: type) -> Iterator[tuple[Callable[..., Any], list[inspect.Parameter]]]:
    """Yield the constructor of a class, and those of base classes as long as any keyword is passed on to them."""
    for init in (vars(base).get("__init__") for base in cls.__mro__):
        if inspect.isfunction(init):
            own = list(inspect.signature(init).parameters.values())[1:]
            yield init, own
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own):
                return
