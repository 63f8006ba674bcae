"""Query ledger: which image and purpose each row of each forward pass belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from rfdlight.core.tensors import add

Kind = Literal["attack", "gradient", "success_check", "criterion"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass
class QueryCounts:
    """Evaluations, refusals and accounts of each image, (rows,) int64 each; the criterion's are not billed."""

    attack: Tensor  # evaluations whose answers chose the attacker's next point
    gradient: Tensor  # evaluations whose gradients chose it
    success_check: Tensor  # evaluations that only checked whether the attacker has succeeded
    criterion: Tensor  # fresh evaluations of the success criterion
    refused: Tensor  # queries that a query policy refused to answer, which are billed and not evaluated
    accounts: Tensor  # accounts that the attacker has opened

    @property
    def evaluated(self) -> Tensor:
        """Evaluations of each image that chose the attacker's next point, (rows,)."""
        return self.attack + self.gradient

    @property
    def billed(self) -> Tensor:
        """Billed queries of each image, evaluated or refused, (rows,)."""
        return self.evaluated + self.success_check + self.refused


class Ledger:
    """Counts every row of every forward pass once, per image and in total.

    Two kinds belong to no image: "checks" counts rows that check the victim outside of the attacks, and "padding" rows
    that fill up a pass and all rows of attacks that were restarted.
    """

    def __init__(self) -> None:
        self._total: dict[str, int] = dict.fromkeys((*KINDS, "checks", "padding"), 0)
        self._unread: dict[str, Tensor] = {}  # further rows that were counted on the device

    @property
    def total(self) -> dict[str, int]:
        """Rows by kind; reading them waits for the device where images were charged differently."""
        for kind, amount in self._unread.items():
            self._total[kind] += int(amount)
        self._unread.clear()
        return self._total

    def charge(self, counts: QueryCounts, rows: slice | Tensor, kind: Kind, amount: int | Tensor) -> None:
        """Add `amount` evaluations of a kind to each of some images."""
        add(vars(counts)[kind], rows, amount)
        if isinstance(amount, Tensor):
            self._count(kind, amount.sum())
        else:
            self._count(kind, amount * (rows.stop - rows.start if isinstance(rows, slice) else len(rows)))

    def refuse(self, counts: QueryCounts, rows: Tensor, banned: bool) -> None:
        """Bill a query to each of some images that no forward pass answers, and a new account where one is banned."""
        counts.refused[rows] += 1
        counts.accounts[rows] += int(banned)

    def pad(self, rows: int | Tensor) -> None:
        """Count rows that belong to no image."""
        self._count("padding", rows)

    def charge_checks(self, rows: int) -> None:
        """Count rows that check the victim."""
        self._count("checks", rows)

    def _count(self, kind: str, rows: int | Tensor) -> None:
        if isinstance(rows, Tensor):
            self._unread[kind] = self._unread[kind] + rows if kind in self._unread else rows
        else:
            self._total[kind] += rows

    def discard(self) -> None:
        """Count all rows so far but those of checks as padding, because all attacks are restarted."""
        checks = self.total["checks"]
        self._total = dict.fromkeys(KINDS, 0) | {"checks": checks, "padding": sum(self.total.values()) - checks}

    def check(self, forwarded: int) -> None:
        """Raise a RuntimeError if the total differs from the number of rows that the hook on the victim has counted."""
        counted = sum(self.total.values())
        if counted != forwarded:
            raise RuntimeError(f"the ledger has {counted} rows, the victim saw {forwarded}: {self.total}")
