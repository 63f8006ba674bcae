"""Who caused each row that the victim saw."""

from __future__ import annotations

import torch
from torch import Tensor

from rfdlight.core.tensors import Columns

KINDS = ("attack", "gradient", "success_check", "criterion")
"""Per image: evaluations that chose the attacker's next move, by their answer or, of a white-box attacker, by
their gradient; that only told it whether it has finished; and that the evaluator made. All but the last are billed."""


class Ledger:
    """Counts every row of every forward pass once.

    The counts of an image are columns of its row in the pool; the ledger adds to them, and keeps the
    sums of the run. `padding` counts the rows of no image: those that fill up a forward pass, the
    first passes of a run, which only look at the victim, and those of attacks that were begun anew.
    """

    def __init__(self) -> None:
        self.total = dict.fromkeys((*KINDS, "padding"), 0)

    @staticmethod
    def open(rows: int, device: torch.device) -> Columns:
        """Return the zero counts of new rows."""
        return {kind: torch.zeros(rows, dtype=torch.int64, device=device) for kind in KINDS}

    def charge(self, counts: Columns, rows: slice | Tensor, kind: str, amount: int | Tensor) -> None:
        """Add `amount` evaluations of a kind to some rows."""
        counts[kind][rows] += amount
        if isinstance(amount, Tensor):
            self.total[kind] += int(amount.sum())
        else:
            self.total[kind] += amount * (rows.stop - rows.start if isinstance(rows, slice) else len(rows))

    def pad(self, rows: int) -> None:
        """Count rows of no image."""
        self.total["padding"] += rows

    def discard(self) -> None:
        """Count all rows so far as padding: the images that they were for are attacked anew."""
        self.total = dict.fromkeys(KINDS, 0) | {"padding": sum(self.total.values())}

    @staticmethod
    def billed(counts: Columns) -> Tensor:
        """Return what each image has been billed, (rows,)."""
        return counts["attack"] + counts["gradient"] + counts["success_check"]

    def check(self, forwarded: int) -> None:
        """Compare the sums with the rows that the hook on the victim has counted.

        Raises:
            RuntimeError: If they differ, which no run may survive.
        """
        counted = sum(self.total.values())
        if counted != forwarded:
            raise RuntimeError(f"the ledger has {counted} rows, the victim saw {forwarded}: {self.total}")
