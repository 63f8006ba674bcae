"""Noise added to activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rfdlight import clock
from rfdlight.defenses.base import Defense
from rfdlight.errors import UserError
from rfdlight.tensors import per_row

Schedule = Callable[[Tensor], Any]
"""From the clock, (rows,) int64, to the factor of sigma, a tensor (rows,), >= 0.

Its result is not annotated as a tensor, since the command line would then take a class for a subclass
of Tensor, where the class of a callable is meant.
"""


class Noise(Defense):
    """Adds sigma times noise at each place, fresh at every call and independent between rows.

    Two methods are made to be overridden: `noise` for another distribution and `scale_at` for a
    schedule over the queries of an attack. A schedule that is a plain function is given as `schedule`.

    Args:
        sigma: Standard deviation of the noise, in the units of the activation, >= 0: one number, or
            one per place.
        schedule: From the clock to the factor of sigma, as `scale_at`: a function or any other callable.
            On the command line, the import path of a function, or of a class whose objects can be called.

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
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            # torch fills such a tensor number by number; in the order of its memory it goes several times faster.
            rows, channels, height, width = x.shape
            shape = (rows, height, width, channels)
            return torch.randn(shape, dtype=x.dtype, device=x.device).permute(0, 3, 1, 2)
        return torch.randn_like(x)

    def scale_at(self, clock: Tensor) -> Tensor:
        """Return what sigma is multiplied by for each row; by default what `schedule` says, and 1 without one.

        Args:
            clock: (rows,) int64, the queries that the row's image has been billed so far. The judge's
                draws have the clock of their candidate; outside of an attack it stands at 0.

        Returns:
            (rows,), >= 0.
        """
        return torch.ones_like(clock, dtype=torch.float32) if self.schedule is None else self.schedule(clock)

    @property
    def is_random(self) -> bool:
        """Whether any sigma is positive."""
        return any(value > 0 for value in (self.sigma if isinstance(self.sigma, list) else [self.sigma]))

    def sigmas(self, count: int) -> list[float]:
        """Return one sigma per place.

        Raises:
            UserError: If a list of another length was given.
        """
        if not isinstance(self.sigma, list):
            return [self.sigma] * count
        if len(self.sigma) != count:
            raise UserError(f"defense.sigma needs one value or {count}, one per layer, got {len(self.sigma)}")
        return self.sigma

    def attach(self, model: nn.Module) -> None:
        """Put the hooks in, if there is a sigma for each place."""
        super().attach(model)
        try:
            self._sigmas = self.sigmas(len(self._handles))
        except UserError:
            self.detach()
            raise

    def transform(self, x: Tensor, place: int) -> Tensor:
        """Add the noise; sigma 0 leaves the activation as it is."""
        sigma = self._sigmas[place]
        if sigma == 0:
            return x
        noise = self.noise(x)
        if self.schedule is not None or type(self).scale_at is not Noise.scale_at:
            noise = noise * per_row(self._scale(x).to(x.dtype), x)
        return torch.add(x, noise, alpha=sigma)

    def _scale(self, x: Tensor) -> Tensor:
        """Return what sigma is multiplied by for each row of `x`, (rows,)."""
        scale = self.scale_at(clock.read(len(x), x.device))
        if not isinstance(scale, Tensor) or scale.shape != (len(x),):
            got = f"shape {tuple(scale.shape)}" if isinstance(scale, Tensor) else f"a {type(scale).__name__}"
            raise UserError(f"a schedule must return one factor per row, a tensor of shape ({len(x)},), got {got}")
        return scale

    def describe_schedule(self) -> str:
        """Return what `describe` adds at its end: the schedule's name, or nothing without one."""
        if self.schedule is None:
            return ""
        name = getattr(self.schedule, "__name__", type(self.schedule).__name__)
        # Only the representation of a dataclass is known to say the parameters, and no address in memory.
        return f", schedule {self.schedule if is_dataclass(self.schedule) else name}"

    def describe(self, model: nn.Module) -> str:
        """Say the noise, its sigmas, the places and the schedule."""
        places = self.places(model)
        sigmas = self.sigmas(len(places))
        shown = f"{sigmas[0]:g}" if len(set(sigmas)) == 1 else "/".join(f"{value:g}" for value in sigmas)
        where = ", ".join(place.name for place in places)
        return f"{type(self).__name__} sigma {shown} at the {places[0].side} of {where}{self.describe_schedule()}"
