"""What a defense is: a change at some places of a network, for a while."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rfdlight.errors import UserError

_defended: ContextVar[bool] = ContextVar("defended", default=True)


@contextmanager
def undefended() -> Iterator[None]:
    """Switch every attached defense off inside a with block, on all models of this thread.

    The hooks stay where they are, but leave the activations untouched and draw no random numbers: the
    answers are those of the undefended model, bit for bit. Blocks may be nested.

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


@dataclass(frozen=True)
class Place:
    """Where a defense acts.

    Attributes:
        name: The module's path in the network, for people.
        module: The module.
        side: Whether its input or its output is changed.
    """

    name: str
    module: nn.Module
    side: Literal["input", "output"]


class Defense(Callback, ABC):
    """Changes activations by hooks, as a context manager on any module or as a Lightning callback.

    `with defense.on(model): ...` defends inside the block; afterwards, and after any exception, the
    model is what it was. As a callback of a Trainer, it defends the LightningModule's `victim` (or the
    module itself where it has none) during `test`, and is part of what is trained during `fit`.

    Several defenses may be attached to one model. Those at the same place act in the order in which
    they were attached, each on what the one before it left; `undefended` switches all of them off.

    Subclasses say where (`places`) and what (`transform`).
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    @abstractmethod
    def places(self, model: nn.Module) -> list[Place]:
        """Return where this defense acts on `model`, at least one place.

        Raises:
            UserError: If there is none.
        """

    @abstractmethod
    def transform(self, x: Tensor, place: int) -> Tensor:
        """Return what takes the place of the activation `x`, (rows, ...), of the same shape.

        Args:
            x: The activation; it must not be changed.
            place: Its position among the places.
        """

    @property
    def is_random(self) -> bool:
        """Whether two calls may differ."""
        return True

    @abstractmethod
    def describe(self, model: nn.Module) -> str:
        """Return one line on what the defense does to `model`."""

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[nn.Module]:
        """Defend `model` inside a with block."""
        self.attach(model)
        try:
            yield model
        finally:
            self.detach()

    def attach(self, model: nn.Module) -> None:
        """Put the hooks in.

        Raises:
            UserError: If the defense is attached already, or the model is compiled, which would
                silently leave the hooks out.
        """
        if self._handles:
            raise UserError(f"this {type(self).__name__} already defends a model; detach it first")
        if any(hasattr(module, "_orig_mod") for module in model.modules()):
            raise UserError("a compiled model ignores hooks; attach the defense first, then compile")
        for number, place in enumerate(self.places(model)):
            if place.side == "input":
                handle = place.module.register_forward_pre_hook(partial(self._before, number))
            else:
                handle = place.module.register_forward_hook(partial(self._after, number))
            self._handles.append(handle)

    def detach(self) -> None:
        """Take the hooks out; harmless when there are none."""
        while self._handles:
            self._handles.pop().remove()

    def _before(self, place: int, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not _defended.get():
            return None  # which leaves the activation as it is
        if not inputs:
            raise UserError(f"cannot defend the input of a {type(module).__name__}, which is called by keywords alone")
        return (self.transform(inputs[0], place), *inputs[1:])

    def _after(self, place: int, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor | None:
        if not _defended.get():
            return None
        if not isinstance(output, Tensor):
            raise UserError(f"cannot defend the output of a {type(module).__name__}, a {type(output).__name__}")
        return self.transform(output, place)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train with the noise, as Gaussian-augmented fine-tuning does."""
        self.attach(getattr(pl_module, "victim", pl_module))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Defend during `test`."""
        self.attach(getattr(pl_module, "victim", pl_module))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the hooks out at the end."""
        self.detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the hooks out after a failure, when Lightning calls no teardown."""
        self.detach()
