"""Settings and facts of an evaluation, as its summary and its fingerprint hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import nn

from rfdlight.attacks.base import Attack
from rfdlight.core.registry import short_name
from rfdlight.data.base import ImageData
from rfdlight.defenses.base import Defense
from rfdlight.evaluation.config import EvaluationConfig
from rfdlight.records.facts import CardAccuracy
from rfdlight.victims.card import VictimCard


@dataclass(frozen=True)
class Subject:
    """The victim, its defenses, the data and the attack of an evaluation.

    Attributes:
        victim: Module from pixels in [0, 1] to logits, in eval mode, its defenses attached.
        text: The victim in one line: its name, weights and clean accuracy.
        data: The attacked images.
        attack: The attack, with a radius.
        defenses: The attached defenses, in order.
        defended: The module on which the defenses are attached; by default `victim`.
        card: The victim card, if there is one.
        maker: The user's module that made the victim, whose code is part of the fingerprint.
    """

    victim: nn.Module
    text: str
    data: ImageData
    attack: Attack
    defenses: Sequence[Defense] = ()
    defended: nn.Module | None = None
    card: VictimCard | None = None
    maker: ModuleType | None = None

    @property
    def network(self) -> nn.Module:
        """The module on which the defenses are attached."""
        return self.victim if self.defended is None else self.defended

    @property
    def code(self) -> list[object]:
        """The objects whose source code decides the numbers of the evaluation, besides the victim."""
        schedules = [getattr(defense, "schedule", None) for defense in self.defenses]
        parts = (self.attack, self.data, *self.defenses, *schedules, self.maker)
        return [part for part in parts if part is not None]

    def settings(self, config: EvaluationConfig, rows: int) -> dict[str, Any]:
        """Return the settings that decide the numbers of the evaluation.

        Args:
            config: Of the evaluation.
            rows: Rows per forward pass.
        """
        data, attack = self.data, self.attack
        return {
            "data": data.describe(),
            "num_images": data.num_images,
            "selection": data.selection,
            "victim": self.text,
            "defense": "; ".join(defense.description(self.network) for defense in self.defenses) or "none",
            "attack": self.attack_name,
            "options": attack.options(),
            "norm": attack.threat.norm,
            "eps": attack.threat.eps,
            "budget": config.budget,
            "criterion": config.criterion,
            "query_counting": config.query_counting,
            "eot": config.eot,
            "targeted": attack.targeted,
            "precision": config.precision,
            "batch_size": rows,
            "seed": config.seed,
        }

    @property
    def attack_name(self) -> str:
        """The short name of the attack, or its import path."""
        return short_name("attack", type(self.attack))

    def clean_accuracy(self) -> CardAccuracy | None:
        """Return the undefended clean accuracy on this data set that the victim card states, None without one."""
        if self.card is None or self.card.data != self.data.name:
            return None
        return CardAccuracy(correct=self.card.clean_correct, total=self.card.clean_total)

    def class_names(self) -> list[str] | None:
        """Return the names of the classes, None unless the data have one for each class."""
        names = self.data.classes
        if not isinstance(names, Sequence) or isinstance(names, str) or len(names) != self.data.num_classes:
            return None
        return [str(name) for name in names]
