"""Import and run a user's own code, and report its exceptions in one line with file and line."""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from rfdlight.errors import UserError, one_line

_FILES = {".yaml", ".yml", ".json", ".py", ".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar", ".pt2", ".onnx"}
"""Suffixes, in lower case, of names that are files, although they read like import paths."""

_INSTALLED = {"site-packages", "dist-packages"}
"""Names of folders of installed packages."""

_LIBRARIES = (Path(sysconfig.get_path("stdlib")).resolve(), Path(__file__).resolve().parents[1])
"""Folders of Python and of rfdlight."""


def is_import_path(text: str) -> bool:
    """Return whether text names an object in a module, such as `my_module.MyAttack`, and no file."""
    parts = text.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts) and Path(text).suffix.lower() not in _FILES


def import_module(name: str, needed_for: str) -> ModuleType:
    """Import a module for "the victim 'my_module.net'"; raises a UserError if the import raises or ends the program."""
    with guarded(f"cannot import {needed_for}"):
        return importlib.import_module(name)


def check_component(kind: str, path: str) -> None:
    """Import the module of a user's own component, so that its faults are reported with their file and line.

    A module that does not exist, or that belongs to Python, is left to the parser.
    """
    module = path.rpartition(".")[0]
    root = module.partition(".")[0]
    if not is_import_path(path) or root in sys.stdlib_module_names or root == "rfdlight":
        return
    try:
        import_module(module, f"the {kind} '{path}'")
    except UserError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and f"{module}.".startswith(f"{missing.name}."):
            return  # `module.Class.method` has a class before its last part
        raise


@contextmanager
def guarded(failing: str) -> Iterator[None]:
    """Convert every exception of a user's code but Ctrl-C, and its end of the program, to a UserError.

    Args:
        failing: Start of its line, for example "cannot import the victim 'my_module.net'".
    """
    try:
        yield
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(
            f"{failing}: {described(error)}; put code that reads the command line or exits below "
            "if __name__ == '__main__'"
        ) from error
    except Exception as error:
        raise UserError(f"{failing}: {described(error)}") from error


def fault_of(error: BaseException) -> str | None:
    """Return one line about an exception that a user's code raised, None if no user's code is in its traceback."""
    return described(error) if _user_frame(error) else None


def described(error: BaseException) -> str:
    """Return the type, the message, and the file and line in a user's code, of an exception in one line."""
    message = one_line(error.msg if isinstance(error, SyntaxError) else error)
    if not isinstance(error, ImportError):  # its messages name the type
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
    frame = _user_frame(error)
    if frame is None:
        return message
    path, line, function = frame
    inside = f" in {function}" if function not in ("", "<module>") else ""
    return f"{message} ({_relative(path)}, line {line}{inside})"


def _user_frame(error: BaseException) -> tuple[str, int | None, str] | None:
    """Return file, line and function of the innermost frame that is a user's own."""
    if isinstance(error, SyntaxError) and error.filename and _is_own(error.filename):
        return error.filename, error.lineno, ""
    frames = traceback.walk_tb(error.__traceback__)
    own = [
        (frame.f_code.co_filename, line, frame.f_code.co_qualname)
        for frame, line in frames
        if _is_own(frame.f_code.co_filename)
    ]
    return own[-1] if own else None


def _is_own(filename: str) -> bool:
    path = Path(filename).resolve()
    installed = not _INSTALLED.isdisjoint(path.parts) or any(map(path.is_relative_to, _LIBRARIES))
    return not filename.startswith("<") and not installed


def _relative(filename: str) -> str:
    path = Path(filename).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
