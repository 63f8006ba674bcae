"""Digest of a network: networks with different weights have different digests."""

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

_INTERNAL = frozenset(vars(nn.Module()))
"""Attributes of every module: its parameters, buffers and hooks among them."""


def weights_digest(network: nn.Module, attributes: bool = True) -> str:
    """Return the sha256 of all weights of a network: names, types, shapes and bytes.

    Included are parameters, buffers, packed weights of quantized networks, constants of TorchScript, and tensors in
    plain attributes of modules.

    Args:
        network: With a value for every parameter.
        attributes: Whether plain attributes count, into which a forward pass may write.
    """
    digest = _Digest()
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        digest.add(name, tensor)
    # The second names of tied weights add nothing.
    known = dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers(remove_duplicate=False))
    for name, value in network.state_dict().items():
        if name not in known:
            digest.add(name, value)
    for name, module in _scripts(network):
        digest.add_script(name, module)
    for name, value in _attributes(network) if attributes else ():
        digest.add(name, value)
    return digest.hash.hexdigest()


def attributes_digest(network: nn.Module) -> str:
    """Return the sha256 of the tensors in plain attributes of modules, "" if there are none."""
    digest, held = _Digest(), list(_attributes(network))
    for name, value in held:
        digest.add(name, value)
    return digest.hash.hexdigest() if held else ""


def _attributes(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield plain attributes that are or contain tensors, by their paths."""
    for path, module in network.named_modules():
        for name, value in () if isinstance(module, torch.jit.ScriptModule) else vars(module).items():
            if name not in _INTERNAL and _holds_tensor(value):
                yield f"{path}.{name}", value


def _holds_tensor(value: Any, levels: int = 3) -> bool:
    if isinstance(value, Tensor | torch.ScriptObject):
        return True
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return bool(levels) and any(_holds_tensor(each, levels - 1) for each in inside)


def _scripts(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the outermost modules of TorchScript."""
    if isinstance(network, torch.jit.ScriptModule):
        yield "", network
        return
    for name, child in network.named_children():
        yield from ((f"{name}.{path}", script) for path, script in _scripts(child))


class _Digest:
    """A hash of named values."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def add(self, name: str, value: Any) -> None:
        """Add a value of the state of a module: a tensor, a container, a packed weight, or a plain value."""
        if isinstance(value, Tensor):
            self._add_tensor(name, value)
        elif isinstance(value, Mapping):
            for key, each in value.items():
                self.add(f"{name}.{key}", each)
        elif isinstance(value, list | tuple):
            for number, each in enumerate(value):
                self.add(f"{name}.{number}", each)
        elif isinstance(value, torch.ScriptObject):
            self.add(name, value.__getstate__())
        elif isinstance(value, str | int | float | torch.dtype | None):
            self.hash.update(f"{name} {value}".encode())

    def add_script(self, name: str, module: nn.Module) -> None:
        """Add the tensors of an archive of TorchScript; its class names vary with the modules loaded before."""
        stored = io.BytesIO()
        module = copy.deepcopy(module).cpu()
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.data = tensor.data.contiguous()  # an archive keeps the order in memory
        torch.jit.save(module, stored)
        with zipfile.ZipFile(stored) as archive:
            for member in sorted(archive.namelist()):
                if "/data/" in member or "/constants/" in member:
                    self.hash.update(f"{name} {member.partition('/')[2]}".encode())
                    self.hash.update(archive.read(member))

    def _add_tensor(self, name: str, tensor: Tensor) -> None:
        if is_traceable_wrapper_subclass(tensor):
            for part in tensor.__tensor_flatten__()[0]:
                self.add(f"{name}.{part}", getattr(tensor, part))
            return
        tensor = tensor.detach().cpu()
        self.hash.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        for part in self._dense(tensor):
            flat = part.resolve_conj().resolve_neg().contiguous().reshape(-1)
            self.hash.update(flat.view(torch.uint8).numpy().tobytes())

    def _dense(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of plain numbers that a tensor consists of."""
        if tensor.is_quantized:
            if tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_affine_float_qparams):
                return [tensor.int_repr(), tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()]
            self.hash.update(f"{tensor.q_scale()} {tensor.q_zero_point()}".encode())
            return [tensor.int_repr()]
        if tensor.layout == torch.sparse_coo:
            tensor = tensor.coalesce()
            return [tensor.indices(), tensor.values()]
        return [tensor if tensor.layout == torch.strided else tensor.to_dense()]
