"""One attack on some images through the engine, without a trainer and without a run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rfdlight.attacks.base import Attack
from rfdlight.core.threat import check_eps
from rfdlight.data.base import Batch, ImageData, ImageSource, loader
from rfdlight.engine.criterion import SuccessCriterion
from rfdlight.engine.engine import Engine
from rfdlight.engine.failures import RandomVictim
from rfdlight.engine.oracle import Oracle
from rfdlight.engine.passes import rows_per_pass
from rfdlight.engine.probe import probe
from rfdlight.errors import UserError
from rfdlight.records.records import Record, clean_right, in_order
from rfdlight.records.summary import Share, summarize


@dataclass(frozen=True)
class Outcome:
    """What an attack left.

    Attributes:
        records: Ordered by id, see `rfdlight.records.records.FIELDS`.
        summary: See `rfdlight.records.summary.summarize`.
        deterministic: Whether the victim answered the same every time.
    """

    records: list[Record]
    summary: dict[str, Any]
    deterministic: bool

    @property
    def robust(self) -> Share:
        """Robust accuracy of the mean logits."""
        share: Share = self.summary["mean_logits"]["robust"]
        return share

    @property
    def withstood(self) -> dict[str, bool]:
        """Whether each image, by its id, counts as robust there."""
        return {record["id"]: clean_right(record) and record["verdict"] != "adversarial" for record in self.records}


def settle_eps(attack: Attack, data: ImageData) -> Attack:
    """Return the attack, a copy with the data's reference radius if it has none; check an l2 radius against images.

    Raises:
        UserError: If the attack is not in linf, for which data have a reference radius, or the ball holds every image.
    """
    if attack.eps is not None:
        if attack.norm == "l2":
            check_eps(attack.eps, attack.norm, "attack.eps", data.image_shape)
        return attack
    if data.reference_eps is None:
        raise UserError(f"attack.eps must be given: the data {data.name} has no reference radius")
    if attack.norm != "linf":
        raise UserError(
            f"attack.eps must be given for {attack.norm}: the data's reference radius, {data.reference_eps:g}, "
            "is one of linf"
        )
    check_eps(data.reference_eps, "linf", f"the reference_eps of the data {data.name}")
    return attack.configured(eps=data.reference_eps)


def short_attack(
    victim: nn.Module,
    images: ImageSource,
    attack: Attack,
    *,
    classes: int,
    budget: int,
    device: torch.device,
    seed: int = 0,
    batch_size: int | None = None,
    channels_last: bool = True,
    deterministic: bool | None = None,
    starting_points: tuple[Tensor, Tensor] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Attack every image with exact query counting and the sequential criterion.

    Args:
        victim: In eval mode, on `device`, with whatever defenses are attached.
        images: At least one.
        attack: With a radius.
        classes: Of the victim.
        budget: Billed queries per image, >= 0.
        device: Where the images go.
        seed: Of the attack's and the victim's randomness.
        batch_size: Rows per forward pass; by default as `rows_per_pass` chooses.
        channels_last: Run the victim in channels-last memory.
        deterministic: Whether the victim answers the same every time; by default measured on the first images.
        starting_points: For a targeted attack, see `rfdlight.engine.engine.Engine`.
        stop: Looked at before every tick; when it returns True, the images that are left have no record.

    Raises:
        UserError: If pixels lie outside [0, 1], or the victim answers NaN or infinity.
    """
    records: list[Record] = []
    rows = batch_size or rows_per_pass(len(images))
    oracle = Oracle(victim, rows, seed=seed, channels_last=channels_last)
    try:

        def batches() -> Iterator[Batch]:
            return ((x.to(device), y.to(device), ids) for x, y, ids in loader(images, rows))

        if deterministic is None:
            deterministic = not probe(oracle, next(batches())[0]).random
        engine = Engine(
            oracle,
            attack,
            classes=classes,
            budget=budget,
            pool_size=2 * rows,
            lockstep=len(images) <= 2 * rows,
            criterion=SuccessCriterion(),
            seed=seed,
            starting_points=starting_points,
            deterministic=deterministic,
            on_record=records.append,
            stop=stop,
        )
        engine.ledger.pad(oracle.forwarded)
        try:
            engine.attack_all(batches())
        except RandomVictim:
            records.clear()
            engine.begin_again()
            engine.attack_all(batches())
        engine.ledger.check(oracle.forwarded)
    finally:
        oracle.close()
    records = in_order(records)
    facts = {"budget": budget, "targeted": attack.targeted, "totals": engine.ledger.total}
    return Outcome(records, summarize(records, facts), engine.deterministic)
