"""Base class of the defenses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rfdlight.core.activations import InsertionPoint, check_hookable, never_called
from rfdlight.core.arguments import Configurable, changed_arguments
from rfdlight.core.switch import Switch
from rfdlight.errors import DefenseError, UserError

_switch = Switch()
"""Of all defenses."""


@contextmanager
def undefended() -> Iterator[None]:
    """Disable every attached defense inside a with block, on all models of this process.

    The hooks stay registered, but change no activation and draw no random numbers: the outputs are those of the
    undefended model, bit for bit. Blocks may be nested.

    Example:
        >>> import torch
        >>> from rfdlight.defenses import InputNoise
        >>> with InputNoise(sigma=1.0).on(nn.Flatten()) as model, undefended():
        ...     model(torch.ones(1, 1, 1, 2))
        tensor([[1., 1.]])
    """
    with _switch.off():
        yield


def attached_defenses(model: nn.Module) -> list[Defense]:
    """Return the defenses that are attached to a model and not disabled, in the order of their attachment."""
    if not _switch.on:
        return []
    owners = [getattr(getattr(hook, "func", hook), "__self__", None) for hook in model._forward_hooks.values()]
    return list(dict.fromkeys(owner for owner in owners if isinstance(owner, Defense)))


class Defense(Configurable, Callback, ABC):
    """Base class of the defenses: changes activations by hooks, as a context manager or as a Lightning callback.

    `with defense.on(model): ...` defends inside the block; afterwards, and after any exception, the model is restored.
    As a callback of a Trainer, it defends the LightningModule's `victim` (or the module itself where it has none)
    during `test` and `fit`.

    Several defenses may be attached to one model. At the same insertion point they act in the order of their
    attachment, each on the result of the one before it.

    Subclasses define `insertion_points`, `transform` and `describe`.

    Raises:
        DefenseError: In the first defended forward pass, if it never calls one of the insertion points.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._points: list[InsertionPoint] = []
        self._counts: list[int] = []
        self._calls: list[int] = []

    @abstractmethod
    def insertion_points(self, model: nn.Module) -> list[InsertionPoint]:
        """Return where this defense acts on `model`, or raise a UserError if there is no insertion point."""

    @abstractmethod
    def transform(self, x: Tensor, point: int) -> Tensor:
        """Return the replacement of the activation `x`, (rows, ...), of the same shape in each row.

        Args:
            x: The activation; it must not be changed.
            point: Index of its insertion point.
        """

    @property
    def is_random(self) -> bool:
        """Whether two calls may differ."""
        return True

    @abstractmethod
    def describe(self, model: nn.Module) -> str:
        """Return one line on the defense of `model`; a subclass may leave out its own arguments."""

    def description(self, model: nn.Module) -> str:
        """Return `describe`, for a user's class the arguments that are not at their defaults, and calls above one.

        Defenses with different arguments have different descriptions. The calls are those of the first forward pass.
        """
        shipped = type(self).__module__.startswith("rfdlight.")
        parts = [self.describe(model), *([] if shipped else changed_arguments(self))]
        for point, calls in zip(self._points, self._calls, strict=False):
            if calls > 1:
                parts.append(f"{calls} calls per image at {point.name}")
        return ", ".join(parts)

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[nn.Module]:
        """Defend `model` inside a with block."""
        self.attach(model)
        try:
            yield model
        finally:
            self.detach()

    def attach(self, model: nn.Module) -> None:
        """Register the hooks.

        Raises:
            UserError: If the defense is attached already, or the model is compiled and ignores hooks.
        """
        if self._handles:
            raise UserError(f"this {type(self).__name__} already defends a model; detach it first")
        self._points = self.insertion_points(model)
        check_hookable(model, self._points)
        self._counts, self._calls = [0] * len(self._points), []
        self._handles.append(model.register_forward_pre_hook(self._begin))
        for number, point in enumerate(self._points):
            if point.side == "input":
                handle = point.module.register_forward_pre_hook(partial(self._before, number))
            else:
                handle = point.module.register_forward_hook(partial(self._after, number))
            self._handles.append(handle)
        self._handles.append(model.register_forward_hook(self._end))

    def detach(self) -> None:
        """Remove the hooks, if there are any."""
        while self._handles:
            self._handles.pop().remove()

    def _begin(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not self._calls:
            self._counts = [0] * len(self._points)

    def _end(self, model: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Check the calls of the first defended forward pass."""
        if self._calls or not _switch.on:
            return
        for point, count in zip(self._points, self._counts, strict=True):
            if count == 0:
                raise never_called(point)
        self._calls = list(self._counts)

    def _before(self, point: int, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not _switch.on:
            return None
        if not inputs:
            raise self._refused(point, "is called by keywords alone; choose the output of a layer before it")
        return (self._changed(inputs[0], point), *inputs[1:])

    def _after(self, point: int, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor | None:
        return self._changed(output, point) if _switch.on else None

    def _changed(self, x: Any, point: int) -> Tensor:
        if not isinstance(x, Tensor):
            got = type(x).__name__
            raise self._refused(point, f"must be a tensor, got a {got}; choose a layer inside of it or after it")
        if not self._calls:  # only the first pass is counted: a compiled victim changes no list
            self._counts[point] += 1
        return self.transform(x, point)

    def _refused(self, point: int, why: str) -> DefenseError:
        at = self._points[point]
        return DefenseError(f"the {at.side} at {at.name} ({type(at.module).__name__}) {why}")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train with the defense, as Gaussian-augmented fine-tuning does."""
        self.attach(getattr(pl_module, "victim", pl_module))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Defend during `test`."""
        self.attach(getattr(pl_module, "victim", pl_module))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks at the end."""
        self.detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks after a failure, when Lightning calls no teardown."""
        self.detach()
