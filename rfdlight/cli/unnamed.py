"""The components that a command line leaves unnamed: data that follow the victim's card, and defaults."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from rfdlight import _io
from rfdlight._io import parse_yaml
from rfdlight.cli import short_names
from rfdlight.core import registry
from rfdlight.errors import UserError
from rfdlight.victims.resolve import SHIPPED_DATA, card_of

DEFAULTS = {"fit": ("data", "digits"), "test": ("data", "digits"), "recommend": ("attack", "square")}
"""The component of each command that is taken where none is named."""

_WITH_VICTIM = ("analyze", "calibrate", "recommend", "scales")
"""The commands with a victim as their positional argument, and data."""


def filled_in(args: list[str]) -> tuple[list[str], str | None]:
    """Put the components that a command line need not name in front of its options.

    The data of a victim with a card are those that it was trained on.

    Args:
        args: With the command first.

    Returns:
        The command line, and one line that says which data the victim's card names, if they were taken.

    Raises:
        UserError: If the data of the victim's card are none of the shipped data sets.
    """
    if not args:
        return args, None
    # Not defaults of the parser: the digits' own defaults would then stay when other data is named.
    chosen = dict([DEFAULTS[args[0]]] if args[0] in DEFAULTS else [])
    notice = None
    if args[0] in ("test", *_WITH_VICTIM) and not any(_names_data(given) for given in _settings(args)):
        spec = _victim(args)
        card = card_of(spec)
        if card is not None and card.data not in SHIPPED_DATA:
            raise UserError(f"--data is needed: the victim '{spec}' was trained on {card.data}, got no data")
        if card is not None:
            if card.data != chosen.get("data"):
                notice = f"data {card.data}, on which the victim '{spec}' was trained; --data names other data"
            chosen["data"] = card.data
    selectors = [f"--{kind}={registry.resolve(kind, name)}" for kind, name in chosen.items()]
    return [args[0], *selectors, *args[1:]], notice


def _settings(args: list[str]) -> Iterator[dict[str, Any]]:
    """Yield what the options of a command line say of data and victim, as mappings."""
    for position in range(1, len(args)):
        flag, value, _ = short_names.option_at(args, position)
        if flag in ("-c", "--config") and value:
            yield _io.read_config(Path(value))
        elif flag in ("--data", "--model"):
            yield {flag.removeprefix("--"): _parsed(value)}
        elif flag in ("--data.class_path", "--model.victim"):
            group, _, name = flag.removeprefix("--").partition(".")
            yield {group: {name: value}}


def _parsed(value: str) -> Any:
    try:
        return parse_yaml(value)
    except yaml.YAMLError:  # the parser says what is wrong with it
        return value


def _names_data(given: dict[str, Any]) -> bool:
    data = given.get("data")
    return isinstance(data, str) or (isinstance(data, dict) and "class_path" in data)


def _victim(args: list[str]) -> str | None:
    """Return the victim that a command line names, the last one where there are several."""
    if args[0] in _WITH_VICTIM:
        return next(
            (
                arg
                for before, arg in pairwise(args)
                if not arg.startswith("-") and (not before.startswith("-") or "=" in before)
            ),
            None,
        )
    models = [given.get("model") for given in _settings(args)]
    named = [model["victim"] for model in models if isinstance(model, dict) and "victim" in model]
    return named[-1] if named and isinstance(named[-1], str) else None
