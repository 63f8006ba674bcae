"""Which images of a split are attacked."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from rfdlight.errors import UserError, unknown_name

SELECTIONS = ("balanced", "first", "random")


def select(
    ids: Sequence[str],
    labels: Sequence[int],
    count: int,
    selection: str,
    seed: int,
    usable: Callable[[int], bool] = lambda position: True,
) -> list[int]:
    """Choose images reproducibly, whatever order they are stored in.

    The images are first put in order of their id, so that two copies of a data set that store
    the same images in different orders give the same subset. A subset of fewer images is part of every
    larger one of the same selection and seed: what is chosen on the images that 1000 leave out is
    chosen without the 300 attacked. All images are drawn in an order before any is left out, so that one that cannot
    be used changes nothing but its own place, which the next one of the order takes.

    Args:
        ids: One unique id per image.
        labels: One class index per image.
        count: How many to choose, at least 1.
        selection: "balanced" draws equally many of each class at random (the classes with the
            smallest indices take what is left over), "first" takes the first in order of id,
            "random" draws from all.
        seed: Of the draws.
        usable: Says of a position whether it may be chosen; asked of no more of them than it takes.

    Returns:
        Positions into `ids`, ordered by id.

    Raises:
        UserError: If `selection` is unknown or there are fewer usable images than asked for.

    Example:
        >>> select(["c", "a", "b", "d"], [0, 0, 1, 1], 2, "first", seed=0)
        [1, 2]
    """
    if selection not in SELECTIONS:
        raise unknown_name("selection", selection, SELECTIONS)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    draw = random.Random(seed)

    def first(count: int, drawn: Iterable[int]) -> list[int]:
        return list(islice(filter(usable, drawn), count))

    if not 1 <= count <= len(order):
        raise UserError(f"data.num_images must be from 1 to {len(order)} for this data, got {count}")
    if selection != "balanced":
        if selection == "random":
            draw.shuffle(order)
        chosen = first(count, order)
        if len(chosen) < count:
            raise UserError(f"data.num_images must be at most the {len(chosen)} images that can be used, got {count}")
        return sorted(chosen, key=ids.__getitem__)

    by_class = defaultdict(list)
    for position in order:
        by_class[labels[position]].append(position)
    share, left_over = divmod(count, len(by_class))
    chosen = []
    for rank, label in enumerate(sorted(by_class)):
        wanted = share + (rank < left_over)
        draw.shuffle(by_class[label])
        of_class = first(wanted, by_class[label])
        if len(of_class) < wanted:
            raise UserError(
                f"a balanced subset of {count} needs {wanted} images of class {label}, the data has {len(of_class)}"
            )
        chosen += of_class
    return sorted(chosen, key=ids.__getitem__)


def spread(positions: list[int], count: int) -> list[int]:
    """Return so many of the positions, evenly spread."""
    if len(positions) <= count:
        return positions
    return [positions[i * len(positions) // count] for i in range(count)]
