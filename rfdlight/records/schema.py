"""Schema of the files of a run: kinds of numbers, strict decoding, and sealed lines of JSON."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from rfdlight._io import read_bytes
from rfdlight.errors import UserError

SCHEMA = 4
"""Version of the files of a run. Files without a version have version 1."""

OLDEST = 3
"""Oldest version whose finished runs can be read; version 4 added `interim` to records."""

Count = Annotated[int, Meta(ge=0, lt=2**53)]
"""A whole number that float64 holds exactly."""

PositiveCount = Annotated[int, Meta(ge=1, lt=2**53)]

Size = Annotated[float, Meta(ge=0)]

T = TypeVar("T")

_SEAL = b',"crc32":"'


class Fields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the objects of a run's files: immutable, and decoded strictly."""


def check_part(part: str, count: int, whole: str, total: int) -> None:
    """Raise a `ValueError` if the count of a part is above the count of its whole."""
    if count > total:
        raise ValueError(f"{part}: expected at most {total}, the {whole}, got {count}")


def decode(data: bytes, kind: type[T]) -> T:
    """Decode JSON and check its type; a `ValueError` of one line names a wrong field.

    Example:
        >>> decode(b'{"a": "x"}', dict[str, int])
        Traceback (most recent call last):
        ValueError: [...]: expected int, got str
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message, _, path = str(error).replace("`", "").partition(" - at $")
        message = message if message.startswith("JSON") else message[0].lower() + message[1:]
        raise ValueError(f"{path.removeprefix('.')}: {message}" if path else message) from error


def seal(item: Struct) -> bytes:
    """Return an object as a line of JSON whose last field, `crc32`, is the CRC-32 of the text before this field."""
    body = msgspec.json.encode(item).removesuffix(b"}")
    return body + _SEAL + b'%08x"}' % zlib.crc32(body)


def unseal(line: bytes, kind: type[T]) -> T:
    """Return the object of a sealed line; a `ValueError` reports a changed line, or one of another type."""
    body, seal_, checksum = line.rpartition(_SEAL)
    if not seal_ or checksum != b'%08x"}' % zlib.crc32(body):
        raise ValueError("damaged: its checksum does not match")
    return decode(body + b"}", kind)


class _Version(Struct):
    schema: int = 1


def read_versioned(path: Path, kind: type[T], oldest: int = SCHEMA) -> T:
    """Read a JSON file of a run of this schema version, or of one from `oldest` on."""
    try:
        content = read_bytes(path)
        version = decode(content, _Version).schema
        if oldest <= version <= SCHEMA:
            return decode(content, kind)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    raise UserError(f"{path}: expected a run of schema version {SCHEMA}, got version {version}; run it again")
