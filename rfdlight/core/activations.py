"""Activations at insertion points: forward hooks, and errors of layers that cannot be hooked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rfdlight.errors import DefenseError, UserError


@dataclass(frozen=True)
class InsertionPoint:
    """Where a defense changes an activation: the input or the output of a module.

    Attributes:
        name: The module's path in the network.
        module: The module.
        side: Whether its input or its output is changed.
    """

    name: str
    module: nn.Module
    side: Literal["input", "output"]

    @property
    def key(self) -> str:
        """Name and side, joined by a colon."""
        return f"{self.name}:{self.side}"


Receive = Callable[[int, Any], Tensor | None]
"""Called with the index of an insertion point and its activation; returns a replacement, or None."""


def check_hookable(model: nn.Module, points: Sequence[InsertionPoint]) -> None:
    """Refuse models and insertion points that run without their hooks."""
    for point in points:
        # A traced module runs its own hooks, but none inside.
        module = point.module
        if isinstance(module, torch.jit.ScriptModule) and not isinstance(module, torch.jit.TopLevelTracedModule):
            raise UserError(
                f"the layer {point.name} is TorchScript, which runs no hooks; use the network before tracing"
            )
    for module in model.modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise UserError("a compiled model ignores hooks; attach the defense first, then compile")
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise UserError("nn.DataParallel runs copies of the model without the defense; use the module inside of it")


def never_called(point: InsertionPoint) -> DefenseError:
    """Build the error for a module that the forward pass does not call."""
    inside = [f"{point.name}.{child}" for child, _ in point.module.named_children()]
    hint = f"choose layers inside of it, such as {', '.join(inside[:3])}" if inside else "choose another layer"
    return DefenseError(
        f"the forward pass never calls the layer {point.name}, so nothing acts there: it is unused, or run by a fused "
        f"kernel or through .forward(), without hooks; {hint}"
    )


def called_again(point: InsertionPoint, quantity: str) -> DefenseError:
    """Build the error for a module that one forward pass calls several times, where only one call has a meaning."""
    return DefenseError(
        f"the forward pass calls the layer {point.name} more than once, so it has no single {quantity}; choose a layer "
        "that is called once"
    )


@contextmanager
def received(points: Sequence[InsertionPoint], receive: Receive) -> Iterator[None]:
    """Call `receive` with the activation at each point inside a with block."""
    handles: list[RemovableHandle] = []

    def after(number: int) -> Callable[..., Any]:
        return lambda module, args, output: receive(number, output)

    def before(number: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> Any:
            changed = receive(number, args[0] if args else None)
            return None if changed is None else (changed, *args[1:])

        return hook

    try:
        for number, point in enumerate(points):
            if point.side == "input":
                handles.append(point.module.register_forward_pre_hook(before(number)))
            else:
                handles.append(point.module.register_forward_hook(after(number)))
        yield
    finally:
        for handle in handles:
            handle.remove()
