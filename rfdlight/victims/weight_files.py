"""Reading of untrusted weight files without running code: safetensors and files of torch.save."""

from __future__ import annotations

import argparse
import hashlib
import io
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from rfdlight._io import read_bytes
from rfdlight.errors import UserError, one_line, unknown_name

_MOST_HEADER = 10_000_000
"""Bytes of the list of tensors in a safetensors file; networks of a thousand layers need below a million."""

_MOST_LEVELS = 10
"""Containers within one another in a checkpoint; training scripts nest two or three."""

_TRAINING = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "pytorch-lightning_version")
"""Keys of a checkpoint of a training."""


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a safetensors file, and of no other format, and the sha256 of its bytes."""
    content = _content(path)
    return _safetensors(path, content), hashlib.sha256(content).hexdigest()


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a user's file, safetensors or a file of `torch.save`, and the sha256 of its bytes.

    In a file of `torch.save`, dictionaries and lists may hold the tensors at any level; their names are joined by dots.
    `FILE#KEY` reads only the part of the file below KEY.
    """
    file, mark, key = ("", "", "") if path.exists() else str(path).rpartition("#")
    path = Path(file) if mark else path
    content = _content(path)
    if path.suffix == ".safetensors" or _looks_like_safetensors(content):
        tensors = _safetensors(path, content)
    else:
        tensors = dict(_leaves(_unpickled(path, content), "", set()))
    for name, tensor in tensors.items():
        if tensor.is_meta or tensor.is_quantized or tensor.layout is not torch.strided:
            raise UserError(f"{path} is no state dict: the tensor {name} must hold plain numbers, one by one")
    if not tensors:
        raise UserError(f"{path} holds no tensors; expected a state dict, tensors by name")
    if mark:
        parts = {name.partition(".")[0] for name in tensors}
        start = f"{key}."
        tensors = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        if not tensors:
            raise unknown_name(f"part of the checkpoint {path}:", key, parts)
    return tensors, hashlib.sha256(content).hexdigest()


def check_training(path: Path) -> None:
    """Refuse what is no checkpoint of a training before Lightning, which runs the code of pickles, reads it."""
    content = _content(path, "checkpoint")
    stored = None if _looks_like_safetensors(content) else _unpickled(path, content)
    state = stored.get("state_dict") if isinstance(stored, dict) and not set(_TRAINING) - stored.keys() else None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(
            f"{path} is no checkpoint of a training: expected what rfdlight fit keeps in its run, checkpoints/*.ckpt; "
            "weights alone go to --model.checkpoint"
        )


def _leaves(stored: Any, prefix: str, seen: set[int], levels: int = _MOST_LEVELS) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested containers by their paths; a container with several names is visited once."""
    if not isinstance(stored, dict | list | tuple):
        return
    for name, value in stored.items() if isinstance(stored, dict) else enumerate(stored):
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif levels and id(value) not in seen:
            seen.add(id(value))
            yield from _leaves(value, f"{prefix}{name}.", seen, levels - 1)


def _unpickled(path: Path, content: bytes) -> Any:
    """Return the tensors and plain values of a pickle, without running code."""
    if not content.startswith((b"PK", b"\x80")):
        raise UserError(f"{path} is neither safetensors nor a file of torch.save; it is damaged or of another format")
    try:
        _check_unpacked_size(path, content)
        # A Namespace, which takes attributes alone, holds the options of a training script.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch's own functions are called with the file's arguments
        raise UserError(
            f"{path} cannot be read as tensors without running code: {_first_sentence(error)}; save the state dict "
            "alone, best as safetensors"
        ) from error


def _check_unpacked_size(path: Path, content: bytes) -> None:
    """Refuse a zip archive that is larger when unpacked."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > len(content):
        raise UserError(
            f"{path} of {len(content):,} bytes would be {unpacked:,} unpacked; expected a file of torch.save, which "
            "packs nothing"
        )


def _content(path: Path, what: str = "weights") -> bytes:
    try:
        content = read_bytes(path)
    except FileNotFoundError as error:
        raise UserError(f"no {what} at {path}") from error
    except OSError as error:
        raise UserError(f"cannot read the {what} {path}: {error.strerror}") from error
    if not content:
        raise UserError(f"{path} is empty; expected a file of {what}")
    return content


def _looks_like_safetensors(content: bytes) -> bool:
    return content[8:9] == b"{" and 8 + int.from_bytes(content[:8], "little") <= len(content)


def _safetensors(path: Path, content: bytes) -> dict[str, Tensor]:
    header = int.from_bytes(content[:8], "little")
    if _MOST_HEADER < header < len(content):
        raise UserError(
            f"{path} is not a readable safetensors file: its header has {header:,} bytes, expected at most "
            f"{_MOST_HEADER:,}"
        )
    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {_first_sentence(error)}") from error


def _first_sentence(error: BaseException) -> str:
    return one_line(error).partition(". ")[0][:200] or type(error).__name__
