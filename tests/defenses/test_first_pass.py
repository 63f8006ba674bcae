"""The first forward pass of a defended model: calls of each layer, rows of a schedule, and models without hooks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rfdlight.core.query_counts import ticking
from rfdlight.defenses import FeatureNoise, InputNoise
from rfdlight.errors import DefenseError, UserError

ROWS = 6


class Net(nn.Module):
    """A classifier with a part in the middle that the tests replace."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Identity(), nn.Linear(4, 10)

    def middle(self, x: Tensor) -> Tensor:
        return self.act(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)).mean((2, 3)))


class Bypassed(Net):
    def middle(self, x):
        return self.act.forward(x)


class Listed(Net):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)])

    def middle(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Reused(Net):
    def middle(self, x):
        return self.act(self.act(self.act(x)))


class Rounded(Net):
    def middle(self, x):
        return self.act((10 * x).round().long()) / 10


class InWindows(Net):
    def middle(self, x):
        rows = x.reshape(-1, 4, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 4, 4, 4)
        return self.act(rows).reshape(-1, 2, 2, 4, 4, 4).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(ROWS, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("make", "layer", "hint"),
    [(Bypassed, "act", "never calls"), (Listed, "blocks", "blocks.0"), (Rounded, "act", "int64")],
)
def test_a_layer_where_noise_cannot_act_is_named_at_every_pass(make, layer, hint, x):
    with FeatureNoise(0.5, ["first", layer]).on(make()) as net:
        for _ in range(2):
            with pytest.raises(DefenseError, match=hint) as caught:
                net(x)
            assert f" {layer} " in str(caught.value).replace(",", " ")


def test_repeated_calls_are_part_of_the_description_and_get_fresh_noise_each(x):
    net, defense, seen = Reused(), FeatureNoise(0.5, "act"), []
    net.last.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = x[:1].expand(2000, -1, -1, -1)
    net(x)
    with torch.no_grad(), defense.on(net):
        assert "calls" not in defense.description(net)
        net(x)
        net(x)
    assert defense.description(net) == "FeatureNoise sigma 0.5 at the output of act, 3 calls per image at act"
    spread = float((seen[1] - seen[0]).detach().std()) * 8  # the mean of 8 x 8 numbers
    assert spread == pytest.approx(0.5 * 3**0.5, rel=4 / (2 * 8000) ** 0.5)


def test_a_pass_that_failed_does_not_count(x):
    net, defense = Net(), FeatureNoise(0.5, "act")
    with defense.on(net):
        with pytest.raises(RuntimeError):
            net(x[:, :2])
        net(x)
    assert "calls" not in defense.description(net)


def test_models_that_run_without_their_hooks_are_refused():
    net = Net()
    net.first._compiled_call_impl = net.first._call_impl  # as net.first.compile() does
    with pytest.raises(UserError, match="compiled model ignores hooks"):
        FeatureNoise(0.5, "act").attach(net)
    compiled = nn.Module()
    compiled._orig_mod = Net()
    with pytest.raises(UserError, match="compiled model ignores hooks"):
        InputNoise(0.5).attach(compiled)
    parallel = nn.DataParallel(Net())
    parallel.device_ids = [0, 1]
    with pytest.raises(UserError, match="DataParallel"):
        InputNoise(0.5).attach(parallel)


@pytest.mark.parametrize("make", [Net, Reused])
def test_a_schedule_has_the_clock_of_the_image_of_each_row(make, x):
    net = make()
    clean = net(x)
    with FeatureNoise(0.5, "act", schedule=lambda clock: (clock >= 3).float()).on(net):
        for rows in (ROWS, 4):
            with ticking(torch.arange(rows)):
                changed = (net(x[:rows]) - clean[:rows]).abs().amax(1) > 1e-5
            assert changed.tolist() == [row >= 3 for row in range(rows)]


def test_a_schedule_at_rows_that_are_no_images_is_refused_and_noise_without_one_is_not(x):
    net = InWindows()
    scheduled = FeatureNoise(0.5, "act", schedule=torch.ones_like)
    refused = r"at act .* schedule, got shape .*24, 4, 4, 4.* for 6 images"
    with scheduled.on(net), ticking(torch.arange(ROWS)), pytest.raises(DefenseError, match=refused):
        net(x)
    with FeatureNoise(0.5, "act").on(net), ticking(torch.arange(ROWS)):
        net(x)


class Pair(nn.Module):
    """Answers two tensors, and wants its input by name."""

    def forward(self, *, x):
        return x, x


class Paired(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        return self.pair(x=x)[0]


@pytest.mark.parametrize(
    ("at", "text"),
    [
        ("output", r"output at pair .* must be a tensor, got a tuple"),
        ("input", r"input at pair .* is called by keywords alone"),
    ],
)
def test_a_layer_without_one_tensor_is_refused_in_one_line(at, text):
    with FeatureNoise(0.1, "pair", at=at).on(Paired()) as model, pytest.raises(DefenseError, match=text):
        model(torch.zeros(1, 2))
