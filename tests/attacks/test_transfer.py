"""What is special to transfer, and to all attacks with a surrogate."""

import pickle

import pytest
import torch
from attack_checks import caught
from harness import Linear, Run, drive, images, one_by_one, others_slow, start
from reference import draws
from reference.transfer import crafted, transfer
from torch import nn

from rfdlight.attacks import PRGF, Transfer
from rfdlight.core import rng
from rfdlight.core.losses import attacker_loss
from rfdlight.core.row_counter import RowCounter
from rfdlight.engine import criterion_named
from rfdlight.errors import UserError

SMALL = {"eps": 0.06, "points": 3, "steps": 4}
SEEDS = torch.tensor([5, 2**40 + 7])


def other_network():
    """A surrogate that is not the victim, with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(216, 5)).eval()
    network[0].weight.data.mul_(8)  # so that gradients change within the ball
    return network


SURROGATE = other_network()


def surrogate_of(attack, network, y, target):
    """The loss and the gradient at one point, in passes of as many rows as the attack's."""

    def ask(point):
        batch = point[None].repeat(8, 1, 1, 1).requires_grad_()
        rows = torch.full((8,), y), torch.full((8,), target)
        loss = attacker_loss(network(batch), *rows, attack.loss)
        return loss[0].item(), torch.autograd.grad(loss.sum(), batch)[0][0]

    return ask


def check_reference(attack, victim, x, y, budget=8):
    """Query by query, points and submitted points are the reference's."""
    answer = one_by_one(victim)
    target = (y + 1) % 5 if attack.targeted else torch.full_like(y, -1)
    ticks = list(drive(attack, answer, x, y, budget=budget, seed=SEEDS, target=target))
    for i in range(len(x)):

        def begin(run, i=i):
            seed, shape = SEEDS[i : i + 1], x[i].shape
            if attack.norm == "linf":
                values = torch.tensor(draws.uniform(int(seed), 0, run, x[i].numel()))
                return (x[i] + ((2 * values - 1) * attack.eps).view(shape).float()).clamp(0, 1)
            normal = rng.normal(seed, 0, torch.tensor([run]), tuple(shape))[0]
            offset = normal / normal.norm() * draws.uniform(int(seed), 1, run, 1)[0] * attack.eps
            return (x[i] + offset).clamp(0, 1)

        step = attack.eps / attack.steps if attack.step is None else attack.step
        ask = surrogate_of(attack, SURROGATE, int(y[i]), int(target[i]))
        run = attack.points, attack.steps, step, attack.momentum
        points, _ = crafted(ask, x[i], attack.eps, attack.norm, *run, begin)

        def margin(point, i=i):
            return attacker_loss(answer(point[None]), y[i : i + 1], target[i : i + 1]).item()

        for q, (expected, (_, asked, _, after)) in enumerate(zip(transfer(margin, points, budget), ticks, strict=True)):
            assert torch.allclose(asked[i], expected["point"], rtol=0, atol=2e-6), f"image {i}, query {q}"
            best = attack.best(after)[i]
            assert torch.allclose(best, expected["submitted"], rtol=0, atol=2e-6), f"image {i}, query {q}"


def check_order(attack, x, y):
    """The surrogate's losses at the first queries rise, these differ, and they are asked again in the same order."""
    state, _ = start(attack, x, y, SEEDS, 9)
    losses, asked = [], []
    for _ in range(2 * attack.points):
        points = attack.ask(state)
        losses.append(attack.on_surrogate(state, points)[0])
        asked.append(points)
        attack.tell(state, points, SURROGATE(points).detach())
    first, again = torch.stack(asked[: attack.points]), torch.stack(asked[attack.points :])
    assert torch.equal(first, again)
    assert (torch.stack(losses[: attack.points]).diff(dim=0) >= 0).all()
    assert (first.diff(dim=0).flatten(2).abs().amax(2) > 1e-3).all()


