import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rfdlight.attacks.fgsm import FGSM
from rfdlight.attacks.pgd import PGD
from rfdlight.errors import UserError
from rfdlight.training import FGSMAdversary, PGDAdversary, TRADESAdversary
from rfdlight.training.adversary import CatastrophicOverfitting, attacked

EPS = 0.1


class Linear(nn.Module):
    """Two logits, w x and - w x: the worst point of a ball is known."""

    def __init__(self, shape=(1, 4, 4)):
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(3)))

    def forward(self, x):
        score = (x * self.w).flatten(1).sum(1)
        return torch.stack([score, -score], 1)


class Normed(nn.Module):
    """Remembers in which mode it was called."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.head = Linear()
        self.modes = []

    def forward(self, x):
        self.modes.append(self.training)
        return self.head(self.norm(x))


@pytest.fixture
def images():
    x = 0.3 + 0.4 * torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0, 1, 0, 1, 0, 1])


def worst(victim, x, y):
    """The worst points of the ball: against the weights for class 0, along them for class 1."""
    return x - EPS * victim.w.detach().sign() * (1 - 2 * y).view(-1, 1, 1, 1)


@pytest.mark.parametrize(
    "adversary", [PGDAdversary(EPS, steps=7, step=0.05), FGSMAdversary(EPS, step=2 * EPS)], ids=["pgd", "fgsm"]
)
def test_the_loss_on_a_linear_victim_is_the_one_at_the_worst_points(adversary, images):
    victim, (x, y) = Linear(), images
    loss, logits = adversary.loss(victim, x, y, cross_entropy)
    expected = victim(worst(victim, x, y))
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(loss, cross_entropy(expected, y))


def test_the_fast_step_is_one_and_a_quarter_radii_from_a_random_start(images):
    victim, (x, y) = Linear(), images
    points = torch.stack([attacked(victim, FGSMAdversary(EPS).attack, x, y) for _ in range(100)])
    offset = ((points - x) * -(1 - 2 * y).view(-1, 1, 1, 1) * victim.w.detach().sign()) / EPS
    # A start u in [-1, 1] ends at min(1, u + 1.25): at 1 with probability 5/8, and never below 1/4.
    assert offset.min() >= 0.25 - 1e-5
    assert offset.max() <= 1 + 1e-5
    at_the_surface = float((offset > 1 - 1e-5).float().mean())
    assert abs(at_the_surface - 5 / 8) < 5 * (15 / 64 / offset.numel()) ** 0.5


@pytest.mark.parametrize("adversary", [PGDAdversary(EPS), FGSMAdversary(EPS), TRADESAdversary(EPS)])
def test_attacked_images_stay_in_the_ball_and_leave_no_gradients_on_the_weights(adversary, images):
    victim, (x, y) = Normed().train(), images
    seen = []
    victim.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    loss, _ = adversary.loss(victim, x, y, cross_entropy)
    assert victim.head.w.grad is None
    points = seen[-1]
    assert (points - x).abs().max() <= EPS + 1e-6
    assert torch.equal(points, points.clamp(0, 1))
    loss.backward()
    assert victim.head.w.grad.abs().sum() > 0
    assert victim.training


@pytest.mark.parametrize("adversary", [PGDAdversary(EPS), FGSMAdversary(EPS)])
def test_madry_and_wong_attack_the_victim_in_training_mode(adversary, images):
    victim = Normed().train()
    adversary.loss(victim, *images, cross_entropy)
    assert all(victim.modes)


def test_trades_attacks_in_evaluation_mode_and_then_trains_on_both(images):
    victim = Normed().train()
    TRADESAdversary(EPS, steps=4).loss(victim, *images, cross_entropy)
    assert victim.modes == [False] * 5 + [True] * 2


def test_trades_is_the_clean_loss_plus_beta_times_the_divergence(images):
    victim, (x, y) = Linear(), images
    adversary = TRADESAdversary(EPS, steps=40, step=0.01, beta=3.0)
    loss, logits = adversary.loss(victim, x, y, cross_entropy)
    p, q = victim(x).softmax(1), logits.softmax(1)
    divergence = (p * (p.log() - q.log())).sum(1)
    torch.testing.assert_close(loss, cross_entropy(victim(x), y) + 3.0 * divergence.mean())
    # On a linear victim the divergence is largest at one of the two ends of the ball.
    ends = torch.stack([victim(worst(victim, x, torch.full_like(y, side))) for side in (0, 1)])
    at_ends = (p * (p.log() - ends.softmax(2).log())).sum(2)
    assert (divergence <= at_ends.amax(0) + 1e-5).all()
    assert (divergence >= at_ends.amin(0) - 1e-5).all()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: PGDAdversary(eps=0), "model.adversary.eps must be a positive number of pixel units, got 0"),
        (lambda: TRADESAdversary(beta=-1), "attack.beta must be a positive number, got -1"),
        (lambda: PGDAdversary(steps=0), "attack.steps must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(make, line):
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("epochs", "reports_at"),
    [
        ([(0.4, 0.3), (0.5, 0.35), (0.9, 0.0)], [2]),
        ([(0.4, 0.3), (0.5, 0.35), (0.9, 0.01), (0.95, 0.0)], [2]),
        ([(0.4, 0.3), (0.2, 0.1)], []),  # both fall: the training diverges, which is something else
        ([(0.4, 0.3), (0.45, 0.2)], []),
        ([(0.1, 0.1), (0.3, 0.2), (0.4, 0.3)], []),
    ],
)
def test_catastrophic_overfitting_is_reported_once_when_pgd_falls_and_fgsm_does_not(epochs, reports_at):
    watch = CatastrophicOverfitting()
    lines = [watch.update(fgsm, pgd) for fgsm, pgd in epochs]
    assert [epoch for epoch, line in enumerate(lines) if line] == reports_at


def test_the_adversaries_and_the_evaluation_share_one_attack():
    assert type(PGDAdversary().attack) is PGD
    assert type(FGSMAdversary().attack) is FGSM
