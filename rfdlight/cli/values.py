"""Short names of components and fractions in the values of settings, written out by the type of the setting."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from jsonargparse import get_loader

from rfdlight._io import config_path, parse_yaml, read_config
from rfdlight.core import user_code
from rfdlight.core.registry import resolve
from rfdlight.errors import expect, shown
from rfdlight.records.standard import VERSION

BASES = {
    "attack": "rfdlight.attacks.base.Attack",
    "data": "rfdlight.data.base.ImageData",
    "defense": "rfdlight.defenses.base.Defense",
    "adversary": "rfdlight.training.adversary.Adversary",
}
"""Import path of the base class of each kind of component; the classes need torch, which not every command imports."""

STANDARD = "rfdlight.evaluation.standard.StandardAttack"
"""Import path of the options of the standard evaluation, which a command line names in the place of an attack."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FRACTION = re.compile(rf"\s*({_NUMBER})\s*/\s*({_NUMBER})\s*")
"""A radius as papers write it, such as 8/255."""
_FACTS = ("calibration", "recommendation")
"""Measurements in the file of a calibrated defense, which are no settings; see analysis/defense_file.py."""


def parts(hint: Any) -> Iterator[Any]:
    """Yield a type hint and the types that it is made of."""
    if not isinstance(hint, list):  # the arguments of a callable
        yield hint
    for part in hint if isinstance(hint, list) else get_args(hint):
        yield from parts(part)


def structure(text: str) -> Any:
    """Return the list or mapping that a text such as "[8/255]" holds; other texts are returned unchanged."""
    try:
        return parse_yaml(text, get_loader("yaml")) if text[:1] in ("[", "{") else text
    except yaml.YAMLError:  # the parser reports it
        return text


def is_mapping(hint: Any) -> bool:
    """Return whether a type hint accepts mappings alone, or None.

    Example:
        >>> is_mapping(dict[str, int] | None), is_mapping(dict[str, int] | str)
        (True, False)
    """
    accepted = set(get_args(hint)) if isinstance(hint, UnionType) or get_origin(hint) is Union else {hint}
    return {get_origin(part) for part in accepted - {NoneType}} == {dict}


def kind_of(hint: Any) -> str | None:
    """Return the kind of component that a type hint accepts, None for other types."""
    accepted = {f"{part.__module__}.{part.__qualname__}" for part in parts(hint) if isinstance(part, type)}
    return next((kind for kind, base in BASES.items() if base in accepted), None)


def number_of(text: str) -> float | None:
    """Return the value of a fraction of two numbers, None for any other text.

    Example:
        >>> number_of("51/255"), number_of("0.2"), number_of("8/0")
        (0.2, None, None)
    """
    found = _FRACTION.fullmatch(text)
    return float(found[1]) / float(found[2]) if found and float(found[2]) else None


def with_numbers(value: Any, hint: Any) -> Any:
    """Replace fractions by numbers, at any depth of a list or mapping, if the type hint contains `float`."""
    if float not in parts(hint):
        return value
    if isinstance(value, list):
        return [with_numbers(item, hint) for item in value]
    if isinstance(value, dict):
        return {key: with_numbers(item, hint) for key, item in value.items()}
    number = number_of(value) if isinstance(value, str) else None
    return value if number is None else number


def with_names(value: Any, kind: str) -> Any:
    """Replace short names of components by import paths, and a file that describes a component by its content.

    A value is a name, a path, a mapping with `class_path`, or a list of these; other values are returned unchanged.

    Example:
        >>> with_names(["input_noise"], "defense")
        ['rfdlight.defenses.input_noise.InputNoise']
    """
    if isinstance(value, list):
        return [with_names(item, kind) for item in value]
    if isinstance(value, dict):
        named = {key: item for key, item in value.items() if key not in _FACTS or "class_path" not in value}
        return named | {key: with_names(value[key], kind) for key in ("class_path",) if isinstance(value.get(key), str)}
    if not isinstance(value, str) or value in ("", "null"):
        return value
    if value.endswith((".yaml", ".yml")):
        return with_names(read_config(config_path(value)), kind)
    if kind == "attack" and value.partition("-")[0] == "standard":
        expect(value in ("standard", VERSION), "--attack", f"{VERSION}, the only version of the standard", shown(value))
        return STANDARD
    path = resolve(kind, value)
    user_code.check_component(kind, path)
    return path
