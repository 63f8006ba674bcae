"""Loading of an attack's surrogate, and the check that it fits the victim's images and classes."""

from __future__ import annotations

import torch
from torch import nn

from rfdlight.attacks.base import Attack
from rfdlight.attacks.surrogate import SurrogateAttack
from rfdlight.core.logits import as_logits, form_of, logits_key, part
from rfdlight.core.user_code import guarded
from rfdlight.data.base import ImageData
from rfdlight.errors import UserError
from rfdlight.victims.answers import AsLogits, device_of
from rfdlight.victims.digest import weights_text
from rfdlight.victims.resolve import load

_ROWS = 2
"""Black images of the pass that checks a surrogate."""


def settle_surrogate(attack: Attack, data: ImageData) -> Attack:
    """Return the attack with its surrogate loaded and checked; an attack without one is returned as it is.

    Raises a UserError if the surrogate is unknown, does not take the images, has other classes, or has no gradient.
    """
    if not isinstance(attack, SurrogateAttack):
        return attack
    network, text = attack.surrogate, attack.surrogate_text
    if isinstance(network, str):
        try:
            loaded = load(network, None, data.num_classes, data.mean, data.std, data.has_native_size)
        except UserError as error:
            raise UserError(f"attack.surrogate: {error}") from error
        network, text = loaded.module.eval(), loaded.description
    elif text == attack.surrogate_name:
        text = f"{text}, {weights_text(network)}"
    _answer_in_logits(network, attack.surrogate_name, data)
    return attack.with_surrogate(network, text)


@torch.inference_mode(False)
@torch.enable_grad()
def _answer_in_logits(network: nn.Module, name: str, data: ImageData) -> None:
    """Check one forward pass of a surrogate, and register a hook that takes the logits out of its output."""
    size = " x ".join(map(str, data.image_shape))
    x = torch.zeros(_ROWS, *data.image_shape, device=device_of(network), requires_grad=True)
    refused = f"attack.surrogate: '{name}' does not take images of {size}"
    with torch.random.fork_rng(devices=[]), guarded(refused):
        output = network(x.clone())
    key = None if isinstance(output, torch.Tensor) else logits_key(output, _ROWS, data.num_classes)
    logits = as_logits(part(output, key), _ROWS, data.num_classes)
    if logits is None:
        raise UserError(
            f"attack.surrogate: expected a network of {data.num_classes} classes, as the victim has, got '{name}' "
            f"with an answer of {form_of(output)} for {_ROWS} images"
        )
    if not logits.requires_grad or torch.autograd.grad(logits.sum(), x, allow_unused=True)[0] is None:
        raise UserError(
            f"attack.surrogate: expected a differentiable network, got '{name}', in which something cuts the gradient "
            "off"
        )
    if key is not None:
        network.register_forward_hook(AsLogits(data.num_classes, key))
