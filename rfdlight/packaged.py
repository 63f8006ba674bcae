"""The configs and checkpoints that come with rfdlight, installed or in a source tree."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from rfdlight.documents import parse_yaml, read_text
from rfdlight.errors import UserError, one_line, unknown_name


def folder(kind: str) -> Path:
    """Return the folder of the shipped "configs" or "checkpoints"."""
    installed = Path(str(resources.files("rfdlight") / kind))
    return installed if installed.is_dir() else Path(__file__).parents[1] / kind


def find(kind: str, name: str, suffix: str) -> Path:
    """Return a shipped file by its name without suffix.

    Raises:
        UserError: If there is none; names the nearest.
    """
    path = folder(kind) / f"{name.removesuffix(suffix)}{suffix}"
    if path.is_file():
        return path
    raise unknown_name({"configs": "config", "checkpoints": "victim"}[kind], name, _names(kind, suffix))


def _names(kind: str, suffix: str) -> list[str]:
    """Return the names of the shipped files of a kind."""
    root = folder(kind)
    return sorted(found.relative_to(root).with_suffix("").as_posix() for found in root.rglob(f"*{suffix}"))


def config_path(name: str) -> Path:
    """Return the path of a config: a file, or one that comes with rfdlight, by its name.

    Raises:
        UserError: If there is none, or it is no mapping.
    """
    path = Path(name)
    if not path.is_file():
        if path.suffix in (".yaml", ".yml") and name.removesuffix(".yaml") not in _names("configs", ".yaml"):
            known = [*_names("configs", ".yaml"), *map(str, path.parent.glob("*.y*ml"))]
            near = difflib.get_close_matches(name, known, n=1)
            raise UserError(f"the file '{name}' does not exist" + (f"; did you mean {near[0]}?" if near else ""))
        path = find("configs", name, ".yaml")
    read_config(path)
    return path


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        UserError: If it cannot be read, or holds something else.
    """
    try:
        content = parse_yaml(read_text(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the config {path}: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"the config {path} must be a mapping of settings, got {content!r:.40}")
    return content
