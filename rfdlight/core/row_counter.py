"""Counter of the rows that a module answers, eagerly or compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn

from rfdlight.core.switch import Switch

_switch = Switch()
"""Of all counters; it is off in compiled forward passes, which change none."""


class RowCounter:
    """Counts the rows of a module's forward passes inside a with block, by a hook; a pass that raises has no rows.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 3)
        >>> with RowCounter(model) as counter:
        ...     answer = model(torch.ones(5, 2))
        >>> counter.rows
        5
    """

    def __init__(self, module: nn.Module) -> None:
        self.rows = 0
        self._module = module
        self._given = 0

    def __enter__(self) -> Self:
        # First of all hooks, since a defense may repeat rows before the module.
        self._hooks = [
            self._module.register_forward_pre_hook(self._receive, prepend=True),
            self._module.register_forward_hook(self._count),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _receive(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if _switch.on:
            self._given = len(inputs[0])

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        if _switch.on:
            self.rows += self._given


@contextmanager
def counted_once(module: nn.Module, rows: int) -> Iterator[None]:
    """Count the rows of the compiled forward pass inside, unless it raises, in all counters of a module."""
    with _switch.off():
        yield
    for hook in module._forward_hooks.values():
        counter = getattr(hook, "__self__", None)
        if isinstance(counter, RowCounter):
            counter.rows += rows
