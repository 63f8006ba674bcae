"""The gradients that white-box attacks are answered."""

import pytest
import torch
from harness import Linear, Mapped, Run, images
from torch import nn

from rfdlight.attacks import PGD
from rfdlight.core.losses import attacker_loss
from rfdlight.defenses import InputNoise
from rfdlight.engine import Oracle
from rfdlight.errors import UserError


def ask(oracle, x, y, which="margin"):
    clock, target = torch.zeros_like(y), torch.full_like(y, -1)
    return oracle.gradients(x, clock, lambda logits: attacker_loss(logits, y, target, which))


def test_the_gradient_is_the_derivative_of_the_objective(network):
    x = images(3).double()
    victim = Mapped(network, lambda logits: logits)
    y = torch.tensor([0, 1, 2])
    logits, gradient = ask(Oracle(victim, 4), x.float(), y, "cross_entropy")
    torch.testing.assert_close(logits, network(x.float()).detach())
    # By central differences along random directions; float32 leaves three digits.
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    step = 1e-3

    def loss(points):
        return attacker_loss(network(points.float()), y, torch.full_like(y, -1), "cross_entropy").detach()

    differences = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), differences, atol=2e-3, rtol=0.05)


def test_no_gradient_is_left_on_the_weights_and_their_flags_stay(network):
    network.zero_grad()
    flags = [parameter.requires_grad for parameter in network.parameters()]
    ask(Oracle(network, 4), images(2), torch.tensor([0, 1]))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert flags == [parameter.requires_grad for parameter in network.parameters()]


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_padding_changes_no_gradient(network, rows):
    x, y = images(4), torch.tensor([0, 1, 2, 3])
    whole = ask(Oracle(network, 4), x, y)[1]
    assert torch.equal(ask(Oracle(network, 4), x[:rows], y[:rows])[1], whole[:rows])


def test_every_gradient_is_a_row_of_the_ledger_and_the_victim(network, clean):
    x, y = clean
    run = Run(network, PGD(eps=1e-4, steps=3), x, y, budget=7)
    assert sum(len_ for len_, *_ in run.shapes) == sum(run.total.values()) == run.oracle.forwarded
    assert run.total["gradient"] == int(run.column("gradient").sum()) > 0
    assert run.total["attack"] == 0


def test_a_victim_without_a_gradient_is_refused_in_one_line():
    victim = Mapped(Linear(torch.ones(1, 3, 4, 4), -20.0), torch.Tensor.detach)
    with pytest.raises(UserError) as caught:
        ask(Oracle(victim, 2), images(2, (3, 4, 4)), torch.tensor([0, 0]))
    assert str(caught.value) == (
        "the gradient does not reach the image: something in the victim or its defenses cuts it off; "
        "attack it by scores or labels"
    )


class Quadratic(nn.Module):
    """Two classes; the gradient of the margin of class 0 at x is 2 x."""

    def forward(self, x):
        margin = x.pow(2).flatten(1).sum(1)
        return torch.stack([margin, torch.zeros_like(margin)], 1)


class Watch(PGD):
    """Keeps what noise left in the answers."""

    def __init__(self, **options):
        super().__init__(loss="margin", random_start=False, **options)
        self.told = []

    def tell(self, state, points, answer):
        self.told.append(answer - 2 * points)
        super().tell(state, points, answer)


@pytest.mark.parametrize("eot", [1, 8])
def test_averaged_gradients_have_the_noises_mean_and_an_eot_th_of_its_variance(eot):
    # With noise of 0.5 on the input, each entry of a gradient is 2 x + N(0, 1); 64 images of 48 entries, one query.
    x, y = images(64, (3, 4, 4)), torch.zeros(64, dtype=torch.int64)
    victim, attack = Quadratic(), Watch(eps=0.1)
    with InputNoise(sigma=0.5).on(victim):
        Run(victim, attack, x, y, budget=eot, batch_size=64, pool_size=64, eot=eot, deterministic=False)
    residual = torch.cat(attack.told)
    assert residual.shape == x.shape
    # 3072 residuals: five standard errors of their mean and of their variance.
    assert abs(float(residual.mean())) < 5 * (1 / eot / x.numel()) ** 0.5
    assert abs(float(residual.var()) - 1 / eot) < 5 * (2 / x.numel()) ** 0.5 / eot


def test_the_criterion_changes_no_noise_of_the_gradients():
    x, y = images(4, (3, 4, 4)), torch.zeros(4, dtype=torch.int64)
    victim, answers = Quadratic(), []
    for judged in (False, True):
        with InputNoise(sigma=0.5).on(victim):
            oracle = Oracle(victim, 4)
            if judged:
                oracle.scores(x, torch.zeros_like(y), "criterion")
            answers.append(ask(oracle, x, y)[1])
    assert torch.equal(*answers)
