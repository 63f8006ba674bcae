"""Activations at insertion points: forward hooks, and their effect on the output."""

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
        """Name and side, such as "layer3:output"."""
        return f"{self.name}:{self.side}"


Receive = Callable[[int, Any], Tensor | None]
"""Called with the index of an insertion point and its activation; returns a replacement, or None."""

_SIZES = (1.0, 10.0, 100.0)
"""Standard deviations of the perturbations that test for an effect, in units of the largest activation."""


def check_hookable(model: nn.Module) -> None:
    """Refuse models that run without their hooks."""
    for module in model.modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise UserError("a compiled model ignores hooks; attach the defense first, then compile")
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise UserError("nn.DataParallel runs copies of the model without the defense; use the module inside of it")


def check_points(model: nn.Module, points: Sequence[InsertionPoint]) -> None:
    """Refuse insertion points at which no hook runs."""
    for point in (InsertionPoint("", model, "output"), *points):
        if not isinstance(point.module, torch.jit.ScriptModule):
            continue
        if not isinstance(point.module, torch.jit.TopLevelTracedModule):  # runs its own hooks, but none inside
            raise UserError(
                f"{f'the layer {point.name}' if point.name else 'the model'} is TorchScript, which runs no hooks "
                "inside; use the Python network that was traced or scripted"
            )


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


@torch.no_grad()
def without_effect(model: nn.Module, x: Tensor, points: Sequence[InsertionPoint]) -> list[InsertionPoint]:
    """Find the points at which no perturbation changes the model's output for `x`, by two to four passes each.

    The model is in eval mode, and its own hooks do not run. Points that no call reaches count as having an effect.
    """
    return [point for point in points if point.module is not model and not _acts(model, x, point)]


def _acts(model: nn.Module, x: Tensor, point: InsertionPoint) -> bool:
    # Size 0 copies the activation, as noise does: a layer that works in place then no longer changes its input.
    reference = _perturbed(model, x, point, 0.0)
    if reference is None:
        return True
    for size in _SIZES:
        try:
            answer = _perturbed(model, x, point, size)
        except Exception:  # a model may raise anything where its activations are out of range
            return True
        if answer is None or not torch.equal(answer, reference):
            return True
    return False


def _perturbed(model: nn.Module, x: Tensor, point: InsertionPoint, size: float) -> Tensor | None:
    """Return the output with perturbed activations at a point, or None where there are none of real numbers."""
    perturbed = False

    def perturb(number: int, activation: Any) -> Tensor | None:
        nonlocal perturbed
        if not isinstance(activation, Tensor) or not activation.is_floating_point():
            return None
        perturbed = True
        return activation + size * (1 + activation.abs().max()) * torch.randn_like(activation)

    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []), received([point], perturb):
        torch.manual_seed(0)
        answer = model.forward(x)
    return answer if perturbed and isinstance(answer, Tensor) else None
