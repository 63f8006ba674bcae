"""Victims that are no modules of torch, on the command line."""

from pathlib import Path

import pytest

FUNCTION = """
import numpy as np
import rfdlight as rfd

WEIGHTS = np.random.default_rng(0).normal(size=(3072, 10)).astype(np.float32)


def predict(x):
    return x.reshape(len(x), -1) @ WEIGHTS


def net():
    return rfd.wrap(predict, classes=10)


def few():
    return rfd.wrap(lambda x: predict(x)[:, :7], classes=7)
"""
LINE = "test --data digits --data.num_images 2 --model.budget 4 --model.sanity_checks false --run run --model.victim"


@pytest.fixture(autouse=True)
def function(elsewhere):
    """The file of the victims."""
    (elsewhere / "of_arrays.py").write_text(FUNCTION)


def test_a_function_is_attacked(command):
    said = command(*LINE.split(), "of_arrays.py:net", "--attack", "square")
    assert said.status == 0, said.err
    assert "the callable predict, weights unknown" in said.out


@pytest.mark.parametrize(
    ("victim", "message"),
    [
        ("of_arrays.py:net --attack pgd", "the attack pgd needs gradients, which a victim outside torch does not have"),
        ("of_arrays.py:few --attack square", "must return logits of shape (2, 10)"),
        ("of_arrays.py:net --attack square --model.precision bfloat16", "model.precision: expected float32 for"),
        ("onnx:gone.onnx --attack square", "cannot read the victim gone.onnx: No such file"),
        ("torch-export:of_arrays.py --attack square", "cannot read of_arrays.py as an exported program of torch"),
        ("http: --attack square", "url: expected an address such as"),
        ("tensorflow:net --attack square", "cannot import"),
    ],
)
def test_what_cannot_be_attacked_is_one_line_and_leaves_nothing_behind(command, victim, message):
    said = command(*LINE.split(), *victim.split())
    assert said.status == 2
    assert message in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("layers of_arrays.py:net", "is outside torch, and shows no layers"),
        ("scales onnx:net.onnx --data digits", "expected a shipped name or a victim card"),
        ("analyze of_arrays.py:net --data digits --num_images 2", "--layers: expected layers, got none"),
    ],
)
def test_commands_on_layers_refuse_it_in_one_line(command, line, message):
    said = command(*line.split())
    assert said.status == 2
    assert message in said.err
    assert len(said.err.strip().splitlines()) == 1
