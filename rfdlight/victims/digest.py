"""Digest of a network: networks with different weights have different digests."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Identified(nn.Module):
    """Base class of modules whose answers something else than their tensors decides: a file, a function, a server."""

    def __init__(self, identity: str) -> None:
        super().__init__()
        self.identity = identity


def identity_of(network: nn.Module) -> str | None:
    """Return one line on what decides a network's answers besides its tensors, None if nothing does."""
    return "; ".join(module.identity for module in network.modules() if isinstance(module, Identified)) or None


def weights_text(network: nn.Module) -> str:
    """Return one line on the weights of a network: its identity, or the first digits of their digest."""
    return identity_of(network) or f"weights {weights_digest(network)[:12]}"


_INTERNAL = frozenset(vars(nn.Module()))
"""Attributes of every module: its parameters, buffers and hooks among them."""


def weights_digest(network: nn.Module, attributes: bool = True) -> str:
    """Return the sha256 of all weights of a network: names, types, shapes and bytes.

    Included are parameters, buffers, other values of the state, such as packed weights of quantized layers, and with
    `attributes` tensors in plain attributes of modules, into which a forward pass may write. So is the identity of a
    module whose weights are elsewhere.
    """
    digest = hashlib.sha256((identity_of(network) or "").encode())
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        _add(digest.update, name, tensor)
    # The second names of tied weights add nothing.
    known = dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers(remove_duplicate=False))
    for name, value in network.state_dict().items():
        if name not in known:
            _add(digest.update, name, value)
    for name, value in _attributes(network) if attributes else ():
        _add(digest.update, name, value)
    return digest.hexdigest()


def _attributes(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield plain attributes that are or contain tensors, by their paths."""
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            if name not in _INTERNAL and _holds_tensor(value):
                yield f"{path}.{name}", value


def _holds_tensor(value: Any, levels: int = 3) -> bool:
    if isinstance(value, Tensor):
        return True
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return bool(levels) and any(_holds_tensor(each, levels - 1) for each in inside)


def _add(update: Callable[[bytes], object], name: str, value: Any) -> None:
    """Add a named value of the state of a module to a hash: a tensor, a container or a plain value."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        update(_content(value))
    elif isinstance(value, Mapping):
        for key, each in value.items():
            _add(update, f"{name}.{key}", each)
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            _add(update, f"{name}.{number}", each)
    elif isinstance(value, str | int | float | torch.dtype | None):
        update(f"{name} {value}".encode())


def _content(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor on the CPU; those of quantized, sparse and wrapped tensors as torch stores them."""
    if type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided and not tensor.is_quantized:
        flat = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy().tobytes()
    stored = io.BytesIO()
    torch.save(tensor, stored)
    return stored.getvalue()
