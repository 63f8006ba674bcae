"""The white-box attacks."""

import pytest
import torch
from harness import Linear, Run, drive, images, one_by_one, told
from reference import draws
from reference.pgd import pgd

from rfdlight.attacks import FGSM, PGD
from rfdlight.attacks.pgd import perturb
from rfdlight.core import rng
from rfdlight.errors import UserError

SEEDS = torch.tensor([5, 2**40 + 7, 99])


def check_reference(attack, victim, x, y, budget=25):
    """Query by query, and at the end, the points are the reference's."""
    x, y, answer = x[:3], y[:3], one_by_one(victim)
    ticks = list(drive(attack, answer, x, y, budget=budget, seed=SEEDS))
    last = {**ticks[-1][3]}
    for i in range(len(x)):

        def start(run, i=i):
            seed, number = SEEDS[i : i + 1], torch.tensor([run])
            if attack.norm == "linf":
                values = draws.uniform(int(seed), 0, run, x[i].numel())
                return ((2 * torch.tensor(values) - 1) * attack.eps).view(x[i].shape)
            normal = rng.normal(seed, 0, number, tuple(x[i].shape))[0]
            return normal / normal.norm() * draws.uniform(int(seed), 1, run, 1)[0] * attack.eps

        asked, submitted = pgd(
            lambda p: answer(p[None])[0],
            x[i],
            int(y[i]),
            attack.eps,
            attack.norm,
            attack.steps,
            attack.step_length,
            budget,
            start,
            attack.random_start,
        )
        for q, (expected, (_, points, _, _)) in enumerate(zip(asked, ticks, strict=True)):
            assert torch.allclose(points[i], expected, atol=2e-6), f"image {i}, query {q}"
        assert torch.allclose(attack.best(last)[i], submitted, atol=2e-6)


def check_optimum(attack):
    """On a linear victim, the end of a run is the point of least margin in the ball."""
    x = 0.4 + 0.2 * images(3, (3, 4, 4)).clamp(0, 1)
    weight = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    victim = Linear(weight, 0.0)
    y = torch.zeros(3, dtype=torch.int64)
    *_, (_, _, _, after) = drive(attack, victim, x, y, budget=attack.steps)
    direction = weight.sign() if attack.norm == "linf" else weight / weight.norm()
    torch.testing.assert_close(attack.best(after), x - attack.eps * direction.expand_as(x), atol=2e-6, rtol=0)


def check_in_the_ball(attack, victim, x, y):
    for _, points, _, _ in drive(attack, one_by_one(victim), x[:3], y[:3], budget=30):
        assert attack.threat.contains(x[:3], points).all()
        assert torch.equal(points, points.clamp(0, 1))


def check_bill(attack, victim, x, y):
    """Of `steps` + 1 queries of a run, all but the last ask for a gradient that is used."""
    run = Run(victim, attack, x, y, budget=2 * (attack.steps + 1), criterion=None)
    for record in run.records:
        if record.success_query is None:
            assert (record.gradient, record.success_check, record.attack) == (2 * attack.steps, 2, 0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("random_start", [True, False])
def test_each_query_is_the_references(network, clean, norm, random_start):
    check_reference(PGD(eps=0.05, norm=norm, steps=4, random_start=random_start), network, *clean)


def test_fgsm_is_one_step_to_the_surface(network, clean):
    check_reference(FGSM(eps=0.05), network, *clean)
    check_reference(FGSM(eps=0.05, random_start=True), network, *clean)


@pytest.mark.parametrize("attack", [PGD(eps=0.05), PGD(eps=0.3, norm="l2", random_start=False), FGSM(eps=0.05)])
def test_a_run_ends_at_the_optimum_of_a_linear_victim(attack):
    check_optimum(attack)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_points_stay_in_the_ball(network, clean, norm):
    check_in_the_ball(PGD(eps=0.1, norm=norm, step=0.08), network, *clean)


def test_a_budget_of_the_steps_submits_the_last_point_of_the_first_run(network, clean):
    x, y = clean
    attack = PGD(eps=0.02, steps=5)
    seed = torch.arange(len(x)) + 100
    *_, (_, _, _, after) = drive(attack, one_by_one(network), x, y, budget=5)

    def downhill(points):
        state = {"y": y, "target": torch.full_like(y, -1)}
        return told(attack, one_by_one(network), state, points)[1]

    assert torch.equal(attack.best(after), perturb(attack, downhill, x, y, seed))


def test_the_bill_tells_gradients_from_looks(network, clean):
    check_bill(PGD(eps=1e-4, steps=3), network, *clean)


def test_more_steps_break_what_one_step_breaks(network, clean):
    x, y = clean
    adversarial = {
        name: {
            r.id
            for r in Run(network, attack, x, y, budget=40, batch_size=10, pool_size=10).records
            if r.verdict == "adversarial"
        }
        for name, attack in (("fgsm", FGSM(eps=0.004)), ("pgd", PGD(eps=0.004, steps=20)))
    }
    assert adversarial["fgsm"] <= adversarial["pgd"]
    assert 0 < len(adversarial["pgd"]) < len(x), "the radius tells nothing"


def test_a_gradient_of_zero_moves_nothing():
    attack = PGD(eps=0.1, random_start=False)
    x, y = images(2, (3, 4, 4)), torch.tensor([0, 1])
    state = {"x": x, "y": y, "seed": torch.tensor([1, 2]), **attack.init(x, y, torch.tensor([1, 2]))}
    attack.tell(state, attack.ask(state), torch.zeros_like(x))
    assert torch.equal(state["point"], x)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: PGD(steps=0), "attack.steps must be at least 1, got 0"),
        (lambda: PGD(step=0.0), "attack.step must be a positive number, got 0.0"),
        (lambda: FGSM(step=-1.0), "attack.step must be a positive number, got -1.0"),
    ],
)
def test_options_out_of_range_are_refused(make, line):
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value) == line


def test_a_budget_too_small_to_cross_the_ball_is_said():
    assert "stays within 0.025 of the image" in (PGD(eps=0.1).budget_warning(1) or "")
    assert PGD(eps=0.1).budget_warning(10) is None


class PGDClimbs(PGD):
    """Sign: towards the label."""

    def tell(self, state, points, answer):
        super().tell(state, points, -answer)


class PGDLeavesTheBall(PGD):
    """Size: forgets the projection."""

    def tell(self, state, points, answer):
        over = state["taken"] == self.steps
        moved = (state["point"] - self.step_length * answer.sign()).clamp(0, 1)
        super().tell(state, points, answer)
        state["point"] = torch.where(over[:, None, None, None], state["point"], moved)


class PGDNeverLooks(PGD):
    """Budget: the look at the end of a run is billed as a gradient."""

    def is_success_check(self, state):
        return torch.zeros_like(state["y"], dtype=torch.bool)


@pytest.mark.parametrize(
    ("check", "mutant"),
    [
        (lambda a, v, c: check_optimum(a), PGDClimbs(eps=0.05)),
        (lambda a, v, c: check_reference(a, v, *c), PGDClimbs(eps=0.05, steps=4)),
        (lambda a, v, c: check_in_the_ball(a, v, *c), PGDLeavesTheBall(eps=0.1, step=0.08)),
        (lambda a, v, c: check_bill(a, v, *c), PGDNeverLooks(eps=1e-4, steps=3)),
    ],
)
def test_the_checks_catch_mutants(check, mutant, network, clean):
    with pytest.raises(AssertionError):
        check(mutant, network, clean)
