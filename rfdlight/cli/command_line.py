"""Rewriting of a command line before it is parsed: configs and components by name, resumed runs, default components."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rfdlight._io import config_path, read_config
from rfdlight.cli import resumption
from rfdlight.cli.values import number_of, structure, with_names
from rfdlight.core.registry import FLAGS, resolve
from rfdlight.errors import SettingError
from rfdlight.victims.resolve import SHIPPED_DATA, card_of

DEFAULTS = {"fit": ("data", "digits"), "test": ("data", "digits"), "recommend": ("attack", "square")}
"""The component that a command uses if none is named, by command."""
_CONFIG = ("-c", "--config")
_WITH_VICTIM = ("analyze", "calibrate", "recommend", "scales")
"""The commands whose positional argument is a victim."""


@dataclass(frozen=True)
class Word:
    """An option with its value, or a positional argument, whose flag is empty."""

    flag: str
    value: str | None = None
    joined: bool = False

    def written(self) -> list[str]:
        """Return the arguments that the parser reads."""
        if self.joined or (self.flag and (self.value or "").startswith("-")):  # such as -8/255, an option to the parser
            return [f"{self.flag}={self.value}"]
        return [*([self.flag] if self.flag else []), *([] if self.value is None else [self.value])]


def expand(args: list[str]) -> tuple[list[str], str | None]:
    """Write out a command line: packaged configs, a resumed run, short names, and components left to their default.

    Args:
        args: The arguments, the command first.

    Returns:
        The arguments for the parser, and a line about the data of the victim's card, if these are used.

    Raises:
        UserError: If a config cannot be read, or a name is unknown.
    """
    if not args or args[0].startswith("-"):
        return args, None
    command, words = args[0], [_located(word) for word in _split(args[1:])]
    if command == "test":
        words = _resumed(words)
    words = [_named(word) for word in words]
    for flag in FLAGS.values():
        words = _selector_first(words, flag)
    chosen, notice = _defaults(command, words)
    return [command, *chosen, *(part for word in words for part in word.written())], notice


def _split(args: list[str]) -> list[Word]:
    words: list[Word] = []
    for arg in args:
        flag, joined, value = arg.partition("=")
        if arg.startswith("-") and number_of(arg) is None:
            words.append(Word(flag, value if joined else None, bool(joined)))
        elif words and words[-1].flag not in ("", "--") and words[-1].value is None:
            words[-1] = replace(words[-1], value=arg)
        else:
            words.append(Word("", arg))
    return words


def _located(word: Word) -> Word:
    """Replace the name of a packaged config by its path."""
    return replace(word, value=str(config_path(word.value))) if word.value and word.flag in _CONFIG else word


def _resumed(words: list[Word]) -> list[Word]:
    """Put the settings of the run that `--resume` names in front."""
    run = next((word.value for word in words if word.flag == "--resume" and word.value), None)
    if run is None:
        return words
    config = resumption.config_of(run, in_place=all(word.flag != "--run" for word in words))
    return [Word("--config", str(config), joined=True), *words]


def _named(word: Word) -> Word:
    """Replace short names and files in the value of an option that selects a component."""
    for kind, flag in FLAGS.items():
        if word.value and word.flag in (f"--{flag}", f"--{flag}+", f"--{flag}.class_path", f"--{flag}.help"):
            return replace(word, value=_as_text(with_names(structure(word.value), kind)))
    return word


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False).strip()


def _selector_first(words: list[Word], flag: str) -> list[Word]:
    """Put the option that selects a component before the options of the component, as the parser requires."""
    selectors = (f"--{flag}", f"--{flag}.class_path")
    own = [i for i, word in enumerate(words) if word.flag.startswith(f"--{flag}.") and word.flag not in selectors]
    late = [word for i, word in enumerate(words) if own and i > own[0] and word.flag in selectors]
    if not late:
        return words
    rest = [word for word in words if word not in late]
    return [*rest[: own[0]], *late, *rest[own[0] :]]


def _defaults(command: str, words: list[Word]) -> tuple[list[str], str | None]:
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
    return [f"--{kind}={resolve(kind, name)}" for kind, name in chosen.items()], notice


def _data_and_victim(command: str, words: list[Word]) -> tuple[bool, str | None]:
    """Return whether a command line names its data, and the victim that it names last."""
    settings: list[dict[str, Any]] = []
    for word in words:
        group, _, name = word.flag.removeprefix("--").partition(".")
        if word.value and word.flag in _CONFIG:
            settings.append(read_config(Path(word.value)))
        elif word.value and word.flag in ("--data", "--model"):
            settings.append({group: structure(word.value)})
        elif word.flag in ("--data.class_path", "--model.victim"):
            settings.append({group: {name: word.value}})
    data = [given["data"] for given in settings if "data" in given]
    names_data = any(isinstance(each, str) or (isinstance(each, dict) and "class_path" in each) for each in data)
    if command in _WITH_VICTIM:
        return names_data, next((word.value for word in words if not word.flag), None)
    models = [given["model"] for given in settings if isinstance(given.get("model"), dict)]
    victim = next((model["victim"] for model in reversed(models) if "victim" in model), None)
    return names_data, victim if isinstance(victim, str) else None
