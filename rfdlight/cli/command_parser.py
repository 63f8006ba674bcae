"""Parsers of the commands without a trainer, made from the signatures of their functions."""

from __future__ import annotations

from typing import Any

from rfdlight._io import shipped_names
from rfdlight.cli.commands import DEFAULTS, function_of
from rfdlight.cli.help import first_line, usage
from rfdlight.cli.parser import MODE, Parser
from rfdlight.cli.words import split

_SHIPPED = f"A shipped victim ({', '.join(shipped_names('checkpoints', '.json'))})"
_VICTIM = {
    "dest": "victim",
    "help": f"{_SHIPPED}, a card's path, an import path of a network, or a scheme such as timm:NAME or onnx:FILE.",
}
_EXPERIMENTS = [name.rpartition("/")[2] for name in shipped_names("configs", ".yaml") if "experiment/" in name]

POSITIONALS: dict[str, dict[str, Any]] = {
    "analyze": _VICTIM,
    "calibrate": _VICTIM,
    "export": _VICTIM,
    "layers": {**_VICTIM, "dest": "model"},
    "recommend": _VICTIM,
    "reevaluate": _VICTIM,
    "report": {"dest": "runs", "metavar": "RUN", "nargs": "*", "help": "Runs or folders of runs; also by URL."},
    "scales": {"dest": "victim", "help": f"{_SHIPPED}, or a card's path."},
    "sweep": {"dest": "experiment", "help": f"A file, or experiment/NAME with a NAME of {', '.join(_EXPERIMENTS)}."},
}
"""The positional argument of a command, as keyword arguments of argparse."""

INJECTED = {"parsed", "make", "run"}
"""Parameters of commands that are no options: the parsed settings, and the functions that make the components of a
command line and that run it."""


def command_parser(command: str) -> Parser:
    """Return the parser of a command without a trainer."""
    function = function_of(command)
    parser = Parser(usage=usage(command), description=first_line(function), parser_mode=MODE, allow_abbrev=False)
    positional = dict(POSITIONALS.get(command, {}))
    dest = positional.pop("dest", "")
    parser.add_function_arguments(function, as_group=False, skip={dest, *INJECTED})
    if dest:
        parser.add_argument(dest, type=str, **positional)
    for action in parser._actions:
        if action.dest == DEFAULTS.get(command, ("", ""))[0]:
            action.required = False
    return parser


def run_command(command: str, args: list[str]) -> int:
    """Run a command that needs neither components nor a trainer, and return its exit status."""
    parser = command_parser(command)
    settings = parser.parse_args([word.written() for word in split(args)])
    return function_of(command)(**parser.make(lambda: parser.instantiate(settings))) or 0
