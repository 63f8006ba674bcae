"""Keyed random numbers: hashes of (seed of the image, stream for the purpose, number of the draw).

So an image's attack is the same in any pool, order, batch or process.

Source: the finaliser of Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014, in int64
arithmetic, which wraps as the paper's unsigned arithmetic does.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import torch
from torch import Tensor

from rfdlight.core.tensors import indices

_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_ROUNDS = 6  # of the network that permutes; four already pass for random in large orders


def image_seed(run_seed: int, image_id: str) -> int:
    """Return the 63-bit seed of an image in a run."""
    digest = hashlib.sha256(f"{run_seed}:{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's global generators for work on a device, on the CPU its own generator alone.

    `torch.manual_seed` also seeds the accelerators; without one it keeps the caller's stack for each of them, which
    takes longer than the pass of a small network.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _shift(z: Tensor, bits: int, out: Tensor | None = None) -> Tensor:
    """Shift right without the sign."""
    return torch.bitwise_right_shift(z, bits, out=out).bitwise_and_(2 ** (64 - bits) - 1)


def _mix(z: Tensor) -> Tensor:
    """Hash words; their memory is used for results on the way."""
    other = _shift(z, 30).bitwise_xor_(z).mul_(_MIX_1)
    z = _shift(other, 27, out=z).bitwise_xor_(other).mul_(_MIX_2)
    return _shift(z, 31, out=other).bitwise_xor_(z)


def _words(seed: Tensor, steps: Tensor, number: Tensor, offsets: Tensor) -> Tensor:
    key = _mix(torch.add(_mix(seed[:, None] + steps), (number + 1)[:, None], alpha=_GAMMA))
    return _mix(key + offsets)


@lru_cache(maxsize=64)
def _multiples(first: int, count: int, device: torch.device) -> Tensor:
    """Return the multiples of the hash's step from the number `first` on, (count,) int64, which are made once."""
    with torch.inference_mode(False):
        return (indices(count, device) + first) * _GAMMA


def words(seed: Tensor, stream: int, number: Tensor, count: int) -> Tensor:
    """Return random 64-bit words, (rows, count) int64, of the seeds and numbers (rows,) int64."""
    return _words(seed, _multiples(stream + 1, 1, seed.device), number, _multiples(1, count, seed.device))


@lru_cache(maxsize=64)
def _of_streams(counts: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the multiples of the streams and of the places of words, (words,) each; see `words_of`."""
    with torch.inference_mode(False):
        steps = [_multiples(stream + 1, 1, device).expand(count) for stream, count in counts]
        return torch.cat(steps), torch.cat([_multiples(1, count, device) for _, count in counts])


def words_of(seed: Tensor, number: Tensor, *counts: tuple[int, int]) -> Tensor:
    """Return the words of several streams, each given with a count, side by side, by as many operators as for one.

    It is for few words: the key of a stream is computed for each of them.
    """
    steps, offsets = _of_streams(counts, seed.device)
    return _words(seed, steps, number, offsets)


def as_uniform(words: Tensor) -> Tensor:
    """Return words, (rows, count) int64, as float64 draws from [0, 1) with 53 random bits each."""
    return _shift(words, 11).double().mul_(2.0**-53)


def uniform(seed: Tensor, stream: int, number: Tensor, count: int) -> Tensor:
    """Return float64 draws from [0, 1), (rows, count), with 53 random bits each."""
    return as_uniform(words(seed, stream, number, count))


def signs(seed: Tensor, stream: int, number: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return int8 draws from {-1, +1}, (rows, *shape), one random bit each."""
    return as_signs(words(seed, stream, number, words_for_signs(math.prod(shape))), shape)


def words_for_signs(count: int) -> int:
    """Return the number of words that hold `count` signs."""
    return -(-count // 64)


def as_signs(words: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return words, (rows, count) int64, as int8 draws from {-1, +1}, (rows, *shape), one random bit each."""
    octets = words.view(torch.uint8).long()  # (rows, 8 * words)
    return _eight_signs(words.device).take(octets).view(torch.int8)[:, : math.prod(shape)].view(-1, *shape)


@lru_cache
def _eight_signs(device: torch.device) -> Tensor:
    """Return the signs of the bits of each octet from 0 to 255, eight int8 in the memory of one int64, (256,)."""
    with torch.inference_mode(False):
        bits = (indices(256, device)[:, None] >> indices(8, device)) & 1
        return (2 * bits - 1).to(torch.int8).view(torch.int64)[:, 0].contiguous()


def biased_signs(seed: Tensor, stream: int, number: Tensor, mean: Tensor) -> Tensor:
    """Return draws from {-1, +1} with means in [-1, 1], like `mean`, (rows, ...), from 16 random bits each."""
    count = mean[0].numel()
    levels = words(seed, stream, number, -(-count // 4)).view(torch.int16)[:, :count].view_as(mean)
    return torch.copysign(_one(mean.device), mean.mul(2**15).sub_(levels).sub_(0.5))


@lru_cache
def _one(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.ones((), device=device)


def normal(seed: Tensor, stream: int, number: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return float32 standard normal draws, (rows, *shape), each within 6.7 of zero.

    Source: Box and Muller, A Note on the Generation of Random Normal Deviates, 1958.
    """
    count = math.prod(shape)
    halves = words(seed, stream, number, -(-count // 2)).view(torch.int32).view(len(seed), -1, 2)
    radius = (halves[..., 0] & (2**31 - 1)).float().add_(0.5).mul_(2.0**-31).log_().mul_(-2).sqrt_()
    angle = halves[..., 1].float().mul_(math.pi * 2.0**-31)
    return torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], 1)[:, :count].reshape(-1, *shape)


def permuted(seed: Tensor, stream: int, number: Tensor, place: Tensor, size: Tensor) -> Tensor:
    """Return where a random order of [0, size) sends places in it; all are (rows,) int64.

    Source: Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002, sections 4 and 5: a Feistel
    network on a * b >= size places, walked until it comes back into range. It needs no storage.
    """
    left_size = size.double().sqrt().ceil().long()
    right_size = (size + left_size - 1) // left_size

    def walk(value: Tensor) -> Tensor:
        left, right = value // right_size, value % right_size
        for turn in range(_ROUNDS):
            key = ((number * _ROUNDS + turn) << 32) + (left if turn % 2 else right)
            word = words(seed, stream, key, 1)[:, 0]
            if turn % 2:
                right = (right + word % right_size) % right_size
            else:
                left = (left + word % left_size) % left_size
        return left * right_size + right

    value = walk(place)
    while (outside := value >= size).any():
        value = torch.where(outside, walk(value), value)
    return value
