"""Settings of an evaluation that depend neither on the victim nor on the attack."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rfdlight.engine.config import LARGEST, rows_per_pass
from rfdlight.engine.oracle import Precision
from rfdlight.engine.query_counting import QueryCounting
from rfdlight.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Settings of an evaluation.

    Attributes:
        budget: Billed queries per image, >= 0.
        criterion: Success criterion, the rule that decides during the attack whether an image is adversarial.
        query_counting: "exact" bills every evaluation that the attacker uses and never exceeds the budget; "paper"
            bills, wastes and exceeds as the paper's code does, and lets queries leave [0, 1] where that code does.
        eot: Evaluations averaged in each query (expectation over transformation), >= 1; all are billed.
        final_evaluations: Fresh evaluations at the final point of every image, >= 2.
        batch_size: Rows per forward pass, 1 to 65,536, halved when memory runs out; by default at most 64, and at most
            half of the images of each process, so that few rows are padding.
        pool_size: Images under attack at a time, >= 1; by default twice the batch size.
        memory: Upper bound on the memory of the pool in GB (10^9 bytes); it may reduce `pool_size`.
        precision: Arithmetic of the attack's forward passes; the success criterion always uses float32.
        channels_last: Run the victim in channels-last memory format, usually faster.
        keep_images: Images whose clean and final pixels are stored, >= 0; None stores all.
        sanity_checks: Run small attacks with a known outcome at the end of the evaluation.
        seed: Seed of the attack's and of the victim's random numbers.

    Raises:
        UserError: If a number is out of range.
    """

    budget: int = 1000
    criterion: str = "sequential"
    query_counting: QueryCounting = "exact"
    eot: int = 1
    final_evaluations: int = 100
    batch_size: int | None = None
    pool_size: int | None = None
    memory: float = 4.0
    precision: Precision = "float32"
    channels_last: bool = True
    keep_images: int | None = 16
    sanity_checks: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"budget": 0, "final_evaluations": 2, "batch_size": 1, "pool_size": 1, "eot": 1, "keep_images": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise UserError(f"model.{name} must be at least {bound}, got {value}")
        rows = LARGEST if self.batch_size is None else self.batch_size
        if rows > LARGEST:
            raise UserError(f"model.batch_size must be at most {LARGEST:,} rows, got {rows}")
        if self.eot > rows:
            raise UserError(f"model.eot must be at most model.batch_size, {rows}, got {self.eot}")
        if not 0 < self.memory < math.inf:
            raise UserError(f"model.memory must be a positive number of GB, got {self.memory}")

    def rows_for(self, images: int, processes: int = 1) -> int:
        """Return the rows of a forward pass for a number of images shared by a number of processes."""
        return self.batch_size or rows_per_pass(images, self.eot, processes)

    def pool_size_for(self, rows: int) -> int:
        """Return the number of images under attack at a time for a number of rows per forward pass."""
        return 2 * rows if self.pool_size is None else self.pool_size
