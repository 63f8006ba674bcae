"""Checks that every defense has to pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rfdlight.defenses.base import Defense, undefended
from rfdlight.testing.requirements import require
from rfdlight.testing.small_victims import images, small_network


def _hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def check_switched_off(model: nn.Module, x: Tensor, plain: Tensor) -> None:
    """Check that `undefended` gives the logits of the undefended model, and draws no random numbers."""
    state = torch.get_rng_state()
    with undefended():
        require(torch.equal(model(x), plain), "logits inside undefended() are not those of the undefended model")
    require(torch.equal(torch.get_rng_state(), state), "random numbers were drawn inside undefended()")


def check_randomness(defense: Defense, model: nn.Module, x: Tensor) -> None:
    """Check that `is_random` is true exactly if logits differ from call to call, and then from row to row."""
    first, second = model(x), model(x)
    if not defense.is_random:
        require(torch.equal(first, second), "is_random is False, but two calls gave different logits")
        return
    require(not torch.equal(first, second), "is_random is True, but two calls gave the same logits")
    same = model(x[:1].expand(8, *x.shape[1:]).contiguous())
    require(not (same == same[:1]).all(), "equal images of a batch share their random numbers: draw them per row")


def check_defense(defense: Defense, network: nn.Module | None = None) -> None:
    """Check that a defense keeps the promises of `rfdlight.defenses.base.Defense`, in a second.

    Args:
        defense: Any defense, not attached.
        network: A classifier of images of 3 x 16 x 16 pixels in eval mode that the defense fits; by default a small
            network with the layers "0" to "7".

    Raises:
        AssertionError: With one line on the first promise that does not hold.
    """
    model, x = small_network() if network is None else network, images(6)
    hooks, weights = _hooks(model), {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain, pixels = model(x), x.clone()
        with defense.on(model):
            require(defense.describe(model).count("\n") == 0, "describe returned several lines, expected one")
            defended = model(x)
            found, expected = (tuple(defended.shape), defended.dtype), (tuple(plain.shape), plain.dtype)
            require(found == expected, f"defended logits have shape and dtype {found}, expected {expected}")
            require(defended.isfinite().all(), "defended logits hold NaN or infinity")
            require(torch.equal(x, pixels), "the defense changed the input images in place")
            check_switched_off(model, x, plain)
            check_randomness(defense, model, x)
        require(_hooks(model) == hooks, "hooks are left on the model after the defense was detached")
        require(torch.equal(model(x), plain), "logits changed for good: the model is not as it was before the defense")
    for name, value in model.state_dict().items():
        require(torch.equal(value, weights[name]), f"the defense changed the weights {name}")
