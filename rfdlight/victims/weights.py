"""Files of weights: read without running code, and fitted to a network."""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from rfdlight.documents import read_bytes
from rfdlight.errors import UserError, one_line

_NESTED = ("state_dict", "model_state_dict", "model")
"""Where training scripts keep the weights inside of what they save."""

_PREFIXES = ("module.", "_orig_mod.", "victim.network.", "network.", "model.")
"""What wrappers put before every name."""

_MOST_HEADER = 10_000_000
"""Bytes of the list of tensors in a safetensors file; networks of a thousand layers need below a million."""

_TRAINING = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "pytorch-lightning_version")
"""What a checkpoint of a training holds at the least."""


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


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read weights of a user: safetensors, or what `torch.save` wrote, if it holds tensors and plain values alone.

    A state dict below "state_dict", "model_state_dict" or "model" is found there.

    Returns:
        The tensors by name, and the sha256 of the very bytes that they were read from.

    Raises:
        UserError: If the file is missing, damaged, something else, or would have to run code.
    """
    content = _content(path)
    digest = hashlib.sha256(content).hexdigest()
    if not _is_pickle(content):
        return _safetensors(path, content), digest
    if path.suffix == ".safetensors":
        raise UserError(f"{path} is a pickle, which can run code when it is read; expected a safetensors file")
    return _state_dict(_unpickled(path, content), path), digest


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
    _state_dict(stored, path)


def _unpickled(path: Path, content: bytes) -> Any:
    """Return what a pickle of tensors and plain values holds; nothing else in it is carried out."""
    _check_unpacked(path, content)
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is refused in one line
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors and could run code, so it was not read; "
            "save the state dict alone, best as safetensors"
        ) from error
    except Exception as error:  # torch's own functions are called with whatever the file says
        if "TorchScript" in str(error):
            raise UserError(
                f"{path} is a TorchScript archive, which is code; save the state dict alone, best as safetensors"
            ) from error
        raise UserError(f"{path} is damaged or cut off: {_first_sentence(error)}") from error


def _check_unpacked(path: Path, content: bytes) -> None:
    """Refuse an archive that is larger unpacked than it is: torch.save packs nothing."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise UserError(f"{path} is damaged or cut off: {_first_sentence(error)}") from error
    if unpacked > len(content):
        raise UserError(
            f"{path} of {len(content):,} bytes would be {unpacked:,} unpacked; expected a file of torch.save, which "
            "packs nothing"
        )


def _content(path: Path, what: str = "weights") -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError as error:
        raise UserError(f"no {what} at {path}") from error
    except OSError as error:
        raise UserError(f"cannot read the {what} {path}: {error.strerror}") from error


def _is_pickle(content: bytes) -> bool:
    # The length that safetensors begin with can have the bytes of either mark.
    if content[8:9] == b"{" and 8 + _header_length(content) <= len(content):
        return False
    # A zip archive is how torch.save writes a pickle today, protocol 2 and later are bare ones.
    return content.startswith((b"PK", b"\x80")) or _is_old_pickle(content)


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


def _state_dict(stored: Any, path: Path) -> dict[str, Tensor]:
    for name in _NESTED:
        if isinstance(stored, dict) and isinstance(stored.get(name), dict):
            stored = stored[name]
            break
    if not isinstance(stored, dict) or not stored:
        raise UserError(f"{path} holds a {type(stored).__name__}; expected a state dict, tensors by name")
    for name, value in stored.items():
        if not isinstance(name, str):
            raise UserError(f"{path} is no state dict: expected names of tensors, got {name!r:.40}")
        if not isinstance(value, Tensor):
            raise UserError(f"{path} is no state dict: expected a tensor for {name}, got a {type(value).__name__}")
        if value.is_meta or value.is_quantized or value.layout is not torch.strided:
            raise UserError(f"{path} is no state dict: the tensor {name} must hold plain numbers, one by one")
    return dict(stored)


