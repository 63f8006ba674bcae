"""Check, before a command measures anything, that a forward pass calls all insertion points of a defense."""

from __future__ import annotations

import torch
from torch import nn

from rfdlight.data.loaders import loader
from rfdlight.data.sources import ImageSource
from rfdlight.defenses.base import Defense
from rfdlight.errors import DefenseError

_IMAGES = 16
"""Images of the forward pass that must call every insertion point."""


@torch.no_grad()
def check_acts(defense: Defense, victim: nn.Module, images: ImageSource) -> None:
    """Reject a defense with an insertion point that is never called.

    Args:
        defense: Not attached.
        victim: In eval mode, without defenses. A victim that fails on the images is not checked.
        images: At least 1; the first few are classified.

    Raises:
        DefenseError: If there is such an insertion point.
    """
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    x, _, _ = next(iter(loader(images.take(list(range(min(_IMAGES, len(images))))), _IMAGES)))
    x = x.to(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), defense.on(victim):
        try:
            victim(x)
        except DefenseError:
            raise
        except Exception:  # a user's own code may raise anything; the command reports it later
            return
