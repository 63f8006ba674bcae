"""Whether the next forward pass is one of queries or one of the criterion's draws."""

from __future__ import annotations

_PATIENCE = 16
"""Passes of queries after which images that wait for draws get them in a pass that is not full."""


class Scheduler:
    """Takes the turn that fills a forward pass.

    Args:
        lockstep: Where both do, draw, so that images that wait for the criterion do not fall behind; without, ask.
    """

    def __init__(self, lockstep: bool) -> None:
        self.lockstep = lockstep
        self._asked = 0

    def draw_next(self, ready: int, wanted: int, queries: int, draws: int) -> bool:
        """Return whether the next pass is of draws, and count it.

        Args:
            ready: Images that can be given a query.
            wanted: Draws that the criterion waits for; one of the two is at least 1.
            queries: That fill a pass.
            draws: That fill a pass.
        """
        if (ready >= queries) != (wanted >= draws):
            draw = wanted >= draws
        elif ready >= queries:
            draw = self.lockstep
        else:
            draw = wanted * queries > ready * draws
        if self.lockstep and wanted:
            draw |= self._asked >= _PATIENCE
        self._asked = 0 if draw else self._asked + 1
        return draw
