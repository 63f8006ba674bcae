"""What the first forward pass of a defended model must show: calls, rows, and an effect at every place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rfdlight.core.query_counts import ticking
from rfdlight.defenses import AAA, FeatureNoise, InputNoise, LogitNoise, Noise
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


class InTraining(Net):
    def middle(self, x):
        return self.act(x) if self.training else x


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


class Staged(Net):
    def __init__(self):
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())

    def middle(self, x):
        return self.stage(x)


class Reused(Net):
    def middle(self, x):
        return self.act(self.act(self.act(x)))


class Aliased(Net):
    def __init__(self):
        super().__init__()
        self.again = self.act

    def middle(self, x):
        return self.again(self.act(x))


class Checkpointed(Net):
    def middle(self, x):
        return checkpoint(self.act, x, use_reentrant=False)


class Split(Net):
    def middle(self, x):
        return torch.cat([self.act(part) for part in x.split(4)])


class Routed(Net):
    """Sends the darker half of the images through the layer."""

    def middle(self, x):
        chosen = x.mean((1, 2, 3)).argsort()[: len(x) // 2]
        return x.index_copy(0, chosen, self.act(x[chosen]))


class Ignored(Net):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def middle(self, x):
        self.act(x)
        return x


class Scaled(Net):
    def middle(self, x):
        return x + 0 * self.act(x)


class Rounded(Net):
    def middle(self, x):
        return self.act((10 * x).round().long()) / 10


class InWindows(Net):
    def middle(self, x):
        rows = x.reshape(-1, 4, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 4, 4, 4)
        return self.act(rows).reshape(-1, 2, 2, 4, 4, 4).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


class InCrops(Net):
    def middle(self, x):
        return self.act(torch.cat([x, x.flip(-1)])).reshape(2, *x.shape).mean(0)


class SequenceFirst(Net):
    """Has as many tokens as images in the first dimension."""

    def middle(self, x):
        tokens = x.flatten(2)[..., :ROWS].permute(2, 0, 1)
        return self.act(tokens).permute(1, 2, 0)[..., None]


class HardLabels(Net):
    def forward(self, x):
        return nn.functional.one_hot(super().forward(x).argmax(1), 10).float()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(ROWS, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def passed(net: nn.Module, defense: Noise, x: Tensor, grad: bool = False) -> str:
    """The description of a defense after a forward pass and the check of its effect."""
    net.eval()
    with defense.on(net), torch.set_grad_enabled(grad):
        net(x)
        defense.check_effect(net, x)
    return defense.description(net)


@pytest.mark.parametrize(
    ("make", "layer", "hint"),
    [
        (InTraining, "act", "never calls"),
        (Bypassed, "act", "never calls"),
        (Listed, "blocks", "blocks.0"),
        (lambda: torch.fx.symbolic_trace(Staged().eval()), "stage", "stage.0"),
        (Ignored, "act", "follow ignore"),
        (Scaled, "act", "follow ignore"),
        (Rounded, "act", "int64"),
    ],
)
def test_a_layer_without_a_call_or_an_effect_is_refused_by_name(make, layer, hint, x):
    with pytest.raises(DefenseError, match=hint) as caught:
        passed(make(), FeatureNoise(0.5, ["first", layer]), x)
    assert f" {layer} " in str(caught.value).replace(",", " ")


def test_noise_before_a_layer_that_works_in_place_and_whose_result_is_dropped_is_refused(x):
    with pytest.raises(DefenseError, match="act"):
        passed(Ignored(), FeatureNoise(0.5, "act", at="input"), x)


def test_the_refusal_comes_back_with_every_pass_and_never_for_a_model_that_was_defended_rightly(x):
    net, defense = Bypassed().eval(), FeatureNoise(0.5, "act")
    with defense.on(net):
        for _ in range(2):
            with pytest.raises(DefenseError):
                net(x)
    with FeatureNoise(0.5, "first").on(net):
        net(x)
        net(x)


def test_a_layer_that_acts_in_training_alone_is_defended_in_a_fit_with_validation_passes_first(x):
    net, defense = InTraining(), FeatureNoise(0.5, "act")
    defense.on_fit_start(None, net)
    net.eval()(x)
    net.train()(x)
    defense.detach()
    defense.on_test_start(None, net)
    with pytest.raises(DefenseError):
        net.eval()(x)
    defense.detach()


@pytest.mark.parametrize(
    ("make", "layer", "calls"),
    [
        (Net, "act", 1),
        (Reused, "act", 3),
        (Aliased, "act", 2),
        (Aliased, "again", 2),
        (Checkpointed, "act", 1),
        (Routed, "act", 1),
        (InWindows, "act", 1),
        (InCrops, "act", 1),
        (SequenceFirst, "act", 1),
        (HardLabels, "first", 1),
        (lambda: nn.DataParallel(Net()), "module.act", 1),
    ],
)
def test_calls_per_image_are_counted(make, layer, calls, x):
    expected = f"FeatureNoise sigma 0.5 at the output of {layer}"
    expected += f", {calls} calls per image at {layer}" if calls > 1 else ""
    assert passed(make(), FeatureNoise(0.5, layer), x, grad=make is Checkpointed) == expected


def test_calls_are_unknown_before_the_first_pass_and_after_attaching_again(x):
    net, defense = Reused().eval(), FeatureNoise(0.5, "act")
    assert "calls" not in defense.description(net)
    assert "3 calls" in passed(net, defense, x)
    with defense.on(net):
        assert "calls" not in defense.description(net)


def test_noise_that_is_drawn_in_several_calls_has_the_root_of_their_number_times_sigma(x):
    net, seen = Reused().eval(), []
    net.last.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = x[:1].expand(2000, -1, -1, -1)
    net(x)
    with torch.no_grad(), FeatureNoise(0.5, "act").on(net):
        net(x)
    spread = float((seen[1] - seen[0]).std()) * 8  # the mean of 8 x 8 numbers
    assert spread == pytest.approx(0.5 * 3**0.5, rel=4 / (2 * 8000) ** 0.5)


class TestTorchScript:
    @pytest.fixture
    def traced(self, x):
        return torch.jit.trace(Net().eval(), x)

    def test_layers_inside_are_refused_by_name(self, traced):
        with pytest.raises(UserError, match=r"layer first .*TorchScript"):
            FeatureNoise(0.5, "first").attach(traced)

    @pytest.mark.parametrize("defense", [InputNoise(0.5), LogitNoise(0.5), AAA()])
    def test_a_traced_model_is_defended_at_its_input_and_output(self, traced, defense, x):
        clean = traced(x)
        with defense.on(traced):
            assert not torch.equal(traced(x), clean)

    def test_a_part_that_was_scripted_and_its_layers_are_refused_and_other_layers_are_not(self, x):
        net = Staged().eval()
        net.stage = torch.jit.script(net.stage)
        for layer in ("stage", "stage.0"):
            with pytest.raises(UserError, match="TorchScript"):
                FeatureNoise(0.5, layer).attach(net)
        assert not any(module._forward_hooks for module in net.modules())
        passed(net, FeatureNoise(0.5, "first"), x)


def test_a_model_that_was_compiled_in_place_is_refused():
    net = Net()
    net.first._compiled_call_impl = net.first._call_impl  # as net.first.compile() does
    with pytest.raises(UserError, match="compiled model ignores hooks"):
        FeatureNoise(0.5, "act").attach(net)


def test_copies_on_several_devices_are_refused():
    net = nn.DataParallel(Net())
    net.device_ids = [0, 1]
    with pytest.raises(UserError, match="DataParallel"):
        InputNoise(0.5).attach(net)


def late(clock: Tensor) -> Tensor:
    return (clock >= 3).float()


@pytest.mark.parametrize("make", [Net, Reused])
def test_a_schedule_has_the_clock_of_the_image_of_each_row(make, x):
    net = make().eval()
    clean = net(x)
    with FeatureNoise(0.5, "act", schedule=late).on(net), ticking(torch.arange(ROWS)):
        changed = (net(x) - clean).abs().amax(1) > 1e-5
    assert changed.tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize("make", [SequenceFirst, Split, Routed, InWindows, InCrops])
def test_a_schedule_at_rows_that_are_no_images_is_refused_and_noise_without_one_is_not(make, x):
    net = make().eval()
    scheduled = FeatureNoise(0.5, "act", schedule=late).on(net)
    with scheduled, ticking(torch.arange(ROWS)), pytest.raises(DefenseError, match="schedule"):
        net(x)
    with FeatureNoise(0.5, "act").on(net), ticking(torch.arange(ROWS)):
        net(x)
