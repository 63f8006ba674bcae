"""Rewriting of a command line before it is parsed: configs and components by name, resumed runs, default components."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rfdlight._io import config_path, read_config
from rfdlight.cli.commands import DEFAULTS
from rfdlight.cli.values import structure, with_names
from rfdlight.cli.words import Word, split
from rfdlight.core.registry import FLAGS
from rfdlight.errors import SettingError
from rfdlight.evaluation.fingerprint import cannot_go_on, mixed
from rfdlight.records import run_directory
from rfdlight.victims.resolve import SHIPPED_DATA, card_of

CONFIG = "config.yaml"
"""File of a run directory with the settings of the run."""

_FREE = ("trainer", "run", "resume", "model.pool_size", "model.memory", "data.init_args.workers", "data.init_args.root")
"""Settings that a resumed run may change, since no result depends on them."""
_CONFIG = ("-c", "--config")
_WITH_VICTIM = ("analyze", "calibrate", "export", "recommend", "reevaluate", "scales")
"""The commands whose positional argument is a victim."""


def expand(args: list[str]) -> tuple[list[str], str | None]:
    """Write out a command line: packaged configs, a resumed run, short names, and components left to their default.

    Returns the arguments for the parser, and a line about the data of the victim's card, if these are used.
    """
    if not args or args[0].startswith("-"):
        return args, None
    command, words = args[0], split(args[1:])
    if command == "test":
        words = _resumed(words)
    words = [_named(word) for word in words]
    for flag in FLAGS.values():
        words = _selector_first(words, flag)
    chosen, notice = _defaults(command, words)
    return [command, *(word.written() for word in (*chosen, *words))], notice


def _resumed(words: list[Word]) -> list[Word]:
    """Put the settings of the run that `--resume` names in front."""
    run = next((word.value for word in words if word.flag == "--resume" and word.value), None)
    if run is None:
        return words
    config = Path(run, CONFIG)
    if not config.is_file():
        raise cannot_go_on(run, f"there is no {config}")
    if any(word.flag == "--run" for word in words):
        raise cannot_go_on(run, "a run stays in its folder; leave --run out")
    run_directory.refuse_links(Path(run))
    read_config(config)
    return [Word("--config", str(config)), *words]


def _named(word: Word) -> Word:
    """Replace the name of a packaged config by its path, and short names and files of components by their content."""
    if word.value and word.flag in _CONFIG:
        return Word(word.flag, str(config_path(word.value)))
    for kind, flag in FLAGS.items():
        if word.value and word.flag in (f"--{flag}", f"--{flag}+", f"--{flag}.class_path", f"--{flag}.help"):
            named = with_names(structure(word.value), kind)
            if not isinstance(named, str):
                named = yaml.safe_dump(named, default_flow_style=True, width=math.inf, sort_keys=False).strip()
            return Word(word.flag, named)
    return word


def _selector_first(words: list[Word], flag: str) -> list[Word]:
    """Put the option that selects a component before the options of the component, as the parser requires."""
    selectors = (f"--{flag}", f"--{flag}.class_path")
    own = [i for i, word in enumerate(words) if word.flag.startswith(f"--{flag}.") and word.flag not in selectors]
    late = [word for i, word in enumerate(words) if own and i > own[0] and word.flag in selectors]
    if not late:
        return words
    rest = [word for word in words if word not in late]
    return [*rest[: own[0]], *late, *rest[own[0] :]]


def _defaults(command: str, words: list[Word]) -> tuple[list[Word], str | None]:
    """Return the options that select components which the command line leaves out; a victim's card names its data."""
    # A default of the parser would keep the options of the digits where other data are named.
    chosen = dict([DEFAULTS[command]] if command in DEFAULTS else [])
    notice = None
    names_data, victim = _data_and_victim(command, words)
    card = card_of(victim) if command in ("test", *_WITH_VICTIM) and not names_data else None
    if card is not None:
        if card.data not in SHIPPED_DATA:
            raise SettingError("--data", f"needed: the victim '{victim}' was trained on {card.data}, got no data")
        if card.data != chosen.get("data"):
            notice = f"data {card.data}, on which the victim '{victim}' was trained; --data names other data"
        chosen["data"] = card.data
    return [Word(f"--{kind}", with_names(name, kind)) for kind, name in chosen.items()], notice


def _data_and_victim(command: str, words: list[Word]) -> tuple[bool, str | None]:
    """Return whether a command line names its data, and the victim that it names last."""
    settings: list[dict[str, Any]] = []
    for word in words:
        group, _, name = word.flag.removeprefix("--").partition(".")
        if word.value and word.flag in _CONFIG:
            settings.append(read_config(Path(word.value)))
        elif word.flag == "--data":
            settings.append({group: word.value})
        elif word.flag in ("--data.class_path", "--model.victim"):
            settings.append({group: {name: word.value}})
    data = [given["data"] for given in settings if "data" in given]
    names_data = any(isinstance(each, str) or (isinstance(each, dict) and "class_path" in each) for each in data)
    if command in _WITH_VICTIM:
        return names_data, next((word.value for word in words if not word.flag), None)
    models = [given["model"] for given in settings if isinstance(given.get("model"), dict)]
    victim = next((model["victim"] for model in reversed(models) if "victim" in model), None)
    return names_data, victim if isinstance(victim, str) else None


def check_unchanged(run: Path, settings: dict[str, Any]) -> None:
    """Raise a ResumeError if a setting of a resumed run differs from the setting that it was begun with."""
    before, now = (dict(_flat(each)) for each in (read_config(run / CONFIG), settings))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name) and not any(f"{name}.".startswith(f"{free}.") for free in _FREE):
            raise mixed(run, f"{name} is {now.get(name)}, was {before.get(name)}")


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
