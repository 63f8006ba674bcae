"""A grid of evaluations, as one file names it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfdlight import _io
from rfdlight.errors import UserError, unknown_name

PARTS = ("common", "axes", "leave_out")
_LABEL = re.compile(r"\w[\w.-]*")
_COMPONENTS = ("attack", "data", "defense")
"""What a cell may give by a name alone, or take from a file of its own."""


@dataclass(frozen=True)
class Cell:
    """One evaluation of a grid.

    Attributes:
        name: Its labels, joined: one folder's name.
        config: A configuration of `rfdlight test`.
    """

    name: str
    config: dict[str, Any]


def read_cells(path: Path) -> list[Cell]:
    """Read an experiment and return its cells, the last axis fastest.

    The file has up to three parts. `axes` is a mapping from each axis to its labels, and from each label to what
    the cells with that label have of their own; `common` is what all cells have: both are configurations of
    `rfdlight test`, and later axes win over earlier ones and over `common`. `leave_out` is a list of mappings from
    axes to a label or a list of labels: a cell to which one of them applies is left out.

    `{victim}` in any text stands for the cell's label on the axis `victim`. A text below `attack`, `data` or `defense`
    that ends in `.yaml` names a file, beside the experiment or of the package, and the file's content takes its place.
    Each of these may be given by a name or a file in one place, and its arguments in another.

    Args:
        path: Of the file.

    Raises:
        UserError: If it cannot be read, has another form, or has two cells of one name, or none.
    """
    content = _io.read_config(path)
    for part in content:
        if part not in PARTS:
            raise unknown_name(f"part of the experiment {path}", str(part), PARTS)
    common = _overlay(content.get("common"), "common")
    axes = _axes(content.get("axes"))
    left_out = _left_out(content.get("leave_out"), axes)
    cells = []
    for labels in itertools.product(*axes.values()):
        place = dict(zip(axes, labels, strict=True))
        if any(all(place[axis] in those for axis, those in rule.items()) for rule in left_out):
            continue
        config = common
        for axis, label in place.items():
            config = merged(config, axes[axis][label])
        cells.append(Cell("-".join(labels), _with_files(_filled(config, place), path.parent)))
    _check_names(cells)
    return cells


def _overlay(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{name} must be a configuration of rfdlight test, a mapping, got {value!r:.40}")
    return value


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
        axes[str(axis)] = {label: _overlay(part, f"axes.{axis}.{label}") for label, part in labels.items()}
    return axes


def _left_out(value: Any, axes: dict[str, dict[str, Any]]) -> list[dict[str, list[str]]]:
    """Return the rules, each with a list of labels per axis."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(rule, dict) and rule for rule in value):
        raise UserError(f"leave_out must be a list of mappings from axes to labels, got {value!r:.40}")
    rules = []
    for rule in value:
        for axis, labels in rule.items():
            if axis not in axes:
                raise unknown_name("axis in leave_out", str(axis), axes)
            for label in _listed(labels):
                if not isinstance(label, str) or label not in axes[axis]:
                    raise unknown_name(f"label of axes.{axis} in leave_out", str(label), axes[axis])
        rules.append({axis: _listed(labels) for axis, labels in rule.items()})
    return rules


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def merged(first: Any, second: Any) -> Any:
    """Return the second value over the first: mappings key by key unless they name different classes.

    Raises:
        UserError: If several components are to be refined as if they were one.

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
    """Return a component as the mapping of its class and arguments, whichever way it was given."""
    if isinstance(component, str):
        return {"class_path": component}
    if isinstance(component, dict) and component and not component.keys() & {"class_path", "init_args", "dict_kwargs"}:
        return {"init_args": component}
    return component


def _filled(value: Any, place: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, place) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, place) for item in value]
    if isinstance(value, str):
        for axis, label in place.items():
            value = value.replace(f"{{{axis}}}", label)
    return value


def _with_files(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {key: _with_file(value, folder) if key in _COMPONENTS else value for key, value in config.items()}


def _with_file(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_with_file(item, folder) for item in value]
    if isinstance(value, dict) and isinstance(value.get("class_path"), str):  # a file that an axis refines
        described = _with_file(value["class_path"], folder)
        if isinstance(described, dict):
            return merged(described, {key: item for key, item in value.items() if key != "class_path"})
    if not isinstance(value, str) or not value.endswith(".yaml"):
        return value
    path = folder / value if (folder / value).is_file() else _io.find_shipped("configs", value, ".yaml")
    content = _io.read_config(path)
    # What else a calibrated defense says is for its reader.
    return {key: content[key] for key in ("class_path", "init_args") if key in content}


def _check_names(cells: list[Cell]) -> None:
    if not cells:
        raise UserError("leave_out leaves no cell")
    twice = next(_repeated(cell.name for cell in cells), None)
    if twice is not None:
        raise UserError(f"two cells have the name {twice}; change a label so that the joined labels differ")


def _repeated(names: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)
