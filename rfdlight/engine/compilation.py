"""Compiled victim: the whole forward pass as one graph, the noise of the defenses inside."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rfdlight.core.row_counter import counted_once

Answer = Callable[[Tensor], Any]

_SHARE_SAVED = 0.3
"""Share of an eager pass's time that a compiled pass saves at least, in most of the measurements."""

_TIMES = 2
"""How many times its own time a compilation has to save: most runs end before their last query."""

SHARE_MADE = 0.25
"""Share of the queries of all budgets that a run on a deterministic victim makes, where most images fall early."""


def is_worthwhile(rows: int, seconds_per_row: float, compile_seconds: float, deterministic: bool) -> bool:
    """Return whether a compiled victim saves a multiple of the time that its compilation takes.

    Args:
        rows: At most to come.
        seconds_per_row: Of an eager forward pass.
        compile_seconds: See `compile_seconds`.
        deterministic: Whether the victim is.

    Example:
        >>> is_worthwhile(40 * 300, 0.001, 50.0, False), is_worthwhile(1000 * 1000, 0.001, 50.0, False)
        (False, True)
    """
    if not math.isfinite(seconds_per_row):  # no pass was timed
        return False
    made = rows * (SHARE_MADE if deterministic else 1)
    return made * seconds_per_row * _SHARE_SAVED > _TIMES * compile_seconds


def compile_seconds(victim: nn.Module) -> float:
    """Return a guess of the seconds of a compilation, from resnet20: 10, and one for each layer with weights."""
    layers = sum(any(True for _ in module.parameters(recurse=False)) for module in victim.modules())
    return 10.0 + layers


def agree(eager: Tensor, compiled: Tensor) -> bool:
    """Return whether logits, (rows, classes) both, differ by at most 0.0001 of the range of their row."""
    span = (eager.amax(1, keepdim=True) - eager.amin(1, keepdim=True)).clamp_min(torch.finfo(eager.dtype).tiny)
    return bool(((eager - compiled).abs() <= 1e-4 * span).all())


def inductor(answer: Answer, cuda_graphs: bool = True) -> Answer:
    """Compile a function as one graph with constant weights, which draws random numbers as the function does.

    On a GPU its passes are CUDA graphs, unless `cuda_graphs` is False.
    """
    from torch._inductor import config  # slow to import

    options: dict[str, Any] = {"fallback_random": True}
    if cuda_graphs and torch.cuda.is_available():
        options["triton.cudagraphs"] = True  # as in the mode reduce-overhead
    compiled: Answer = torch.compile(answer, fullgraph=True, dynamic=False, options=options)

    def run(batch: Tensor) -> Any:
        # No option of torch.compile: the trace, which decides which weights are constant, does not see its options.
        with config.patch(freezing=True):
            return compiled(batch)

    return run


class CompiledVictim:
    """Compiles a victim for full forward passes; several oracles may share it.

    Args:
        victim: In eval mode, with its defenses attached; its weights and hooks must not change any more.
        compiler: From a function of a batch to a faster one.
    """

    def __init__(self, victim: nn.Module, compiler: Callable[[Answer], Answer] = inductor) -> None:
        self.victim = victim
        self.compiler = compiler
        self.rows: set[int] = set()  # of the passes that it was compiled and checked for
        self.failure: str | None = None  # why it does not compile
        self._answer: Answer | None = None

    def __call__(self, batch: Tensor) -> Any:
        """Return the victim's answer to a batch, and count its rows."""
        if self._answer is None:
            self._answer = self.compiler(_own_function(self.victim))
        with counted_once(self.victim, len(batch)):
            return self._answer(batch)


def _own_function(victim: nn.Module) -> Answer:
    """Return the victim as a function with code of its own: torch bounds the number of compilations per code."""

    def answer(batch: Tensor) -> Any:
        return victim(batch)

    answer.__code__ = answer.__code__.replace()
    return answer
