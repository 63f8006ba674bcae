"""What is special to the noise baseline, and the numbers that it and the others draw."""

import math

import pytest
import torch
from attack_checks import check_feasible, check_noise_best, check_noise_points, check_noise_reference
from reference import draws

from rfdlight.attacks import RandomNoise
from rfdlight.core import rng


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.002), ("linf", 0.05), ("l2", 1.0)])
def test_each_query_is_the_references(network, clean, norm, eps):
    check_noise_reference(RandomNoise(eps=eps, norm=norm), network, clean[0][:1], clean[1][:1], 300 if eps == 1 else 60)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_points_lie_on_the_surface_of_the_ball(norm):
    check_noise_points(RandomNoise(eps=0.3, norm=norm))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_points_stay_in_the_ball(network, clean, norm):
    check_feasible(RandomNoise(eps=0.1, norm=norm), network, clean[0][:3], clean[1][:3])


def test_the_last_misclassified_point_is_submitted():
    check_noise_best(RandomNoise(eps=0.1))


@pytest.mark.parametrize("seed", [0, 1, 2**62 + 12345, 2**63 - 1])
@pytest.mark.parametrize("stream", [0, 3])
def test_numbers_are_those_of_the_papers_hash_in_unsigned_arithmetic(seed, stream):
    key = torch.tensor([seed])
    for number in (0, 1, 10**6):
        at = torch.tensor([number])
        assert rng.uniform(key, stream, at, 3)[0].tolist() == draws.uniform(seed, stream, number, 3)
        assert rng.signs(key, stream, at, (5, 29))[0].flatten().tolist() == draws.signs(seed, stream, number, 145)


def test_numbers_depend_on_their_own_key_alone():
    seeds, numbers = torch.tensor([4, 9, 2, 9]), torch.tensor([0, 7, 1, 7])
    together = rng.words(seeds, 1, numbers, 4)
    for i in range(4):
        assert torch.equal(rng.words(seeds[i : i + 1], 1, numbers[i : i + 1], 4)[0], together[i])
    assert torch.equal(together[1], together[3])
    assert torch.equal(rng.words(seeds, 1, numbers, 2), together[:, :2])


def test_no_two_keys_draw_the_same_word():
    rows = torch.arange(40)
    seen = [rng.words(rows, stream, torch.full_like(rows, n), 5) for stream in range(4) for n in range(20)]
    words = torch.stack(seen).flatten()
    assert len(words.unique()) == len(words)


@pytest.mark.parametrize("along", ["seed", "stream", "number", "count"])
def test_uniform_numbers_have_the_moments_of_independent_uniforms_along_every_key(along):
    size = 20000
    zero, many = torch.zeros(size, dtype=torch.int64), torch.arange(size)
    if along == "seed":
        values = rng.uniform(many, 0, zero, 1)[:, 0]
    elif along == "number":
        values = rng.uniform(zero, 0, many, 1)[:, 0]
    elif along == "count":
        values = rng.uniform(zero[:1], 0, zero[:1], size)[0]
    else:
        size = 2000
        values = torch.cat([rng.uniform(zero[:1], stream, zero[:1], 1)[0] for stream in range(size)])
    assert values.min() >= 0
    assert values.max() < 1
    # Each z is standard normal; 4.5 is passed by chance in 1 of 150,000 draws.
    assert abs(float(values.mean() - 0.5)) * math.sqrt(12 * size) <= 4.5
    assert abs(float(((values - 0.5) ** 2).mean() - 1 / 12)) * math.sqrt(180 * size) <= 4.5
    centred = (values - 0.5) * math.sqrt(12)
    for lag in (1, 2, 7):
        assert abs(float((centred[:-lag] * centred[lag:]).mean())) * math.sqrt(size - lag) <= 4.5
    counts = (values * 50).long().bincount(minlength=50).double()
    # Chi square with 49 degrees of freedom: 95.0 in 1 of 10,000 runs.
    assert float(((counts - size / 50) ** 2 / (size / 50)).sum()) <= 95.0


def test_every_sign_position_is_fair_and_uncorrelated_with_its_neighbours():
    rows = 4000
    signs = rng.signs(torch.arange(rows), 0, torch.zeros(rows, dtype=torch.int64), (130,)).double()
    assert set(signs.unique().tolist()) == {-1, 1}
    # 130 positions: the largest of as many |z| passes 4.5 in 1 of 1,000 runs.
    assert float(signs.mean(0).abs().max()) * math.sqrt(rows) <= 4.5
    together = (signs.T @ signs / rows).fill_diagonal_(0)
    # 8,385 pairs: 5.2 is passed in 1 of 600 runs.
    assert float(together.abs().max()) * math.sqrt(rows) <= 5.2


def test_image_seeds_depend_on_run_and_image():
    seeds = {rng.image_seed(run, f"test/{i}") for run in range(20) for i in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert rng.image_seed(3, "test/1") == rng.image_seed(3, "test/1")
