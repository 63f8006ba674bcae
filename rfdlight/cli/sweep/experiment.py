"""Experiment files: a grid of evaluations, read into cells, and what each cell needs of a machine."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml
from msgspec import Meta

from rfdlight import _io
from rfdlight.errors import UserError, unknown_name

Settings = dict[str, Any]
_LABEL = re.compile(r"\w[\w.-]*")
_COMPONENTS = ("attack", "data", "defense")
"""Settings that may be given by a name or a file in one place, and by arguments in another."""


class _Experiment(msgspec.Struct, forbid_unknown_fields=True):
    axes: dict[str, dict[str, Settings | None]]
    common: Settings | None = None
    leave_out: list[dict[str, str | list[str]]] | None = None


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """GPUs and cores of a cell while it runs; None leaves the choice to the launcher."""

    gpus: Annotated[float, Meta(ge=0, le=4096)] | None = None  # below 1, cells share a GPU
    cpus: Annotated[float, Meta(gt=0, le=4096)] | None = None


@dataclass(frozen=True)
class Cell:
    """One evaluation of a grid: the joined labels, which name its folder, and a configuration of `rfdlight test`."""

    name: str
    config: Settings
    resources: Resources = field(default_factory=Resources)

    def file(self, folder: Path) -> Path:
        """Return the path of the configuration, beside the folder of the run."""
        return folder / f"{self.name}.yaml"

    def as_yaml(self) -> str:
        """Return the content of the configuration file."""
        return yaml.safe_dump(self.config, sort_keys=False)


def read_cells(path: Path) -> list[Cell]:
    """Read an experiment and return its cells; the last axis varies fastest.

    The file has up to three parts. `axes` maps each axis to its labels, and each label to the settings of the cells
    with that label; `common` holds the settings of all cells. Both are configurations of `rfdlight test`, in which
    `resources` may give the GPUs and cores of a cell; later axes override earlier ones and `common`. `leave_out` lists
    mappings from axes to a label or a list of labels: a cell that matches one of them is left out.

    `{victim}` in any text is replaced by the cell's label on the axis `victim`. A text below `attack`, `data` or
    `defense` that ends in `.yaml` names a file, beside the experiment or shipped, and is replaced by its content.
    Each of these may be given by a name or a file in one place, and by arguments in another.
    """
    experiment = _read(path)
    cells = []
    for labels in itertools.product(*experiment.axes.values()):
        place = dict(zip(experiment.axes, labels, strict=True))
        if any(_matches(place, rule) for rule in experiment.leave_out or []):
            continue
        config = experiment.common or {}
        for axis, label in place.items():
            config = merged(config, experiment.axes[axis][label] or {})
        config = _filled(config, place)
        for kind in config.keys() & set(_COMPONENTS):
            config[kind] = _with_file(config[kind], path.parent)
        name = "-".join(labels)
        cells.append(Cell(name, config, _resources(name, config.pop("resources", None))))
    if not cells:
        raise UserError(f"{path}: expected a cell, got none; axes need labels, and leave_out must leave a cell")
    name, count = Counter(cell.name for cell in cells).most_common(1)[0]
    if count > 1:
        raise UserError(f"two cells have the name {name}; change a label so that the joined labels differ")
    return cells


def _read(path: Path) -> _Experiment:
    try:
        experiment = msgspec.convert(_io.read_config(path), _Experiment)
    except msgspec.ValidationError as error:
        raise UserError(f"the experiment {path}: {error}") from error
    for axis, labels in experiment.axes.items():
        for label in labels:
            if not _LABEL.fullmatch(label):
                raise UserError(f"a label of axes.{axis} must be letters, digits, '_', '.' and '-', got {label!r}")
    for axis, left_out in itertools.chain.from_iterable(rule.items() for rule in experiment.leave_out or []):
        if axis not in experiment.axes:
            raise unknown_name("axis in leave_out", axis, experiment.axes)
        for label in {*_listed(left_out)} - experiment.axes[axis].keys():
            raise unknown_name(f"label of axes.{axis} in leave_out", label, experiment.axes[axis])
    return experiment


def _resources(name: str, given: Any) -> Resources:
    try:
        return msgspec.convert({} if given is None else given, Resources)
    except msgspec.ValidationError as error:
        message, _, path = str(error).replace("`", "").partition(" - at $")
        message = message[0].lower() + message[1:]
        raise UserError(f"cell {name}: resources{path}: {message}") from error


def _matches(place: dict[str, str], rule: dict[str, str | list[str]]) -> bool:
    return all(place[axis] in _listed(labels) for axis, labels in rule.items())


def _listed(labels: str | list[str]) -> list[str]:
    return [labels] if isinstance(labels, str) else labels


def merged(first: Any, second: Any) -> Any:
    """Return the second value merged over the first: mappings key by key, unless they name different classes.

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
