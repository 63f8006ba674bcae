"""Base class of the defenses."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rfdlight.core.activations import InsertionPoint, check_hookable, check_points, never_called, without_effect
from rfdlight.core.arguments import Configurable, argument, changed_arguments, parameters, text_of
from rfdlight.errors import DefenseError, UserError

CHECKED_ON = 4
"""Images on which `Defense.check_effect` is called before a run."""

_defended: ContextVar[bool] = ContextVar("defended", default=True)


@contextmanager
def undefended() -> Iterator[None]:
    """Disable every attached defense inside a with block, on all models of this thread.

    The hooks stay registered, but change no activation and draw no random numbers: the outputs are those of the
    undefended model, bit for bit. Blocks may be nested.

    Example:
        >>> import torch
        >>> from rfdlight.defenses import InputNoise
        >>> with InputNoise(sigma=1.0).on(nn.Flatten()) as model, undefended():
        ...     model(torch.ones(1, 1, 1, 2))
        tensor([[1., 1.]])
    """
    token = _defended.set(False)
    try:
        yield
    finally:
        _defended.reset(token)


def attached_defenses(model: nn.Module) -> list[Defense]:
    """Return the defenses that are attached to a model, in the order of their attachment."""
    owners = [getattr(getattr(hook, "func", hook), "__self__", None) for hook in model._forward_hooks.values()]
    return [owner for owner in owners if isinstance(owner, Defense)]


class Defense(Configurable, Callback, ABC):
    """Base class of the defenses: changes activations by hooks, as a context manager or as a Lightning callback.

    `with defense.on(model): ...` defends inside the block; afterwards, and after any exception, the model is restored.
    As a callback of a Trainer, it defends the LightningModule's `victim` (or the module itself where it has none)
    during `test` and `fit`.

    Several defenses may be attached to one model. At the same insertion point they act in the order in which they were
    attached, each on the result of the one before it; `undefended` disables all of them.

    The first defended forward pass counts the calls of each insertion point, and raises a DefenseError if one is never
    called.

    Subclasses define `insertion_points`, `transform` and `describe`.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._points: list[InsertionPoint] = []
        self._counted: list[int] | None = None
        self._calls: dict[str, int] = {}
        self._fitting = False

    @abstractmethod
    def insertion_points(self, model: nn.Module) -> list[InsertionPoint]:
        """Return where this defense acts on `model`, at least one insertion point.

        Raises:
            UserError: If there is none.
        """

    @abstractmethod
    def transform(self, x: Tensor, point: int) -> Tensor:
        """Return the replacement of the activation `x`, (rows, ...), of the same shape.

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
        """Return `describe`, the other arguments that are not at their defaults, and calls per image above one.

        Defenses with different arguments have different descriptions. The calls are those of the first forward pass.
        """
        text = self.describe(model)
        calls = {point.name: self._calls.get(point.name, 1) for point in self.insertion_points(model)}
        return ", ".join(
            [
                text,
                *changed_arguments(self, leave_out=self._described(text, model)),
                *(f"{count} calls per image at {name}" for name, count in calls.items() if count > 1),
            ]
        )

    def _described(self, text: str, model: nn.Module) -> list[str]:
        """Return the arguments that are in `text`: those of the nearest class of rfdlight, if its `describe` is."""
        shipped: type[Defense] = next(base for base in type(self).__mro__ if base.__module__.startswith("rfdlight."))
        if inspect.isabstract(shipped) or shipped.describe(self, model) not in text:
            return []
        names = parameters(type(self)).keys() & parameters(shipped).keys()
        # A subclass may use an argument of the same name for another purpose.
        return [
            name
            for name in names
            if type(self) is shipped
            or text_of(vars(self).get(name)) in (text_of(argument(self, name)), text_of([argument(self, name)]))
        ]

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
            UserError: If the defense is attached already, or hooks do not run, as in a compiled model or inside of a
                TorchScript module.
        """
        if self._handles:
            raise UserError(f"this {type(self).__name__} already defends a model; detach it first")
        check_hookable(model)
        points = self.insertion_points(model)
        check_points(model, points)
        self._points, self._calls, self._counted = points, {}, None
        begin = model.register_forward_pre_hook(self._begin)
        self._handles.append(begin)
        for number, point in enumerate(points):
            if point.side == "input":
                handle = point.module.register_forward_pre_hook(partial(self._before, number))
            else:
                handle = point.module.register_forward_hook(partial(self._after, number))
            self._handles.append(handle)
        end = model.register_forward_hook(partial(self._end, begin))
        self._handles.append(end)

    def detach(self) -> None:
        """Remove the hooks, if there are any."""
        while self._handles:
            self._handles.pop().remove()
        self._counted = None

    def check_effect(self, model: nn.Module, x: Tensor) -> None:
        """Refuse insertion points that have no effect on the output of `model`, by a few forward passes.

        Args:
            model: The defended model, in eval mode. Its own hooks do not run.
            x: (N, ...), its input; a model that fails on it is not checked.

        Raises:
            DefenseError: If no perturbation at a point changes the output, as where it is multiplied by 0.
        """
        with undefended():
            try:
                idle = without_effect(model, x, self._points)
            except Exception:  # a user's own code may raise anything
                return
        if idle:
            raise DefenseError(
                f"no change at the layer {idle[0].name} changes an answer: the layers that follow ignore "
                "its activation; choose another layer"
            )

    def _begin(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        # A validation pass of a training does not call layers that only act in training.
        if _defended.get() and (model.training or not self._fitting):
            self._counted = [0] * len(self._points)

    def _end(self, begin: RemovableHandle, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        counted, self._counted = self._counted, None
        if counted is None:
            return
        for point, calls in zip(self._points, counted, strict=True):
            if calls == 0:
                raise never_called(point)
            self._calls[point.name] = calls
        begin.remove()  # later passes are not counted

    def _before(self, point: int, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not _defended.get():
            return None
        if not inputs:
            raise self._refused(point, "is called by keywords alone; choose the output of a layer before it")
        return (self._changed(inputs[0], point), *inputs[1:])

    def _after(self, point: int, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor | None:
        return self._changed(output, point) if _defended.get() else None

    def _changed(self, x: Any, point: int) -> Tensor:
        if not isinstance(x, Tensor):
            got = type(x).__name__
            raise self._refused(point, f"must be a tensor, got a {got}; choose a layer inside of it or after it")
        if self._counted is not None:
            self._counted[point] += 1
        return self.transform(x, point)

    def _refused(self, point: int, why: str) -> DefenseError:
        """Build the error for an insertion point whose activation cannot be changed."""
        at = self._points[point]
        return DefenseError(f"the {at.side} at {at.name} ({type(at.module).__name__}) {why}")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train with the noise, as Gaussian-augmented fine-tuning does."""
        self._fitting = True
        self.attach(getattr(pl_module, "victim", pl_module))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Defend during `test`."""
        self._fitting = False
        self.attach(getattr(pl_module, "victim", pl_module))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks at the end."""
        self.detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks after a failure, when Lightning calls no teardown."""
        self.detach()
