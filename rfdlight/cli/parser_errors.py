"""From what the argument parser reports to one line that says what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator

from rfdlight.core import user_code
from rfdlight.core.registry import FLAGS, NAMES
from rfdlight.errors import UserError, one_line, unknown_name

_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list", "str": "text"}

_KEY = re.compile(r'\s*Parser key "([^"]+)"')
_UNKNOWN = re.compile(
    r"(?:Subcommand '\w+' does not accept option|Group '(?P<group>[\w.]+)' does not accept option|Option) "
    r"'(?P<name>[^']+)'"
)
_LITERAL = re.compile(r"Expected a typing\.Literal\[(?P<choices>.*)\]\. Got value: (?P<value>.*)", re.DOTALL)
_TYPE = re.compile(r"Expected a <class '(?P<type>\w+)'>\. Got value: (?P<value>.*)", re.DOTALL)
_CLASS = re.compile(r"Problem with given class_path '(?P<path>[^']+)'")
_KIND = re.compile(r"Import path (?P<path>\S+) does not correspond to a subclass of (?P<base>\w+)")
_ABSTRACT = re.compile(r"Expected an instantiatable class, but \S+ is abstract")
_DENIED = re.compile(r"Importing '(?P<path>[^']+)' is not allowed")
_OTHERS = ("Expected a <class", "Not a valid subclass of", "Parser key", "a class path", "a dict")
"""How lines begin that say nothing about an item of a list."""

_HINTS = {
    "ImageData": (
        "; subclass rfdlight.data.ImageData and return a dataset, or pixels, labels and ids, from its load(split): see "
        "docs/victims-and-data.md"
    ),
}
"""How to make what was expected, by its class."""

_NEAR = 0.65
"""How alike two options must be for one to be taken for the other."""


_MOST_NAMED = 3
"""Options of one name that an error names."""


class UnknownOptionError(UserError):
    """An option that a parser, perhaps one of a component, does not have."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = sorted(known)
        super().__init__(f"unknown option '{name}'; {self._hint()}")

    def _hint(self) -> str:
        """Return the nearest options: of the same section, then of the same name in another, then of a like name."""
        section, _, own = self.name.rpartition(".")
        parts = {option: option.rpartition(".") for option in self.known}
        beside = {last: option for option, (before, _, last) in parts.items() if before == section}
        near = difflib.get_close_matches(own, beside, n=1, cutoff=_NEAR)
        if near and (section or near[0] == own):
            return f"did you mean {beside[near[0]]}?"
        same = [option for option, (_, _, last) in parts.items() if last == own]
        if same:
            return f"did you mean {' or '.join(same[:_MOST_NAMED])}?"
        if section and beside:
            return f"known: {', '.join(beside.values())}"
        whole = difflib.get_close_matches(self.name, self.known, n=1, cutoff=_NEAR)
        if whole:
            return f"did you mean {whole[0]}?"
        lasts = {last: option for option, (_, _, last) in reversed(parts.items())}
        alike = [lasts[last] for last in difflib.get_close_matches(own, lasts, n=2, cutoff=_NEAR)]
        return f"did you mean {' or '.join(alike)}?" if alike else "--help lists the options"

    def below(self, setting: str) -> UnknownOptionError:
        """Return the same for the options of a component."""
        return UnknownOptionError(f"{setting}.{self.name}", [f"{setting}.{name}" for name in self.known])


class ParserError(UserError):
    """A parser's own words, mended; a parser of a component may have added its part already."""


def mended(message: str, error: BaseException | None, known: Iterable[str]) -> UserError:
    """Return what to raise where the parser found an error.

    Args:
        message: The parser's.
        error: What it caught; the causes of an error hold the keys that lead to it and, last, what is wrong.
        known: The options of the parser.
    """
    if error is None:
        return _unrecognized(message, known)
    keys: list[str] = []
    leaf = error
    for link in _chain(error):
        leaf = link
        found = _KEY.match(str(link))
        if found and not isinstance(link, UserError):
            keys += found[1].split(".")
    setting = _setting(keys)
    if isinstance(leaf, UnknownOptionError):
        return leaf.below(setting) if setting else leaf
    if isinstance(leaf, UserError):
        return leaf
    fault = user_code.fault_of(leaf)
    if fault:
        return ParserError(f"{setting}: {fault}" if setting else fault)
    text = _meant(error, str(leaf))
    unknown = _UNKNOWN.match(text)
    if unknown:
        unheard = UnknownOptionError(_setting(f"{unknown['group'] or ''}.{unknown['name']}".split(".")), known)
        return unheard.below(setting) if setting else unheard
    return ParserError(_say(setting, text, "\n".join(str(link) for link in _chain(error))))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Go from an error to its causes, down to the first that speaks for itself."""
    link: BaseException | None = error
    while link is not None:
        yield link
        if isinstance(link, UserError) and not isinstance(link, ParserError):
            return
        link = link.__cause__


def _setting(keys: list[str]) -> str:
    """Join keys to what a user types: without the subcommand, "init_args" and repetitions."""
    kept: list[str] = []
    for key in keys:
        if key not in ("", "fit", "test", "init_args") and key not in kept[-1:]:
            kept.append(key)
    return ".".join(kept)


def _meant(error: BaseException, leaf: str) -> str:
    """Return the exit_reason about an item of a list, where the parser tried the list as one component first."""
    if not leaf.startswith("Not a valid subclass of"):
        return leaf
    for text in map(str, _chain(error)):
        for line in re.findall(r"^\s*- (.*)$", text, re.MULTILINE):
            if not line.startswith(_OTHERS):
                return line
    return leaf


def _unrecognized(message: str, known: Iterable[str]) -> UserError:
    found = re.match(r"unrecognized arguments: (\S+)", message)
    if not found:
        return ParserError(one_line(message))
    if not found[1].startswith("-"):
        return ParserError(f"expected options, which begin with --, got '{found[1]}'")
    return UnknownOptionError(found[1].lstrip("-").partition("=")[0], known)


def _say(setting: str, text: str, whole: str) -> str:
    required = re.match(r"the following arguments are required: (?:\w+\.)?(\w+)", text)
    if required:
        name = required[1]
        if setting:
            return f"--{setting}.{name} is needed"
        return f"--{name} is needed; known: {', '.join(NAMES[name])}" if name in NAMES else f"expected {name}, got none"
    if _ABSTRACT.search(text):
        named = next((name for name, flag in FLAGS.items() if flag == setting), None)
        known = f"; known: {', '.join(NAMES[named])}" if named else ""
        return f"options of {setting} need its name: give --{setting} NAME{known}"
    literal = _LITERAL.match(text)
    if literal:
        return str(unknown_name(setting, literal["value"], re.findall(r"'([^']+)'", literal["choices"])))
    typed = _TYPE.match(text)
    if typed:
        return f"{setting} must be {_TYPES.get(typed['type'], typed['type'])}, got '{typed['value']}'"
    denied = _DENIED.search(whole)
    given = f" given as {setting}" if setting else ""
    if denied:
        return (
            f"'{denied['path']}'{given} is of Python itself, whose modules may do harm when they run; expected a short "
            "name, or what is yours in a module whose name Python does not have"
        )
    kind = _KIND.search(text)
    if kind:
        return f"'{kind['path']}'{given} is no {kind['base']}{_HINTS.get(kind['base'], '')}"
    path = _CLASS.search(whole)
    if path:
        return f"cannot import '{path[1]}'{given}: {one_line(text)}"
    plain = one_line(text)
    return f"{setting}: {plain}" if setting else plain
