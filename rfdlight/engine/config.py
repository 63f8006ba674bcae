"""Configuration of an engine, and the observer of its run."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rfdlight.engine.query_counting import QueryCounting
from rfdlight.errors import UserError
from rfdlight.records.records import Record


@dataclass(frozen=True)
class EngineConfig:
    """Configuration of an engine.

    Args:
        classes: Number of classes of the victim.
        budget: Billed queries per image, >= 0.
        pool_size: Images in the pool; with fewer than twice the oracle's batch size, forward passes may be padded.
        deterministic: Whether the victim answers equal images equally. One evaluation then decides, and is repeated at
            every success and every final point: the first different answer raises `RandomVictim`.
        seed: Seed of the attacks.
        query_counting: "exact" bills what the attacker uses and never exceeds the budget; "paper" bills, wastes and
            exceeds as the paper's code does, attack by attack, and records at most the budget.
        eot: Evaluations per query, at most the oracle's batch size, all billed. A score-based attack gets their mean
            logits, a decision-based attack the most frequent label.
        lockstep: Start as many images together as the pool holds, and evaluate candidates before further queries.
            Images then end together too, so that few passes are padded at the end, but results come later.
        starting_points: Images (images, C, H, W) and their classes (images,), for an attack that needs a start.
    """

    classes: int
    budget: int
    pool_size: int
    deterministic: bool
    seed: int = 0
    query_counting: QueryCounting = "exact"
    eot: int = 1
    lockstep: bool = False
    starting_points: tuple[Tensor, Tensor] | None = None


class RunObserver:
    """Receives the results of a run; override what is of use."""

    def on_point(self, image_id: str, x: Tensor, point: Tensor) -> None:
        """Receive a finished image's clean pixels and final point, (C, H, W) both; called before `on_record`."""

    def on_record(self, record: Record) -> None:
        """Receive a finished image's record."""

    def on_failure(self, image_id: str, reason: str) -> None:
        """Receive the id of an image on which the victim fails; by default, end the run with a UserError."""
        raise UserError(f"the victim fails on the image {image_id}: {reason}")

    def stop(self) -> bool:
        """Return whether the run should end now; called before every forward pass."""
        return False
