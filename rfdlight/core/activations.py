"""Activations at insertion points: forward hooks, calls without hooks, and owners of rows."""

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

_ROUNDING = 1e-3
"""Share of the largest difference between two passes below which a difference is rounding."""


def check_hookable(model: nn.Module) -> None:
    """Refuse models that run without their hooks."""
    for module in model.modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise UserError("a compiled model ignores hooks; attach the defense first, then compile")
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise UserError("nn.DataParallel runs copies of the model without the defense; use the module inside of it")


def never_called(name: str, module: nn.Module) -> DefenseError:
    """Build the error for a module that the forward pass does not call."""
    inside = [f"{name}.{child}" for child, _ in module.named_children()]
    hint = f"choose layers inside of it, such as {', '.join(inside[:3])}" if inside else "choose another layer"
    return DefenseError(
        f"the forward pass never calls the layer {name}, so nothing acts there: it is unused, or run by a fused kernel "
        f"or through .forward(), without hooks; {hint}"
    )


def called_again(name: str, quantity: str) -> DefenseError:
    """Build the error for a module that one forward pass calls several times, where only one call has a meaning."""
    return DefenseError(
        f"the forward pass calls the layer {name} more than once, so it has no single {quantity}; choose a layer that "
        "is called once"
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
def check_hooked(model: nn.Module, x: Tensor, points: Sequence[InsertionPoint]) -> None:
    """Refuse modules that a forward pass also runs through `.forward()`, which skips their hooks.

    Args:
        model: In eval mode; its own hooks do not run.
        x: (N, ...), its input.
        points: Modules of TorchScript and `model` itself are not checked.
    """
    checked = [
        point for point in points if point.module is not model and not isinstance(point.module, torch.jit.ScriptModule)
    ]
    hooked, run = [0] * len(checked), [0] * len(checked)

    def count(number: int, activation: Any) -> None:
        hooked[number] += 1

    def counting(number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            run[number] += 1
            return forward(*args, **kwargs)

        return counted

    own = [vars(point.module).get("forward") for point in checked]
    try:
        for number, point in enumerate(checked):
            vars(point.module)["forward"] = counting(number, point.module.forward)
        with received(checked, count):
            _answer(model, x)
    finally:
        for point, forward in reversed(list(zip(checked, own, strict=True))):
            vars(point.module).pop("forward", None)
            if forward is not None:
                vars(point.module)["forward"] = forward
    for number, point in enumerate(checked):
        if 0 < hooked[number] < run[number]:
            raise DefenseError(
                f"{run[number] - hooked[number]} of {run[number]} calls of the layer {point.name} in a forward pass go "
                "through .forward(), without hooks, so noise acts in the others alone; choose another layer"
            )


@torch.no_grad()
def row_owners(model: nn.Module, x: Tensor, points: Sequence[InsertionPoint]) -> list[dict[int, Tensor]]:
    """Find the image that each row of an activation depends on, by two forward passes that differ in half the images.

    Args:
        model: In eval mode; its own hooks do not run.
        x: (N, ...), its input.
        points: Of modules other than `model`.

    Returns:
        For each point, by the number of rows of its calls, the position of each row's image, (rows,) int64. The rows of
        an image follow each other, as for windows, or the images do, as for crops; other activations are left out.
    """
    images = len(x)
    changed = torch.zeros(images, dtype=torch.bool, device=x.device)
    changed[torch.randperm(images, generator=torch.Generator().manual_seed(0))[: (images + 1) // 2].to(x.device)] = True
    other = torch.where(changed.view(-1, *[1] * (x.ndim - 1)), torch.where(x < 0.5, x + 0.5, x - 0.5), x)
    passes = [_activations(model, batch, points) for batch in (x, other)]
    owners: list[dict[int, Tensor]] = []
    for first, second in zip(*passes, strict=True):
        found: dict[int, list[Tensor | None]] = {}
        for one, two in zip(first, second, strict=False):
            found.setdefault(len(one) if one.ndim else 0, []).append(_owners(one, two, changed))
        agreed = {}
        for rows, (owner, *others) in found.items():
            if owner is not None and all(each is not None and torch.equal(each, owner) for each in others):
                agreed[rows] = owner
        owners.append(agreed)
    return owners


def _owners(one: Tensor, two: Tensor, changed: Tensor) -> Tensor | None:
    """Return the order of the rows in which only those of the changed images differ, if there is just one."""
    images, rows = len(changed), len(one) if one.ndim else 0
    if one.shape != two.shape or rows == 0 or rows % images:
        return None
    number = torch.arange(rows, device=changed.device)
    difference = (one.double() - two.double()).abs().reshape(rows, -1).amax(1)
    moved = (difference > _ROUNDING * difference.max()).to(changed.device)
    orders = [number // (rows // images), number % images]
    fitting = [order for order in orders if not bool((moved & ~changed[order]).any())]
    if not bool(moved.any()) or not fitting:
        return None
    return fitting[0] if len(fitting) == 1 or torch.equal(*orders) else None


def _activations(model: nn.Module, x: Tensor, points: Sequence[InsertionPoint]) -> list[list[Tensor]]:
    """Return the activations of all calls at each point, in one forward pass."""
    found: list[list[Tensor]] = [[] for _ in points]

    def keep(number: int, activation: Any) -> None:
        if isinstance(activation, Tensor):
            found[number].append(activation.detach().clone())  # a later layer may write into it

    with received(points, keep):
        _answer(model, x)
    return found


def _answer(model: nn.Module, x: Tensor) -> Any:
    """Return the output of the model with random numbers of a fixed seed, without its own hooks."""
    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        torch.manual_seed(0)
        return model.forward(x)
