"""Experiment files: a grid of evaluations, read into cells."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfdlight import _io
from rfdlight.errors import UserError, unknown_name

PARTS = ("common", "axes", "leave_out")
_LABEL = re.compile(r"\w[\w.-]*")
_COMPONENTS = ("attack", "data", "defense")
"""Settings that may be given by a name or a file in one place, and by arguments in another."""


@dataclass(frozen=True)
class Cell:
    """One evaluation of a grid.

    Attributes:
        name: The labels of the cell, joined; the name of its folder.
        config: A configuration of `rfdlight test`.
    """

    name: str
    config: dict[str, Any]


def read_cells(path: Path) -> list[Cell]:
    """Read an experiment and return its cells; the last axis varies fastest.

    The file has up to three parts. `axes` maps each axis to its labels, and each label to the settings of the cells
    with that label; `common` holds the settings of all cells. Both are configurations of `rfdlight test`; later axes
    override earlier ones and `common`. `leave_out` lists mappings from axes to a label or a list of labels: a cell
    that matches one of them is left out.

    `{victim}` in any text is replaced by the cell's label on the axis `victim`. A text below `attack`, `data` or
    `defense` that ends in `.yaml` names a file, beside the experiment or shipped, and is replaced by its content.
    Each of these may be given by a name or a file in one place, and by arguments in another.

    Args:
        path: Path of the experiment.

    Raises:
        UserError: If the file cannot be read or has another form, two cells have the same name, or there is no cell.
    """
    content = _io.read_config(path)
    for part in content:
        if part not in PARTS:
            raise unknown_name(f"part of the experiment {path}", str(part), PARTS)
    common = _settings(content.get("common"), "common")
    axes = _axes(content.get("axes"))
    rules = _rules(content.get("leave_out"), axes)
    cells = []
    for labels in itertools.product(*axes.values()):
        place = dict(zip(axes, labels, strict=True))
        if any(all(place[axis] in left_out for axis, left_out in rule.items()) for rule in rules):
            continue
        config = common
        for axis, label in place.items():
            config = merged(config, axes[axis][label])
        config = _filled(config, place)
        for kind in config.keys() & set(_COMPONENTS):
            config[kind] = _with_file(config[kind], path.parent)
        cells.append(Cell("-".join(labels), config))
    if not cells:
        raise UserError("leave_out leaves no cell")
    name, count = Counter(cell.name for cell in cells).most_common(1)[0]
    if count > 1:
        raise UserError(f"two cells have the name {name}; change a label so that the joined labels differ")
    return cells


def _settings(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise UserError(f"{name} must be a configuration of rfdlight test, a mapping, got {value!r:.40}")
    return value or {}


def _axes(value: Any) -> dict[str, dict[str, dict[str, Any]]]:
    if not isinstance(value, dict) or not value:
        raise UserError(f"axes must be a mapping of at least one axis to its labels, got {value!r:.40}")
    axes = {}
    for axis, labels in value.items():
        if not isinstance(labels, dict) or not labels:
            raise UserError(f"axes.{axis} must be a mapping of at least one label to its settings, got {labels!r:.40}")
        for label in labels:
            if not isinstance(label, str) or not _LABEL.fullmatch(label):
                raise UserError(f"a label of axes.{axis} must be letters, digits, '_', '.' and '-', got {label!r}")
        axes[str(axis)] = {label: _settings(part, f"axes.{axis}.{label}") for label, part in labels.items()}
    return axes


def _rules(value: Any, axes: dict[str, dict[str, Any]]) -> list[dict[str, list[str]]]:
    """Return the rules of `leave_out`: labels by axis."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(rule, dict) and rule for rule in value):
        raise UserError(f"leave_out must be a list of mappings from axes to labels, got {value!r:.40}")
    rules = [
        {axis: labels if isinstance(labels, list) else [labels] for axis, labels in rule.items()} for rule in value
    ]
    for axis, labels in itertools.chain.from_iterable(rule.items() for rule in rules):
        if axis not in axes:
            raise unknown_name("axis in leave_out", str(axis), axes)
        for label in labels:
            if not isinstance(label, str) or label not in axes[axis]:
                raise unknown_name(f"label of axes.{axis} in leave_out", str(label), axes[axis])
    return rules


def merged(first: Any, second: Any) -> Any:
    """Return the second value merged over the first: mappings key by key, unless they name different classes.

    Raises:
        UserError: If arguments are given for a list of several components.

    Example:
        >>> merged({"model": {"budget": 1, "eot": 2}}, {"model": {"budget": 3}})
        {'model': {'budget': 3, 'eot': 2}}
        >>> merged({"attack": "rays"}, {"attack": {"init_args": {"eps": 0.1}}})
        {'attack': {'class_path': 'rays', 'init_args': {'eps': 0.1}}}
    """
    if not isinstance(first, dict) or not isinstance(second, dict):
        return second
    if "class_path" in second and second["class_path"] != first.get("class_path"):
        return second
    return {**first, **{key: _merged_at(key, first.get(key), value) for key, value in second.items()}}


def _merged_at(key: str, first: Any, second: Any) -> Any:
    if key not in _COMPONENTS or first is None or not isinstance(second, dict):
        return merged(first, second)
    if isinstance(first, list) and "class_path" not in second:
        raise UserError(f"{key} is a list of several, which no axis can refine; give the whole list there")
    return merged(_spelled_out(first), _spelled_out(second))


def _spelled_out(component: Any) -> Any:
    """Return a component as a mapping of its class and arguments."""
    if isinstance(component, str):
        return {"class_path": component}
    if isinstance(component, dict) and component and not component.keys() & {"class_path", "init_args", "dict_kwargs"}:
        return {"init_args": component}
    return component


def _filled(value: Any, place: dict[str, str]) -> Any:
    """Replace the names of axes in braces by labels."""
    if isinstance(value, dict):
        return {key: _filled(item, place) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, place) for item in value]
    if isinstance(value, str):
        for axis, label in place.items():
            value = value.replace(f"{{{axis}}}", label)
    return value


def _with_file(value: Any, folder: Path) -> Any:
    """Replace the name of a file that describes a component by its content."""
    if isinstance(value, list):
        return [_with_file(item, folder) for item in value]
    if isinstance(value, dict) and isinstance(value.get("class_path"), str):
        described = _with_file(value["class_path"], folder)
        if isinstance(described, dict):  # the arguments beside it refine the file
            return merged(described, {key: item for key, item in value.items() if key != "class_path"})
    if not isinstance(value, str) or not value.endswith(".yaml"):
        return value
    path = folder / value if (folder / value).is_file() else _io.find_shipped("configs", value, ".yaml")
    content = _io.read_config(path)
    # The other entries of a calibrated defense are measurements.
    return {key: content[key] for key in ("class_path", "init_args") if key in content}
