"""Result of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from rfdlight.records import runs
from rfdlight.records.diagnostic import Finding


@dataclass(frozen=True)
class Run(runs.Run):
    """A finished evaluation."""

    @property
    def diagnostics(self) -> list[Finding]:
        return self.findings

    @property
    def is_consistent(self) -> bool:
        """Whether no consistency check fails."""
        return all(found.state != "fail" for found in self.findings)
