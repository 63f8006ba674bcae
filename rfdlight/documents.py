"""Files that a user was handed, as text, YAML and JSON: read to a bounded size, whatever they hold."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from rfdlight.errors import UserError

MOST_VALUES = 100_000
"""Values of a YAML document, those behind an alias counted wherever it stands; rfdlight's own have below 1,000."""

MOST_LEVELS = 50
"""Lists and mappings within one another in a YAML document; what walks through one goes down by calls."""

NOT_PLAIN = "expected text in UTF-8, without the character NUL"


def is_plain(text: str) -> bool:
    """Return whether a text can be written to a file and be a file's name: it is UTF-8, and without NUL."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def expanded(path: str) -> Path:
    """Return a path with its leading `~` or `~name` written out.

    Raises:
        UserError: If nobody of that name has a home here.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"no home folder is known for {Path(path).parts[0]}") from error


def read_bytes(path: Path) -> bytes:
    """Return what a file holds; a link to one counts as one.

    Raises:
        OSError: If it cannot be read, or is a device or a pipe, which may have no end.
    """
    check_regular(path)
    return path.read_bytes()


def check_regular(path: Path) -> None:
    """Refuse what a reader might never come to the end of; what is not there, or a folder, is left to the reader.

    Raises:
        OSError: If it is a device or a pipe, or a link to one.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def read_text(path: Path, errors: str = "strict") -> str:
    """Return what a text file holds, in UTF-8.

    Raises:
        OSError: As `read_bytes`.
        UnicodeDecodeError: If it is no UTF-8.
    """
    return read_bytes(path).decode("utf-8", errors)


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: If it is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_yaml(text: str, loader: Callable[[str], Any] = yaml.safe_load) -> Any:
    """Return the value of a YAML document of plain values.

    Args:
        text: Of the document.
        loader: Puts its values together.

    Raises:
        yaml.YAMLError: If it is none, names Python objects, is larger or nested deeper than any that is meant, or has
            a text that is not plain.

    Example:
        >>> parse_yaml("model: {budget: 3}")
        {'model': {'budget': 3}}
    """
    _check(text)
    try:
        return loader(text)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # How loaders fail at a number or a date that there is none of, and at a value that is not what its tag says.
        raise yaml.YAMLError(f"a value is not what it looks like or is tagged as: {error}") from error


def _check(text: str) -> None:
    """Refuse a document that would fill the memory or the stack when it is put together.

    Raises:
        yaml.YAMLError: See `parse_yaml`.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
    except RecursionError as error:
        raise _too_deep() from error
    finally:
        loader.dispose()
    if node is not None and _values(node, {}, MOST_LEVELS) > MOST_VALUES:
        raise yaml.YAMLError(f"expected at most {MOST_VALUES:,} values, with every alias written out, got more")


def _values(node: yaml.Node, counted: dict[int, float], levels: int) -> float:
    """Return how many values stand below a node, infinitely many where it stands below itself."""
    if isinstance(node, yaml.ScalarNode):
        if not is_plain(node.value):
            raise yaml.YAMLError(NOT_PLAIN)
        return 1
    if levels == 0:
        raise _too_deep()
    if id(node) not in counted:
        counted[id(node)] = float("inf")
        below = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        counted[id(node)] = 1 + sum(_values(each, counted, levels - 1) for each in below)
    return counted[id(node)]


def _too_deep() -> yaml.YAMLError:
    return yaml.YAMLError(f"expected at most {MOST_LEVELS} levels of nesting, got more")
