"""Whether the next forward pass is one of queries or one of the judge's draws."""

from __future__ import annotations

_PATIENCE = 16
"""Passes of queries after which images that wait for draws get them in a pass that is not full."""


class Turns:
    """Takes the turn that fills a forward pass.

    Args:
        in_step: Where both do, draw, so that images that wait for the judge do not fall behind; without, ask.
    """

    def __init__(self, in_step: bool) -> None:
        self.in_step = in_step
        self._asked = 0

    def draw_next(self, ready: int, wanted: int, queries: int, draws: int) -> bool:
        """Return whether the next pass is of draws, and count it.

        Args:
            ready: Images that can be given a query.
            wanted: Draws that the judge waits for; one of the two is at least 1.
            queries: That fill a pass.
            draws: That fill a pass.
        """
        if (ready >= queries) != (wanted >= draws):
            draw = wanted >= draws
        elif ready >= queries:
            draw = self.in_step
        else:
            draw = wanted * queries > ready * draws
        if self.in_step and wanted:
            draw |= self._asked >= _PATIENCE
        self._asked = 0 if draw else self._asked + 1
        return draw
