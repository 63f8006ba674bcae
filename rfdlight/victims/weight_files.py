"""Files of weights, read without running code: safetensors, files of torch.save, and indexes of shards."""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from rfdlight._io import parse_json, read_bytes
from rfdlight.errors import UserError, one_line, unknown_name

_MOST_HEADER = 10_000_000
"""Bytes of the list of tensors in a safetensors file; networks of a thousand layers need below a million."""

_MOST_LEVELS = 10
"""Containers within one another in a checkpoint; training scripts nest two or three."""

_TRAINING = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "pytorch-lightning_version")
"""What a checkpoint of a training holds at the least."""

_AS_MODULE = "load it in a function of yours that returns a module, and give the function's import path as the victim"

_MARKS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, which stands for a file that was not fetched; run: git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it; convert the weights to a state dict of torch"),
    (b"\x93NUMPY", "a NumPy array; expected a state dict, tensors by name"),
    (b"GGUF", "a GGUF file; convert the weights to a state dict of torch"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"BZh", "a bzip2 archive; unpack it"),
    (b"\xfd7zXZ", "an xz archive; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"<", "a web page or XML, not weights; download the file itself"),
)
"""How files begin that are given for weights by mistake, and what they are."""

_MEMBERS: tuple[tuple[str, str], ...] = (
    ("/constants.pkl", f"a TorchScript archive, which is code; {_AS_MODULE}"),
    ("/models/model.json", f"an archive of torch.export, which is code; {_AS_MODULE}"),
    (".npy", "an archive of NumPy arrays; convert them to a state dict of torch"),
    ("config.json", "a Keras archive; convert the weights to a state dict of torch"),
)
"""Ends of names in zip archives that torch.save did not write, and what such an archive is."""


class Checkpoint(NamedTuple):
    """Tensors of a file, wherever in it they are.

    Attributes:
        tensors: By the names of the containers that lead to them and their own, joined by dots.
        sha256: Of the bytes that were read.
        containers: Of each tensor, the names that lead to its container, with a dot after each; "" at the top.
    """

    tensors: dict[str, Tensor]
    sha256: str
    containers: dict[str, str]


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read a safetensors file, and nothing that could carry code.

    Returns:
        The tensors by name, and the sha256 of the very bytes that they were read from.

    Raises:
        UserError: If the file is missing or is something else.
    """
    content = _content(path)
    if _is_pickle(content):
        raise UserError(f"{path} is a pickle, which can run code when it is read; expected a safetensors file")
    return _safetensors(path, content), hashlib.sha256(content).hexdigest()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the tensors of a user's file: safetensors, what `torch.save` wrote, or an index of such files.

    Of a file of `torch.save`, dictionaries and lists may hold the tensors at any level; plain values beside them are
    left out. `FILE#KEY` reads the part of the file below KEY alone.

    Raises:
        UserError: If the file is missing, damaged, something else, holds no tensors, or would have to run code.
    """
    path, _, key = (path, "", "") if path.exists() else _divided(path)
    content = _content(path)
    shards = _shards(path, content)
    digest = hashlib.sha256(content)
    tensors: dict[str, Tensor] = {}
    containers: dict[str, str] = {}
    for shard in shards or [path]:
        part = _content(shard, listed_in=path) if shards else content
        if shards:
            digest.update(part)
        for container, name, tensor in _tensors(shard, part):
            tensors[container + name], containers[container + name] = tensor, container
    if key:
        tensors, containers = _below(path, key, tensors, containers)
    if not tensors:
        raise UserError(f"{path} holds no tensors; expected a state dict, tensors by name")
    for name, tensor in tensors.items():
        if tensor.is_meta or tensor.is_quantized or tensor.layout is not torch.strided:
            raise UserError(f"{path} is no state dict: the tensor {name} must hold plain numbers, one by one")
    return Checkpoint(tensors, digest.hexdigest(), containers)


def check_training(path: Path) -> None:
    """Look into the checkpoint of a training before Lightning reads it.

    Lightning also takes addresses, and runs what a file from there says.

    Raises:
        UserError: If there is no such file, or it is no checkpoint of a training, or would have to run code.
    """
    content = _content(path, "checkpoint")
    stored = _unpickled(path, content) if _is_pickle(content) else None
    if not isinstance(stored, dict) or any(name not in stored for name in _TRAINING):
        raise UserError(
            f"{path} is no checkpoint of a training: expected what rfdlight fit keeps in its run, checkpoints/*.ckpt; "
            "weights alone go to --model.checkpoint"
        )
    state = stored["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{path} is no checkpoint of a training: expected tensors by name below state_dict")


def _divided(path: Path) -> tuple[Path, str, str]:
    file, mark, key = str(path).rpartition("#")
    return (Path(file), mark, key) if mark else (path, "", "")


