"""Short names and fractions on a command line and in YAML files, replaced by import paths and numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

import yaml
from jsonargparse import get_loader

from rfdlight._io import parse_yaml
from rfdlight.core import user_code
from rfdlight.core.registry import FLAGS, NAMES, resolve

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"

_FRACTION = re.compile(rf"\s*({_NUMBER})\s*/\s*({_NUMBER})\s*")
"""A radius as papers write it, such as 8/255."""


def number_of(text: str) -> float | None:
    """Return the value of a fraction of two numbers, None for any other text.

    Example:
        >>> number_of("51/255"), number_of("0.2"), number_of("8/0")
        (0.2, None, None)
    """
    found = _FRACTION.fullmatch(text)
    return float(found[1]) / float(found[2]) if found and float(found[2]) else None


def _without_fractions(value: Any) -> Any:
    """Replace fractions by their values, at any depth of lists and mappings."""
    if isinstance(value, list):
        return [_without_fractions(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_fractions(item) for key, item in value.items()}
    number = number_of(value) if isinstance(value, str) else None
    return value if number is None else number


def expand_fractions(args: list[str], flags: Collection[str] = ()) -> list[str]:
    """Replace fractions on a command line by their values, in options of components and in others that are numbers.

    Options of data are left as they are, since `1/2` may be a folder.

    Args:
        args: The command line.
        flags: The other options whose values are numbers.

    Example:
        >>> expand_fractions(["test", "--attack.eps=51/255", "--run", "8/255"])
        ['test', '--attack.eps=0.2', '--run', '8/255']
    """
    expanded = list(args)
    sections = tuple(f"--{flag}." for kind, flag in FLAGS.items() if kind != "data")
    for i in range(len(args)):
        flag, value, joined = option_at(args, i)
        if not (flag.startswith(sections) or flag in flags):
            continue
        number = _fraction_text(value)
        if joined:
            expanded[i] = f"{flag}={number}"
        elif value:
            expanded[i + 1] = number
    return expanded


def _fraction_text(text: str) -> str:
    number = number_of(text)
    if number is not None:
        return repr(number)
    if not text.startswith("[") or "/" not in text:
        return text
    try:
        values = parse_yaml(text, get_loader("yaml"))
    except yaml.YAMLError:
        return text  # the parser says what is wrong with it
    return yaml.safe_dump(_without_fractions(values), default_flow_style=True, width=math.inf).strip()


def expand_args(args: list[str]) -> list[str]:
    """Replace short names on a command line, and put each selector before its own options.

    `--attack.eps 0.1 --attack rays` means what it says although the parser wants the class first.

    Example:
        >>> expand_args(["test", "--attack.eps", "0.1", "--attack=rays"])
        ['test', '--attack=rfdlight.attacks.rays.RayS', '--attack.eps', '0.1']
    """
    expanded = list(args)
    for kind in FLAGS:
        flag_of_kind = f"--{FLAGS[kind]}"
        selectors = (flag_of_kind, f"{flag_of_kind}+", f"{flag_of_kind}.class_path", f"{flag_of_kind}.help")
        for i, token in enumerate(expanded):
            flag, equals, value = token.partition("=")
            if flag not in selectors:
                continue
            if equals:
                expanded[i] = f"{flag}={_resolve_value(kind, value)}"
            elif i + 1 < len(expanded) and not expanded[i + 1].startswith("-"):
                expanded[i + 1] = _resolve_value(kind, expanded[i + 1])
        expanded = _selector_first(expanded, kind)
    return expanded


def _resolve_value(kind: str, value: str) -> str:
    if value[:1] in ("[", "{"):
        return _resolve_flow(kind, value)
    if value in ("", "null"):
        return value
    path = resolve(kind, value)
    user_code.check_component(kind, path)
    return path


def _resolve_flow(kind: str, text: str) -> str:
    # The parser's loader sees this text without the flag before it, so the kind must be used here.
    try:
        config = parse_yaml(text, get_loader("yaml"))
    except yaml.YAMLError:
        return text  # the parser says what is wrong with it
    return yaml.safe_dump(expand_config(config, kind), default_flow_style=True, width=math.inf, sort_keys=False).strip()


def option_at(args: list[str], position: int) -> tuple[str, str, bool]:
    """Return the option that stands at a position of a command line: flag, value and whether "=" joins the two.

    Example:
        >>> option_at(["--run=mine"], 0), option_at(["--run", "mine"], 0), option_at(["--run"], 0)
        (('--run', 'mine', True), ('--run', 'mine', False), ('--run', '', False))
    """
    flag, joined, value = args[position].partition("=")
    return flag, value if joined else next(iter(args[position + 1 : position + 2]), ""), bool(joined)


def _selector_first(args: list[str], kind: str) -> list[str]:
    flag_of_kind = f"--{FLAGS[kind]}"
    selectors = (flag_of_kind, f"{flag_of_kind}.class_path")
    flags = [token.partition("=")[0] for token in args]
    options = [i for i, flag in enumerate(flags) if flag.startswith(f"{flag_of_kind}.") and flag not in selectors]
    for i, token in enumerate(args):
        if options and i > options[0] and flags[i] in selectors:
            length = 1 if "=" in token else 2
            moved = args[i : i + length]
            rest = args[:i] + args[i + length :]
            return rest[: options[0]] + moved + rest[options[0] :]
    return args


def expand_config(config: Any, kind: str | None = None) -> Any:
    """Replace short names in a parsed YAML document, at any depth, and fractions in the options of components.

    A `class_path` that stands below no kind, as in a file that describes one component alone, is
    replaced if it is a short name of any kind, an attack before an adversary, and else left to the parser.

    Args:
        config: A scalar, list or mapping, as YAML gives it.
        kind: What `config` is a choice of, if that is known.

    Raises:
        UserError: If a choice of a kind is neither a known short name nor a path.

    Example:
        >>> expand_config({"attack": "rays"})
        {'attack': 'rfdlight.attacks.rays.RayS'}
    """
    if isinstance(config, list):
        return [expand_config(item, kind) for item in config]
    if isinstance(config, str) and kind is not None:
        return _resolve_value(kind, config)
    if not isinstance(config, dict):
        return config
    expanded = {}
    for key, value in config.items():
        inner = key if key in FLAGS else None
        if key == "class_path" and isinstance(value, str):
            inner = kind or next((kind for kind, listed in NAMES.items() if value in listed), None)
        expanded[key] = expand_config(value, inner)
        if key in ("init_args", "dict_kwargs") and kind != "data":
            expanded[key] = _without_fractions(expanded[key])
    return expanded
