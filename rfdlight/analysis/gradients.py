"""Norms of the margin's gradient, at the image and at hidden layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rfdlight.core.activations import InsertionPoint, called_again, row_owners
from rfdlight.core.losses import margin
from rfdlight.defenses.noise import Noise
from rfdlight.engine.failures import check_finite, raised
from rfdlight.errors import UserError


@dataclass(frozen=True)
class Gradients:
    """What one backward pass says of some images.

    Attributes:
        margins: (N,) float64, of the logits; negative where the answer is wrong.
        at_image: (N,) float64, l2 norm of the margin's gradient at the pixels.
        at_layers: (N, layers) float64, l2 norm of its gradient at each layer's activation.
        direction: (N, C, H, W), the gradient at the pixels itself.
    """

    margins: Tensor
    at_image: Tensor
    at_layers: Tensor
    direction: Tensor


class _Probe(Noise):
    """Adds zeros to activations: their gradient is the activation's, whatever is done to it in place later."""

    def __init__(self, chosen: list[InsertionPoint]) -> None:
        super().__init__(0.0)
        self._chosen = chosen
        self.zeros: dict[int, Tensor] = {}

    def insertion_points(self, model: nn.Module) -> list[InsertionPoint]:
        return self._chosen

    def transform(self, x: Tensor, point: int) -> Tensor:
        if point in self.zeros:
            raise called_again(self._chosen[point].name, "gradient")
        self.zeros[point] = torch.zeros_like(x, requires_grad=True)
        return x + self.zeros[point]


def gradients(victim: nn.Module, x: Tensor, y: Tensor, places: list[InsertionPoint]) -> Gradients:
    """Return the margins and their gradients' norms.

    Args:
        victim: In eval mode, so that a row's logits depend on that row alone; without defenses.
        x: (N, C, H, W) in [0, 1].
        y: (N,) int64.
        places: At least one, each called once in a forward pass. Its rows may be parts of images, such as windows.

    Raises:
        UserError: If one is not called or more than once, its rows do not belong to one image each, or the victim
            raises, cuts gradients off, or has some that are NaN or infinity.
    """
    probe = _Probe(places)
    with probe.on(victim), torch.enable_grad():
        pixels = x.detach().requires_grad_()
        try:
            logits = victim(pixels.clone())  # a victim may change what it is given
        except Exception as error:
            raise raised(error) from error
        check_finite(logits, "the victim answered NaN or infinity", "nothing can be predicted of it")
        margins = margin(logits, y)
        if not margins.requires_grad:
            raise UserError("the gradient does not reach the image: something in the victim cuts it off")
        zeros = [probe.zeros[number] for number in range(len(places))]
        direction, *inside = torch.autograd.grad(margins.sum(), [pixels, *zeros], materialize_grads=True)
    owners = _owners(victim, x, places, [len(gradient) for gradient in inside])
    at_layers = [_norm(gradient, owner) for gradient, owner in zip(inside, owners, strict=True)]
    norms = torch.stack([_norm(direction), *at_layers], 1)
    check_finite(norms, "the victim's gradient is NaN or infinity", "nothing can be predicted of it")
    return Gradients(margins.detach().double().cpu(), norms[:, 0], norms[:, 1:], direction)


def _owners(victim: nn.Module, x: Tensor, places: list[InsertionPoint], rows: list[int]) -> list[Tensor | None]:
    """Return the image of each row at each place, or None where there is one row per image."""
    owners: list[Tensor | None] = [None] * len(places)
    parts = [number for number, count in enumerate(rows) if count != len(x)]
    if parts:
        found = row_owners(victim, x, [places[number] for number in parts])
        for number, owner in zip(parts, found, strict=True):
            if rows[number] not in owner:
                raise UserError(
                    f"the layer {places[number].name} must have rows that each belong to one image, got {rows[number]} "
                    f"rows of {len(x)} images; choose another layer"
                )
            owners[number] = owner[rows[number]].cpu()
    return owners


def _norm(gradient: Tensor, owners: Tensor | None = None) -> Tensor:
    """Return the norm of each image's gradient, (N,) float64, over all rows that belong to the image."""
    of_rows = gradient.reshape(len(gradient), -1).double().norm(dim=1).cpu()
    if owners is None:
        return of_rows
    images = int(owners.max()) + 1
    return torch.zeros(images, dtype=torch.float64).index_add_(0, owners, of_rows.square()).sqrt()