def check_mean(attack, x, y):
    """Answers of scattered margins: the lowest mean decides what is submitted, not the lowest answer or sum."""
    state, _ = start(attack, x, y, SEEDS, 9)
    queried = []
    for margin in (5.0, 7.0, 4.0, -1.0, -2.0, 4.0, 2.0):  # means 2, 2.5, 4
        points = attack.ask(state)
        queried.append(points)
        logits = torch.full((len(x), 5), -100.0).scatter(1, y[:, None], 0.0)
        attack.tell(state, points, logits.scatter(1, (y[:, None] + 1) % 5, -margin))
        if len(queried) == 4:  # means 2, 7, 4
            assert torch.equal(attack.best(state), queried[0])
    assert torch.equal(attack.best(state), queried[0])
    for margin in (-9.0, 4.0):  # means 2, -4 / 3, 4
        points = attack.ask(state)
        attack.tell(state, points, logits.scatter(1, (y[:, None] + 1) % 5, -margin))
    assert torch.equal(attack.best(state), queried[1])


def check_optimum(attack):
    """Where the surrogate is linear and steps add up to eps, the first query is the point of least margin."""
    x = 0.4 + 0.2 * images(2, (3, 4, 4)).clamp(0, 1)
    y, weight = torch.zeros(2, dtype=torch.int64), attack.surrogate.weight
    state, _ = start(attack, x, y, SEEDS, 1)
    direction = weight.sign() if attack.norm == "linf" else weight / weight.norm()
    expected = x - attack.eps * direction.expand_as(x)
    torch.testing.assert_close(attack.ask(state), expected, atol=2e-6, rtol=0)


def linear():
    return Linear(torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1)), 0.0)


FAR = {"eps": 0.4, "steps": 8, "step": 0.1}  # so far that the norm of the gradient changes
FORMS = [
    {},
    FAR,
    {"momentum": 0.0, "step": 0.04, "loss": "margin"},
    {"targeted": True, "points": 2},
    {"norm": "l2", "eps": 0.8},
]


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_each_query_is_the_references(network, clean, options):
    attack = Transfer(SURROGATE, **{**SMALL, **options})
    check_reference(attack, network, clean[0][:2], clean[1][:2])


def test_points_are_asked_in_the_order_of_the_surrogates_loss(clean):
    check_order(Transfer(SURROGATE, **{**SMALL, "loss": "margin"}), clean[0][:2], clean[1][:2])


def test_the_lowest_mean_margin_is_submitted(clean):
    check_mean(Transfer(SURROGATE, **SMALL), clean[0][:2], clean[1][:2])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_surrogate_gives_the_optimum(norm):
    check_optimum(Transfer(linear(), eps=0.05, norm=norm, points=1, loss="margin"))


@pytest.mark.parametrize("budget", [0, 1])
def test_the_first_point_needs_no_query(clean, budget):
    attack, (x, y) = Transfer(SURROGATE, **SMALL), (each[:2] for each in clean)
    state, _ = start(attack, x, y, SEEDS, budget)
    submitted = attack.best(state)
    points = attack.ask(state)
    assert torch.equal(submitted, points)
    for before in (x, points):
        assert (attack.on_surrogate(state, before)[0] >= attack.on_surrogate(state, submitted)[0]).all()


class NoisyHead(nn.Module):
    """A victim with noise on its last features: the mean logits are those without noise."""

    def __init__(self, network, scale):
        super().__init__()
        self.features, self.head, self.scale = network[:-1], network[-1], scale

    def forward(self, x):
        features = self.features(x)
        return self.head(features + self.scale * torch.randn_like(features))