def _below(
    path: Path, key: str, tensors: dict[str, Tensor], containers: dict[str, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of one part of a file, by their names in it."""
    start = f"{key}."
    if not any(name.startswith(start) for name in tensors):
        parts = {name.partition(".")[0] for name in tensors}
        raise unknown_name(f"part of the checkpoint {path}:", key, parts)
    chosen = [name for name in tensors if name.startswith(start)]
    return (
        {name.removeprefix(start): tensors[name] for name in chosen},
        {name.removeprefix(start): containers[name].removeprefix(start) for name in chosen},
    )


def _tensors(path: Path, content: bytes) -> Iterator[tuple[str, str, Tensor]]:
    """Yield container, name and value of every tensor of one file."""
    if not _is_pickle(content):
        for name, tensor in _safetensors(path, content).items():
            yield "", name, tensor
        return
    if path.suffix == ".safetensors":
        raise UserError(f"{path} is a pickle, which can run code when it is read; expected a safetensors file")
    yield from _leaves(_unpickled(path, content), "", set())


def _leaves(
    stored: Any, container: str, seen: set[int], levels: int = _MOST_LEVELS
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield the tensors in nested containers; a container that several names lead to is looked at once."""
    entries: Iterable[tuple[Any, Any]] = ()
    if isinstance(stored, dict):
        entries = stored.items()
    elif isinstance(stored, list | tuple):
        entries = enumerate(stored)
    for name, value in entries:
        if isinstance(value, Tensor):
            yield container, str(name), value
        elif levels and isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            yield from _leaves(value, f"{container}{name}.", seen, levels - 1)


def _shards(path: Path, content: bytes) -> list[Path]:
    """Return the files that an index of sharded weights lists, all in its own folder; none for another file.

    Raises:
        UserError: If it is JSON of another kind, or lists files elsewhere.
    """
    if content.lstrip()[:1] != b"{" or _looks_like_safetensors(content):
        return []
    try:
        index = parse_json(content.decode())
    except ValueError:
        return []
    listed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"{path} is JSON and no index of shards, which has a weight_map; expected a file of weights")
    names = sorted({str(name) for name in listed.values()})
    for name in names:
        if Path(name).name != name:
            raise UserError(f"{path} is an index of shards in other folders; expected names alone, got {name!r:.80}")
    return [path.with_name(name) for name in names]


def _unpickled(path: Path, content: bytes) -> Any:
    """Return what a pickle of tensors and plain values holds; nothing else in it is carried out."""
    _check_archive(path, content)
    try:
        # A Namespace is the options of a training script, and takes attributes alone.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors and could run code, so it was not read; "
            "save the state dict alone, best as safetensors"
        ) from error
    except Exception as error:  # torch's own functions are called with whatever the file says
        raise UserError(f"{path} is damaged or cut off: {_first_sentence(error)}") from error


def _check_archive(path: Path, content: bytes) -> None:
    """Refuse a zip archive that torch.save did not write, or that is larger unpacked than it is."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise UserError(f"{path} is damaged or cut off: {_first_sentence(error)}") from error
    for end, kind in _MEMBERS:
        if any(member.filename.endswith(end) for member in members):
            raise UserError(f"{path} is {kind}")
    if not any(member.filename.endswith("data.pkl") for member in members):
        raise UserError(f"{path} is a zip archive that torch.save did not write; unpack it")
    unpacked = sum(member.file_size for member in members)
    if unpacked > len(content):
        raise UserError(
            f"{path} of {len(content):,} bytes would be {unpacked:,} unpacked; expected a file of torch.save, which "
            "packs nothing"
        )


def _content(path: Path, what: str = "weights", listed_in: Path | None = None) -> bytes:
    """Return what a file holds, and refuse what is known to be no weights."""
    try:
        content = read_bytes(path)
    except FileNotFoundError as error:
        of = f", a shard that {listed_in} lists" if listed_in else ""
        raise UserError(f"no {what} at {path}{of}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder; {_in_folder(path, what)}") from error
    except OSError as error:
        raise UserError(f"cannot read the {what} {path}: {error.strerror}") from error
    if not content:
        raise UserError(f"{path} is empty; expected a file of {what}")
    start = content[:64].lstrip()
    kind = next((kind for mark, kind in _MARKS if start.startswith(mark)), None)
    if kind is not None and not _looks_like_safetensors(content):
        raise UserError(f"{path} is {kind}")
    return content


def _in_folder(path: Path, what: str) -> str:
    if (path / ".metadata").exists():
        return f"convert it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pth"
    known = re.compile(r"\.(safetensors|bin|pth|pt|ckpt|tar)$|\.index\.json$")
    files = sorted(file.name for file in path.iterdir() if known.search(file.name))
    # One index stands for all of its shards.
    files = [name for name in files if name.endswith(".index.json")] or files
    return f"give a file in it: {', '.join(files[:5])}" if files else f"expected a file of {what}"


def _is_pickle(content: bytes) -> bool:
    # The length that safetensors begin with can have the bytes of either mark.
    if _looks_like_safetensors(content):
        return False
    # A zip archive is how torch.save writes a pickle today, protocol 2 and later are bare ones.
    return content.startswith((b"PK", b"\x80")) or _is_old_pickle(content)


def _looks_like_safetensors(content: bytes) -> bool:
    return content[8:9] == b"{" and 8 + _header_length(content) <= len(content)


def _header_length(content: bytes) -> int:
    return int.from_bytes(content[:8], "little")


def _is_old_pickle(content: bytes) -> bool:
    """Return whether this is a pickle of protocol 0 or 1, which no mark begins; nothing in it is carried out."""
    try:
        return all(True for _ in pickletools.genops(content))
    except ValueError:
        return False


def _safetensors(path: Path, content: bytes) -> dict[str, Tensor]:
    header = _header_length(content)
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
