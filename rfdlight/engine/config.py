"""Configuration of an engine, its default number of rows per pass, and the observer of its run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from rfdlight.engine.query_counting import QueryCounting
from rfdlight.errors import UserError
from rfdlight.records.records import Record

if TYPE_CHECKING:  # the engine runs without Lightning, which the defenses import
    from rfdlight.defenses.policy import QueryPolicy

MOST_ROWS = 64
"""Largest number of rows of a forward pass where none was chosen by timing; more rows hardly pay on a CPU."""

LARGEST = 65_536
"""Largest number of rows that a user may choose."""


def rows_per_pass(images: int, eot: int = 1, processes: int = 1, most: int = MOST_ROWS) -> int:
    """Return the number of rows of a forward pass: whole queries of `eot` evaluations, few of them padded.

    Half as many queries as images, so that passes stay full until half of the images of the run are finished.

    Example:
        >>> rows_per_pass(1000), rows_per_pass(30), rows_per_pass(30, eot=10), rows_per_pass(30, processes=2)
        (64, 15, 60, 8)
    """
    queries = -(-images // (2 * processes))
    return eot * max(1, min(queries, most // eot))


@dataclass(frozen=True)
class EngineConfig:
    """Configuration of an engine.

    With `deterministic`, one evaluation decides, and is repeated at every success and every final point: the first
    different answer raises `RandomVictim`. "exact" query counting bills what the attacker uses and never exceeds the
    budget; "paper" bills, wastes and exceeds as the paper's code does, and records at most the budget. In lockstep
    as many images start together as the pool holds, and candidates are evaluated before further queries: images then
    end together, so that few passes are padded at the end, but results come later.

    After each number of `interim_queries`, the point that the attack would submit is evaluated, if the victim is random
    and the criterion has a rule for it.
    """

    classes: int  # of the victim
    budget: int  # billed queries per image
    pool_size: int  # with fewer than twice the oracle's batch size, forward passes may be padded
    deterministic: bool  # whether the victim answers equal images equally
    seed: int = 0
    query_counting: QueryCounting = "exact"
    eot: int = 1  # evaluations per query, all billed; the attack gets their mean logits or most frequent label
    lockstep: bool = False
    attacks_misclassified: bool = False  # an earlier run has decided which clean images are wrong
    interim_queries: tuple[int, ...] = ()  # in rising order, below the budget
    starting_points: tuple[Tensor, Tensor] | None = None  # images (images, C, H, W) and their classes (images,)
    policy: QueryPolicy | None = None  # inspects the queries; needs exact query counting and eot 1


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
