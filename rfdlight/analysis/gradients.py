"""Norms of the margin's gradient, at the image and at hidden layers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rfdlight.core.activations import InsertionPoint, called_again, check_hooked, row_owners
from rfdlight.core.losses import margin
from rfdlight.defenses.noise import Noise
from rfdlight.engine.failures import check_finite, raised
from rfdlight.errors import UserError


class Gradients(NamedTuple):
    """Margins and their gradients.

    Attributes:
        margins: (N,) float64, of the logits; negative for misclassified images.
        at_image: (N,) float64, l2 norms of the margin's gradient at the pixels.
        at_layers: (N, layers) float64, l2 norms of the margin's gradient at each layer's activation.
        direction: (N, C, H, W), the gradient at the pixels.
    """

    margins: Tensor
    at_image: Tensor
    at_layers: Tensor
    direction: Tensor


class _Probe(Noise):
    """Adds zeros to activations; the gradient at the zeros is the activation's, even after in-place operations."""

    def __init__(self, points: list[InsertionPoint]) -> None:
        super().__init__(0.0)
        self._points = points
        self.zeros: dict[int, Tensor] = {}

    def insertion_points(self, model: nn.Module) -> list[InsertionPoint]:
        return self._points

    def transform(self, x: Tensor, place: int) -> Tensor:
        if place in self.zeros:
            raise called_again(self._points[place].name, "gradient")
        self.zeros[place] = torch.zeros_like(x, requires_grad=True)
        return x + self.zeros[place]


def gradients(victim: nn.Module, batches: list[tuple[Tensor, Tensor]], points: list[InsertionPoint]) -> Gradients:
    """Return the margins and their gradients' norms.

    Args:
        victim: In eval mode, so that a row's logits depend on that row alone; without defenses.
        batches: Pixels in [0, 1], (N, C, H, W), and labels, (N,) int64.
        points: Insertion points, each called once in a forward pass. Their rows may be parts of images, such as
            windows.

    Raises:
        UserError: If an insertion point is not called exactly once or its rows do not belong to one image each, or if
            the victim raises, blocks gradients, or has NaN or infinite gradients.
    """
    found = [_of_batch(victim, x, y, points) for x, y in batches]
    check_hooked(victim, batches[0][0], points)
    return Gradients(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _of_batch(victim: nn.Module, x: Tensor, y: Tensor, points: list[InsertionPoint]) -> Gradients:
    probe = _Probe(points)
    with probe.on(victim), torch.enable_grad():
        pixels = x.detach().requires_grad_()
        try:
            logits = victim(pixels.clone())  # a victim may change its input in place
        except Exception as error:
            raise raised(error) from error
        check_finite(logits, "the victim answered NaN or infinity", "a prediction needs finite logits")
        margins = margin(logits, y)
        if not margins.requires_grad:
            raise UserError("the gradient does not reach the image: the victim detaches it, or uses no_grad")
        zeros = [probe.zeros[number] for number in range(len(points))]
        direction, *inside = torch.autograd.grad(margins.sum(), [pixels, *zeros], materialize_grads=True)
    owners = _owners(victim, x, points, [len(gradient) for gradient in inside])
    at_layers = [_norm(gradient, owner) for gradient, owner in zip(inside, owners, strict=True)]
    norms = torch.stack([_norm(direction), *at_layers], 1)
    check_finite(norms, "the victim's gradient is NaN or infinity", "a prediction needs finite gradients")
    return Gradients(margins.detach().double().cpu(), norms[:, 0], norms[:, 1:], direction)


def _owners(victim: nn.Module, x: Tensor, points: list[InsertionPoint], rows: list[int]) -> list[Tensor | None]:
    """Return the image of each row at each insertion point, or None where there is one row per image."""
    owners: list[Tensor | None] = [None] * len(points)
    parts = [number for number, count in enumerate(rows) if count != len(x)]
    if parts:
        found = row_owners(victim, x, [points[number] for number in parts])
        for number, owner in zip(parts, found, strict=True):
            if rows[number] not in owner:
                raise UserError(
                    f"the layer {points[number].name}: expected rows that each belong to one image, got {rows[number]} "
                    f"rows of {len(x)} images; choose another layer"
                )
            owners[number] = owner[rows[number]].cpu()
    return owners


def _norm(gradient: Tensor, owners: Tensor | None = None) -> Tensor:
    """Return the gradient norm of each image, (N,) float64, over all rows that belong to the image."""
    of_rows = gradient.reshape(len(gradient), -1).double().norm(dim=1).cpu()
    if owners is None:
        return of_rows
    images = int(owners.max()) + 1
    return torch.zeros(images, dtype=torch.float64).index_add_(0, owners, of_rows.square()).sqrt()
