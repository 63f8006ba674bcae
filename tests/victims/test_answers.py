"""Networks of unusual make as victims: what they answer, how they are wrapped, and what tells two of them apart."""

import collections
import copy
import dataclasses
import sys
import types

import pytest
import torch
from torch import nn

from rfdlight.engine.oracle import Oracle
from rfdlight.errors import UserError
from rfdlight.victims.answers import answer_in_logits, as_module
from rfdlight.victims.digest import weights_digest
from rfdlight.victims.import_path import import_victim

SHAPE = (3, 6, 6)
ROWS = 8


def linear(classes: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, classes)).eval()


def convolved() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)).eval()


class Answer(nn.Module):
    """The linear network with its logits in some form."""

    def __init__(self, form):
        super().__init__()
        self.inner, self.form = linear(), form

    def forward(self, x):
        return self.form(self.inner(x))


class Fixed(Answer):
    def __init__(self, rows):
        super().__init__(lambda z: z)
        self.rows = rows

    def forward(self, x):
        return super().forward(x.reshape(self.rows, *SHAPE))


class InPlace(Answer):
    def forward(self, x):
        return super().forward(x.mul_(2).mul_(0.5))


class Mapped(collections.OrderedDict):
    pass


class Casting(Answer):
    def __init__(self, dtype):
        super().__init__(lambda z: z)
        self.to(dtype)

    def forward(self, x):
        return super().forward(x.to(self.inner[1].weight.dtype))


@dataclasses.dataclass
class Output:
    loss: object
    logits: object


class Training(Answer):
    def train(self, mode=True):
        raise RuntimeError("always training")


class SaysNothing(Answer):
    def train(self, mode=True):
        pass


Named = collections.namedtuple("Named", "logits aux")


def weight_normed():
    network = convolved()
    nn.utils.parametrizations.weight_norm(network[0])
    nn.utils.parametrizations.spectral_norm(network[3])
    return network.eval()


def statically_quantized():
    stubs = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
    network = nn.Sequential(stubs[0], convolved(), stubs[1]).eval()
    network.qconfig = torch.ao.quantization.get_default_qconfig("fbgemm")
    torch.ao.quantization.prepare(network, inplace=True)
    network(torch.rand(2, *SHAPE))
    torch.ao.quantization.convert(network, inplace=True)
    return network


def attacked(victim: nn.Module, x: torch.Tensor) -> torch.Tensor:
    oracle = Oracle(victim, ROWS)
    try:
        return oracle.scores(x, torch.zeros(len(x), dtype=torch.int64), "attack")
    finally:
        oracle.close()


