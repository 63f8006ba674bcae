"""Signatures of constructors, with those of base classes."""

from __future__ import annotations

import inspect


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return the parameters of a constructor, with those of base classes to which it passes keywords on.

    Those that the class gives its base class itself are named in its attribute `fixed_options`.
    """
    found: dict[str, inspect.Parameter] = {}
    for init in (vars(base).get("__init__") for base in cls.__mro__):
        if not inspect.isfunction(init):
            continue
        own = list(inspect.signature(init).parameters.values())[1:]
        passed_on = [parameter for parameter in own if parameter.kind is parameter.VAR_KEYWORD]
        for parameter in own:
            if parameter not in passed_on and parameter.name not in getattr(cls, "fixed_options", ()):
                found.setdefault(parameter.name, parameter)
        if not passed_on:
            break
    return found
