"""The parser of every command line and configuration: it checks values by type and reports an error in one line."""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings
from jsonargparse._common import lenient_check
from jsonargparse._loaders_dumpers import get_yaml_default_loader
from jsonargparse._required import iter_required_keys
from jsonargparse._typehints import typehint_from_action

from rfdlight._io import parse_yaml
from rfdlight.cli.help import HelpFormatter, is_of_trainer
from rfdlight.cli.values import is_mapping, kind_of, parts, structure, with_names, with_numbers
from rfdlight.core import registry, user_code
from rfdlight.core.signatures import parameters
from rfdlight.errors import SettingError, UserError, nearest, one_line

MODE = "rfdlight"
"""The parser mode of every command line: YAML of bounded size."""

# YAML 1.1 reads 4:00:00, a time, as a number of base 60.
_INTEGER = re.compile(r"[-+]?(0b[0-1_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$")

_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}

set_loader(MODE, lambda text: parse_yaml(text, get_loader("yaml")), exceptions=(yaml.YAMLError,))
for _resolvers in get_yaml_default_loader().yaml_implicit_resolvers.values():
    _resolvers[:] = [(tag, _INTEGER if tag == "tag:yaml.org,2002:int" else pattern) for tag, pattern in _resolvers]
# An import runs the module before its class can be checked, and functions such as os.abort and shutil.rmtree do harm.
set_parsing_settings(import_path_denylist=sorted(sys.stdlib_module_names))


class UnknownOption(SettingError):  # noqa: N818
    """An option that the parser of a command or of a component does not have."""

    def __init__(self, setting: str, known: Iterable[str]) -> None:
        self.known = list(known)
        group, _, name = setting.rpartition(".")
        beside = [option for option in self.known if option.startswith(f"{group}.")]
        pool = beside or self.known
        last = {option.rpartition(".")[2] for option in pool}
        similar = [name] if name in last else difflib.get_close_matches(name, last, n=2)
        near = sorted({option for option in pool if option.rpartition(".")[2] in similar})
        hint = f"did you mean {' or '.join(near)}?" if near else nearest(setting, beside)
        super().__init__(setting, f"unknown option; {hint if near or beside else '--help lists the options'}")

    def below(self, group: str) -> UnknownOption:
        """Return the same error for an option of a component."""
        return UnknownOption(f"{group}.{self.setting}", [f"{group}.{name}" for name in self.known])


class Parser(ArgumentParser):
    """A parser that writes out short names and fractions, and raises one-line errors.

    The parser of a component is of this class too. Each parser remembers the setting that it checks, so that an
    error names the setting without reading the message of the library.
    """

    _checked: tuple[str, Any, Any] = ("", None, None)
    """Name, type hint and value of the setting that was checked last."""
    _latest: Exception | None = None
    """The last error of a component, since that setting was checked; a union type hides all errors but the first."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the error of this parser: `ex`, or without one an argument that belongs to no option."""
        error = self._unrecognized(message.partition(": ")[2].split(" ")[0]) if ex is None else self._meant(ex)
        Parser._latest = error
        raise error from ex

    def make(self, components: Callable[[], Any], setting: str = "") -> Any:
        """Make components; a constructor that refuses its arguments is a UserError that names the setting."""
        Parser._latest = None
        try:
            return components()
        except (ValueError, TypeError) as error:
            self._checked = (setting, None, None)
            self.error(str(error), error)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter, **options})

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """Return the help without the many options of Lightning's Trainer, which `--trainer.help` lists."""
        if getattr(self, "_inner_parser", False):  # of a component
            self.usage, self.description = argparse.SUPPRESS, None
        groups = self._action_groups
        self._action_groups = [group for group in groups if not any(map(is_of_trainer, group._group_actions))]
        try:
            return super().format_help(formatter)
        finally:
            self._action_groups = groups

    def validate(self, namespace: Namespace, *args: Any, skip_required: bool = False, **options: Any) -> None:
        """Check a configuration.

        Raises:
            UserError: If an option is unknown, a value does not fit its type, or a required option is missing.
        """
        self._refuse_unknown(namespace)
        try:
            super().validate(namespace, *args, skip_required=True, **options)
        except (TypeError, KeyError) as error:
            self.error(str(error), error)
        if not skip_required and not lenient_check.get():  # the library counts null as a value
            self._refuse_missing(namespace)

    def _refuse_unknown(self, namespace: Namespace) -> None:
        if self._subcommands_action is not None:
            command = namespace["subcommand"]
            self._subcommands_action.choices[command]._refuse_unknown(namespace[command])
            return
        dests = [action.dest for action in self._actions if not self._is_group(action)]
        for key in namespace.keys():  # noqa: SIM118  a namespace iterates over its branches
            if not any(f"{key}.".startswith(f"{dest}.") for dest in dests):
                raise UnknownOption(key.replace(".init_args.", "."), flags_of(self._actions))

    def _refuse_missing(self, namespace: Namespace) -> None:
        if self._subcommands_action is not None:
            command = namespace["subcommand"]
            self._subcommands_action.choices[command]._refuse_missing(namespace[command])
        for name in iter_required_keys(self):
            if namespace.get(name) is None:
                standard = ["standard"] if name == "attack" else []
                known = f"; known: {', '.join(standard + registry.names(name))}" if name in registry.FLAGS else ""
                self._refuse(name, f"expected a value, got none{known}")

    def _meant(self, error: BaseException) -> UserError:
        """Return the error to report for an exception of the library."""
        if isinstance(error, argparse.ArgumentError) and error.argument_name:
            return SettingError(error.argument_name, error.message)
        setting, hint, value = self._checked
        while error.__cause__ is not None and not isinstance(error, UserError):
            error = error.__cause__
        if not isinstance(error, UserError) and Parser._latest is not None:
            error = Parser._latest
        if isinstance(error, UserError):
            return error.below(setting) if isinstance(error, SettingError) else error
        return SettingError(setting, user_code.fault_of(error) or _reason(hint, value, error))

    def _unrecognized(self, argument: str) -> UserError:
        if not argument.startswith("-"):
            return UserError(f"expected options, which begin with --, got '{argument}'")
        return UnknownOption(argument.lstrip("-").partition("=")[0], flags_of(self._actions))

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        value = super()._get_value(action, arg_string)
        _, hint = self._note(action.dest, action, structure(value))
        return with_numbers(structure(value), hint) if "/" in arg_string else value

    def _check_value_key(self, action: argparse.Action, value: Any, key: str, *args: Any, **options: Any) -> Any:
        setting, hint = self._note(key, action, value)
        # The library accepts null for any type; a required parameter may be given later.
        if value is None and action.default is not None and hint and not {Any, type(None)} & set(parts(hint)):
            self._refuse(setting, "expected a value, got null; leave it out for its default")
        if self._is_group(action) and not isinstance(value, dict | Namespace | str):
            self._refuse(setting, f"expected a mapping of settings, got {value!r:.40}")
        kind = kind_of(hint)
        written = with_numbers(value, hint) if kind is None else with_names(value, kind)
        checked = super()._check_value_key(action, written, key, *args, **options)
        for item in checked if isinstance(checked, list | tuple) else [checked]:
            if isinstance(item, int) and abs(item) >= 2**63:  # more than a tensor holds
                self._refuse(setting, f"expected a whole number of at most 63 bits, got {item}")
        return checked

    @staticmethod
    def _refuse(setting: str, reason: str) -> NoReturn:
        Parser._latest = SettingError(setting, reason)
        raise Parser._latest

    def _is_group(self, action: argparse.Action) -> bool:
        return action.dest in (self.groups or ()) and typehint_from_action(action) is None

    def _note(self, key: str, action: argparse.Action, value: Any) -> tuple[str, Any]:
        """Remember a setting before its value is checked; return its name, without the command, and its type hint."""
        setting = key if self._subcommands_action is None else key.partition(".")[2]
        self._checked = (setting, typehint_from_action(action), value)
        if self.exit_on_error:  # this is not the parser of a component
            Parser._latest = None
        return self._checked[:2]


