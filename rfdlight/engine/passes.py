"""The number of rows of a forward pass, where the user gives none."""

from __future__ import annotations

MOST_ROWS = 64
"""Rows of a forward pass that is chosen; more hardly pay on a CPU."""

LARGEST = 65_536
"""Rows of a forward pass that a user may give."""


def rows_per_pass(images: int, eot: int = 1, processes: int = 1) -> int:
    """Return how many rows a forward pass has, so that few of them are padding.

    Half as many queries as there are images: then the passes stay full until half of the images have ended. It depends
    on the size of the whole run alone, so that the shape of a pass is the same from the first query to the last.

    Args:
        images: That are attacked, at least 1, over the whole run.
        eot: Evaluations per query, at least 1; a pass holds whole queries.
        processes: That share the images.

    Example:
        >>> rows_per_pass(1000), rows_per_pass(30), rows_per_pass(30, eot=10), rows_per_pass(30, processes=2)
        (64, 15, 60, 8)
    """
    queries = -(-images // (2 * processes))
    return eot * max(1, min(queries, MOST_ROWS // eot))
