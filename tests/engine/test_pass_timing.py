"""The choice of batch size and memory format: from tables of rates, and the rows and the noise of the timing."""

import pytest
import torch
from harness import centred_network, images
from torch import nn

from rfdlight.defenses import LogitNoise
from rfdlight.engine.oracle import Oracle, OracleConfig
from rfdlight.engine.pass_timing import PassTimer, choose, is_timed

LAST, PLAIN = True, False


def chosen(table, rows=64, *, most=4096, images=10**5, queries=10**7, **options):
    """The rows and the format chosen by a table of rates, in which sizes that are left out fail."""
    tried = []

    def rate(rows, channels_last):
        tried.append((rows, channels_last))
        return table.get((rows, channels_last), 0.0)

    found = choose(rate, rows, most=most, images=images, queries=queries, **options)
    return (found.rows, found.channels_last), tried


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({(64, LAST): 100, (128, LAST): 104, (32, LAST): 104}, (64, LAST)),  # within 5 %
        ({(64, LAST): 100, (128, LAST): 190, (256, LAST): 300, (512, LAST): 310, (32, LAST): 900}, (256, LAST)),
        ({(64, LAST): 100, (128, LAST): 90, (32, LAST): 130, (16, LAST): 900}, (32, LAST)),
        ({(64, LAST): 100, (64, PLAIN): 104}, (64, LAST)),
        ({(64, LAST): 100, (64, PLAIN): 120, (128, PLAIN): 200, (128, LAST): 900}, (128, PLAIN)),
        ({(64, LAST): 100, (128, LAST): 200}, (128, LAST)),  # memory runs out at 256
    ],
)
def test_the_fastest_of_a_table_is_chosen_and_the_default_where_little_is_gained(table, expected):
    assert chosen(table)[0] == expected


ALWAYS = {(2**power, LAST): 100.0 * 2**power for power in range(13)}


def test_no_size_above_the_bound_is_tried():
    found, tried = chosen(ALWAYS, most=300)
    assert found == (256, LAST)
    assert max(rows for rows, _ in tried) == 300
    assert chosen(ALWAYS, most=256)[0] == (256, LAST)


def test_a_format_that_is_given_is_the_only_one():
    table = {(rows, PLAIN): rate for (rows, _), rate in ALWAYS.items()}
    found, tried = chosen(table, most=256, channels_last=False)
    assert found == (256, PLAIN)
    assert {channels_last for _, channels_last in tried} == {PLAIN}


def test_sizes_are_whole_queries():
    table = {(60, LAST): 100, (30, LAST): 110, (20, LAST): 120}
    found, tried = chosen(table, rows=60, step=20)
    assert found == (20, LAST)
    assert all(rows % 20 == 0 for rows, _ in tried)


def test_the_padding_at_the_end_counts():
    # With 200 images, passes of 128 rows add 41 % to the useful rows and passes of 64 add 10 %.
    assert chosen({(64, LAST): 100, (128, LAST): 130}, images=200)[0] == (64, LAST)
    assert chosen({(64, LAST): 100, (128, LAST): 140}, images=200)[0] == (128, LAST)
    assert chosen({(64, LAST): 100, (128, LAST): 130})[0] == (128, LAST)


def test_the_timing_takes_little_of_the_time_of_all_queries():
    for queries in (256_000, 10**6, 10**7):
        _, tried = chosen(ALWAYS, queries=queries)
        seconds = sum(4 * rows / ALWAYS.get((rows, last), float("inf")) for rows, last in tried)
        assert seconds <= 0.005 * queries / ALWAYS[64, LAST]
    assert not is_timed(255_999)
    assert is_timed(256_000)


@pytest.mark.parametrize("odd", [(64, LAST), (64, PLAIN)])
@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_a_slow_or_a_fast_moment_of_the_machine_changes_nothing(odd, factor):
    tried = set()

    def rate(rows, channels_last):
        first = (rows, channels_last) not in tried
        tried.add((rows, channels_last))
        return (100.0 if channels_last else 80.0) * (factor if first and (rows, channels_last) == odd else 1)

    found = choose(rate, 64, most=64, images=10**5, queries=10**7)
    assert (found.rows, found.channels_last) == (64, LAST)


def test_passes_that_fail_choose_nothing():
    assert choose(lambda *_: 0.0, 64, most=512, images=1000, queries=10**6) is None


class Tight(nn.Module):
    """A victim whose memory holds some rows, and which counts the rows that it answers."""

    def __init__(self, most):
        super().__init__()
        self.most, self.rows = most, 0

    def forward(self, x):
        if len(x) > self.most:
            raise MemoryError
        self.rows += len(x)
        return x.flatten(1)[:, :5]


def test_the_median_of_the_passes_after_the_first_counts_and_so_do_their_rows():
    times = iter([0, 90, 90, 92, 92, 96, 96, 97])  # passes of 90, 2, 4 and 1 seconds
    victim = Tight(10)
    timer = PassTimer(victim, images(1), OracleConfig(), image_bytes=1000, clock=lambda: next(times))
    assert timer(10, True) == 10 / 2
    assert timer.forwarded == victim.rows == 40


def test_memory_that_runs_out_is_a_rate_of_0():
    victim = Tight(10)
    timer = PassTimer(victim, images(1), OracleConfig())
    assert timer(11, True) == 0.0
    assert PassTimer(victim, images(1), OracleConfig(), image_bytes=2**57)(4, True) == 0.0, "no room for the pool"
    assert timer(10, True) > 0.0
    assert timer.forwarded == victim.rows == 40


@pytest.mark.parametrize("gradients", [False, True])
def test_the_timing_leaves_the_noise_of_the_attack_and_of_the_caller_alone(gradients):
    victim, x = centred_network(), images(4)
    LogitNoise(0.5).attach(victim)
    answers = []
    for timed in (False, True):
        torch.manual_seed(5)
        if timed:
            PassTimer(victim, x[:1], OracleConfig(), gradients=gradients)(4, True)
        oracle = Oracle(victim, 4)
        clock = torch.zeros(4, dtype=torch.int64)
        answers.append([oracle.scores(x, clock, "attack"), torch.rand(3)])
        oracle.close()
    assert all(map(torch.equal, *answers))
