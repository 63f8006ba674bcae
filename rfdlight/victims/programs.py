"""Victims in files of torch that hold their own code: TorchScript, and exported programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from rfdlight._io import expanded
from rfdlight.core.quiet import quiet
from rfdlight.errors import UserError, legible, one_line
from rfdlight.victims.digest import Identified
from rfdlight.victims.loaded import LoadedVictim
from rfdlight.victims.schemes import file_digest, place_of


class Program(Identified):
    """A network of TorchScript, or an exported one, which runs no hooks of its layers and has no mode to change."""

    def __init__(self, program: nn.Module, identity: str) -> None:
        super().__init__(identity)
        self.program = program
        self.training = False

    def forward(self, x: Tensor) -> Any:
        return self.program(x)

    def train(self, mode: bool = True) -> Self:
        """Change nothing but the flag: an exported program raises where its mode is set."""
        self.training = mode
        return self


def load_torchscript(spec: str) -> LoadedVictim:
    """Load the victim `torchscript:FILE`, in eval mode."""
    return _loaded(spec, "TorchScript", lambda path: torch.jit.load(path, map_location="cpu").eval())


def load_torch_export(spec: str) -> LoadedVictim:
    """Load the victim `torch-export:FILE`, as it was exported."""
    return _loaded(spec, "an exported program of torch", lambda path: torch.export.load(path).module())


def _loaded(spec: str, kind: str, read: Callable[[Path], nn.Module]) -> LoadedVictim:
    path = expanded(place_of(spec))
    digest = file_digest(path)
    try:
        with quiet():  # torch logs what it tried before it raises, and warns that TorchScript is deprecated
            program = read(path)
    except Exception as error:  # a damaged file may raise anything
        raise UserError(legible(f"cannot read {path} as {kind}: {one_line(error)[:300]}")) from error
    identity = f"{kind} of sha256 {digest}"
    return LoadedVictim(Program(program, identity), f"{spec}, {identity}, clean accuracy unknown")
