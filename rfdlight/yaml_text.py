"""YAML as text, read so that all that can be wrong with it is one kind of error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

_DEPTH = 50
"""Levels that a configuration may be nested in; what walks through one, here or in a library, goes down by calls."""

_NODES = 100_000
"""Values that a configuration may hold, with all that its aliases repeat."""


def load(text: str, loader: Callable[[str], Any] = yaml.safe_load) -> Any:
    """Return what a text holds.

    Args:
        text: In YAML.
        loader: Reads it.

    Raises:
        yaml.YAMLError: If it cannot be read, is nested too deeply, holds too much, as where an alias stands within
            what it is an alias of, or has the character NUL, which no file name may have.

    Example:
        >>> load("model: {budget: 3}")
        {'model': {'budget': 3}}
    """
    try:
        content = loader(text)
    except RecursionError as error:
        raise _too_deep() from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # How loaders fail at a number or a date that there is none of, and at a value that is not what its tag says.
        raise yaml.YAMLError(f"a value is not what it looks like or is tagged as: {error}") from error
    _check(content)
    return content


def _too_deep() -> yaml.YAMLError:
    return yaml.YAMLError(f"expected at most {_DEPTH} levels of nesting, got more")


def _check(content: Any) -> None:
    """Refuse what is too deep or too much, and what holds itself is both; and texts that no system call takes."""
    level, nodes = [[content]], 0
    for _ in range(_DEPTH + 2):
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _inside(outer)]
        nodes += len(level)
        if any(isinstance(value, str) and "\0" in value for value in level):
            raise yaml.YAMLError("expected text, got the character NUL in it")
        if not level:
            return
        if nodes > _NODES:
            raise yaml.YAMLError(f"expected at most {_NODES:,} values, with what aliases repeat, got more")
    raise _too_deep()


def _inside(outer: dict[Any, Any] | list[Any]) -> list[Any]:
    return [*outer, *outer.values()] if isinstance(outer, dict) else outer