def flags_of(actions: Iterable[argparse.Action]) -> list[str]:
    """Return the options of a parser, without dashes, and the options of its components."""
    flags = [flag[2:].rstrip("+") for action in actions for flag in action.option_strings if flag.startswith("--")]
    own = [flag for flag in flags if not flag.endswith("help")]
    of_components = {
        f"{flag}.{name}"
        for kind, flag in registry.FLAGS.items()
        if flag in own
        for path in registry.NAMES[kind].values()
        for name in parameters(resolve_name(path))
    }
    optimizers = inspect.signature(resolve_name("torch.optim.SGD")).parameters if "model.optimizer" in own else ()
    return [*own, *sorted(of_components), *(f"model.optimizer.{name}" for name in optimizers)]


def expected_values(actions: Iterable[argparse.Action]) -> dict[str, str | list[str]]:
    """Return what options of one plain value expect: words such as "a number", or all values of a choice.

    Those of Lightning's Trainer, which depend on its version, are left out.
    """
    found: dict[str, str | list[str]] = {}
    for action in (action for action in actions if not is_of_trainer(action)):
        hint = typehint_from_action(action)
        accepted = set(get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else [hint])
        accepted -= {NoneType}
        only = accepted.pop() if len(accepted) == 1 else None
        for flag in (flag[2:] for flag in action.option_strings if flag.startswith("--")):
            if get_origin(only) is Literal:
                found[flag] = [str(choice) for choice in get_args(only)]
            elif only in (int, float):
                found[flag] = _TYPES[only]
    return found


def wrong_value(setting: str, value: str, expected: str | list[str]) -> SettingError | None:
    """Return the error for a text that is none of the expected values, None if the parser may accept it."""
    if isinstance(expected, list):
        return None if value in expected else SettingError(setting, _unknown_choice(value, expected))
    may_be_number = any(character.isdigit() for character in value) or value.lower().lstrip("+-.") in ("inf", "nan")
    return None if may_be_number else SettingError(setting, f"expected {expected}, got {value!r}")


def _unknown_choice(value: Any, choices: list[str]) -> str:
    return f"unknown value '{value}'; {nearest(str(value), choices)}"


def _reason(hint: Any, value: Any, error: BaseException) -> str:
    """Return why a value does not fit a type hint: the expected type and the given value."""
    accepted = list(parts(hint))
    choices = [str(choice) for part in accepted if get_origin(part) is Literal for choice in get_args(part)]
    expected = next((name for part, name in _TYPES.items() if part in accepted), None)
    if is_mapping(hint):
        return f"expected a mapping such as '{{name: value}}', got {value!r}"
    if choices and expected is None:
        return _unknown_choice(value, choices)
    if choices:
        return f"expected {expected} or {', '.join(choices)}, got {value!r}"
    kind = kind_of(hint)
    if kind is not None and not isinstance(value, dict | list) and not user_code.is_import_path(str(value)):
        known = ", ".join(registry.names(kind))
        return f"expected --{registry.FLAGS[kind]} NAME for its options, got '{value}'; known: {known}"
    return one_line(error) if expected is None or kind is not None else f"expected {expected}, got {value!r}"