def named_for(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the names of a network, whatever wrappers have put before all names of either.

    Example:
        >>> named_for(nn.Sequential(nn.Linear(2, 1)), {"module.0.bias": torch.zeros(1)})
        {'0.bias': tensor([0.])}
    """
    theirs, ours = _wrapping(tensors), _wrapping(network.state_dict())
    return {ours + name.removeprefix(theirs): value for name, value in tensors.items()}


def _wrapping(names: Iterable[str]) -> str:
    """Return what wrappers have put before all of some names."""
    names = list(names)
    prefix = next((each for each in _PREFIXES if names and all(name.startswith(each) for name in names)), "")
    return prefix and prefix + _wrapping(name.removeprefix(prefix) for name in names)


def weights_digest(network: nn.Module) -> str:
    """Return the sha256 of all parameters and buffers: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def head_names(network: nn.Module) -> set[str]:
    """Return the names of the tensors of a network's last layer: timm's classifier, else the last linear layer."""
    named = getattr(network, "default_cfg", {}).get("classifier")
    if named is None:
        linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
        named = linear[-1:]
    heads = (named,) if isinstance(named, str) else tuple(named)
    return {key for key in network.state_dict() if key.startswith(tuple(f"{head}." for head in heads))}


def fit_weights(network: nn.Module, tensors: dict[str, Tensor], path: Path, name: str) -> None:
    """Load `tensors` into `network`, whole.

    Raises:
        UserError: If names or shapes differ.
    """
    check_fit(network, tensors, path, name)
    network.load_state_dict(tensors)


def check_fit(network: nn.Module, tensors: dict[str, Tensor], path: Path, name: str) -> None:
    """Compare names and shapes, for which the network needs no memory.

    Raises:
        UserError: If they differ; says the first that does, and how to go on with another head.
    """
    wanted = network.state_dict()
    problems = [
        f"it {verb} {len(keys)} {what} tensors, the first is {min(keys)}"
        for verb, what, keys in (
            ("lacks", "needed", wanted.keys() - tensors.keys()),
            ("has", "other", tensors.keys() - wanted.keys()),
        )
        if keys
    ]
    if problems:
        raise UserError(f"{path} does not fit the network '{name}': {'; '.join(problems)}")
    other = [key for key in sorted(tensors) if tensors[key].shape != wanted[key].shape]
    if other and set(other) <= head_names(network) and tensors[other[-1]].ndim:
        classes, expected = tensors[other[-1]].shape[0], wanted[other[-1]].shape[0]
        raise UserError(
            f"{path} has a head for {classes} classes, the data has {expected}; to fine-tune it: "
            f"rfdlight fit --model.network {name} --model.checkpoint {path}"
        )
    if other:
        found, expected_shape = tuple(tensors[other[0]].shape), tuple(wanted[other[0]].shape)
        raise UserError(
            f"{path} does not fit the network '{name}': {other[0]} has the shape {found}, expected {expected_shape}"
        )


def start_from(network: nn.Module, path: Path, name: str) -> str:
    """Load a user's weights into a network to be fine-tuned; a head that is missing or of another size stays new.

    Args:
        network: Changed in place.
        path: See `read_checkpoint`.
        name: What the network is called, for messages.

    Returns:
        One line on what was loaded, replaced and left over.

    Raises:
        UserError: If anything but the head is missing or has another shape.
    """
    tensors, digest = read_checkpoint(path)
    tensors = named_for(network, tensors)
    wanted, head = network.state_dict(), head_names(network)
    new = {key for key in head if key not in tensors or tensors[key].shape != wanted[key].shape}
    unexpected = sorted(tensors.keys() - wanted.keys())
    known = {key: value for key, value in tensors.items() if key in wanted and key not in new}
    fit_weights(network, known | {key: wanted[key] for key in new}, path, name)
    told = f"{name} starts from {path}, weights sha256 {digest[:12]}: {len(known)} tensors loaded, 0 missing"
    if new:
        told = told.replace("0 missing", f"{len(new)} of a new head: {', '.join(sorted(new))}")
    if unexpected:
        more = ", ..." if len(unexpected) > 3 else ""
        told += f", {len(unexpected)} unexpected: {', '.join(unexpected[:3])}{more}"
    return told
