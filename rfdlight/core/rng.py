"""Keyed random numbers: hashes of (seed of the image, stream for the purpose, number of the draw).

So an image's attack is the same in any pool, order, batch or process.

Source: the finaliser of Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014, in int64
arithmetic, which wraps as the paper's unsigned arithmetic does.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_ROUNDS = 6  # of the network that permutes; four already pass for random in large orders


def image_seed(run_seed: int, image_id: str) -> int:
    """Return the 63-bit seed of an image in a run."""
    digest = hashlib.sha256(f"{run_seed}:{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _wrap(value: int) -> int:
    """Bring a Python integer into the range of int64, as its arithmetic would."""
    return (value + 2**63) % 2**64 - 2**63


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right without the sign."""
    return (z >> bits) & (2 ** (64 - bits) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def words(seed: Tensor, stream: int, number: Tensor, count: int) -> Tensor:
    """Return random 64-bit words, (rows, count) int64, of the seeds and numbers (rows,) int64."""
    key = _mix(_mix(seed + _wrap(_GAMMA * (stream + 1))) + _GAMMA * (number + 1))
    offsets = torch.arange(1, count + 1, device=seed.device) * _GAMMA
    return _mix(key[:, None] + offsets)


def uniform(seed: Tensor, stream: int, number: Tensor, count: int) -> Tensor:
    """Return float64 draws from [0, 1), (rows, count), with 53 random bits each."""
    return _shift(words(seed, stream, number, count), 11).double() * 2.0**-53


def signs(seed: Tensor, stream: int, number: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return int8 draws from {-1, +1}, (rows, *shape), one random bit each."""
    count = math.prod(shape)
    octets = words(seed, stream, number, -(-count // 64)).view(torch.uint8)  # (rows, 8 * words)
    bits = (octets[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=seed.device)) & 1
    return bits.flatten(1)[:, :count].to(torch.int8).mul_(2).sub_(1).view(-1, *shape)


def biased_signs(seed: Tensor, stream: int, number: Tensor, mean: Tensor) -> Tensor:
    """Return draws from {-1, +1} with means in [-1, 1], like `mean`, (rows, ...), from 16 random bits each."""
    count = mean[0].numel()
    levels = words(seed, stream, number, -(-count // 4)).view(torch.int16)[:, :count].view_as(mean)
    return torch.copysign(torch.ones((), device=mean.device), mean.mul(2**15).sub_(levels).sub_(0.5))


def normal(seed: Tensor, stream: int, number: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return float32 standard normal draws, (rows, *shape), each within 6.7 of zero.

    Source: Box and Muller, A Note on the Generation of Random Normal Deviates, 1958.
    """
    count = math.prod(shape)
    halves = words(seed, stream, number, -(-count // 2)).view(torch.int32).view(len(seed), -1, 2)
    radius = (halves[..., 0] & (2**31 - 1)).float().add_(0.5).mul_(2.0**-31).log_().mul_(-2).sqrt_()
    angle = halves[..., 1].float().mul_(math.pi * 2.0**-31)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count].reshape(-1, *shape)


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
