"""Noise added to activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rfdlight.core import query_counts
from rfdlight.core.activations import batch_size, row_owners
from rfdlight.core.arguments import class_name, text_of
from rfdlight.core.tensors import per_row
from rfdlight.defenses.base import Defense, undefended
from rfdlight.errors import DefenseError, UserError

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
        self._owners: dict[tuple[int, int], dict[int, Tensor]] = {}

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
            clock: (rows,) int64, the queries that the row's image has been billed so far. The criterion's
                draws have the clock of their candidate; outside of an attack it stands at 0. Rows that are parts of
                images, such as windows or crops, have the clock of their image.

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
            self._sigmas = self.sigmas(len(self._places))
        except UserError:
            self.detach()
            raise
        self._owners = {}
        if self._scheduled:
            # In front of the noise at the model's own input.
            find = model.register_forward_pre_hook(self._find_owners, prepend=True, with_kwargs=True)
            self._handles.append(find)

    def transform(self, x: Tensor, place: int) -> Tensor:
        """Add the noise; sigma 0 leaves the activation as it is."""
        sigma = self._sigmas[place]
        if sigma == 0:
            return x
        if not x.is_floating_point():
            raise self._refused(place, f"must have floating-point numbers for noise, got {x.dtype}")
        noise = self.noise(x)
        if self._scheduled:
            noise = noise * per_row(self._scale(x, place).to(x.dtype), x)
        return torch.add(x, noise, alpha=sigma)

    @property
    def _scheduled(self) -> bool:
        return self.schedule is not None or type(self).scale_at is not Noise.scale_at

    def _scale(self, x: Tensor, place: int) -> Tensor:
        """Return what sigma is multiplied by for each row of `x`, (rows,)."""
        scale = self.scale_at(self._clock(x, place))
        if not isinstance(scale, Tensor) or scale.shape != (len(x),):
            got = f"shape {tuple(scale.shape)}" if isinstance(scale, Tensor) else f"a {type(scale).__name__}"
            raise DefenseError(f"a schedule must return one factor per row, a tensor of shape ({len(x)},), got {got}")
        return scale

    def _clock(self, x: Tensor, place: int) -> Tensor:
        """Return the clock of the image that each row of `x` belongs to, (rows,) int64; 0 outside of an attack."""
        of_images = query_counts.current()
        if of_images is None:
            return torch.zeros(len(x), dtype=torch.int64, device=x.device)
        owners = self._owners.get((place, len(of_images)), {})
        if len(x) not in owners:
            raise self._refused(
                place,
                f"must have rows that each belong to one image for a schedule, {len(of_images)} or a multiple in the "
                f"order of the images, got shape {tuple(x.shape)}; leave out defense.schedule or choose another layer",
            )
        return of_images[owners[len(x)]]

    def _find_owners(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find the image of each row at each place, before the first pass with so many images that has a clock."""
        of_images = query_counts.current()
        if of_images is None or (0, len(of_images)) in self._owners:
            return
        images = len(of_images)
        found: list[dict[int, Tensor]] = [{} for _ in self._places]
        if args and isinstance(args[0], Tensor) and batch_size(args, kwargs) == images:
            own = torch.arange(images, device=of_images.device)
            inside = [number for number, place in enumerate(self._places) if place.module is not model]
            with undefended():
                owners = row_owners(model, args[0], [self._places[number].point for number in inside]) if inside else []
            found = [{images: own} for _ in self._places]
            for number, owner in zip(inside, owners, strict=True):
                found[number] = owner
        self._owners |= {(number, images): owner for number, owner in enumerate(found)}

    def describe_schedule(self) -> str:
        """Return what `describe` adds at its end: the schedule with its arguments, or nothing without one."""
        return "" if self.schedule is None else f", schedule {text_of(self.schedule)}"

    def describe(self, model: nn.Module) -> str:
        """Say the noise, its sigmas, the places and the schedule."""
        places = self.places(model)
        sigmas = self.sigmas(len(places))
        shown = "/".join(map(text_of, sigmas[:1] if len(set(sigmas)) == 1 else sigmas))
        where = ", ".join(place.name for place in places)
        return f"{class_name(type(self))} sigma {shown} at the {places[0].side} of {where}{self.describe_schedule()}"
