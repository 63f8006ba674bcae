"""Exported files: their noise is alive in a fresh process, and the check finds files whose noise is not."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import labelled, others_slow, small_network
from torch import nn

import rfdlight as rfd
from rfdlight.defenses import AAA, AveragedAnswers, FeatureNoise, InputNoise, LogitNoise, Noise
from rfdlight.deployment import check, formats, fresh_process
from rfdlight.deployment.card import ExportCheckError
from rfdlight.deployment.check import _lagged, check_file
from rfdlight.deployment.export import _reads_clock
from rfdlight.errors import UserError

FEATURES = FeatureNoise(0.3, layers=["0", "2"])
SMALL = {"num_images": 2, "draws": 32}


@pytest.fixture(scope="module")
def network():
    return small_network()


@pytest.fixture(scope="module")
def data(network):
    return labelled(network, count=3, seed=0)


def states(card) -> dict[str, bool | None]:
    return {finding.name: finding.passed for finding in card.check}


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory, network, data):
    """An exported file and its card; the noise is at two layers of one shape."""
    pytest.importorskip("onnxruntime")
    file = tmp_path_factory.mktemp("onnx") / "small.onnx"
    return file, rfd.export(network, file, data, defense=FEATURES, **SMALL)


def test_a_file_for_onnx_runtime_passes_and_its_card_describes_it(onnx_file, data):
    file, card = onnx_file
    assert card.passed
    assert states(card) == {
        "process": True, "same noise": True, "calls": True, "rows": True, "sessions": True, "workers": True,
        "sessions without seeds": None, "workers without seeds": True, "noise points": True, "noise rows": True,
        "noise distribution": True, "mean": True, "variance": True, "accuracy": True,
    }  # fmt: skip
    stored = json.loads(Path(f"{file}.json").read_text())
    assert stored["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert stored["defense"] == ["FeatureNoise sigma 0.3 at the output of 0, 2"]
    assert [(point["layer"], point["side"], point["sigma"]) for point in stored["points"]] == [
        ("0", "output", 0.3),
        ("2", "output", 0.3),
    ]
    assert stored["input_shape"] == list(data[0].shape[1:])
    assert (stored["classes"], stored["clean_accuracy"]) == (5, None)
    assert {"torch", "onnx", "onnxruntime", "rfdlight"} <= stored["versions"].keys()
    assert "set_seed" in stored["seeding"]
    assert stored["warnings"][0].startswith("sessions without seeds: ")


@pytest.fixture(params=["in this process", pytest.param("in a fresh process", marks=pytest.mark.slow)])
def either_process(request, monkeypatch):
    """Run an exported file with and without a fresh process, which takes seconds to import torch."""
    if request.param == "in a fresh process":
        return

    def run(command, **options):
        with torch.random.fork_rng(devices=[]):
            fresh_process.main(*command[-2:])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(check.subprocess, "run", run)


@pytest.mark.usefixtures("either_process")
def test_a_program_of_torch_passes_and_says_that_forked_workers_share_a_stream(tmp_path, network, data):
    defense = [AveragedAnswers(2), InputNoise(0.1, clip=True), FeatureNoise(0.3, layers="0", distribution="laplace")]
    card = rfd.export(network, tmp_path / "a.pt2", data, defense=defense, format="torch-export", **SMALL)
    assert card.passed
    assert states(card)["workers without seeds"] is None
    assert card.warnings == ["workers without seeds: " + next(f.text for f in card.check if f.passed is None)]
    loaded = torch.export.load(tmp_path / "a.pt2").module()
    assert loaded(data[0][:1]).shape == (1, 5)
    assert all(not module._forward_hooks for module in network.modules())


@pytest.mark.slow
def test_logit_noise_of_low_confidence_alone_passes(tmp_path, network, data):
    pytest.importorskip("onnxruntime")
    with torch.no_grad():
        confidence = network(data[0]).softmax(1).amax(1)[:2]
    defense = LogitNoise(1.0, below=float(confidence.mean()))  # one of two images gets noise
    assert rfd.export(network, tmp_path / "a.onnx", data, defense=defense, **SMALL).passed


def test_aaa_traced_has_the_same_logits_for_other_numbers_of_rows(network, data):
    with AAA(steps=3).on(network), torch.no_grad():
        program = formats.trace(network, data[0][:2]).module()
        for x in (data[0], data[0][:1]):
            assert torch.equal(program(x), network(x))


@pytest.mark.slow
def test_aaa_is_a_program_of_torch_without_noise(tmp_path, network, data):
    card = rfd.export(network, tmp_path / "a.pt2", data, defense=AAA(), format="torch-export", **SMALL)
    assert states(card) == {"process": True, "same noise": True, "calls": True, "accuracy": True}
    assert card.warnings == ["the file has no noise"]


class OncePerCall(Noise):
    """Draws one noise for all rows."""

    def insertion_points(self, model):
        return FeatureNoise(layers="0").insertion_points(model)

    def noise(self, x):
        return torch.randn_like(x[:1]).expand_as(x)

    def describe(self, model):
        return "noise once per call"


class Baked(OncePerCall):
    """Draws by numpy, which a trace sees as a constant."""

    def noise(self, x):
        return torch.from_numpy(np.random.randn(1, *x.shape[1:]).astype(np.float32)) * torch.ones_like(x)


@pytest.mark.parametrize(
    ("defense", "failed"),
    others_slow([(OncePerCall(0.5), {"rows", "noise rows"}), (Baked(0.5), {"calls", "same noise"})]),
)
def test_noise_that_is_not_of_each_call_and_row_fails(tmp_path, network, data, defense, failed):
    pytest.importorskip("onnxruntime")
    with pytest.raises(ExportCheckError) as raised:
        rfd.export(network, tmp_path / "a.onnx", data, defense=defense, **SMALL)
    card = json.loads((tmp_path / "a.onnx.json").read_text())
    assert (tmp_path / "a.onnx").is_file()
    assert not card["passed"]
    wrong = {finding["name"] for finding in card["check"] if finding["passed"] is False}
    assert wrong >= failed, card["check"]
    assert all(f"{name}: " in str(raised.value) for name in wrong)
    assert raised.value.exit_status == 1


def no_noise(node, first):
    node.op_type, node.input[:] = "Sub", [node.input[0], node.input[0]]
    del node.attribute[:]


def fixed_seed(node, first):
    import onnx

    node.attribute.append(onnx.helper.make_attribute("seed", 7.0))


def larger(node, first):
    next(each for each in node.attribute if each.name == "scale").f = 1.1


BROKEN = {
    "dropped": (no_noise, {"noise points", "calls", "rows", "sessions"}),
    "replayed": (fixed_seed, {"sessions", "workers", "noise points"}),
    "larger": (larger, {"noise distribution"}),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_with_wrong_noise_fails_by_name(onnx_file, tmp_path, network, data, kind):
    import onnx

    change, expected = BROKEN[kind]
    proto = onnx.load(onnx_file[0])
    drawing = [node for node in proto.graph.node if node.op_type == "RandomNormalLike"]
    assert len(drawing) == 2
    for node in drawing:
        change(node, drawing[0])
    file, tapped = tmp_path / "broken.onnx", tmp_path / "tapped.onnx"
    formats.write_onnx(proto, file)
    formats.write_onnx(formats.with_noise(proto), tapped)
    with FEATURES.on(network):
        network(data[0])
        found = check_file(file, tapped, network, data[0], data[1], 64, 0)
    failed = {finding.name for finding in found if finding.passed is False}
    assert failed >= expected, found


def test_a_file_with_other_weights_fails_under_the_same_noise(onnx_file, tmp_path, network, data):
    file, _ = onnx_file
    import onnx

    tapped = tmp_path / "tapped.onnx"
    formats.write_onnx(formats.with_noise(onnx.load(file)), tapped)
    with FeatureNoise(0.33, layers=["0", "2"]).on(network):  # a tenth more than the file has
        network(data[0])
        found = check_file(file, tapped, network, data[0], data[1], 32, 0)
    assert {finding.name for finding in found if finding.passed is False} == {"same noise"}


def test_streams_that_are_shifted_copies_are_correlated_and_others_are_not():
    draw = np.random.default_rng(0)
    numbers = draw.standard_normal(6000)
    correlation, p, lags = _lagged(numbers[:4096], numbers[1500:])
    assert correlation > 0.95
    assert p * lags < 1e-9
    partly = 0.2 * numbers[:4096] + 0.98 * draw.standard_normal(4096)
    assert _lagged(numbers[:4096], partly)[1] * lags < 1e-9
    smallest = [_lagged(draw.standard_normal(500), draw.standard_normal(500))[1] * 501 for _ in range(200)]
    assert min(smallest) > 1e-4
    assert _lagged(np.zeros(100), numbers[:100])[1] == 0


def growing(clock):
    return clock / 100


def flickering(clock):
    return torch.rand(clock.shape[0])


def test_a_schedule_without_a_clock_is_exported_and_one_with_a_clock_refused(tmp_path, network, data):
    assert _reads_clock(growing)
    assert not _reads_clock(flickering)
    with pytest.raises(UserError, match=r"^defense.schedule: expected one that needs no clock, got InputNoise"):
        rfd.export(network, tmp_path / "a.pt2", data, defense=InputNoise(0.1, schedule=growing), format="torch-export")
    assert list(tmp_path.iterdir()) == []


class OneRow(nn.Module):
    def forward(self, x):
        return x.reshape(3, -1)[:, :5] if len(x) == 3 else x.flatten(1)[:, :5]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"defense": AAA()}, "defense: expected one that ONNX can hold, got AAA"),
        ({"format": "onxx"}, "unknown format 'onxx'; did you mean onnx"),
        ({"format": "torch-export"}, "output: expected a name that ends in .pt2"),
        ({"draws": 3}, "draws: expected at least 32, got 3"),
        ({"num_images": 0}, "num_images: expected at least 1, got 0"),
        ({"data": None}, "data: expected images, got None"),
        ({"model": OneRow()}, "torch.export cannot trace the defended network: "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path, network, data, arguments, line):
    pytest.importorskip("onnxruntime")
    given = {"model": network, "data": data, "output": tmp_path / "a.onnx"} | arguments
    with pytest.raises(UserError) as raised:
        rfd.export(**given)
    assert str(raised.value).startswith(line), raised.value
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def untraceable(kind):
    """Return a network that torch.export cannot trace, of 3 x 16 x 16 pixels."""
    tools = torch.ao.quantization
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 5)).eval()
    if kind == "script":
        torch.jit.save(torch.jit.trace(network, torch.rand(2, 3, 16, 16)), stored := io.BytesIO())
        return nn.Sequential(torch.jit.load(io.BytesIO(stored.getvalue())))
    if kind == "fake":
        return nn.Sequential(tools.FakeQuantize(), network).eval()
    if kind == "dynamic":
        return tools.quantize_dynamic(network, {nn.Linear})
    network = nn.Sequential(tools.QuantStub(), *network, tools.DeQuantStub()).eval()
    network.qconfig = tools.get_default_qconfig(torch.backends.quantized.engine)
    tools.prepare(network, inplace=True)(torch.rand(2, 3, 16, 16))
    return tools.convert(network)


@pytest.mark.filterwarnings("ignore")  # torch's own, on its next quantization and on TorchScript
@pytest.mark.parametrize("format", ["onnx", "torch-export"])
@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("dynamic", "model: .* got quantized weights in .*1"),
        ("static", "model: .* got quantized weights in .*2"),
        ("script", "model: .* got TorchScript in .*0"),
        ("fake", "torch.export cannot trace"),
    ],
)
def test_layers_that_torch_cannot_trace_are_named_before_a_file_is_written(tmp_path, data, capfd, kind, line, format):
    pytest.importorskip("onnxruntime")
    capfd.readouterr()
    model = untraceable(kind)
    with pytest.raises(UserError, match=f"^{line}") as raised:
        rfd.export(model, tmp_path / f"a{formats.SUFFIXES[format]}", data, defense=InputNoise(0.1), format=format)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


class WithScript(nn.Module):
    """Prints, holds a layer of TorchScript that it does not run, and branches on values if asked."""

    def __init__(self, branches):
        super().__init__()
        self.branches = branches
        self.helper = torch.jit.script(nn.Linear(2, 2))

    def forward(self, x):
        sys.stderr.write("of the victim")
        logits = x.flatten(1)[:, :5]
        return logits if not self.branches or x.sum() > 0 else -logits


@pytest.mark.filterwarnings("ignore")  # torch's own, on TorchScript
def test_the_reason_of_torch_is_kept_beside_a_layer_that_is_not_the_cause(data):
    reasons = []
    for opaque in (True, False):
        model = WithScript(branches=True)
        if not opaque:
            model.helper = None
        with pytest.raises(UserError) as raised:
            formats.trace(model, data[0][:2])
        reasons.append(str(raised.value))
    assert "TorchScript in helper" in reasons[0]
    assert reasons[0].endswith(reasons[1])
    assert "\n" not in reasons[0]


@pytest.mark.filterwarnings("ignore")
def test_a_victim_that_is_torchscript_itself_is_named_so(data):
    with pytest.raises(UserError, match="got TorchScript in the network itself; "):
        formats.trace(torch.jit.script(nn.Flatten()), data[0][:2])


@pytest.mark.filterwarnings("ignore")
def test_what_a_victim_prints_while_it_is_traced_is_kept(data, capsys):
    formats.trace(WithScript(branches=False), data[0][:2])
    assert "of the victim" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_command(tmp_path, network, data, monkeypatch):
    monkeypatch.setitem(formats.PACKAGES, "onnx", ("torch", "no_such_package"))
    with pytest.raises(UserError, match=r"no_such_package, got none; pip install 'rfdlight\[onnx\]'"):
        rfd.export(network, tmp_path / "a.onnx", data)


def posted(port: int, body: bytes, key: str | None = None) -> bytes:
    headers = {} if key is None else {"Idempotency-Key": key}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", data=body, headers=headers)
    return urllib.request.urlopen(request, timeout=60).read()


def as_npy(x: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, x)
    return stream.getvalue()


def test_the_example_server_answers_with_fresh_noise_and_two_loads_differ(onnx_file, data, monkeypatch):
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "docs" / "examples" / "serve"))
    monkeypatch.setenv("FILE", str(onnx_file[0]))
    import server

    x = data[0].numpy()
    assert not np.array_equal(server.load(str(onnx_file[0]))(x), server.load(str(onnx_file[0]))(x))
    running = uvicorn.Server(uvicorn.Config(server.app, port=0, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started and thread.is_alive():
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    try:
        first, second = (np.load(io.BytesIO(posted(port, as_npy(x)))) for _ in range(2))
        assert first.shape == (3, 5)
        assert not np.array_equal(first, second)
        again, same, other = (posted(port, as_npy(x), key) for key in ("a", "a", "b"))
        assert again == same != other
        for wrong in (b"no array", as_npy(x + 2), as_npy(x.astype(np.float64)), as_npy(x[:, :1]), as_npy(x * np.nan)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                posted(port, wrong)
            assert refused.value.code == 400
    finally:
        running.should_exit = True
        thread.join()
