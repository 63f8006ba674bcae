"""Counter of the rows that a module answers."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn


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
        self._given = len(inputs[0])

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        self.rows += self._given
