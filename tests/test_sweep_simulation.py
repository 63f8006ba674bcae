"""The simulation of sweeps, against closed forms and bounds."""

import importlib
import itertools
import math
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean, stdev

import pytest

from rfdlight.cli.sweep.experiment import Resources
from rfdlight.cli.sweep.packs import Job, longest_first, one_by_one

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def model(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("sweep_simulation")


def jobs_of(seconds, gpus=None):
    return [Job(f"cell{number}", each, Resources(gpus=gpus)) for number, each in enumerate(seconds)]


def ends(model, packs, workers, seed=0, rounds=1, **costs):
    """The outcome of packs whose estimates are true."""
    truth = {job.name: model.Truth(job.seconds, job.seconds / rounds) for pack in packs for job in pack.jobs}
    return model.simulate(packs, truth, model.Machine(workers, **costs), Random(seed))


@pytest.mark.parametrize(("cells", "workers"), [(1, 1), (12, 4), (13, 4), (3, 8)])
def test_equal_cells_run_in_rows_of_as_many_as_there_are_workers(cells, workers, model):
    outcome = ends(model, one_by_one(jobs_of([50.0] * cells)), workers, start=7, each=2)
    assert outcome.seconds == math.ceil(cells / workers) * 59
    assert outcome.kills == 0


def test_one_worker_takes_the_sum_and_a_pack_starts_once(model):
    jobs = jobs_of([3.0, 5.0, 11.0])
    (pack,) = longest_first([Job("long", 1000.0)], 1)  # whose quarter holds the small cells
    packs = [pack, *(each for each in longest_first([*jobs, Job("long", 1000.0)], 1) if each.names != ("long",))]
    assert [len(each.jobs) for each in packs] == [1, 3]
    assert ends(model, packs, 1, start=7, each=2).seconds == 1019 + 2 * 7 + 4 * 2
    assert ends(model, one_by_one(jobs), 1, start=7, each=2).seconds == 19 + 3 * 9


def best(seconds, workers):
    """The end of the best of all schedules."""
    return min(
        max(sum(one for one, own in zip(seconds, place, strict=True) if own == worker) for worker in range(workers))
        for place in itertools.product(range(workers), repeat=len(seconds))
    )


def test_grahams_bounds_hold_and_his_worst_cases_meet_them(model):
    random = Random(1)
    for workers in (2, 3):
        for _ in range(6):
            seconds = [random.choice([1, 2, 3, 5, 8, 13]) for _ in range(7)]
            jobs = jobs_of(seconds)
            least = best(seconds, workers)
            apart = [replace(job, loads=job.name) for job in jobs]
            assert least <= ends(model, one_by_one(jobs), workers).seconds <= (2 - 1 / workers) * least
            longest = ends(model, longest_first(apart, workers), workers).seconds
            assert least <= longest <= (4 / 3 - 1 / (3 * workers)) * least + 1e-9
    assert ends(model, one_by_one(jobs_of([1, 1, 1, 1, 1, 1, 3])), 3).seconds == pytest.approx(
        5
    )  # (2 - 1/3) times the best, 3
    worst = [replace(job, loads=job.name) for job in jobs_of([5, 5, 4, 4, 3, 3, 3])]
    assert ends(model, longest_first(worst, 3), 3).seconds == 11  # (4/3 - 1/9) times the best, 9


def test_a_cell_of_several_devices_waits_while_later_cells_fit(model):
    packs = [*one_by_one(jobs_of([10])), *one_by_one([Job("wide", 5, Resources(gpus=2)), Job("small", 3)])]
    assert ends(model, packs, 2).seconds == 15  # `small` runs beside the first
    with pytest.raises(ValueError, match="2 workers"):
        ends(model, packs, 1)


def test_without_a_rate_of_kills_the_seed_changes_nothing(model):
    packs = one_by_one(jobs_of([7.0, 3.0, 9.0, 4.0]))
    assert {ends(model, packs, 2, seed) for seed in range(20)} == {ends(model, packs, 2)}


@pytest.mark.parametrize("rounds", [1, 4])
def test_the_mean_time_under_kills_is_that_of_restarts(rounds, model):
    # A renewal process: a round begun after a start of s seconds ends after (e^(k (s + r)) - e^(k s)) / k on average,
    # where a kill adds a start; the first start is once more.
    rate, start, seconds = 1 / 80, 5.0, 100.0
    packs = one_by_one(jobs_of([seconds]))
    outcomes = [ends(model, packs, 1, seed, rounds, start=start, kills=3600 * rate) for seed in range(3000)]
    length = seconds / rounds
    first = math.expm1(rate * (start + length)) / rate
    restart = math.expm1(rate * start) / rate
    others = math.expm1(rate * length) * (1 / rate + restart)
    expected = first + (rounds - 1) * others
    taken = [outcome.seconds for outcome in outcomes]
    assert abs(fmean(taken) - expected) < 4 * stdev(taken) / math.sqrt(len(taken))
    assert fmean(outcome.kills for outcome in outcomes) == pytest.approx(expected * rate, rel=0.1)


class Lives:
    """Random numbers that end processes after given seconds, and later ones never."""

    def __init__(self, *seconds):
        self.seconds = iter(seconds)
        self.rates = []

    def expovariate(self, rate):
        self.rates.append(rate)
        return next(self.seconds, math.inf)


def test_a_kill_keeps_finished_cells_and_rounds_and_puts_the_rest_in_front(model):
    jobs = [Job("a", 10.0), Job("b", 12.0), Job("c", 4.0), Job("d", 1000.0)]
    packs = [pack for pack in longest_first(jobs, 1) if "d" not in pack.names]
    assert packs[0].names == ("b", "a", "c")
    truth = {job.name: model.Truth(job.seconds, 2.0) for job in jobs}
    # After the start of 5 seconds and the 12 of b, 8 of a are done. Then c goes first, as the driver puts it, and is
    # killed after 3 of its seconds, of which 2 are kept.
    outcome = model.simulate(packs, truth, model.Machine(1, start=5.0, kills=1.0), Lives(25.0, 8.0))
    assert outcome == model.Outcome(25 + 8 + (5 + 2) + (5 + 2), 2)


def test_a_cell_of_several_devices_is_killed_with_each_of_them(model):
    lives = Lives()
    packs = one_by_one([Job("wide", 5.0, Resources(gpus=3)), Job("half", 5.0, Resources(gpus=0.5))])
    truth = {name: model.Truth(5.0, 5.0) for name in ("wide", "half")}
    model.simulate(packs, truth, model.Machine(4, kills=3600.0), lives)
    assert lives.rates == [3.0, 1.0]
