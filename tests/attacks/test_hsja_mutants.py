"""The checks of HopSkipJump can fail: its mutants are caught."""

import pytest
import torch
from attack_checks import caught
from test_hsja import (
    check_counts,
    check_geometry,
    check_kept,
    check_normal,
    check_plane,
    check_reference,
    grey,
    halfspace,
)

from rfdlight.attacks import HSJA


class ReadsTheOpposite(HSJA):
    """Sign: the sums take hits for misses."""

    def _count(self, state, points, adversarial):
        super()._count(state, points, ~adversarial)


class ForgetsTheMean(HSJA):
    """Reading: the mean of the answers is not subtracted."""

    def normal(self, state):
        return super().normal({**state, "answers": state["probes"]})


class GrowsLinearly(HSJA):
    """Schedule: the probes grow with t, not with its root."""

    def probes_wanted(self, iteration):
        return super().probes_wanted(iteration**2)


class ProbesTooFar(HSJA):
    """Size: probes of twice their length."""

    def probe_size(self, state):
        return 2 * super().probe_size(state)


class StepsTooFar(HSJA):
    """Size: the step does not shrink with t."""

    def _stepped(self, state):
        return super()._stepped({**state, "iteration": torch.ones_like(state["iteration"])})


class BisectsOnce(HSJA):
    """Budget: each projection goes on to half the gap."""

    def closeness(self, size):
        return super().closeness(size) / 2


class KeepsTheLast(HSJA):
    """Reading: keeps the last hit, near or far."""

    def tell(self, state, points, answer):
        state["distance"] = torch.full_like(state["distance"], torch.inf)
        super().tell(state, points, answer)


def small(check):
    """The check at small options."""
    attack_options = {"eps": 0.05, "norm": "l2", "init_probes": 40}
    x = grey(2)

    def run(mutant, network, clean):
        attack = mutant(**attack_options)
        if check is check_reference:
            check(attack, halfspace(x, 0.1)[0], x, torch.zeros(2, dtype=torch.int64), 200)
        elif check is check_kept:
            check(attack, network, clean[0][:2], clean[1][:2], 80)
        elif check is check_plane:
            check(attack, 1.05, 400)
        else:
            check(attack)

    return run


CAUGHT = [
    (ReadsTheOpposite, [check_reference, check_normal, check_plane]),
    (ForgetsTheMean, [check_reference]),
    (GrowsLinearly, [check_counts]),
    (ProbesTooFar, [check_reference, check_geometry, check_normal]),
    (StepsTooFar, [check_reference, check_geometry]),
    (BisectsOnce, [check_reference, check_counts]),
    (KeepsTheLast, [check_kept, check_reference]),
]


@pytest.mark.parametrize(("mutant", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, check, network, clean):
    with pytest.raises(AssertionError):
        small(check)(mutant, network, clean)
