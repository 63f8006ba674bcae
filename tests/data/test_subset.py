import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfdlight.data.subset import SELECTIONS, select
from rfdlight.errors import UserError

IDS = [f"data/test/{i:03d}" for i in range(100)]
LABELS = [i % 10 for i in range(100)]


@st.composite
def choices(draw):
    """Ids, labels, a count that every class can give its share of, and a seed."""
    classes = draw(st.integers(1, 5))
    per_class = draw(st.integers(1, 6))
    labels = draw(st.permutations([label for label in range(classes) for _ in range(per_class)]))
    ids = draw(st.permutations([f"id{i:02d}" for i in range(len(labels))]))
    return ids, labels, draw(st.integers(1, len(ids))), draw(st.integers(0, 2**31))


@pytest.mark.parametrize("selection", SELECTIONS)
@settings(max_examples=15, deadline=None)
@given(data=choices(), storage=st.randoms(use_true_random=False))
def test_the_chosen_ids_do_not_depend_on_the_storage_order(selection, data, storage):
    ids, labels, count, seed = data
    chosen = [ids[p] for p in select(ids, labels, count, selection, seed)]
    order = list(range(len(ids)))
    storage.shuffle(order)
    stored_ids, stored_labels = [ids[i] for i in order], [labels[i] for i in order]
    again = [stored_ids[p] for p in select(stored_ids, stored_labels, count, selection, seed)]
    assert chosen == again == sorted(set(chosen))
    assert len(chosen) == count


@settings(max_examples=15, deadline=None)
@given(data=choices())
def test_a_balanced_subset_gives_what_is_left_over_to_the_smallest_classes(data):
    ids, labels, count, seed = data
    found = Counter(labels[p] for p in select(ids, labels, count, "balanced", seed))
    share, left_over = divmod(count, len(set(labels)))
    assert [found[label] for label in sorted(set(labels))] == [
        share + (rank < left_over) for rank in range(len(set(labels)))
    ]


@pytest.mark.parametrize("selection", ["balanced", "random"])
def test_the_seed_decides(selection):
    drawn = [tuple(select(IDS, LABELS, 20, selection, seed)) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("selection", ["balanced", "random"])
def test_every_image_has_the_same_chance(selection):
    seeds = 400
    counts = Counter(p for seed in range(seeds) for p in select(IDS, LABELS, 20, selection, seed))
    # Each is chosen with probability 0.2: mean 80, standard deviation 8; 5 deviations over 100 images.
    assert all(abs(counts[p] - 80) < 40 for p in range(100))


@pytest.mark.parametrize("selection", SELECTIONS)
@settings(max_examples=15, deadline=None)
@given(data=choices(), fewer=st.floats(0, 1))
def test_a_smaller_subset_is_part_of_a_larger_one(selection, data, fewer):
    ids, labels, count, seed = data
    smaller = max(1, round(fewer * count))
    assert set(select(ids, labels, smaller, selection, seed)) <= set(select(ids, labels, count, selection, seed))


@pytest.mark.parametrize("selection", SELECTIONS)
@settings(max_examples=15, deadline=None)
@given(data=choices(), adversarial=st.integers(0, 99), fewer=st.floats(0, 1))
def test_an_image_that_cannot_be_used_changes_its_own_place_alone(selection, data, adversarial, fewer):
    ids, labels, count, seed = data
    adversarial %= len(ids)
    whole = set(select(ids, labels, count, selection, seed))
    try:
        mended = set(select(ids, labels, count, selection, seed, lambda position: position != adversarial))
    except UserError:
        return  # no other can take its place
    assert adversarial not in mended
    assert len(mended - whole) == (adversarial in whole)
    if selection == "balanced":
        assert all(labels[position] == labels[adversarial] for position in mended - whole)
    smaller = max(1, round(fewer * count))
    assert set(select(ids, labels, smaller, selection, seed, lambda position: position != adversarial)) <= mended


@pytest.mark.parametrize(
    ("selection", "line"),
    [
        ("balanced", "data.num_images 100 needs 10 images of class 3, the data has 9"),
        ("first", "data.num_images 100 needs 100 images, the data has 99"),
    ],
)
def test_where_no_other_can_take_the_place_of_one_it_is_said(selection, line):
    with pytest.raises(UserError, match=f"^{line}$"):
        select(IDS, LABELS, 100, selection, 0, lambda position: position != 3)


def test_first_takes_the_smallest_ids_whatever_the_seed():
    order = list(range(100))
    random.Random(5).shuffle(order)
    ids = [IDS[i] for i in order]
    for seed in (0, 1):
        assert [ids[p] for p in select(ids, LABELS, 7, "first", seed)] == IDS[:7]


def test_the_whole_data_can_be_asked_for():
    for selection in SELECTIONS:
        assert select(IDS, LABELS, 100, selection, 0) == list(range(100))


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("count", [0, -1, 101])
def test_more_than_there_is_and_less_than_one_are_refused(selection, count):
    with pytest.raises(UserError, match=f"^data.num_images must be from 1 to 100 for this data, got {count}$"):
        select(IDS, LABELS, count, selection, 0)


def test_a_class_with_too_few_images_is_named():
    text = "^data.num_images 4 needs 2 images of class 7, the data has 1$"
    with pytest.raises(UserError, match=text):
        select(["a", "b", "c", "d", "e"], [2, 2, 2, 7, 2], 4, "balanced", 0)


def test_an_unknown_selection_names_the_nearest():
    with pytest.raises(UserError, match=r"^unknown selection 'balance'; did you mean balanced\?$"):
        select(IDS, LABELS, 1, "balance", 0)