@pytest.mark.slow
def test_noise_after_the_last_block_gains_nothing_against_transfer(network):
    # Every verdict is that of the mean logits, which the noise does not change, and no query chooses the point.
    x = images(16, (3, 8, 8))
    with torch.no_grad():
        y = network(x).argmax(1)

    def attack_of(eps):
        return Transfer(network, eps=eps, points=1, steps=4)

    def succeeding(eps):
        state, _ = start(attack_of(eps), x, y, torch.arange(16), 1)
        return int((network(attack_of(eps).ask(state)).argmax(1) != y).sum())

    attack = attack_of(min((0.002, 0.004, 0.008, 0.016, 0.032, 0.064), key=lambda eps: abs(succeeding(eps) - 8)))
    criterion = criterion_named("sequential", 4000)
    options = {"budget": 3, "batch_size": 64, "pool_size": 16}
    plain = Run(network, attack, x, y, **options)
    noisy = Run(NoisyHead(network, 0.02), attack, x, y, deterministic=False, criterion=criterion, **options)
    verdicts = [record.verdict for record in plain.records]
    assert min(verdicts.count("adversarial"), verdicts.count("robust")) >= 4
    for before, after in zip(plain.records, noisy.records, strict=True):
        assert (before.linf, before.l2) == (after.linf, after.l2)
        assert after.verdict in (before.verdict, "undecided")
    assert sum(record.verdict == "undecided" for record in noisy.records) <= 4
    assert any(0 < record.final_adversarial < record.final_evaluations for record in noisy.records)


@pytest.mark.parametrize("form", [Transfer, PRGF])
def test_the_surrogates_passes_are_no_queries_even_of_the_victim_itself(network, clean, form):
    attack = form(surrogate=network, eps=0.01)
    with RowCounter(network) as counter:
        run = Run(network, attack, clean[0][:3], clean[1][:3], budget=15)
    assert run.oracle.forwarded == sum(run.total.values())
    assert counter.rows == run.oracle.forwarded + 1  # the harness looks at the classes


@pytest.mark.parametrize("form", [Transfer, PRGF])
def test_the_given_network_is_not_changed_and_gets_no_gradient(clean, form):
    given = nn.Sequential(nn.Dropout(0.5), other_network()).train()
    attack = form(surrogate=given, eps=0.05)
    first = [next(drive(attack, one_by_one(SURROGATE), *clean, budget=2))[1] for _ in range(2)]
    assert torch.equal(*first)  # no dropout
    assert given.training
    assert given[0].training
    assert all(weight.requires_grad and weight.grad is None for weight in given.parameters())
    assert not any(weight.requires_grad for weight in attack.surrogate.parameters())


@pytest.mark.parametrize("form", [Transfer, PRGF])
def test_the_mode_of_the_caller_changes_nothing(clean, form):
    attack, queried = form(surrogate=SURROGATE, eps=0.05), []
    for mode in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        with mode:
            x, y = clean[0][:2].clone(), clean[1][:2].clone()
            ticks = drive(attack, lambda points: SURROGATE(points).detach(), x, y, budget=3)
            queried.append(torch.stack([points for _, points, _, _ in ticks]).clone())
            assert not queried[-1].requires_grad
    assert torch.equal(queried[0], queried[1])
    assert torch.equal(queried[0], queried[2])


@pytest.mark.parametrize("form", others_slow([Transfer, PRGF], 1))
def test_copies_have_the_surrogate(clean, form):
    attack = form(surrogate=SURROGATE, eps=0.05)
    copies = [attack.configured(eot=2), pickle.loads(pickle.dumps(attack))]
    copies.append(form(surrogate="its name", eps=0.05).with_surrogate(SURROGATE, "loaded"))
    expected = torch.stack([points for _, points, _, _ in drive(attack, one_by_one(SURROGATE), *clean, budget=3)])
    for copied in copies:
        queried = [points for _, points, _, _ in drive(copied, one_by_one(SURROGATE), *clean, budget=3)]
        assert torch.equal(torch.stack(queried), expected)
    assert copies[-1].surrogate_text == "loaded"


def test_options_have_the_name_of_the_surrogate():
    assert Transfer(SURROGATE, eps=0.1).options() == "surrogate Sequential"
    assert Transfer("vgg19-cifar10", points=2, eps=0.1).options() == "surrogate vgg19-cifar10, points 2"
    assert Transfer("a", eps=0.1).with_surrogate(SURROGATE, "a, loaded").options() == "surrogate a"
    assert PRGF(SURROGATE, sigma=0.01, eps=0.1).options() == "surrogate Sequential, sigma 0.01, step 0.005"


