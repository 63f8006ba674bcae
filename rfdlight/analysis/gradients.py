"""Norms of the margin's gradient, at the image and at hidden layers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rfdlight.core.activations import InsertionPoint, called_again
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
            raise called_again(self._points[place], "gradient")
        self.zeros[place] = torch.zeros_like(x, requires_grad=True)
        return x + self.zeros[place]


def gradients(victim: nn.Module, batches: list[tuple[Tensor, Tensor]], points: list[InsertionPoint]) -> Gradients:
    """Return the margins and their gradients' norms.

    Args:
        victim: In eval mode, so that a row's logits depend on that row alone; without defenses.
        batches: Pixels in [0, 1], (N, C, H, W), and labels, (N,) int64.
        points: Insertion points, each called once in a forward pass, with one row per image.

    Raises:
        UserError: If an insertion point is not called exactly once or it has not one row per image, or if
            the victim raises, blocks gradients, or has NaN or infinite gradients.
    """
    found = [_of_batch(victim, x, y, points) for x, y in batches]
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
    for point, gradient in zip(points, inside, strict=True):
        if len(gradient) != len(x):
            raise UserError(
                f"the layer {point.name}: expected one row per image, got {len(gradient)} rows of {len(x)} images; "
                "choose another layer"
            )
    at_layers = [_norm(gradient) for gradient in inside]
    norms = torch.stack([_norm(direction), *at_layers], 1)
    check_finite(norms, "the victim's gradient is NaN or infinity", "a prediction needs finite gradients")
    return Gradients(margins.detach().double().cpu(), norms[:, 0], norms[:, 1:], direction)


def _norm(gradient: Tensor) -> Tensor:
    """Return the gradient norm of each image, (N,) float64."""
    return gradient.reshape(len(gradient), -1).double().norm(dim=1).cpu()
