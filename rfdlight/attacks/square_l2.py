"""The proposals of Square Attack in l2, which move mass from one window of the image to another."""

from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from rfdlight.core import rng
from rfdlight.core.norms import norm
from rfdlight.core.tensors import indices, per_row

_START_TURN, _START_SIGN, _WINDOWS, _SIGN, _TURN = range(4, 9)  # streams of random numbers; `square` has the first
_CELLS = 5  # bumps per column of the image at the start


@lru_cache(maxsize=4)
def bump(side: int) -> Tensor:
    """Return the authors' bump, (side, side) float64 of unit l2 norm: upper half >= 0, lower half <= 0."""
    upper = side // 2
    whole = torch.cat([_mound(upper, side), -_mound(side - upper, side)])
    return whole / whole.norm()


def _mound(height: int, width: int) -> Tensor:
    """Return nested rectangles around the centre, weighted 1, 1/4, 1/9, ..., of unit l2 norm."""
    mound = torch.zeros(height, width, dtype=torch.float64)
    if height == 0:
        return mound
    row, column = height // 2, width // 2
    for k in range(max(row, column) + 1):
        mound[max(row - k, 0) : row + k + 1, max(column - k, 0) : column + k + 1] += 1 / (k + 1) ** 2
    return mound / mound.norm()


def odd_side(side: Tensor, height: int, width: int) -> Tensor:
    """Return the side of the windows, (rows,) int64: odd, at least 3 where the image allows it."""
    largest = min(height, width) - 1
    side = side.clamp_min(3)
    return (side + (side % 2 == 0)).clamp_max(max(largest - (largest % 2 == 0), 1))


def start(x: Tensor, seed: Tensor, eps: float) -> Tensor:
    """Return the first points, like `x`: a grid of bumps with random signs and orientations, of norm `eps`."""
    rows, channels, height, width = x.shape
    side = max(height // _CELLS, 1)
    down, across = min(_CELLS, height // side), width // side
    zero = torch.zeros_like(seed)
    turn = rng.signs(seed, _START_TURN, zero, (1, down, across, 1, 1)) > 0
    sign = rng.signs(seed, _START_SIGN, zero, (channels, down, across, 1, 1))
    shape = bump(side).to(x)
    cells = torch.where(turn, shape, shape.T) * sign  # (rows, C, down, across, side, side)
    grid = cells.permute(0, 1, 2, 4, 3, 5).reshape(rows, channels, down * side, across * side)
    delta = torch.zeros_like(x)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    delta[:, :, top : top + down * side, left : left + across * side] = grid
    return (x + delta * per_row(eps / norm(delta, "l2"), x)).clamp_(0, 1)


def propose(x: Tensor, kept: Tensor, seed: Tensor, step: Tensor, side: Tensor, largest: int, eps: float) -> Tensor:
    """Return new points, like `x`, in which the mass of two windows of `kept` becomes a bump in the first.

    The windows have an odd side, (rows,) int64, of at most `largest`.
    """
    channels, height, width = x.shape[1:]
    delta = kept - x
    words = rng.words_of(seed, step, (_WINDOWS, 4), (_TURN, 1), (_SIGN, rng.words_for_signs(channels)))
    both, down, across = windows(rng.as_uniform(words[:, :4]).view(-1, 2, 2), side, height, width)
    both = both.to(x.dtype)
    first, union = both[:, :1], both.amax(1, keepdim=True)
    down, across = down[:, 0, :, None], across[:, 0, None, :]

    free = (eps**2 - norm(delta, "l2") ** 2).clamp_min(0) / channels
    held = (delta * union).square_().sum((2, 3))  # (rows, C)
    mass = (per_row(free, held) + held).sqrt()

    turn = rng.as_signs(words[:, 4:5], (1, 1)) > 0
    down, across = torch.where(turn, across, down), torch.where(turn, down, across)
    sign = rng.as_signs(words[:, 5:], (channels, 1, 1)).to(x.dtype)
    inside = delta * first
    unit = inside / (_length(inside) + 1e-10)
    direction = (sign * _bumps(side, largest, down, across, x.dtype)[:, None]).mul_(first).add_(unit)
    content = (mass[:, :, None, None] * direction).div_(_length(direction).clamp_min(1e-10))  # 0 outside of the first
    moved = delta.mul_(1 - union).add_(content)
    return moved.mul_(per_row(eps / norm(moved, "l2").clamp_min(1e-10), x)).add_(x).clamp_(0, 1)


def _length(values: Tensor) -> Tensor:
    """Return the l2 norm of each row's channels, (rows, C, 1, 1)."""
    return values.square().sum((2, 3), keepdim=True).sqrt()


def windows(place: Tensor, side: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the masks of windows, 1 inside and 0 outside, and each row's and each column's place in them.

    They are (rows, windows, H, W) int8, (rows, windows, H) and (rows, windows, W) int64, of windows of a side, (rows,),
    at places (rows, windows, 2) in [0, 1) of the range that is left to them.
    """
    corner = (place * (_size(height, width, side.device) - side[:, None])[:, None]).long()
    places = indices(max(height, width), side.device) - corner[..., None]
    inside = ((places >= 0) & (places < per_row(side, places))).view(torch.int8)
    down, across = inside[:, :, 0, :height], inside[:, :, 1, :width]
    return down[..., None] * across[..., None, :], places[:, :, 0, :height], places[:, :, 1, :width]


@lru_cache
def _size(height: int, width: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor([height, width], device=device)


def _bumps(side: Tensor, largest: int, down: Tensor, across: Tensor, dtype: torch.dtype) -> Tensor:
    """Return each row's bump, (rows, H, W); values outside the window have no meaning."""
    table, first = _all_bumps(largest, dtype, side.device)
    side, first = per_row(side, down), per_row(first[side // 2], down)
    last = side - 1
    return table.take(down.clamp(0).minimum(last) * side + across.clamp(0).minimum(last) + first)


@lru_cache(maxsize=4)
def _all_bumps(largest: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the values of the bumps of all odd sides up to `largest`, and the first one of each bump, int64."""
    with torch.inference_mode(False):
        sides = range(1, largest + 1, 2)
        first = list(accumulate((side**2 for side in sides), initial=0))[:-1]
        table = torch.cat([bump(side).flatten() for side in sides]).to(device, dtype)
        return table, torch.tensor(first, device=device)
