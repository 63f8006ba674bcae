"""What the argument parser may read and import: YAML with short names, and no module of Python's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings

from rfdlight._io import parse_yaml, read_config
from rfdlight.cli import short_names
from rfdlight.errors import UserError, one_line

_GROUPS = {"model", "trainer"}
"""Settings of `rfdlight fit` and `rfdlight test` that belong together."""

MODE = "rfdlight"
"""The parser mode of every command line."""


def load_yaml(text: str) -> Any:
    """Return the value of a YAML text, as the parser means it, with short names written out.

    Raises:
        yaml.YAMLError: If it is none, or would not end.
        UserError: If a choice of a kind is neither a known short name nor a path.
    """
    config = short_names.expand_config(parse_yaml(text, get_loader("yaml")))
    if isinstance(config, dict) and "class_path" in config:
        for facts in ("calibration", "recommendation"):  # for the reader of the file, see protocol/defense_file.py
            config.pop(facts, None)
    return config


def check_groups(args: list[str]) -> None:
    """Refuse a command line that gives a group of settings as a whole, and not as a mapping.

    The parser would leave it out without a word, or stumble over it.

    Raises:
        UserError: Names the group.
    """
    for position in range(len(args)):
        flag, value, _ = short_names.option_at(args, position)
        if flag in ("-c", "--config"):
            given = read_config(Path(value))
        elif flag.startswith("--") and flag[2:] in _GROUPS and value:
            try:
                given = {flag.removeprefix("--"): parse_yaml(value)}
            except yaml.YAMLError as error:
                raise UserError(f"cannot read {flag}: {one_line(error)}") from error
        else:
            continue
        for group in _GROUPS & given.keys():
            if not isinstance(given[group], dict):
                raise UserError(f"{group} must be a mapping of settings, got {given[group]!r:.40}")


set_loader(MODE, load_yaml, exceptions=(yaml.YAMLError,))
# A module runs when it is imported, before its class is looked at, and the functions of these do harm: os.abort,
# shutil.rmtree. What one's own modules have from them, such as functools.partial, is judged by what it calls.
set_parsing_settings(import_path_denylist=sorted(sys.stdlib_module_names))
