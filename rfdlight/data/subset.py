"""Selection of the attacked images of a split."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from rfdlight.data.sources import ImageSource
from rfdlight.data.unreadable import UnreadableImageError
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
    """Choose images reproducibly, independently of the order in which they are stored.

    Images are sorted by id first, so two copies of a data set in different orders give the same subset. With the same
    selection and seed, a smaller subset is part of every larger one. An image that is not usable changes only its own
    place, which the next image of the drawn order takes.

    Args:
        ids: One unique id per image.
        labels: One class index per image.
        count: How many to choose, at least 1.
        selection: "balanced" draws equally many of each class (the smallest class indices take the remainder), "first"
            takes the first in order of id, "random" draws from all.
        seed: Of the draws.
        usable: Whether the image at a position may be chosen; called for no more positions than needed.

    Returns:
        Positions into `ids`, ordered by id.

    Raises:
        UserError: If `selection` is unknown or there are too few usable images.

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


@dataclass(frozen=True)
class AttackedSubset:
    """The attacked images of a test split.

    Attributes:
        positions: Of the images that can be read, ordered by id.
        quarantined: Why each of the other chosen images cannot be read, by id.
        skipped: The same for images that others replace.
    """

    positions: list[int]
    quarantined: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def attacked_subset(test: ImageSource, count: int | None, most: int, selection: str, seed: int) -> AttackedSubset:
    """Choose the attacked images, and apply the policy for files that cannot be read.

    Args:
        test: The test split.
        count: How many; None for all of a split of at most `most` images, and for `most` of a larger one.
        most: See `count`.
        selection: See `select`.
        seed: See `select`.

    Raises:
        UserError: As `select`, or if no image can be read.
        UnreadableImageError: If an image cannot be read and the policy is "refuse".
    """
    errors: dict[int, UnreadableImageError] = {}
    skip = test.unreadable == "skip"

    def readable(position: int) -> bool:
        error = test.error_at(position)
        if error is not None:
            if error.refused:
                raise error
            if skip:
                error.leave_out()
            errors[position] = error
        return error is None

    usable = readable if skip else lambda position: True
    if count is None and len(test) <= most:
        chosen = sorted(filter(usable, range(len(test))), key=test.ids.__getitem__)
    else:
        chosen = select(test.ids, test.labels.tolist(), most if count is None else count, selection, seed, usable)
    positions = chosen if skip else list(filter(readable, chosen))
    if not positions:
        first = next(iter(errors.values()))
        raise UserError(f"none of the {len(errors):,} test images can be read; the first: {first}")
    reasons = {test.ids[position]: str(error) for position, error in errors.items()}
    return AttackedSubset(positions, **{"skipped" if skip else "quarantined": reasons})
