"""The digest of a network: two networks of different weights never share one."""

from __future__ import annotations

import copy
import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

Hash = Any
"""What `hashlib.sha256` returns."""

_INTERNAL = frozenset(vars(nn.Module()))
"""Attributes of every module: its parameters, buffers and hooks among them."""


def weights_digest(network: nn.Module, attributes: bool = True) -> str:
    """Return the sha256 of all weights of a network: names, types, shapes and bytes.

    Parameters and buffers count, packed weights of quantized networks, constants of TorchScript, and tensors in plain
    attributes of modules.

    Args:
        network: With a value for every parameter.
        attributes: Whether plain attributes count, into which a forward pass may write.
    """
    digest = hashlib.sha256()
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        _add_tensor(digest, name, tensor)
    # Also the second names of tied weights, which add nothing.
    known = dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers(remove_duplicate=False))
    for name, value in network.state_dict().items():
        if name not in known:
            _add(digest, name, value)
    for name, module in _scripts(network):
        _add_script(digest, name, module)
    if attributes:
        for name, value in _attributes(network):
            _add(digest, name, value)
    return digest.hexdigest()


def attributes_digest(network: nn.Module) -> str:
    """Return the sha256 of the tensors in plain attributes of modules, "" if there are none."""
    held = list(_attributes(network))
    digest = hashlib.sha256()
    for name, value in held:
        _add(digest, name, value)
    return digest.hexdigest() if held else ""


def _attributes(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield plain attributes that are tensors, or containers of some, by their paths."""
    for path, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for name, value in vars(module).items():
            if name not in _INTERNAL and _holds_tensor(value):
                yield f"{path}.{name}", value


def _holds_tensor(value: Any, levels: int = 3) -> bool:
    if isinstance(value, Tensor | torch.ScriptObject):
        return True
    if levels and isinstance(value, Mapping):
        return any(_holds_tensor(each, levels - 1) for each in value.values())
    return bool(levels) and isinstance(value, list | tuple) and any(_holds_tensor(each, levels - 1) for each in value)


def _scripts(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the outermost modules of TorchScript."""
    if isinstance(network, torch.jit.ScriptModule):
        yield "", network
        return
    for name, child in network.named_children():
        yield from ((f"{name}.{path}", script) for path, script in _scripts(child))


def _add_script(digest: Hash, name: str, module: nn.Module) -> None:
    """Add the tensors of an archive of TorchScript; the names of its classes vary with what was loaded before."""
    stored = io.BytesIO()
    module = copy.deepcopy(module).cpu()
    for tensor in [*module.parameters(), *module.buffers()]:
        tensor.data = tensor.data.contiguous()  # an archive keeps the order in memory
    torch.jit.save(module, stored)
    with zipfile.ZipFile(stored) as archive:
        for member in sorted(archive.namelist()):
            if "/data/" in member or "/constants/" in member:
                digest.update(f"{name} {member.partition('/')[2]}".encode())
                digest.update(archive.read(member))


def _add(digest: Hash, name: str, value: Any) -> None:
    """Add a value of the state of a module: a tensor, a container, a packed weight, or a plain value."""
    if isinstance(value, Tensor):
        _add_tensor(digest, name, value)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            _add(digest, f"{name}.{key}", each)
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            _add(digest, f"{name}.{number}", each)
    elif isinstance(value, torch.ScriptObject):
        _add(digest, name, value.__getstate__())
    elif isinstance(value, str | int | float | torch.dtype | None):
        digest.update(f"{name} {value}".encode())


def _add_tensor(digest: Hash, name: str, tensor: Tensor) -> None:
    """Add the type, the shape and the bytes of a tensor, whatever its layout."""
    if is_traceable_wrapper_subclass(tensor):
        for part in tensor.__tensor_flatten__()[0]:
            _add(digest, f"{name}.{part}", getattr(tensor, part))
        return
    tensor = tensor.detach().cpu()
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    for part in _dense(digest, tensor):
        flat = part.resolve_conj().resolve_neg().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())


def _dense(digest: Hash, tensor: Tensor) -> list[Tensor]:
    """Return the tensors of plain numbers that a tensor consists of."""
    if tensor.is_quantized:
        if tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_affine_float_qparams):
            return [tensor.int_repr(), tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()]
        digest.update(f"{tensor.q_scale()} {tensor.q_zero_point()}".encode())
        return [tensor.int_repr()]
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        return [tensor.indices(), tensor.values()]
    return [tensor if tensor.layout == torch.strided else tensor.to_dense()]
