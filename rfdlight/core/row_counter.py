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

    def __enter__(self) -> Self:
        self._hook = self._module.register_forward_hook(self._count)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hook.remove()

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        self.rows += len(inputs[0])
