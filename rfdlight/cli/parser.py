"""The parser of every command line and configuration: it checks values by type and reports an error in one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import Namespace, add_instantiator, get_loader, set_loader, set_parsing_settings
from jsonargparse._common import lenient_check
from jsonargparse._required import iter_required_keys
from jsonargparse._typehints import typehint_from_action
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser

from rfdlight._io import parse_yaml
from rfdlight.cli.help import command_help, flags_of
from rfdlight.cli.option_errors import UnknownOption, reason
from rfdlight.cli.values import BASES, kind_of, parts, structure, with_names, with_numbers
from rfdlight.core import registry, user_code
from rfdlight.errors import SettingError, UserError

MODE = "rfdlight"
"""The parser mode of every command line: YAML of bounded size."""

_BITS = 63
"""Bits of a whole number that a tensor or a random generator holds, without the sign."""

ClassType = TypeVar("ClassType")

set_loader(MODE, lambda text: parse_yaml(text, get_loader("yaml")), exceptions=(yaml.YAMLError,))
# An import runs the module before its class can be checked, and functions such as os.abort and shutil.rmtree do harm.
set_parsing_settings(import_path_denylist=sorted(sys.stdlib_module_names))


class Parser(LightningArgumentParser):
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

    def make(self, components: Callable[[], Any]) -> Any:
        """Make components.

        Raises:
            UserError: If a constructor refuses its arguments; its message names the setting.
        """
        Parser._latest = None
        try:
            return components()
        except (ValueError, TypeError) as error:
            self._checked = ("", None, None)
            self.error(str(error), error)

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """Return the help; that of `fit` and `test` leaves out the many options of the trainer."""
        return command_help(self) or super().format_help(formatter)

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

    def _meant(self, error: Exception) -> UserError:
        """Return the error to report for an exception of the library."""
        if isinstance(error, argparse.ArgumentError) and error.argument_name:
            return SettingError(error.argument_name, error.message)
        setting, hint, value = self._checked
        causes = list(_causes(error))
        last = causes[-1]
        if not isinstance(last, UserError) and Parser._latest is not None:
            last = Parser._latest
        if isinstance(last, UserError):
            return last.below(setting) if isinstance(last, SettingError) else last
        return SettingError(setting, user_code.fault_of(last) or reason(hint, value, last))

    def _unrecognized(self, argument: str) -> UserError:
        if not argument.startswith("-"):
            return UserError(f"expected options, which begin with --, got '{argument}'")
        return UnknownOption(argument.lstrip("-").partition("=")[0], flags_of(self._actions))

    def _refuse_missing(self, namespace: Namespace) -> None:
        if self._subcommands_action is not None:
            command = namespace["subcommand"]
            self._subcommands_action.choices[command]._refuse_missing(namespace[command])
        for name in iter_required_keys(self):
            if namespace.get(name) is None:
                known = f"; known: {', '.join(registry.names(name))}" if name in registry.FLAGS else ""
                self._refuse(name, f"expected a value, got none{known}")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        value = super()._get_value(action, arg_string)
        _, hint = self._note(action.dest, action, structure(value))
        return with_numbers(structure(value), hint) if "/" in arg_string and float in parts(hint) else value

    def _check_value_key(self, action: argparse.Action, value: Any, key: str, *args: Any, **options: Any) -> Any:
        setting, hint = self._note(key, action, value)
        # The library accepts null for any type; a required parameter may be given later.
        if value is None and action.default is not None and hint and not {Any, type(None)} & set(parts(hint)):
            self._refuse(setting, reason(hint, value, TypeError()))
        if self._is_group(action) and not isinstance(value, dict | Namespace | str):
            self._refuse(setting, f"expected a mapping of settings, got {value!r:.40}")
        kind = kind_of(hint)
        written = with_numbers(value, hint) if kind is None else with_names(value, kind)
        checked = super()._check_value_key(action, written, key, *args, **options)
        for item in checked if isinstance(checked, list) else [checked]:
            if isinstance(item, int) and not -(2**_BITS) <= item < 2**_BITS:
                self._refuse(setting, f"expected a whole number from -2^{_BITS} to 2^{_BITS} - 1, got {item}")
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


def _instantiate(class_type: type[ClassType], *args: Any, **arguments: Any) -> ClassType:
    try:
        return class_type(*args, **arguments)
    except Exception as error:
        Parser._latest = error
        raise


def _register() -> None:
    for base in (*BASES.values(), Callback):
        add_instantiator(_instantiate, base)


_register()


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes, down to the first error of this package."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = None if isinstance(link, UserError) else link.__cause__
