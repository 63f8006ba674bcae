"""Blacklight finds near-duplicates of queries exactly as a plain search over all pairs of fingerprints does."""

import hashlib

import pytest
import torch

from rfdlight.defenses import Blacklight
from rfdlight.errors import UserError


def plain_fingerprint(image, salt, window, step, hashes):
    """The definition, value by value, with the pixels of a row side by side and the channels of a pixel together."""
    channels, height, width = image.shape
    values = [
        int(round(float(image[c, i, j]) * 255, 3) // step)
        for i in range(height)
        for j in range(width)
        for c in range(channels)
    ]
    runs = [bytes(values[start : start + window]) for start in range(len(values) - window + 1)]
    return set(sorted({hashlib.sha256(salt + run).digest() for run in runs})[-hashes:])


def traffic():
    """Forty queries of 3 x 6 x 7 pixels: two images, each followed by copies with more and more changed pixels."""
    generator = torch.Generator().manual_seed(0)
    queries = []
    for _ in range(2):
        image = torch.randint(0, 256, (3, 6, 7), generator=generator) / 255
        for changed in torch.linspace(0, 1, 20):
            other = torch.randint(0, 256, (3, 6, 7), generator=generator) / 255
            queries.append(torch.where(torch.rand(6, 7, generator=generator) < changed, other, image))
    return torch.stack(queries)


@pytest.mark.parametrize("rows", [1, 7])
def test_detections_are_those_of_a_search_over_all_earlier_queries(rows):
    queries, window, step, hashes, threshold = traffic(), 5, 50, 12, 6
    policy = Blacklight(window=window, step=step, hashes=hashes, threshold=threshold)
    policy.begin(3)
    prints = [plain_fingerprint(query, policy._salt, window, step, hashes) for query in queries]
    assert [set(found) for found in policy.fingerprints(queries)] == prints
    shared = [max((len(found & other) for other in prints[:i]), default=0) for i, found in enumerate(prints)]
    assert {threshold - 1, threshold} <= set(shared)
    found = torch.cat([policy.detect(part, ["any"] * len(part)) for part in queries.split(rows)])
    assert found.tolist() == [count >= threshold for count in shared]


def test_the_store_is_one_for_all_accounts_until_a_new_beginning_and_its_salt_is_that_of_the_seed():
    policy, (first, *_, other) = Blacklight(), torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert policy.detect(torch.stack([first, other, first]), ["a", "b", "c"]).tolist() == [False, False, True]
    assert policy.detect(first[None], ["d"]).tolist() == [True]
    before = policy.fingerprints(first[None])
    policy.begin(0)
    assert policy.detect(first[None], ["d"]).tolist() == [False]
    assert policy.fingerprints(first[None]) == before
    policy.begin(1)
    assert not set(policy.fingerprints(first[None])[0]) & set(before[0])


def test_a_flat_image_has_one_hash_and_never_matches():
    policy = Blacklight()
    flat = torch.zeros(2, 3, 32, 32)
    assert [len(found) for found in policy.fingerprints(flat)] == [1, 1]
    assert policy.detect(flat, ["a", "a"]).tolist() == [False, False]


def test_the_window_is_that_of_the_paper_for_small_and_for_large_images():
    x = torch.rand(1, 1, 65, 65, generator=torch.Generator().manual_seed(0))
    small = x[..., :64]
    assert Blacklight().fingerprints(x) == Blacklight(window=50).fingerprints(x)
    assert Blacklight().fingerprints(small) == Blacklight(window=20).fingerprints(small)


def test_pixels_at_a_multiple_of_the_step_fall_into_the_upper_level():
    x = torch.arange(256).view(1, 1, 16, 16) / 255
    by_number = torch.tensor([value // 50 * 50 for value in range(256)]).view(1, 1, 16, 16) / 255
    assert Blacklight(window=9).fingerprints(x) == Blacklight(window=9).fingerprints(by_number)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action": "tell"}, "^unknown defense.action 'tell'; known: ban, flag, refuse$"),
        ({"window": 0}, "^defense.window: expected at least 1, got 0$"),
        ({"step": 0}, "^defense.step: expected 1 to 255, got 0$"),
        ({"hashes": 0}, "^defense.hashes: expected at least 1, got 0$"),
        ({"threshold": 51}, "^defense.threshold: expected 1 to 50, the hashes, got 51$"),
    ],
)
def test_an_option_out_of_range_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Blacklight(**options)


def test_a_window_longer_than_the_image_is_refused():
    with pytest.raises(UserError, match=r"^defense.window: expected at most 12, the values of an image, got 20$"):
        Blacklight().detect(torch.zeros(1, 3, 2, 2), ["a"])
