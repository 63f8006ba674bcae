"""The ledger counts rows per image and per run, and says when they are not those that the victim saw."""

import pytest
import torch
from harness import Constant, Run, images

from rfdlight.attacks import RandomNoise
from rfdlight.engine.ledger import Ledger, QueryCounts


def test_charges_go_to_rows_and_to_the_run():
    ledger = Ledger()
    counts = QueryCounts(*(torch.zeros(4, dtype=torch.int64) for _ in range(6)))
    ledger.charge(counts, slice(1, 3), "attack", 1)
    ledger.charge(counts, torch.tensor([0, 3]), "attack", 2)
    ledger.charge(counts, slice(0, 4), "criterion", torch.tensor([5, 0, 1, 0]))
    ledger.charge(counts, torch.tensor([2]), "success_check", 3)
    ledger.pad(7)
    ledger.charge_checks(4)
    assert counts.attack.tolist() == [2, 1, 1, 2]
    assert counts.criterion.tolist() == [5, 0, 1, 0]
    assert counts.billed.tolist() == [2, 1, 4, 2]
    assert ledger.total == {"attack": 6, "gradient": 0, "success_check": 3, "criterion": 6, "checks": 4, "padding": 7}


def test_a_new_start_keeps_the_rows_of_checks():
    ledger = Ledger()
    ledger.charge_checks(4)
    ledger.charge(QueryCounts(*torch.zeros(6, 1, dtype=torch.int64)), slice(0, 1), "attack", 5)
    ledger.pad(7)
    ledger.discard()
    assert ledger.total == {"attack": 0, "gradient": 0, "success_check": 0, "criterion": 0, "checks": 4, "padding": 12}


def test_a_difference_of_one_row_is_an_error():
    ledger = Ledger()
    ledger.pad(5)
    ledger.check(5)
    for forwarded in (4, 6):
        with pytest.raises(RuntimeError, match=f"^the ledger has 5 rows, the victim saw {forwarded}: "):
            ledger.check(forwarded)


def test_padding_is_what_no_image_asked_for():
    # Five images, four rows a pass, no budget: two passes at the clean images, two at the final points.
    run = Run(Constant(), RandomNoise(eps=0.1), images(5), torch.zeros(5, dtype=torch.int64), budget=0, pool_size=5)
    assert run.total == {
        "attack": 0,
        "gradient": 0,
        "success_check": 0,
        "criterion": 10,
        "checks": 0,
        "padding": 4 * len(run.shapes) - 10,
    }
    run = Run(Constant(), RandomNoise(eps=0.1), images(4), torch.zeros(4, dtype=torch.int64), budget=3)
    assert run.total == {"attack": 12, "gradient": 0, "success_check": 0, "criterion": 12, "checks": 0, "padding": 0}
