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
        yaml.YAMLError: If it cannot be read, is nested too deeply, or holds too much, as where an alias stands within
            what it is an alias of.

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
    _check_size(content)
    return content


def _too_deep() -> yaml.YAMLError:
    return yaml.YAMLError(f"expected at most {_DEPTH} levels of nesting, got more")


def _check_size(content: Any) -> None:
    """Refuse what is too deep or too much; what holds itself is both."""
    level, nodes = [content], 0
    for _ in range(_DEPTH + 1):
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _inside(outer)]
        nodes += len(level)
        if not level:
            return
        if nodes > _NODES:
            raise yaml.YAMLError(f"expected at most {_NODES:,} values, with what aliases repeat, got more")
    raise _too_deep()


def _inside(outer: dict[Any, Any] | list[Any]) -> list[Any]:
    return list(outer.values()) if isinstance(outer, dict) else outer
