"""Whether a victim is random or looks at its batch, measured before the attack and as it goes on."""

import pytest
import torch
from harness import Collector, Mapped, Run, centred_network, engine_of, images
from torch.nn.functional import batch_norm

from rfdlight.attacks import NES, PGD, RandomNoise, RayS
from rfdlight.engine import Oracle, OracleConfig, criterion_named
from rfdlight.engine.failures import RandomVictim
from rfdlight.engine.probe import near_boundary, probe
from rfdlight.errors import UserError

NETWORK = centred_network()
X = images(6)


@torch.no_grad()
def label(x):
    return NETWORK(x).argmax(1)


def found(change, rows=8, points=X):
    oracle = Oracle(Mapped(NETWORK, change), rows)
    try:
        return probe(oracle, points)
    finally:
        oracle.close()


class Counting:
    """Changes the logits by a function of how many passes came before."""

    def __init__(self, change):
        self.passes = 0
        self.change = change

    def __call__(self, logits):
        self.passes += 1
        return self.change(logits, self.passes)


def own_generator():
    generator = torch.Generator().manual_seed(0)
    return lambda logits: logits + torch.randn(logits.shape, generator=generator)


def reused():
    answer = torch.zeros(8, 5)
    noise = own_generator()
    return lambda logits: answer[:, : logits.shape[1]].copy_(noise(logits))


RANDOM = {
    "torch's generator": lambda: lambda logits: logits + torch.randn_like(logits),
    "a generator of its own": own_generator,
    "one buffer for all answers": reused,
    "another network in every pass": lambda: Counting(lambda logits, passes: logits * (1 + passes % 2)),
    "another network in every third pass": lambda: Counting(lambda logits, passes: logits * (1 + (passes % 3 == 0))),
    "a strong drift": lambda: Counting(lambda logits, passes: logits + passes * torch.linspace(0, 1, 5)),
    "a memory": lambda: Counting(lambda logits, passes: logits + passes),
    "noise on one row": lambda: lambda logits: logits + torch.randn(len(logits), 1) * (logits == logits.max()),
    "noise on some rows alone": lambda: noise_where_unsure,
}


def noise_where_unsure(logits):
    logits = logits.clone()
    unsure = logits[:, 0] < logits[:, 0].median()
    logits[unsure] += 5 * torch.randn(int(unsure.sum()), logits.shape[1])
    return logits


@pytest.mark.parametrize("kind", RANDOM)
def test_a_victim_that_answers_equal_batches_differently_is_random(kind):
    behaviour = found(RANDOM[kind]())
    assert behaviour.random
    assert behaviour.batch_effect == 0


def test_a_victim_that_chooses_between_two_networks_at_random_depends_on_no_batch():
    for seed in range(20):
        torch.manual_seed(seed)
        oracle = Oracle(Mapped(NETWORK, lambda logits: logits * (1 + torch.randint(2, ()))), 8, OracleConfig(seed=seed))
        assert probe(oracle, X).batch_effect == 0
        oracle.close()


def test_a_deterministic_victim_costs_four_passes_and_is_none_of_it():
    oracle = Oracle(NETWORK, 8)
    behaviour = probe(oracle, X)
    assert not behaviour.random
    assert behaviour.batch_effect == 0
    assert oracle.forwarded == 4 * 8


def noise_by_place(logits):
    """Noise that restarts from one seed in every pass: the same in equal batches, another one at another place."""
    return logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))


def noisy(logits):
    return logits + 0.1 * torch.randn_like(logits)


BATCH = {
    "batch statistics": lambda logits: batch_norm(logits, None, None, training=True),
    "batch statistics and noise": lambda logits: noisy(batch_norm(logits, None, None, training=True)),
    "the first row": lambda logits: logits - logits[:1],
    "softmax over the batch": lambda logits: logits.softmax(0),
    "one seed in every pass": noise_by_place,
}


@pytest.mark.parametrize("kind", BATCH)
@pytest.mark.parametrize("points", [X, X[:1]], ids=["part of a pass", "one image"])
def test_a_victim_whose_answer_depends_on_its_batch_is_refused(kind, points):
    if kind == "one seed in every pass" and len(points) == 1:
        pytest.skip("one image fills the whole pass, and its noise is seen by place alone")
    with pytest.raises(UserError, match=r"depends on the other images of its batch.*batch_size 1"):
        found(BATCH[kind], points=points)


def test_alone_in_its_pass_an_image_has_no_neighbours():
    assert not found(lambda logits: logits - logits.mean(0) * 0.5, rows=1).random


def test_a_small_effect_of_the_batch_makes_a_victim_random():
    behaviour = found(lambda logits: logits + 0.05 * logits.mean(0))
    assert behaviour.random
    assert 0.001 < behaviour.batch_effect < 0.1


def near_the_boundary(logits):
    top = logits.topk(2, 1).values
    return torch.where((top[:, :1] - top[:, 1:]) < 0.2, logits + 0.5 * torch.randn_like(logits), logits)


def after(passes):
    return Counting(lambda logits, count: logits + torch.randn_like(logits) * (count > passes))


LATER = {
    "near the boundary alone": lambda: near_the_boundary,
    "from some pass on": lambda: after(2),
    "in one pass of two": lambda: Counting(lambda logits, count: logits + (count % 2) * torch.linspace(0, 1, 5)),
}


@pytest.mark.parametrize(("attack", "kind"), [(RayS, kind) for kind in LATER] + [(PGD, "from some pass on")])
def test_noise_that_the_first_look_misses_is_found_by_the_repeated_evaluations(kind, attack):
    victim, x = Mapped(NETWORK, LATER[kind]()), images(4)
    with pytest.raises(RandomVictim):
        Run(victim, attack(eps=0.15), x, label(x), budget=40)


@pytest.mark.parametrize("attack", [NES, PGD])
def test_noise_that_begins_at_the_final_evaluation_is_found_there(attack):
    # One pass counts the classes; then one at the clean images, which are far from the boundary, 40 of queries without
    # success, and two at the final points.
    x = images(40)
    x = x[~near_boundary(NETWORK(x))][:4]
    with pytest.raises(RandomVictim):
        Run(Mapped(NETWORK, after(43)), attack(eps=1e-6), x, label(x), budget=40)
    Run(Mapped(NETWORK, after(44)), attack(eps=1e-6), x, label(x), budget=40)


def test_rounding_is_no_randomness():
    rounding = Counting(lambda logits, count: logits * (1 + 1e-6 * (count % 2)))
    x = images(4)
    run = Run(Mapped(NETWORK, rounding), RandomNoise(eps=0.15), x, label(x), budget=40)
    assert len(run.records) == 4


def test_after_a_new_start_all_rows_are_counted_and_the_images_are_judged_by_draws():
    victim, x, observer = Mapped(NETWORK, near_the_boundary), images(4), Collector()
    oracle = Oracle(victim, 4)
    criterion = criterion_named("sequential", 400)
    engine = engine_of(oracle, RayS(eps=0.15), observer, criterion, classes=5, budget=40, pool_size=4)
    ids = ["a", "b", "c", "d"]
    engine.submit(x, label(x), ids)
    with pytest.raises(RandomVictim) as error:
        engine.run()
    assert error.value.image_id in ids
    observer.records.clear()
    engine.begin_again()
    assert engine.ledger.total["padding"] == oracle.forwarded
    engine.submit(x, label(x), ids)
    engine.run()
    assert sorted(record.id for record in observer.records) == ids
    assert all(record.clean_evaluations >= 20 and record.final_evaluations >= 40 for record in observer.records)
    engine.ledger.check(oracle.forwarded)
