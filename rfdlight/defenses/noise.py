"""Base class of the defenses that add noise to activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rfdlight.core import query_counts
from rfdlight.core.arguments import class_name, text_of
from rfdlight.core.tensors import per_row
from rfdlight.defenses.base import Defense
from rfdlight.errors import DefenseError, UserError

Schedule = Callable[[Tensor], Any]
"""Maps the clock, (rows,) int64, to the factor of sigma, a tensor (rows,), >= 0.

The clock is the number of queries that the row's image has been billed so far. The success criterion's evaluations have
the clock of their candidate; outside of an attack it is 0.
"""  # The result is no Tensor for mypy: the command line would then expect a subclass of Tensor.


class Noise(Defense):
    """Adds sigma times noise at each insertion point, fresh at every call and independent between rows.

    A subclass may override `noise` for another distribution.

    Args:
        sigma: Standard deviation of the noise, in the units of the activation, >= 0: one number, or
            one per insertion point.
        schedule: From the clock to the factor of sigma: a function or any other callable. On the command line, the
            import path of a function, or of a class whose objects can be called.

    Raises:
        UserError: If a sigma is negative or not finite.
    """

    def __init__(self, sigma: float | list[float], schedule: Schedule | None = None) -> None:
        super().__init__()
        for value in sigma if isinstance(sigma, list) else [sigma]:
            if not (value >= 0 and math.isfinite(value)):
                raise UserError(f"defense.sigma must be at least 0, got {value}")
        self.sigma = sigma
        self.schedule = schedule

    def noise(self, x: Tensor) -> Tensor:
        """Return noise of the shape of `x`, of mean 0 and standard deviation 1; normal by default."""
        return drawn_like(x, torch.randn, torch.randn_like, x.dtype)

    @property
    def is_random(self) -> bool:
        """Whether any sigma is positive."""
        return any(value > 0 for value in (self.sigma if isinstance(self.sigma, list) else [self.sigma]))

    def sigmas(self, count: int) -> list[float]:
        """Return one sigma per insertion point; raise a UserError if a list of another length was given."""
        if not isinstance(self.sigma, list):
            return [self.sigma] * count
        if len(self.sigma) != count:
            raise UserError(f"defense.sigma needs one value or {count}, one per layer, got {len(self.sigma)}")
        return self.sigma

    def attach(self, model: nn.Module) -> None:
        """Register the hooks, if there is a sigma for each insertion point."""
        sigmas = self.sigmas(len(self.insertion_points(model)))
        super().attach(model)
        self._sigmas = sigmas

    def transform(self, x: Tensor, point: int) -> Tensor:
        """Add the noise; sigma 0 leaves the activation as it is."""
        sigma = self._sigmas[point]
        if sigma == 0:
            return x
        if not x.is_floating_point():
            raise self._refused(point, f"must have floating-point numbers for noise, got {x.dtype}")
        noise = self.noise(x)
        if self.schedule is not None:
            noise = noise * per_row(self._factors(self.schedule, x, point).to(x.dtype), x)
        return torch.add(x, noise, alpha=sigma)

    def _factors(self, schedule: Schedule, x: Tensor, point: int) -> Tensor:
        """Return the factor of sigma for each row of `x`, (rows,)."""
        clock, rows = query_counts.current(), x.shape[0]  # not its len, which torch.export would take for a constant
        if clock is None:
            clock = torch.zeros(rows, dtype=torch.int64, device=x.device)
        # With as many tokens as images, an activation (tokens, images, features) looks like (images, tokens, features).
        images = clock.shape[0]
        if rows != images or (x.ndim == 3 and x.shape[1] == images):
            got = f"got shape {tuple(x.shape)} for {images} images; choose another layer"
            raise self._refused(point, f"must have one row per image for a schedule, {got}")
        factors = schedule(clock)
        if not isinstance(factors, Tensor) or factors.shape != (rows,):
            got = f"shape {tuple(factors.shape)}" if isinstance(factors, Tensor) else f"a {type(factors).__name__}"
            raise DefenseError(f"a schedule must return one factor per row, a tensor of shape ({rows},), got {got}")
        return factors

    def describe(self, model: nn.Module) -> str:
        """Return the sigmas, the insertion points and the schedule."""
        points = self.insertion_points(model)
        sigmas = self.sigmas(len(points))
        shown = "/".join(map(text_of, sigmas[:1] if len(set(sigmas)) == 1 else sigmas))
        return self._line(f"at the {points[0].side} of {', '.join(point.name for point in points)}", shown)

    def _line(self, where: str, sigma: str | None = None) -> str:
        """Return the class, the sigma, `where` the noise is, and the schedule with its arguments."""
        schedule = "" if self.schedule is None else f", schedule {text_of(self.schedule)}"
        return f"{class_name(type(self))} sigma {sigma or text_of(self.sigma)} {where}{schedule}"


def drawn_like(x: Tensor, draw: Callable[..., Tensor], draw_like: Callable[..., Tensor], dtype: torch.dtype) -> Tensor:
    """Return random numbers of a dtype, of the shape and memory format of `x`; `draw` is `torch.rand` or `randn`."""
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        # torch fills such a tensor number by number; in the order of its memory it is several times faster.
        rows, channels, height, width = x.shape
        return draw((rows, height, width, channels), dtype=dtype, device=x.device).permute(0, 3, 1, 2)
    return draw_like(x, dtype=dtype)
