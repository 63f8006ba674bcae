"""Files of weights: read without running code, and fitted to a network."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from rfdlight.errors import UserError, one_line

_NESTED = ("state_dict", "model_state_dict", "model")
"""Where training scripts keep the weights inside of what they save."""

_PREFIXES = ("module.", "_orig_mod.", "victim.network.", "network.", "model.")
"""What wrappers put before every name."""


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

    A state dict below "state_dict", "model_state_dict" or "model" is found there, and what wrappers put before
    every name, such as "module.", is taken away.

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
    try:
        stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors and could run code, so it was not read; "
            "save the state dict alone, best as safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise UserError(f"{path} is damaged or cut off: {_first_sentence(error)}") from error
    return _without_prefixes(_state_dict(stored, path)), digest


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"no weights at {path}") from error
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}") from error


def _is_pickle(content: bytes) -> bool:
    # A zip archive is how torch.save writes a pickle today, protocol 2 and later are bare ones.
    return content.startswith((b"PK", b"\x80"))


def _safetensors(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error


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
        if not isinstance(value, Tensor):
            raise UserError(f"{path} is no state dict: expected a tensor for {name}, got a {type(value).__name__}")
    return dict(stored)


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return _without_prefixes({name.removeprefix(prefix): value for name, value in tensors.items()})
    return tensors


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
        UserError: If names or shapes differ; says the first that does, and how to go on with another head.
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
    if other and set(other) <= head_names(network):
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
    network.load_state_dict(tensors)


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
