"""A loaded victim, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from rfdlight.data.preparation import Preparation
from rfdlight.victims.card import VictimCard


@dataclass(frozen=True)
class LoadedVictim:
    """A victim in eval mode, from pixels in [0, 1] to an output that holds logits, and one line on its weights."""

    module: nn.Module
    description: str
    card: VictimCard | None = None
    preparation: Preparation | None = None
    """How images are resized for it; None if any size will do."""
    checked_rows: int = 0
    """Rows of the forward pass that checked it."""
