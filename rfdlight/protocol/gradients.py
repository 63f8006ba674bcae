"""Norms of the margin's gradient, at the image and at hidden layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rfdlight.defenses.base import Place
from rfdlight.defenses.noise import Noise
from rfdlight.engine.failures import check_finite, raised
from rfdlight.errors import UserError
from rfdlight.losses import margin


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

    def __init__(self, places: list[Place]) -> None:
        super().__init__(0.0)
        self._places = places
        self.zeros: dict[int, Tensor] = {}

    def places(self, model: nn.Module) -> list[Place]:
        return self._places

    def transform(self, x: Tensor, place: int) -> Tensor:
        if place in self.zeros:
            name = self._places[place].name
            raise UserError(f"a forward pass calls the layer {name} more than once: it has no one gradient")
        self.zeros[place] = torch.zeros_like(x, requires_grad=True)
        return x + self.zeros[place]


def gradients(victim: nn.Module, x: Tensor, y: Tensor, places: list[Place]) -> Gradients:
    """Return the margins and their gradients' norms.

    Args:
        victim: In eval mode, so that a row's logits depend on that row alone; without defenses.
        x: (N, C, H, W) in [0, 1].
        y: (N,) int64.
        places: At least one, each called once in a forward pass.

    Raises:
        UserError: If one is not called or more than once, or the victim raises, cuts gradients off, or has some that
            are NaN or infinity.
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
        uncalled = [place.name for number, place in enumerate(places) if number not in probe.zeros]
        if uncalled:
            raise UserError(f"a forward pass does not call the layer {uncalled[0]}: no noise there can act")
        if not margins.requires_grad:
            raise UserError("the gradient does not reach the image: something in the victim cuts it off")
        zeros = [probe.zeros[number] for number in range(len(places))]
        direction, *inside = torch.autograd.grad(margins.sum(), [pixels, *zeros], materialize_grads=True)
    norms = torch.stack([_norm(gradient) for gradient in [direction, *inside]], 1)
    check_finite(norms, "the victim's gradient is NaN or infinity", "nothing can be predicted of it")
    return Gradients(margins.detach().double().cpu(), norms[:, 0], norms[:, 1:], direction)


def _norm(gradient: Tensor) -> Tensor:
    return gradient.flatten(1).double().norm(dim=1).cpu()