ANSWERS = {
    "tuple": (lambda z: (z, 2 * z), "part 0"),
    "tuple with other features first": (lambda z: (torch.cat([z, z], 1), z), "part 1"),
    "named tuple": (lambda z: Named(z, None), "part 'logits'"),
    "mapping": (lambda z: Mapped(loss=torch.zeros(()), logits=z), "part 'logits'"),
    "mapping without logits": (lambda z: {"out": z}, "part 'out'"),
    "data class": (lambda z: Output(1, z), "part 'logits'"),
    "object": (lambda z: types.SimpleNamespace(logits=z), "part 'logits'"),
    "dimensions of size 1": (lambda z: z[:, :, None, None], ""),
    "squeezed": (torch.squeeze, ""),
    "half": (torch.Tensor.half, ""),
    "double": (torch.Tensor.double, ""),
    "log-probabilities": (lambda z: z.log_softmax(1), ""),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_logits_are_found_in_an_answer_of_another_form_and_reach_the_attack(name):
    form, where = ANSWERS[name]
    victim = as_module(Answer(form), "own")
    description = answer_in_logits(victim, "own", 4, SHAPE)
    assert where in description
    assert bool(where) == bool(description)
    x = torch.rand(3, *SHAPE)
    expected = victim.inner(x)
    expected = expected.log_softmax(1) if name.startswith("log") else expected
    assert torch.allclose(attacked(victim, x), expected.float(), atol=1e-3 if name == "half" else 1e-6)
    assert torch.allclose(attacked(victim, x[:1]), expected[:1].float(), atol=1e-3 if name == "half" else 1e-6)


@pytest.mark.parametrize(
    "form",
    [
        lambda z: z.argmax(1),
        torch.Tensor.int,
        torch.Tensor.cfloat,
        lambda z: z.detach().numpy(),
        torch.Tensor.tolist,
        lambda z: z.to("meta"),
        lambda z: None,
        lambda z: (z.argmax(1), z.T),
        lambda z: z[:, :, None, None].expand(-1, -1, 2, 2),
        lambda z: z[:, :3],
        lambda z: {"boxes": z[:1]},
    ],
)
def test_an_answer_without_logits_is_refused(form):
    with pytest.raises(UserError, match=r"^the victim 'own' must return logits of shape \(2, 4\) for 2 images, got"):
        answer_in_logits(as_module(Answer(form), "own"), "own", 4, SHAPE)


@pytest.mark.parametrize("form", [lambda z: z if len(z) < 8 else z[:-1], lambda z: z if len(z) < 8 else (z, z)])
def test_every_pass_is_checked(form):
    victim = as_module(Answer(form), "own")
    answer_in_logits(victim, "own", 4, SHAPE)
    with pytest.raises(UserError, match=r"must return logits of shape \(8, 4\) for 8 images, got"):
        attacked(victim, torch.rand(3, *SHAPE))


MAKERS = {
    "one batch size": lambda: Fixed(ROWS),
    "changes its input": lambda: InPlace(lambda z: z),
    "half weights": lambda: Casting(torch.half),
    "double weights": lambda: Casting(torch.double),
    "train without a value": lambda: SaysNothing(lambda z: z),
    "frozen": lambda: convolved().requires_grad_(False),
    "weight and spectral norm": weight_normed,
    "compiled": lambda: torch.compile(convolved(), backend="eager"),
    "data parallel": lambda: nn.DataParallel(convolved()),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(convolved()).eval(),
    "statically quantized": statically_quantized,
    "traced": lambda: torch.jit.trace(convolved(), torch.zeros(ROWS, *SHAPE)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "compiled" else name for name in MAKERS]
)
@pytest.mark.filterwarnings("ignore")
def test_a_network_of_unusual_make_answers_as_by_itself_and_keeps_its_digest(name):
    victim = as_module(MAKERS[name](), "own")
    digest = weights_digest(victim, attributes=False)
    answer_in_logits(victim, "own", 4, SHAPE, ROWS)
    x = torch.rand(ROWS, *SHAPE)
    expected = victim(x.clone())
    assert torch.allclose(attacked(victim, x), expected.float(), atol=1e-6)
    assert weights_digest(victim, attributes=False) == digest
    if name == "statically quantized":
        return
    oracle = Oracle(victim, ROWS)
    _, gradient = oracle.gradients(x, torch.zeros(ROWS, dtype=torch.int64), lambda z: z[:, 0])
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", ["half", "double", "bfloat16"])
def test_weights_that_take_no_float32_images_are_refused_with_the_remedy(name):
    victim = as_module(linear().to(getattr(torch, name)), "own")
    with pytest.raises(UserError, match=r"parameters are torch\.\w+: return it as \.float\(\)"):
        answer_in_logits(victim, "own", 4, SHAPE)


def test_a_network_that_refuses_eval_mode_is_refused():
    with pytest.raises(UserError, match=r"'own' cannot be put .* eval mode: RuntimeError: always training"):
        as_module(Training(lambda z: z), "own")


def test_a_ready_module_is_copied_for_every_run(monkeypatch):
    nets = types.ModuleType("ready_nets")
    nets.net = linear()
    monkeypatch.setitem(sys.modules, "ready_nets", nets)
    first, second = import_victim("ready_nets.net"), import_victim("ready_nets.net")
    assert first is not second
    assert first is not nets.net
    first[1].weight.data.zero_()
    assert torch.equal(second[1].weight, nets.net[1].weight)
    nets.net.held = nets.net[1].weight * 2  # which torch refuses to copy
    with pytest.raises(UserError, match="give a function that makes it"):
        import_victim("ready_nets.net")


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network[1].weight.data[0, 0].add_(1e-6),
        lambda network: setattr(network[1], "scale", torch.ones(2)),
        lambda network: setattr(network, "_scales", {"a": [torch.ones(2)]}),
        lambda network: network.register_buffer("mask", torch.ones(2), persistent=False),
        lambda network: network.register_buffer("mask", torch.eye(3).to_sparse()),
        lambda network: network.register_buffer(
            "mask", torch.quantize_per_channel(torch.rand(2, 2), torch.ones(2), torch.zeros(2), 0, torch.qint8)
        ),
    ],
)
def test_whatever_holds_numbers_is_in_the_digest(change):
    network = linear()
    before = weights_digest(network)
    change(network)
    assert weights_digest(network) != before


def test_what_a_forward_pass_leaves_behind_is_not_in_the_digest_without_attributes():
    network = linear()
    before = weights_digest(network, attributes=False)
    network.last = torch.rand(3)
    assert weights_digest(network, attributes=False) == before
    assert weights_digest(copy.deepcopy(network)) == weights_digest(network)


def test_the_second_name_of_a_tied_weight_adds_nothing():
    network = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    network["b"].weight = network["a"].weight
    assert weights_digest(network) == weights_digest(copy.deepcopy(network))
