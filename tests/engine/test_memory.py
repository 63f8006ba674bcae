"""The bound on what the images in the pool take up."""

import re
from pkgutil import resolve_name

import pytest
import torch
from harness import Run, images, required

from rfdlight.core.registry import NAMES
from rfdlight.engine.pool import columns_of
from rfdlight.errors import UserError

COUNT, BATCH = 12, 4


@pytest.fixture
def clean(network):
    x = images(COUNT)
    with torch.no_grad():
        return network, x, network(x).argmax(1)


def run(name, clean, budget=20, **options):
    victim, x, y = clean
    made = resolve_name(NAMES["attack"][name])
    norm = made.norms[0]
    attack = made(eps=0.05 if norm == "linf" else 2.0, norm=norm, **required(made))
    return Run(victim, attack, x, y, budget=budget, batch_size=BATCH, pool_size=COUNT, **options)


def held(run):
    """What the pool's columns really take up, in bytes."""
    return sum(column.numel() * column.element_size() for column in columns_of(run.engine._pool.images).values())


@pytest.mark.parametrize("name", sorted(NAMES["attack"]))
def test_what_an_image_takes_up_is_told_to_the_byte(name, clean):
    whole = run(name, clean, budget=2)
    assert held(whole) == COUNT * whole.engine.bytes_per_image(clean[1][:1])


@pytest.mark.parametrize("name", ["signflip", "square"])
def test_fewer_images_at_a_time_have_the_same_records(name, clean):
    whole = run(name, clean)
    size = whole.engine.bytes_per_image(clean[1][:1])
    for pool_size in (BATCH + 3,):
        # Half an image more than fits.
        bound = (pool_size + 0.5) * size / 1e9
        bounded = run(name, clean, memory=bound)
        assert bounded.engine.pool_size == pool_size
        assert held(bounded) == pool_size * size <= bound * 1e9
        assert bounded.records == whole.records


def test_a_bound_above_what_is_asked_for_adds_no_pool_size(clean):
    assert run("square", clean, memory=1.0).engine.pool_size == COUNT


def test_less_than_a_batch_is_refused_with_what_it_needs(clean):
    size = run("square", clean).engine.bytes_per_image(clean[1][:1])
    with pytest.raises(UserError) as caught:
        run("square", clean, memory=(BATCH - 0.5) * size / 1e9)
    needed = re.fullmatch(
        rf"model.memory must be at least (\S+) GB for {BATCH} images in the pool, .*", str(caught.value)
    )
    assert run("square", clean, memory=float(needed[1])).engine.pool_size >= BATCH
    assert run("square", clean, memory=BATCH * size / 1e9).engine.pool_size == BATCH
