"""Constructor arguments of components, as text that differs between different configurations."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from rfdlight.core.signatures import parameters, takes_any_keyword
from rfdlight.errors import UserError, unknown_name

_PLAIN_TEXT = re.compile(r"[\w.+/-]+")
_DEEPEST = 4
"""Levels of objects within objects that are written out."""


class Configurable:
    """Base class that records the arguments with which an object is constructed, before `__init__` runs.

    Raises:
        UserError: If the constructor has no argument of a name, or does not take the arguments together.
    """

    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        known = parameters(cls)
        unknown = next((name for name in kwargs if name not in known), None)
        if unknown is not None and not takes_any_keyword(cls):
            raise unknown_name(f"argument of {cls.__name__}", unknown, known)
        made = super().__new__(cls)
        made._arguments = _bound(cls, args, kwargs)
        return made

    def reconfigure(self, **arguments: Any) -> None:
        """Set arguments of the constructor to other values, each an attribute of the same name."""
        for name, value in arguments.items():
            setattr(self, name, value)
        self._arguments = {**self._arguments, **arguments}


def argument(made: Configurable, name: str) -> Any:
    """Return an argument of a constructor, or the attribute of the same name where the argument is None."""
    value = made._arguments[name] if name in made._arguments else parameters(type(made))[name].default
    return vars(made).get(name) if value is None else value


def changed_arguments(made: Configurable, leave_out: Collection[str] = ()) -> list[str]:
    """Return the arguments that are not at their defaults, each as "name value"."""
    defaults = {name: known.default for name, known in parameters(type(made)).items()}
    free = dict.fromkeys(made._arguments.keys() - defaults.keys(), inspect.Parameter.empty)
    return [
        f"{name} {text_of(argument(made, name))}"
        for name, default in (defaults | dict(sorted(free.items()))).items()
        if name not in leave_out and text_of(argument(made, name)) != text_of(default)
    ]


def class_name(cls: type) -> str:
    """Return the name of a class of rfdlight, or the import path of any other class."""
    return cls.__name__ if cls.__module__.partition(".")[0] == "rfdlight" else _path(cls)


def text_of(value: Any, depth: int = 0) -> str:
    """Return a value as text that differs between different values and holds no address in memory.

    Example:
        >>> text_of(0.1), text_of([1, "a b"]), text_of(len)
        ('0.1', "[1, 'a b']", 'builtins.len')
    """
    if isinstance(value, float) and not isinstance(value, Enum):
        short = f"{value:g}"
        return short if float(short) == value else repr(float(value))
    if isinstance(value, str) and not isinstance(value, Enum):
        return value if _PLAIN_TEXT.fullmatch(value) else repr(value)
    if value is None or isinstance(value, (int, complex, PurePath, torch.dtype, torch.device, Enum)):
        return str(value)
    if isinstance(value, Tensor):
        return _tensor_text(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{text_of(k, depth + 1)}: {text_of(v, depth + 1)}' for k, v in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(text_of(item, depth + 1) for item in value)}]"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(text_of(item, depth + 1) for item in value))}}}"
    if isinstance(value, type) or inspect.isroutine(value):
        return _path(value)
    return _object_text(value, depth)


def _object_text(value: Any, depth: int) -> str:
    """Return an object as its class with its arguments, or with its attributes where these are not recorded."""
    positional: list[Any] = []
    if isinstance(value, functools.partial):
        positional, named = [value.func, *value.args], value.keywords
    elif isinstance(value, Configurable):
        named = {name: argument(value, name) for name in parameters(type(value))}
    else:
        named = dict(getattr(value, "__dict__", {}))
    if depth >= _DEEPEST:
        positional, named = [], {}
    inside = [text_of(item, depth + 1) for item in positional]
    inside += [f"{name}={text_of(item, depth + 1)}" for name, item in named.items()]
    return f"{class_name(type(value))}({', '.join(inside)})" if inside else class_name(type(value))


def _bound(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    try:
        bound = inspect.signature(cls.__init__).bind(None, *args, **kwargs)  # type: ignore[misc]
    except TypeError as error:
        if args or kwargs:
            raise UserError(f"{cls.__name__}: {error}") from error
        return {}  # of a copy; where arguments are missing, the constructor raises it
    arguments = dict(list(bound.arguments.items())[1:])
    for parameter in bound.signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(parameter.name, {})
    return arguments


def _path(value: Any) -> str:
    """Return the import path of a function or a class; those of C may have no module."""
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", type(value).__name__)
    return f"{module}.{name}" if module else str(name)


def _tensor_text(value: Tensor) -> str:
    """Return the one number of a tensor, or a digest of all of them."""
    numbers = value.detach().cpu()
    if numbers.numel() == 1 and not numbers.is_complex():
        return text_of(numbers.item())
    digest = hashlib.sha256(repr((numbers.dtype, numbers.tolist())).encode()).hexdigest()[:12]
    return f"tensor {tuple(numbers.shape)} {digest}"
