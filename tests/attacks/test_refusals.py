"""How much the queries of an attack differ after refusals and answers."""

import torch

from rfdlight.attacks.refusals import doubled, taken_back


def test_refusals_double_a_size_up_to_64_times_and_eight_answers_take_a_doubling_back():
    sizes = torch.zeros(3)
    for _ in range(9):
        sizes = doubled(sizes, torch.tensor([True, False, True]))
    assert (2**sizes).tolist() == [64, 1, 64]
    for _ in range(8):
        sizes = taken_back(sizes, torch.tensor([True, True, False]))
    assert (2**sizes).tolist() == [32, 1, 64]