@pytest.mark.parametrize("given", [None, 3, "", nn.Conv2d])
def test_an_attack_without_a_surrogate_is_refused(given):
    with pytest.raises(UserError, match=r"^attack\.surrogate: expected a network or its name, got [^\n]*$"):
        Transfer(surrogate=given)


class Rounds(nn.Module):
    def forward(self, x):
        return SURROGATE(x.round().detach())


class HasNoNumber(nn.Module):
    def forward(self, x):
        return SURROGATE(x) * torch.nan


@pytest.mark.parametrize(
    ("surrogate", "text"),
    [("a name", "load it"), (Rounds(), "differentiable"), (HasNoNumber(), "finite gradients")],
)
def test_a_surrogate_without_gradients_is_refused_in_one_line(clean, surrogate, text):
    attack = Transfer(surrogate, eps=0.1)
    state, _ = start(attack, *clean, torch.arange(10), 3)
    with pytest.raises(UserError, match=rf"^attack\.surrogate: [^\n]*{text}[^\n]*$"):
        attack.ask(state)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"points": 0}, "attack.points must be at least 1, got 0"),
        ({"steps": 0}, "attack.steps must be at least 1, got 0"),
        ({"step": -1.0}, "attack.step must be a positive number, got -1.0"),
        ({"momentum": -0.1}, "attack.momentum must be a finite number of at least 0, got -0.1"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        Transfer(SURROGATE, **options)


class Climbs(Transfer):
    """Sign: runs follow the loss upwards."""

    def on_surrogate(self, state, points):
        loss, gradient = super().on_surrogate(state, points)
        return loss, -gradient


class ForgetsItsMomentum(Transfer):
    """Momentum: each step follows its own gradient alone."""

    def _turned(self, direction, gradient):
        return gradient


class AddsGradientsAsTheyAre(Transfer):
    """Momentum: gradients are not divided by their norms."""

    def _turned(self, direction, gradient):
        return self.momentum * direction + gradient


class StartsAtTheImage(Transfer):
    """Starts: every run begins at the image."""

    def _run(self, state, number):
        return super()._run(state, 0)


class AsksTheHighestFirst(Transfer):
    """Order: the highest loss of the surrogate comes first."""

    def _run(self, state, number):
        point, loss = super()._run(state, number)
        return point, -loss


class SubmitsTheLowestSum(Transfer):
    """Submission: sums are compared, not means."""

    def best(self, state):
        return self._chosen(self._points(state), state["total"].argmin(1))


class SubmitsTheLast(Transfer):
    """Submission: the point of the last answer."""

    def best(self, state):
        return self._chosen(self._points(state), (state["step"] - 1).clamp_min(0) % self.points)


class ForgetsAnswers(Transfer):
    """Submission: the last answer at a point replaces the earlier ones."""

    def tell(self, state, points, answer):
        asked = torch.arange(self.points) == (state["step"] % self.points)[:, None]
        state["total"] = torch.where(asked, 0.0, state["total"])
        super().tell(state, points, answer)


CAUGHT = [
    (Climbs, ["check_reference", "check_optimum"]),
    (ForgetsItsMomentum, ["check_reference"]),
    (AddsGradientsAsTheyAre, ["check_reference"]),
    (StartsAtTheImage, ["check_reference", "check_order"]),
    (AsksTheHighestFirst, ["check_reference", "check_order"]),
    (SubmitsTheLowestSum, ["check_reference", "check_mean"]),
    (SubmitsTheLast, ["check_reference", "check_mean"]),
    (ForgetsAnswers, ["check_mean"]),
]


@pytest.mark.parametrize(("mutant", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, check, network, clean):
    x, y = clean[0][:2], clean[1][:2]
    attack, arguments = mutant(SURROGATE, **{**SMALL, "loss": "margin"}), (x, y)
    if check == "check_optimum":
        attack, arguments = mutant(linear(), eps=0.05, points=1, loss="margin"), ()
    elif check == "check_reference":
        attack, arguments = mutant(SURROGATE, **{**SMALL, **FAR}), (network, x, y)
    with pytest.raises(AssertionError):
        globals()[check](attack, *arguments)
