"""Norms of the margin's gradient, at the image and at hidden layers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rfdlight.core.activations import InsertionPoint, called_again
from rfdlight.core.losses import margin
from rfdlight.defenses.noise import Noise
from rfdlight.engine.failures import check_finite, raised
from rfdlight.errors import UserError, expect


class Gradients(NamedTuple):
    """Margins, negative for misclassified images, and the l2 norms of their gradients, float64."""

    margins: Tensor  # (N,)
    at_image: Tensor  # (N,)
    at_layers: Tensor  # (N, layers)
    direction: Tensor  # (N, C, H, W), the gradient at the pixels


class _Probe(Noise):
    """Adds zeros to activations; the gradient at the zeros is the activation's, even after in-place operations."""

    def __init__(self, points: list[InsertionPoint]) -> None:
        super().__init__(0.0)
        self._points = points
        self.zeros: dict[int, Tensor] = {}

    def insertion_points(self, model: nn.Module) -> list[InsertionPoint]:
        return self._points

    def transform(self, x: Tensor, point: int) -> Tensor:
        if point in self.zeros:
            raise called_again(self._points[point], "gradient")
        self.zeros[point] = torch.zeros_like(x, requires_grad=True)
        return x + self.zeros[point]


def gradients(victim: nn.Module, batches: list[tuple[Tensor, Tensor]], points: list[InsertionPoint]) -> Gradients:
    """Return the margins and their gradients' norms on batches of pixels, (N, C, H, W) in [0, 1], and labels, (N,).

    The victim is in eval mode, so that a row's logits depend on that row alone, and has no defenses.
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
        found = torch.autograd.grad(margins.sum(), [pixels, *zeros], materialize_grads=True)
    for point, zero in zip(points, zeros, strict=True):
        expect(len(zero) == len(x), point.name, f"a layer of {len(x)} rows, one per image", f"{len(zero)} rows")
    norms = torch.stack([each.reshape(len(x), -1).double().norm(dim=1).cpu() for each in found], 1)
    check_finite(norms, "the victim's gradient is NaN or infinity", "a prediction needs finite gradients")
    return Gradients(margins.detach().double().cpu(), norms[:, 0], norms[:, 1:], found[0])
