"""Row helpers, against plain loops and on both paths: the CPU's and the one that a GPU takes."""

import pytest
import torch

from rfdlight.core.tensors import free_reads, negated, replace


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32, torch.int64])
@pytest.mark.parametrize("which", ["none", "some", "all"])
def test_replace_overwrites_the_masked_rows_alone(dtype, which):
    pool = torch.arange(9 * 5 * 2).view(9, 5, 2).to(dtype)
    values = -torch.arange(4 * 5 * 2).view(4, 5, 2).to(dtype) - 1
    mask = {"none": [False] * 4, "some": [True, False, False, True], "all": [True] * 4}[which]
    expected = pool.clone()
    for row, chosen in enumerate(mask):
        if chosen:
            expected[3 + row] = values[row]
    of_gpu = pool.clone()
    replace(pool[3:7], torch.tensor(mask), values)  # a view: the pool itself changes
    with free_reads.off():
        replace(of_gpu[3:7], torch.tensor(mask), values)
    assert torch.equal(pool, expected)
    assert torch.equal(of_gpu, expected)


def test_negated_ranges_of_flat_rows():
    shape = (2, 3, 4)
    ranges = [(0, 0), (0, 1), (0, 24), (5, 5), (7, 19), (23, 24), (20, 31), (24, 24)]  # a range may pass the end
    signs = torch.ones(len(ranges), *shape, dtype=torch.int8)
    signs[:, 1, :, ::2] = -1
    expected = signs.clone()
    for row, (start, stop) in zip(expected.view(len(ranges), -1), ranges, strict=True):
        row[start:stop] *= -1
    before = signs.clone()
    start, stop = torch.tensor(ranges).T
    assert torch.equal(negated(signs, start, stop), expected)
    assert torch.equal(signs, before)  # neither the argument nor the table changes
    assert torch.equal(negated(signs, start, stop), expected)


def test_negated_ranges_in_another_order_of_the_values():
    signs = torch.ones(1, 2, 2, 3, dtype=torch.int8)  # (rows, C, H, W): in (H, W, C) four values are two pixels
    last = negated(signs.permute(0, 2, 3, 1), torch.tensor([0]), torch.tensor([4])).permute(0, 3, 1, 2)
    assert (last[0] < 0).nonzero().tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]
