"""Default number of rows of a forward pass."""

from __future__ import annotations

MOST_ROWS = 64
"""Largest default; more rows hardly pay on a CPU."""

LARGEST = 65_536
"""Largest number of rows that a user may choose."""


def rows_per_pass(images: int, eot: int = 1, processes: int = 1) -> int:
    """Return the number of rows of a forward pass that leaves few of them padded.

    Half as many queries as images, so that passes stay full until half of the images are finished. The number depends
    only on the size of the whole run, so that it is the same from the first query to the last.

    Args:
        images: Number of images of the whole run, at least 1.
        eot: Evaluations per query, at least 1; a pass holds whole queries.
        processes: Number of processes that share the images.

    Example:
        >>> rows_per_pass(1000), rows_per_pass(30), rows_per_pass(30, eot=10), rows_per_pass(30, processes=2)
        (64, 15, 60, 8)
    """
    queries = -(-images // (2 * processes))
    return eot * max(1, min(queries, MOST_ROWS // eot))
