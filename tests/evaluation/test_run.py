"""The result of an evaluation: its tensors, one entry per image."""

import torch
from hand import facts, ten

from rfdlight.evaluation.run import Run


def test_queries_and_success_are_in_the_order_of_the_ids():
    run = Run.of(reversed(ten()), facts())
    assert run.queries.tolist() == [each.billed for each in ten()]
    assert run.success.tolist() == [True] * 4 + [False] * 6
    assert (run.queries.dtype, run.success.dtype) == (torch.int64, torch.bool)
    order = (*run.ids[::-1], "without a record")
    given = Run(run.records, run.facts, order=order)
    assert given.queries.tolist() == [*run.queries.tolist()[::-1], 0]
    assert given.success.tolist() == [*run.success.tolist()[::-1], False]
