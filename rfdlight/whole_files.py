"""Files that are there whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from rfdlight.errors import UserError, one_line

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


def write(path: Path, content: str | bytes) -> None:
    """Write a file, a text in UTF-8.

    Raises:
        UserError: If it cannot be written; the file is then as it was.
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
