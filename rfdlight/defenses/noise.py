"""Noise added to activations."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rfdlight import clock
from rfdlight.defenses.base import Defense
from rfdlight.errors import UserError
from rfdlight.tensors import per_row


class Noise(Defense):
    """Adds sigma times noise at each place, fresh at every call and independent between rows.

    Two methods are made to be overridden: `noise` for another distribution and `scale_at` for a
    schedule over the queries of an attack.

    Args:
        sigma: Standard deviation of the noise, in the units of the activation, >= 0: one number, or
            one per place.

    Raises:
        UserError: If a sigma is negative or not finite.
    """

    def __init__(self, sigma: float | list[float]) -> None:
        super().__init__()
        for value in sigma if isinstance(sigma, list) else [sigma]:
            if not (value >= 0 and math.isfinite(value)):
                raise UserError(f"defense.sigma must be at least 0, got {value}")
        self.sigma = sigma

    def noise(self, x: Tensor) -> Tensor:
        """Return noise of the shape of `x`, of mean 0 and standard deviation 1; normal by default."""
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            # torch fills such a tensor number by number; in the order of its memory it goes several times faster.
            rows, channels, height, width = x.shape
            shape = (rows, height, width, channels)
            return torch.randn(shape, dtype=x.dtype, device=x.device).permute(0, 3, 1, 2)
        return torch.randn_like(x)

    def scale_at(self, clock: Tensor) -> Tensor:
        """Return what sigma is multiplied by for each row; by default 1.

        Args:
            clock: (rows,) int64, the queries that the row's image has been billed so far. The judge's
                draws have the clock of their candidate; outside of an attack it stands at 0.

        Returns:
            (rows,) floating point, >= 0.
        """
        return torch.ones_like(clock, dtype=torch.float32)

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
        if type(self).scale_at is not Noise.scale_at:
            scale = self.scale_at(clock.read(len(x), x.device))
            noise = noise * per_row(scale.to(x.dtype), x)
        return torch.add(x, noise, alpha=sigma)

    def describe(self, model: nn.Module) -> str:
        """Say the noise, its sigmas and the places."""
        places = self.places(model)
        sigmas = self.sigmas(len(places))
        shown = f"{sigmas[0]:g}" if len(set(sigmas)) == 1 else "/".join(f"{value:g}" for value in sigmas)
        where = ", ".join(place.name for place in places)
        return f"{type(self).__name__} sigma {shown} at the {places[0].side} of {where}"
