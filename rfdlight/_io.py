"""Safe reading of files, atomic writing, the shipped configs and checkpoints, and plain consoles."""

from __future__ import annotations

import difflib
import errno
import json
import os
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

import yaml
from rich.console import Console
from safetensors import SafetensorError

from rfdlight.errors import UserError, one_line, unknown_name

MOST_VALUES = 100_000
"""Values of a YAML document, those behind an alias counted wherever it stands; rfdlight's own have below 1,000."""

MOST_LEVELS = 50
"""Lists and mappings within one another in a YAML document; what walks through one goes down by calls."""

NOT_PLAIN = "expected text in UTF-8, without the character NUL"


def is_plain(text: str) -> bool:
    """Return whether a text can be written to a file and be a file's name: it is UTF-8, and without NUL."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def expanded(path: str) -> Path:
    """Return a path with its leading `~` or `~name` written out.

    Raises:
        UserError: If nobody of that name has a home here.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"no home folder is known for {Path(path).parts[0]}") from error


def read_bytes(path: Path) -> bytes:
    """Return what a file holds; a link to one counts as one.

    Raises:
        OSError: If it cannot be read, or is a device or a pipe, which may have no end.
    """
    check_regular(path)
    return path.read_bytes()


def check_regular(path: Path) -> None:
    """Refuse what a reader might never come to the end of; what is not there, or a folder, is left to the reader.

    Raises:
        OSError: If it is a device or a pipe, or a link to one.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def read_text(path: Path, errors: str = "strict") -> str:
    """Return what a text file holds, in UTF-8.

    Raises:
        OSError: As `read_bytes`.
        UnicodeDecodeError: If it is no UTF-8.
    """
    return read_bytes(path).decode("utf-8", errors)


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: If it is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_yaml(text: str, loader: Callable[[str], Any] = yaml.safe_load) -> Any:
    """Return the value of a YAML document of plain values.

    Args:
        text: Of the document.
        loader: Puts its values together.

    Raises:
        yaml.YAMLError: If it is none, names Python objects, is larger or nested deeper than any that is meant, or has
            a text that is not plain.

    Example:
        >>> parse_yaml("model: {budget: 3}")
        {'model': {'budget': 3}}
    """
    _check(text)
    try:
        return loader(text)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # How loaders fail at a number or a date that there is none of, and at a value that is not what its tag says.
        raise yaml.YAMLError(f"a value is not what it looks like or is tagged as: {error}") from error


def _check(text: str) -> None:
    """Refuse a document that would fill the memory or the stack when it is put together.

    Raises:
        yaml.YAMLError: See `parse_yaml`.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
    except RecursionError as error:
        raise _too_deep() from error
    finally:
        loader.dispose()
    if node is not None and _values(node, {}, MOST_LEVELS) > MOST_VALUES:
        raise yaml.YAMLError(f"expected at most {MOST_VALUES:,} values, with every alias written out, got more")


def _values(node: yaml.Node, counted: dict[int, float], levels: int) -> float:
    """Return how many values stand below a node, infinitely many where it stands below itself."""
    if isinstance(node, yaml.ScalarNode):
        if not is_plain(node.value):
            raise yaml.YAMLError(NOT_PLAIN)
        return 1
    if levels == 0:
        raise _too_deep()
    if id(node) not in counted:
        counted[id(node)] = float("inf")
        below = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        counted[id(node)] = 1 + sum(_values(each, counted, levels - 1) for each in below)
    return counted[id(node)]


def _too_deep() -> yaml.YAMLError:
    return yaml.YAMLError(f"expected at most {MOST_LEVELS} levels of nesting, got more")


PARTIAL = "partial-"
"""How the names of files begin that are not whole."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place beside a file to write to; what was written there then takes the file's name, at once.

    Raises:
        UserError: If it cannot be written; the file is then as it was.
    """
    # Processes may do this at the same time, also on two machines that share the folder.
    partial = path.with_name(f"{PARTIAL}{socket.gethostname()}-{os.getpid()}-{path.name}")
    try:
        partial.unlink(missing_ok=True)
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)  # by the umask; safetensors makes files for their owner alone
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) != mode:
                os.fchmod(file.fileno(), mode)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UserError(f"cannot write {path}: {reason or one_line(error)}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file, a text in UTF-8.

    Raises:
        UserError: If it cannot be written; the file is then as it was.
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def shipped_folder(kind: str) -> Path:
    """Return the folder of the shipped "configs" or "checkpoints"."""
    installed = Path(str(resources.files("rfdlight") / kind))
    return installed if installed.is_dir() else Path(__file__).parents[1] / kind


def find_shipped(kind: str, name: str, suffix: str) -> Path:
    """Return a shipped file by its name without suffix.

    Raises:
        UserError: If there is none; names the nearest.
    """
    path = shipped_folder(kind) / f"{name.removesuffix(suffix)}{suffix}"
    if path.is_file():
        return path
    raise unknown_name({"configs": "config", "checkpoints": "victim"}[kind], name, shipped_names(kind, suffix))


def shipped_names(kind: str, suffix: str) -> list[str]:
    """Return the names of the shipped files of a kind."""
    root = shipped_folder(kind)
    return sorted(found.relative_to(root).with_suffix("").as_posix() for found in root.rglob(f"*{suffix}"))


def config_path(name: str) -> Path:
    """Return the path of a config: a file, or one that comes with rfdlight, by its name.

    Raises:
        UserError: If there is none, or it is no mapping.
    """
    path = Path(name)
    if not path.is_file():
        if path.suffix in (".yaml", ".yml") and name.removesuffix(".yaml") not in shipped_names("configs", ".yaml"):
            known = [*shipped_names("configs", ".yaml"), *map(str, path.parent.glob("*.y*ml"))]
            near = difflib.get_close_matches(name, known, n=1)
            raise UserError(f"the file '{name}' does not exist" + (f"; did you mean {near[0]}?" if near else ""))
        path = find_shipped("configs", name, ".yaml")
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


def plain_console(stderr: bool = False, file: TextIO | None = None, quiet: bool = False) -> Console:
    """Return a console that prints brackets and colons in names and paths as they are.

    By default rich removes `[bold]` from text as markup and replaces `:warning:` by a picture.

    Args:
        stderr: Print on standard error instead of standard output.
        file: Print there instead.
        quiet: Print nothing.
    """
    return Console(stderr=stderr, file=file, quiet=quiet, markup=False, emoji=False)


def is_first(environ: Mapping[str, str]) -> bool:
    """Return whether this process is the first or only one of its run, as far as its variables say."""
    return all(environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
