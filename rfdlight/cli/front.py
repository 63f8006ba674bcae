"""The start of the command line: what needs neither torch nor Lightning is done before they are imported.

Importing them takes most of the time of a short command. This module imports the standard library and modules of
rfdlight that import nothing else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import rfdlight
from rfdlight.cli.commands import KNOWN, TEXTS, WITHOUT_TORCH, written_options
from rfdlight.core import user_code
from rfdlight.errors import UserError, expect, legible, one_line, unknown_name

_HELP = ("-h", "--help")
_CLOSED = "model"
"""A group whose options are all known; those of components depend on the class, those of the Trainer on its version."""


def main(args: list[str] | None = None, share: Callable[..., None] | None = None) -> int:
    """Run a command line.

    Args:
        args: The arguments after the name of the program; by default those of this process.
        share: See `rfdlight.cli.main.run`.

    Returns:
        The exit status: 0; 1 for an evaluation that was stopped or in which images failed, and for a sweep with a cell
        that failed; 2 for input that cannot be used; 3 for a run that cannot be resumed; 130 for any other command that
        Ctrl-C ended.
    """
    args = sys.argv[1:] if args is None else args
    if os.getcwd() not in sys.path:
        # A console script does not search the working folder, in which users keep their modules.
        sys.path.insert(0, os.getcwd())
    try:
        _check_command(args)
        return _run(args, share)
    except KeyboardInterrupt:
        print("rfdlight: interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except (Exception, SystemExit) as error:
        line = _failure(error)
        if line is None:
            raise
        print(f"rfdlight: {legible(line)}", file=sys.stderr)  # noqa: T201
        return error.exit_status if isinstance(error, UserError) else UserError.exit_status


def _check_command(args: list[str]) -> None:
    for arg in args:
        plain = arg.encode(errors="ignore").replace(b"\0", b"").decode()
        expect(plain == arg, "command line", "arguments in UTF-8 without NUL characters", ascii(arg))
    if not args:
        raise UserError(f"expected a command: {', '.join(KNOWN)}")
    if not args[0].startswith("-") and args[0] not in KNOWN:
        raise unknown_name("command", args[0], KNOWN)


def _run(args: list[str], share: Callable[..., None] | None) -> int:
    text = _text(args)
    if text is not None:
        sys.stdout.write(text)
        return 0
    if args[0] in WITHOUT_TORCH:
        from rfdlight.cli.command_parser import run_command

        return run_command(args[0], args[1:])
    if not _has_components_of_others():
        _refuse_wrong(args)
    return _command_with_torch()(args, share)


def _text(args: list[str]) -> str | None:
    """Return the help or the version if a command line asks for nothing else."""
    if args[0] == "--version":
        return f"rfdlight {rfdlight.__version__}\n"
    if args[0] in _HELP:
        return (TEXTS / "rfdlight.txt").read_text("utf-8")
    if args[0] in KNOWN and args[1:] in ([flag] for flag in _HELP) and not _has_components_of_others():
        return (TEXTS / f"{args[0]}.txt").read_text("utf-8")
    return None


def _refuse_wrong(args: list[str]) -> None:
    """Raise the error of the parser for options, names and plain values that it cannot accept.

    Left to the parser are options that depend on a class or on the version of Lightning, and values that it may read as
    something else.
    """
    from rfdlight.cli.parser import UnknownOption, wrong_value
    from rfdlight.cli.words import split
    from rfdlight.core.registry import FLAGS, resolve

    command, words = (args[0], split(args[1:])) if args[0] in KNOWN else ("rfdlight", split(args[:1]))
    flags = [word.flag for word in words]
    if any(flag in ("--", "-h") or flag.endswith("help") or flag.startswith("--print_") for flag in flags):
        return  # the parser prints help after a wrong option too, and adds options of completion on demand
    known = written_options()[command]
    open_groups = [f"{name}." for name in known if name != _CLOSED]
    options = [(word.flag[2:].rstrip("+"), word.value) for word in words if word.flag.startswith("--")]
    for name, _ in options:
        if name != _CLOSED and not f"{name}.".startswith(tuple(open_groups)):
            raise UnknownOption(name, known)
    kinds = {flag: kind for kind, flag in FLAGS.items()}
    for name, value in options:
        if name in kinds and value is not None and value.isidentifier() and value not in ("null", "standard"):
            resolve(kinds[name], value)
        elif name in known and known[name] and value and value not in ("null", "~"):
            error = wrong_value(name, value, known[name])
            if error is not None:
                raise error


def _has_components_of_others() -> bool:
    """Return whether other packages register components, which the written help does not list."""
    from rfdlight.core.registry import GROUPS, NAMES, names

    return any(len(names(kind)) > len(NAMES.get(kind, ())) for kind in GROUPS)


def _command_with_torch() -> Callable[..., int]:
    """Import the commands that need torch and Lightning."""
    try:
        from rfdlight.cli.main import run
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        raise UserError(f"cannot start: {reason}; python -c 'import rfdlight.cli.main' shows where") from error
    return run


def _failure(error: BaseException) -> str | None:
    """Return a line for an error in the user's input, code or files; None for a fault of rfdlight itself."""
    if isinstance(error, UserError):
        return str(error)
    fault = user_code.fault_of(error)
    if fault is None and isinstance(error, OSError):  # for example a name that is too long, or a full disk
        return one_line(error)
    return fault
