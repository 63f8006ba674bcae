"""Victims in ONNX."""

import math

import numpy as np
import pytest
import torch

import rfdlight as rfd
from rfdlight.errors import UserError
from rfdlight.victims.resolve import load

from .faulty_server import CLASSES, SHAPE, WEIGHTS, linear

QUICK = {"attack": "square", "eps": 0.1, "budget": 12, "batch_size": 4, "sanity_checks": False}


def written(path, noise=0.0, rows="N", shape=SHAPE, kind=None, outputs=("logits",), external=False):
    """Write the linear classifier, with noise of a deviation on its pixels."""
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    kind = types.FLOAT if kind is None else kind
    nodes = [helper.make_node("Flatten", ["noisy"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], [outputs[0]])]
    nodes += [helper.make_node("Identity", [outputs[0]], [name]) for name in outputs[1:]]
    cast = helper.make_node("Cast", ["pixels"], ["cast"], to=types.FLOAT)
    if noise:
        draw = helper.make_node("RandomNormalLike", ["cast"], ["noise"], scale=noise)
        nodes = [cast, draw, helper.make_node("Add", ["cast", "noise"], ["noisy"]), *nodes]
    else:
        nodes = [cast, helper.make_node("Identity", ["cast"], ["noisy"]), *nodes]
    weights = onnx.numpy_helper.from_array(np.resize(WEIGHTS, (math.prod(shape), CLASSES)), "w")
    given = helper.make_tensor_value_info("pixels", kind, [rows, *shape])
    found = [helper.make_tensor_value_info(name, types.FLOAT, [rows, CLASSES]) for name in outputs]
    graph = helper.make_graph(nodes, "linear", [given], found, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    where = {"location": "net.data", "size_threshold": 0} if external else {}
    onnx.save(model, path, save_as_external_data=external, **where)
    return f"onnx:{path}"


@pytest.fixture(autouse=True)
def runtime():
    return pytest.importorskip("onnxruntime")


def labelled(count=4):
    x = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(3))
    return x, torch.from_numpy(linear(x.numpy()).argmax(1))


def seeded(seed):
    """A stream of random numbers, as an oracle sets it."""
    torch.manual_seed(seed)


def test_a_run_on_the_file_is_the_run_on_the_function(tmp_path):
    run = rfd.evaluate(written(tmp_path / "net.onnx"), labelled(), **QUICK)
    own = rfd.evaluate(rfd.wrap(linear, CLASSES), labelled(), **QUICK)
    assert run.facts.forwarded == run.facts.totals.total == own.facts.totals.total
    assert run.facts.deterministic
    assert [(record.verdict, record.billed) for record in run.records] == [
        (record.verdict, record.billed) for record in own.records
    ]
    assert "ONNX file of sha256" in run.facts.victim


def test_weights_beside_the_file_are_in_its_digest(tmp_path):
    written(tmp_path / "net.onnx", external=True)
    before = rfd.ONNXVictim(tmp_path / "net.onnx").identity
    assert before.count(" and ") == 1
    content = bytearray((tmp_path / "net.data").read_bytes())
    content[0] ^= 1
    (tmp_path / "net.data").write_bytes(content)
    assert rfd.ONNXVictim(tmp_path / "net.onnx").identity != before


def test_noise_follows_the_stream_of_random_numbers_and_is_fresh_in_every_row_and_pass(tmp_path):
    victim = load(written(tmp_path / "net.onnx", noise=0.1)).module
    x = torch.full((6, *SHAPE), 0.5)
    with torch.random.fork_rng():
        seeded(1)
        first, second = victim(x), victim(x)
        seeded(2)
        other = victim(x)
        again = load(f"onnx:{tmp_path / 'net.onnx'}").module
        seeded(1)
        repeated = again(x)
        seeded(2)
        repeated_other = again(x)
    assert len(torch.cat([first, second, other]).unique(dim=0)) == 18
    assert torch.equal(repeated, first)
    assert torch.equal(repeated_other, other)


def test_a_dropped_stream_does_not_begin_again(tmp_path):
    victim = load(written(tmp_path / "net.onnx", noise=0.1)).module
    x, answers = torch.full((1, *SHAPE), 0.5), []
    with torch.random.fork_rng():
        for seed in (1, 2, 3, 4, 5, 1):
            seeded(seed)
            answers.append(victim(x))
    assert len(victim._sessions) == 4
    assert len(torch.cat(answers).unique(dim=0)) == 6


def test_a_file_with_noise_is_measured_as_random_and_repeats_by_the_seed(tmp_path):
    spec = written(tmp_path / "net.onnx", noise=0.1)
    first, again, other = (rfd.evaluate(spec, labelled(), **QUICK, seed=seed) for seed in (0, 0, 1))
    assert first.facts.random.measured
    assert not first.facts.deterministic
    assert again.records == first.records
    assert other.records != first.records


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": 2}, r"expected one input, float32 pixels \(N, C, H, W\), got pixels tensor\(uint8\)"),
        ({"outputs": ("scores", "boxes")}, "expected one output or one named logits, got scores, boxes"),
        ({"shape": (3, 4, 4)}, r"takes pixels of shape \(any, 3, 4, 4\), got \(1, 1, 4, 4\)"),
        ({"shape": (16,)}, r"takes pixels of shape \(any, 16\), got"),
        ({"rows": 8}, r"takes pixels of shape \(8, 1, 4, 4\), got \(1, 1, 4, 4\); give --model.batch_size 8"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(tmp_path, options, message):
    spec = written(tmp_path / "net.onnx", **options)
    with pytest.raises(UserError, match=message) as caught:
        rfd.evaluate(spec, labelled(), **QUICK)
    assert "\n" not in str(caught.value)


def test_wrong_classes_are_one_line(tmp_path):
    data = rfd.data.Digits(num_images=2)
    spec = written(tmp_path / "net.onnx")
    with pytest.raises(UserError, match="takes pixels of shape"):
        rfd.evaluate(spec, data, budget=2)
    x = torch.rand(2, *SHAPE)
    with pytest.raises(UserError, match="data: expected labels of the model's 3 classes, from 0, got the label 7"):
        rfd.evaluate(spec, (x, torch.tensor([0, 7])), **QUICK)


def test_a_damaged_file_is_one_line(tmp_path, capfd):
    (tmp_path / "net.onnx").write_bytes(b"\x00no protobuf")
    with pytest.raises(UserError, match=r"cannot read .*net\.onnx as ONNX: ") as caught:
        load(f"onnx:{tmp_path / 'net.onnx'}")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"cannot read the victim .*gone\.onnx: No such file"):
        load(f"onnx:{tmp_path / 'gone.onnx'}")
    assert capfd.readouterr() == ("", "")


def test_nan_and_probabilities(tmp_path):
    spec = written(tmp_path / "net.onnx")
    victim = rfd.ONNXVictim(tmp_path / "net.onnx", outputs="probabilities")
    with pytest.raises(UserError, match="outputs: expected probabilities"):
        rfd.evaluate(victim, labelled(), **QUICK)
    x = torch.full((2, *SHAPE), 0.5)
    assert np.isnan(load(spec).module(x * np.nan).numpy()).all()


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    spec = written(tmp_path / "net.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"expected the package onnxruntime, got none; pip install 'rfdlight\[onnx\]'"):
        load(spec)
