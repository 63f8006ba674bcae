"""Safe reading of files, atomic writing, the shipped configs and checkpoints, and plain consoles."""

from __future__ import annotations

import difflib
import errno
import io
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
from rich.console import Console, RenderableType
from safetensors import SafetensorError

from rfdlight.errors import UserError, one_line, unknown_name

MOST_VALUES = 100_000
"""Most values of a YAML document, with every alias written out; documents of rfdlight have fewer than 1,000."""

MOST_LEVELS = 50
"""Most levels of nesting in a YAML document; code that walks through a document is recursive."""

_TOO_DEEP = f"expected at most {MOST_LEVELS} levels of nesting, got more"

NOT_PLAIN = "expected text in UTF-8, without the character NUL"


def is_plain(text: str) -> bool:
    """Return whether a text can be written to a file and be the name of a file: UTF-8 without NUL."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def expanded(path: str) -> Path:
    """Return a path with its leading `~` or `~name` replaced by the home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"no home folder is known for {Path(path).parts[0]}") from error


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file or of a link to one; an OSError refuses a device or a pipe."""
    check_regular(path)
    return path.read_bytes()


def check_regular(path: Path) -> None:
    """Raise an OSError for a device or a pipe, which may have no end; a missing file and a folder pass."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the content of a regular file as UTF-8 text; `errors` is that of `bytes.decode`."""
    return read_bytes(path).decode("utf-8", errors)


def parse_json(text: str) -> Any:
    """Return the value of a JSON text; a ValueError refuses other text, also if it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_yaml(text: str, loader: Callable[[str], Any] = yaml.safe_load) -> Any:
    """Return the value of a YAML document of plain values, built by `loader`.

    A YAMLError refuses Python objects, texts with NUL, and documents that are too large or too deep.

    Example:
        >>> parse_yaml("model: {budget: 3}")
        {'model': {'budget': 3}}
    """
    _check(text)
    try:
        return loader(text)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # Loaders fail so at a number or date that does not exist, and at a value that contradicts its tag.
        raise yaml.YAMLError(f"a value is not what it looks like or is tagged as: {error}") from error


def _check(text: str) -> None:
    """Refuse a document that would fill the memory or the stack."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
    except RecursionError as error:
        raise yaml.YAMLError(_TOO_DEEP) from error
    finally:
        loader.dispose()
    if node is not None and _values(node, {}, MOST_LEVELS) > MOST_VALUES:
        raise yaml.YAMLError(f"expected at most {MOST_VALUES:,} values, with every alias written out, got more")


def _values(node: yaml.Node, counted: dict[int, float], levels: int) -> float:
    """Return the number of values below a node, infinity where a node is below itself."""
    if isinstance(node, yaml.ScalarNode):
        if not is_plain(node.value):
            raise yaml.YAMLError(NOT_PLAIN)
        return 1
    if levels == 0:
        raise yaml.YAMLError(_TOO_DEEP)
    if id(node) not in counted:
        counted[id(node)] = float("inf")
        below = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        counted[id(node)] = 1 + sum(_values(each, counted, levels - 1) for each in below)
    return counted[id(node)]


PARTIAL = "partial-"
"""Prefix of the names of unfinished files."""


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a path beside a file to write to; on success the written file atomically replaces the file.

    If the file cannot be written, a UserError says so, and its old content stays. A file that is not durable may be
    lost in a power cut, and waits for no disk.
    """
    # Processes may write at the same time, also on two machines that share the folder.
    partial = path.with_name(f"{PARTIAL}{socket.gethostname()}-{os.getpid()}-{path.name}")
    try:
        partial.unlink(missing_ok=True)
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)  # by the umask; safetensors makes files for their owner alone
        yield partial
        with partial.open("rb+") as file:
            if durable:
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


def write_file(path: Path, content: str | bytes, durable: bool = True) -> None:
    """Write a file atomically as `replacing` does, a text in UTF-8; a UserError if it cannot be written."""
    with replacing(path, durable) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def shipped_folder(kind: str) -> Path:
    """Return the folder of the shipped "configs" or "checkpoints"."""
    installed = Path(str(resources.files("rfdlight") / kind))
    return installed if installed.is_dir() else Path(__file__).parents[1] / kind


def find_shipped(kind: str, name: str, suffix: str) -> Path:
    """Return the path of a shipped file by its name without suffix."""
    path = shipped_folder(kind) / f"{name.removesuffix(suffix)}{suffix}"
    if path.is_file():
        return path
    raise unknown_name({"configs": "config", "checkpoints": "victim"}[kind], name, shipped_names(kind, suffix))


def shipped_names(kind: str, suffix: str) -> list[str]:
    """Return the names of the shipped files of a kind."""
    root = shipped_folder(kind)
    return sorted(found.relative_to(root).with_suffix("").as_posix() for found in root.rglob(f"*{suffix}"))


def config_path(name: str) -> Path:
    """Return the path of a config: a file, or the name of a shipped config."""
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
    """Read a YAML file with a mapping."""
    try:
        content = parse_yaml(read_text(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the config {path}: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"the config {path} must be a mapping of settings, got {content!r:.40}")
    return content


def plain_console(stderr: bool = False, file: TextIO | None = None, quiet: bool = False) -> Console:
    """Return a rich console without markup and emoji, so that `[bold]` and `:warning:` in names print unchanged."""
    return Console(stderr=stderr, file=file, quiet=quiet, markup=False, emoji=False)


def plain_text(shown: RenderableType, width: int) -> str:
    """Return what a console of this width prints, without spaces at the ends of lines."""
    file = io.StringIO()
    console = Console(  # the same text in a notebook, and with FORCE_COLOR
        file=file, width=width, markup=False, emoji=False, force_terminal=False, force_jupyter=False, color_system=None
    )
    console.print(shown)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()).rstrip()


def is_first(environ: Mapping[str, str]) -> bool:
    """Return whether the environment variables of a launcher name this process the first or only one of its run."""
    return all(environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
