"""Reading of untrusted weight files without running code: safetensors, torch.save files, and indexes of shards."""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
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
"""Keys of a checkpoint of a training."""

_AS_MODULE = "load it in a function of yours that returns a module, and give the function's import path as the victim"
_AS_STATE_DICT = "convert the weights to a state dict of torch"

_MARKS = (
    (b"version https://git-lfs", "a Git LFS pointer, which stands for a file that was not fetched; run: git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", f"an HDF5 file, as Keras writes it; {_AS_STATE_DICT}"),
    (b"\x93NUMPY", f"a NumPy array; {_AS_STATE_DICT}"),
    (b"GGUF", f"a GGUF file; {_AS_STATE_DICT}"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"BZh", "a bzip2 archive; unpack it"),
    (b"\xfd7zXZ", "an xz archive; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"<", "a web page or XML, not weights; download the file itself"),
)
"""First bytes of other files that are given for weights by mistake."""

_MEMBERS = (
    ("/constants.pkl", f"a TorchScript archive, which is code; {_AS_MODULE}"),
    ("/models/model.json", f"an archive of torch.export, which is code; {_AS_MODULE}"),
    (".npy", f"an archive of NumPy arrays; {_AS_STATE_DICT}"),
    ("config.json", f"a Keras archive; {_AS_STATE_DICT}"),
)
"""Ends of member names in other zip archives."""


class Checkpoint(NamedTuple):
    """The tensors of a file, at whatever level they are stored.

    Attributes:
        tensors: By the names of the containers that lead to them and their own, joined by dots.
        sha256: Of the file's bytes.
        containers: For each tensor, the names that lead to its container, with a dot after each; "" at the top.
    """

    tensors: dict[str, Tensor]
    sha256: str
    containers: dict[str, str]


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read a safetensors file, and no other format.

    Returns:
        The tensors by name, and the sha256 of the bytes.

    Raises:
        UserError: If the file is missing or has another format.
    """
    content = _content(path)
    if _is_pickle(content):
        raise UserError(f"{path} is a pickle, which can run code when it is read; expected a safetensors file")
    return _safetensors(path, content), hashlib.sha256(content).hexdigest()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the tensors of a user's file: safetensors, a file of `torch.save`, or an index of such files.

    In a file of `torch.save`, dictionaries and lists may hold the tensors at any level; plain values are ignored.
    `FILE#KEY` reads only the part of the file below KEY.

    Raises:
        UserError: If the file is missing, damaged, of another format, holds no tensors, or needs code to be read.
    """
    file, mark, key = ("", "", "") if path.exists() else str(path).rpartition("#")
    path = Path(file) if mark else path
    content = _content(path)
    digest = hashlib.sha256(content)
    shards = _shards(path, content)
    start = f"{key}." if mark else ""
    tensors: dict[str, Tensor] = {}
    containers: dict[str, str] = {}
    parts = set()
    for shard in shards or [path]:
        if shards:
            content = _content(shard, listed_in=path)
            digest.update(content)
        for container, name, tensor in _tensors(shard, content):
            whole = container + name
            parts.add(whole.partition(".")[0])
            if not whole.startswith(start):
                continue
            if tensor.is_meta or tensor.is_quantized or tensor.layout is not torch.strided:
                raise UserError(f"{path} is no state dict: the tensor {whole} must hold plain numbers, one by one")
            tensors[whole.removeprefix(start)] = tensor
            containers[whole.removeprefix(start)] = container.removeprefix(start)
    if start and not tensors:
        raise unknown_name(f"part of the checkpoint {path}:", key, parts)
    if not tensors:
        raise UserError(f"{path} holds no tensors; expected a state dict, tensors by name")
    return Checkpoint(tensors, digest.hexdigest(), containers)


def check_training(path: Path) -> None:
    """Check the checkpoint of a training before Lightning reads it.

    Lightning also accepts addresses, and runs the code of pickles.

    Raises:
        UserError: If there is no such file, it is no checkpoint of a training, or it needs code to be read.
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
    """Yield the tensors in nested containers; a container with several names is visited once."""
    if not isinstance(stored, dict | list | tuple):
        return
    for name, value in stored.items() if isinstance(stored, dict) else enumerate(stored):
        if isinstance(value, Tensor):
            yield container, str(name), value
        elif levels and id(value) not in seen:
            seen.add(id(value))
            yield from _leaves(value, f"{container}{name}.", seen, levels - 1)


def _shards(path: Path, content: bytes) -> list[Path]:
    """Return the files that an index of sharded weights lists, all in its own folder; none for another file."""
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
    """Return the tensors and plain values of a pickle, without running code."""
    _check_archive(path, content)
    try:
        # A Namespace, which takes attributes alone, holds the options of a training script.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors and could run code, so it was not read; "
            "save the state dict alone, best as safetensors"
        ) from error
    except Exception as error:  # torch's own functions are called with the file's arguments
        raise UserError(f"{path} is damaged or cut off: {_first_sentence(error)}") from error


def _check_archive(path: Path, content: bytes) -> None:
    """Refuse a zip archive that torch.save did not write, or that is larger when unpacked."""
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
    """Return the bytes of a file, and refuse formats that are known to be no weights."""
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
    files = [name for name in files if name.endswith(".index.json")] or files  # an index stands for its shards
    return f"give a file in it: {', '.join(files[:5])}" if files else f"expected a file of {what}"


def _is_pickle(content: bytes) -> bool:
    # The length at the start of safetensors can have the bytes of either mark.
    if _looks_like_safetensors(content):
        return False
    # torch.save writes zip archives today; pickles of protocol 2 and later begin with the other mark.
    if content.startswith((b"PK", b"\x80")):
        return True
    try:  # protocols 0 and 1 have no mark; nothing is run here
        return all(True for _ in pickletools.genops(content))
    except ValueError:
        return False


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
