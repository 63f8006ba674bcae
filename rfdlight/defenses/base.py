"""What a defense is: a change at some places of a network, for a while."""

from __future__ import annotations

import inspect
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

from rfdlight.core.activations import (
    CallCount,
    Point,
    batch_size,
    check_hookable,
    check_hooked,
    check_points,
    never_called,
    without_effect,
)
from rfdlight.core.arguments import Configurable, argument, changed_arguments, parameters, text_of
from rfdlight.errors import DefenseError, UserError

CHECKED_ON = 4
"""Images on which `Defense.check_effect` is called before a run: enough to tell an answer from a constant."""

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

    @property
    def point(self) -> Point:
        """The place as `rfdlight.core.activations` takes it."""
        return self.name, self.module, self.side


class Defense(Configurable, Callback, ABC):
    """Changes activations by hooks, as a context manager on any module or as a Lightning callback.

    `with defense.on(model): ...` defends inside the block; afterwards, and after any exception, the
    model is what it was. As a callback of a Trainer, it defends the LightningModule's `victim` (or the
    module itself where it has none) during `test`, and is part of what is trained during `fit`.

    Several defenses may be attached to one model. Those at the same place act in the order in which
    they were attached, each on what the one before it left; `undefended` switches all of them off.

    The first defended forward pass counts how often it calls each place. It raises a DefenseError if it never calls
    one of them, whose activation would then stay as it is.

    Subclasses say where (`places`) and what (`transform`).
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._places: list[Place] = []
        self._count: CallCount | None = None
        self._calls: dict[str, int] = {}
        self._fitting = False

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
        """Return one line on what the defense does to `model`; arguments of a subclass need not be in it."""

    def description(self, model: nn.Module) -> str:
        """Return `describe` with all it leaves out: other arguments that are not at their defaults, several calls.

        Two defenses of different arguments have different descriptions. The calls per image are those of the first
        forward pass, and unknown before it.
        """
        text = self.describe(model)
        calls = {place.name: self._calls.get(place.name, 1) for place in self.places(model)}
        return ", ".join(
            [
                text,
                *changed_arguments(self, leave_out=self._described(text, model)),
                *(f"{count} calls per image at {name}" for name, count in calls.items() if count > 1),
            ]
        )

    def _described(self, text: str, model: nn.Module) -> list[str]:
        """Return the arguments that are in `text`: those of the nearest class of rfdlight, if its `describe` is.

        One that a subclass keeps for itself under the same name is not among them.
        """
        shipped: type[Defense] = next(base for base in type(self).__mro__ if base.__module__.startswith("rfdlight."))
        if inspect.isabstract(shipped) or shipped.describe(self, model) not in text:
            return []
        names = parameters(type(self)).keys() & parameters(shipped).keys()
        return [name for name in names if type(self) is shipped or self._holds(name)]

    def _holds(self, name: str) -> bool:
        """Return whether the attribute of this name is the argument, or a list of it alone."""
        value = argument(self, name)
        return text_of(vars(self).get(name)) in (text_of(value), text_of([value]))

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
            UserError: If the defense is attached already, or the hooks would not run, as in a compiled model or inside
                of a TorchScript module.
        """
        if self._handles:
            raise UserError(f"this {type(self).__name__} already defends a model; detach it first")
        check_hookable(model)
        places = self.places(model)
        check_points(model, [place.point for place in places])
        self._places, self._calls, self._count = places, {}, None
        begin = model.register_forward_pre_hook(self._begin, with_kwargs=True)
        self._handles.append(begin)
        for number, place in enumerate(places):
            if place.side == "input":
                handle = place.module.register_forward_pre_hook(partial(self._before, number))
            else:
                handle = place.module.register_forward_hook(partial(self._after, number))
            self._handles.append(handle)
        end = model.register_forward_hook(partial(self._end, begin))
        self._handles.append(end)

    def detach(self) -> None:
        """Take the hooks out; harmless when there are none."""
        while self._handles:
            self._handles.pop().remove()
        self._count = None

    def check_effect(self, model: nn.Module, x: Tensor) -> None:
        """Refuse places whose activations the output of `model` does not depend on, by a few forward passes.

        Args:
            model: That the defense is attached to, in eval mode. Its own hooks do not run.
            x: (N, ...), its input; a model that fails on it is not checked.

        Raises:
            DefenseError: If no perturbation at a place changes the output, as where it is multiplied by 0, or if some
                calls of its module run no hooks.
        """
        points = [place.point for place in self._places]
        with undefended():
            try:
                check_hooked(model, x, points)
                idle = without_effect(model, x, points)
            except DefenseError:
                raise
            except Exception:  # a user's own code may raise anything
                return
        if idle:
            name = points[idle[0]][0]
            raise DefenseError(
                f"no change at the layer {name} changes an answer: the layers that follow ignore its activation; "
                "choose another layer"
            )

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # A validation pass of a training does not call layers that only act in training.
        if _defended.get() and (model.training or not self._fitting):
            self._count = CallCount(len(self._places), batch_size(args, kwargs))

    def _end(self, begin: RemovableHandle, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        count, self._count = self._count, None
        if count is None:
            return
        calls = [count.per_image(number) for number in range(len(self._places))]
        for place, of_place in zip(self._places, calls, strict=True):
            if of_place == 0:
                raise never_called(place.name, place.module)
        self._calls = {place.name: of_place for place, of_place in zip(self._places, calls, strict=True)}
        begin.remove()  # the passes that follow are not counted

    def _before(self, place: int, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not _defended.get():
            return None  # which leaves the activation as it is
        if not inputs:
            raise self._refused(place, "is called by keywords alone; choose the output of a layer before it")
        return (self._changed(inputs[0], place), *inputs[1:])

    def _after(self, place: int, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor | None:
        return self._changed(output, place) if _defended.get() else None

    def _changed(self, x: Any, place: int) -> Tensor:
        if not isinstance(x, Tensor):
            got = type(x).__name__
            raise self._refused(place, f"must be a tensor, got a {got}; choose a layer inside of it or after it")
        if self._count is not None:
            self._count.add(place, x)
        return self.transform(x, place)

    def _refused(self, place: int, why: str) -> DefenseError:
        """Build the error for a place whose activation cannot be changed."""
        at = self._places[place]
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
        """Take the hooks out at the end."""
        self.detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the hooks out after a failure, when Lightning calls no teardown."""
        self.detach()
