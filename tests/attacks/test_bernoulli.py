"""What is special to the Bernoulli attack and its decision-based form."""

import math

import pytest
import torch
from attack_checks import caught
from harness import Constant, Linear, Mapped, Run, drive, images, noisy, one_by_one, others_slow, start
from reference.bernoulli import bernoulli
from reference.draws import BernoulliDraws

from rfdlight.attacks import Bernoulli, BernoulliDecision, BernoulliMultiscale
from rfdlight.core import rng
from rfdlight.errors import UserError

SMALL = {"eps": 0.05, "grid": 4, "rate": 0.6}


def check_reference(attack, victim, x, y, budget=20):
    """Query by query, the point, theta and what would be submitted are the reference's."""
    answer = one_by_one(victim)
    seed = torch.tensor([3 + 2**40 * i for i in range(len(x))])
    target = (y + 1) % 5 if attack.targeted else torch.full_like(y, -1)
    decision = attack.access == "decision"
    options = {"eps": attack.eps, "norm": attack.norm, "grid": attack.init(x, y, seed)["theta"].shape[2]}
    multiscale = isinstance(attack, BernoulliMultiscale)
    if multiscale:
        options["scales"] = [(end, min(side, options["grid"])) for end, side in ((20, 2), (80, 4))]
    options |= {
        "rate": attack.rate or {"linf": 0.4 if multiscale else 1.6, "l2": 0.4}[attack.norm],
        "loss": "decision" if decision else attack.loss,
        "budget": budget,
    }
    begun, _ = start(attack, x, y, seed, budget, target)
    ticks = list(drive(attack, answer, x, y, budget=budget, seed=seed, target=target))

    def model(point):
        logits = answer(point[None])[0]
        return int(logits.argmax()) if decision else logits

    for i in range(len(x)):
        draws = BernoulliDraws(int(seed[i]))
        first, history = bernoulli(model, x[i], int(y[i]), int(target[i]), **options, draws=draws)
        torch.testing.assert_close(attack.best(begun)[i], first, rtol=0, atol=1e-5)
        for q, (entry, (_, points, _, after)) in enumerate(zip(history, ticks, strict=True)):
            assert torch.allclose(points[i], entry["point"], rtol=0, atol=1e-5), f"image {i}, query {q}"
            theta = torch.tensor(list(entry["theta"].values()))
            # The last digit of a float32 loss counts, divided by how little the losses differ.
            assert torch.allclose(after["theta"][i].flatten(), theta, rtol=0, atol=1e-4), f"image {i}, query {q}"
            assert torch.allclose(attack.best(after)[i], entry["submitted"], rtol=0, atol=1e-5), f"image {i}, query {q}"
    assert ticks[-1][3]["theta"].flatten(1).any(1).all()


def check_corners(attack, budget=60):
    """Each query is a corner of the ball within [0, 1], constant on cells; the corners vary, with both signs alike."""
    x, y = images(4), torch.zeros(4, dtype=torch.int64)
    height, cell = x.shape[2], x.shape[2] // 4
    corners = []
    for _, points, _, after in drive(attack, Constant(), x, y, budget=budget):
        up, down = (x + 0.05).clamp(0, 1), (x - 0.05).clamp(0, 1)
        plus, minus = (points - up).abs() <= 1e-6, (points - down).abs() <= 1e-6
        assert (plus | minus).all()
        for chosen, other in ((plus, minus), (minus, plus)):
            blocks = (chosen | other.logical_not()).view(4, 3, 4, cell, 4, cell)
            alone = (chosen & ~other).view(4, 3, 4, cell, 4, cell)
            assert (blocks | ~alone.any(5, keepdim=True).any(3, keepdim=True)).all()
        corners.append((plus & ~minus).view(4, 3, 4, cell, 4, cell).any(5).any(3))
        assert torch.equal(attack.best(after), points)  # nothing learnt: the last query is submitted
    assert height == 4 * cell
    share = torch.stack(corners).float()
    assert abs(float(share.mean()) - 0.5) * 2 * math.sqrt(share.numel()) <= 5
    assert (share[1:] != share[:-1]).flatten(1).any(1).all()


def weights():
    """Weights of a margin that is linear in the signs of a 4 x 4 grid, and a victim with that margin at eps 0.05."""
    generator = torch.Generator().manual_seed(8)
    of_cells = torch.rand(16, generator=generator) + 1
    of_cells *= torch.randint(0, 2, (16,), generator=generator) * 2 - 1
    pixels = of_cells.view(1, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3) / 4 / 0.05
    return of_cells, Linear(pixels, -float(pixels.sum()) / 2)


def check_optimum(attack, deviation=6.0, budget=700):
    """Where the margin is linear in s, behind noise as large as its spread, the mode becomes the optimal corner."""
    of_cells, victim = weights()
    x, y = torch.full((6, 1, 8, 8), 0.5), torch.zeros(6, dtype=torch.int64)
    *_, (_, _, _, after) = drive(attack, noisy(victim, deviation), x, y, budget=budget)
    found = attack.best(after)
    if attack.norm == "l2":
        optimum = -victim.weight.flatten() / victim.weight.norm()
        direction = (found - x).flatten(1) / attack.eps
        assert (direction @ optimum >= 0.8).all(), direction @ optimum
    else:
        assert torch.allclose(found, x + attack.eps * -victim.weight.sign())
        assert (after["theta"].flatten(1) * -of_cells.sign() > 0).all()


def settled(attack, rows, theta=None, mean=0.0, variance=1.0):
    """A state in the middle of an attack on grey images of 8 x 8 with known moments of the loss."""
    x, y = torch.full((rows, 1, 8, 8), 0.5), torch.zeros(rows, dtype=torch.int64)
    state, _ = start(attack, x, y, torch.arange(rows) + 7, 100)
    state["step"] += 50
    state["mean"] += mean
    state["variance"] += variance
    if theta is not None:
        state["theta"] += theta
    return state


def check_rate(attack, rows=8000):
    """From theta = 0, one answer moves theta_j by -4 rate / sqrt(D) w_j / deviation of the answers on average.

    By Stein's lemma, with the share 0.9973 of answers that are not cut off at three deviations. Each move is 4 rate /
    sqrt(D) times a number of variance below 1: the largest of 16 |z| passes 5 in 1 of 100,000 runs.
    """
    of_cells, victim = weights()
    deviation = math.sqrt(float(of_cells.square().sum()) + 4)
    state = settled(attack, rows, variance=deviation**2)
    points = attack.ask(state)
    attack.tell(state, points, noisy(victim, 2.0)(points))
    unit = 4 * attack.rate / 4
    moved = state["theta"].flatten(1).double() / unit
    z = (moved.mean(0) + 0.9973 * of_cells / deviation) * math.sqrt(rows)
    assert float(z.abs().max()) <= 5, z


def check_no_drift(attack, rows=8000):
    """Where the loss does not depend on s, the mean of theta's moves within its bounds is zero, to |z| of 5 per cell.

    The largest of 16 |z| passes 5 in 1 of 100,000 runs.
    """
    theta = torch.linspace(-1, 1, 16).view(1, 4, 4)
    state = settled(attack, rows, theta=theta, mean=0.4)
    points = attack.ask(state)
    loss = torch.randn(rows, generator=torch.Generator().manual_seed(1)) + 1
    attack.tell(state, points, torch.stack([loss, torch.zeros(rows)], 1))
    moved = (state["theta"] - theta).flatten(1).double()
    z = moved.mean(0) / moved.std(0) * math.sqrt(rows)
    assert float(z.abs().max()) <= 5, z
    assert float(moved.std(0).min()) > 0


def check_scale(attack, victim, x, y):
    """Logits 8 times as large, which is exact in floating point, move theta alike."""
    ends = [list(drive(attack, one_by_one(victim), x, y, budget=30))[-1][3]["theta"]]
    ends += [list(drive(attack, one_by_one(Mapped(victim, lambda z: 8 * z)), x, y, budget=30))[-1][3]["theta"]]
    assert torch.allclose(*ends, rtol=1e-3, atol=1e-3)


def check_outliers(attack):
    """An answer 3, 30 or 300 standard deviations from the mean moves theta alike."""
    ends = []
    for loss in (-3.0, -30.0, -300.0):
        state = settled(attack, 2)
        attack.tell(state, attack.ask(state), torch.tensor([[loss, 0.0]]).expand(2, 2))
        ends.append(state["theta"])
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[1], ends[2])
    assert torch.allclose(ends[0].abs(), torch.tensor(3 * attack.rate))


def check_bound(attack):
    """Theta stays bounded under a signal without noise, so that each sign keeps a chance of 0.67 % or more."""
    _, victim = weights()
    x, y = torch.full((2, 1, 8, 8), 0.5), torch.zeros(2, dtype=torch.int64)
    *_, (_, _, _, after) = drive(attack, lambda p: victim(p).float(), x, y, budget=300)
    size = (
        after["theta"].abs().amax() if attack.norm == "linf" else after["theta"].square().mean((1, 2, 3)).sqrt().amax()
    )
    assert 1.5 <= float(size) <= 2.5 + 1e-5


def check_scales(attack):
    """The signs are constant on 2 by 2 cells up to query 20, on 4 by 4 up to 80, then on 8 by 8."""
    x, y = torch.full((3, 1, 16, 16), 0.5), torch.zeros(3, dtype=torch.int64)
    for query, (_, points, _, _) in enumerate(drive(attack, Constant(), x, y, budget=84)):
        side = 2 if query < 20 else 4 if query < 80 else attack.grid or 8
        signs = (points - x).sign()

        def spread(cells, signs=signs):
            blocks = signs.view(3, 1, cells, 16 // cells, cells, 16 // cells)
            return (blocks.amax((3, 5)) - blocks.amin((3, 5))).amax()

        assert not spread(side)
        assert spread(side // 2)


FORMS = [
    (Bernoulli, {}),
    (Bernoulli, {"grid": None, "rate": 0.6}),
    (Bernoulli, {"grid": 5}),
    (Bernoulli, {"loss": "cross_entropy", "eps": 0.2}),
    (Bernoulli, {"targeted": True}),
    (Bernoulli, {"norm": "l2", "eps": 1.0}),
    (Bernoulli, {"norm": "l2", "eps": 1.0, "grid": 5, "targeted": True}),
    (BernoulliMultiscale, {"grid": None, "rate": None}),
    (BernoulliMultiscale, {"grid": 7}),
    (BernoulliMultiscale, {"norm": "l2", "eps": 1.0}),
    (BernoulliDecision, {}),
    (BernoulliDecision, {"targeted": True}),
]


@pytest.mark.parametrize(("form", "options"), FORMS, ids=str)
def test_each_query_is_the_references(network, clean, form, options):
    x, y = clean[0][:1], clean[1][:1]
    if form is BernoulliDecision:  # near the boundary, where answers differ
        x = torch.stack([nearly(network, image, int(label)) for image, label in zip(x, y, strict=True)])
        y = network(x).argmax(1)
        if options:
            y = (network(x).topk(2).indices[:, 1] - 1) % 5
    check_reference(form(**{**SMALL, **options}), network, x, y, budget=90 if form is BernoulliMultiscale else 20)


def nearly(network, image, label):
    """The image, moved towards its mirror image until the answer is about to change."""
    other = next(
        other for other in images(32, tuple(image.shape), seed=3) if int(network(other[None]).argmax()) != label
    )
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        right = int(network(torch.lerp(image, other, middle)[None]).argmax()) == label
        low, high = (middle, high) if right else (low, middle)
    return torch.lerp(image, other, low)


@pytest.mark.parametrize("shape", [(3, 7, 10), (1, 1, 5), (2, 6, 6)])
def test_cells_of_any_image_are_the_references(shape):
    x, y = images(2, shape), torch.zeros(2, dtype=torch.int64)
    weight = torch.randn(1, *shape, generator=torch.Generator().manual_seed(2))
    check_reference(Bernoulli(eps=0.05), Linear(weight, 0.0), x, y, budget=12)
    if min(shape[1:]) > 4:
        check_reference(Bernoulli(eps=0.05, grid=4), Linear(weight, 0.0), x, y, budget=12)


def test_each_query_is_a_corner_of_the_ball_and_constant_on_cells():
    check_corners(Bernoulli(**SMALL))


def test_multiscale_halves_its_cells():
    check_scales(BernoulliMultiscale(eps=0.05))
    check_scales(BernoulliMultiscale(eps=0.05, grid=16))


@pytest.mark.slow
@pytest.mark.parametrize("options", others_slow([{}, {"norm": "l2", "eps": 0.4}], 0))
def test_behind_noise_the_optimal_corner_is_found(options):
    check_optimum(Bernoulli(**{**SMALL, "rate": 0.05, **options}))


def test_votes_behind_noise_move_towards_the_optimal_corner():
    # Once every answer is adversarial, none says more.
    _, victim = weights()
    x, y = torch.full((6, 1, 8, 8), 0.5), torch.zeros(6, dtype=torch.int64)
    attack = BernoulliDecision(**{**SMALL, "rate": 0.05})
    *_, (_, _, _, after) = drive(attack, noisy(victim, 6.0), x, y, budget=300)
    taken = victim(attack.best(after))[:, 0] / victim.least_margin(x, attack.eps)
    assert (taken >= 0.7).all(), taken


def test_theta_moves_at_the_rate_of_the_theory():
    check_rate(Bernoulli(**SMALL))


def test_theta_does_not_drift_where_the_loss_is_noise_alone():
    check_no_drift(Bernoulli(**{**SMALL, "rate": 0.2}))


def test_the_scale_of_the_logits_changes_nothing(network, clean):
    check_scale(Bernoulli(**SMALL), network, clean[0][:3], clean[1][:3])


def test_an_outlier_weighs_no_more_than_three_deviations():
    check_outliers(Bernoulli(**SMALL))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_theta_is_bounded(norm):
    check_bound(Bernoulli(**SMALL, norm=norm))


@pytest.mark.parametrize("form", [Bernoulli, BernoulliDecision])
def test_a_row_does_not_depend_on_the_others(network, clean, form):
    x, y = clean
    attack, seed = form(**SMALL), torch.arange(10) + 3
    together = list(drive(attack, one_by_one(network), x, y, budget=15, seed=seed))
    alone = list(drive(attack, one_by_one(network), x[4:5], y[4:5], budget=15, seed=seed[4:5]))
    for (_, points, _, after), (_, point, _, own) in zip(together, alone, strict=True):
        assert torch.equal(points[4:5], point)
        assert torch.equal(after["theta"][4:5], own["theta"])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("budget", [0, 1])
def test_without_knowledge_the_first_query_is_submitted(norm, budget, network, clean):
    attack = Bernoulli(eps=0.3, norm=norm)
    x, y = clean[0][:3], clean[1][:3]
    state, _ = start(attack, x, y, torch.arange(3), budget)
    first = attack.ask(state)
    if budget:
        attack.tell(state, first, network(first))
    assert torch.equal(attack.best(state), first)
    assert attack.threat.contains(x, first).all()
    assert (first != x).flatten(1).any(1).all()
    for record in Run(network, attack, x, y, budget=budget).records:
        assert record.billed <= budget


def test_a_target_is_reached():
    x, y = torch.full((2, 1, 8, 8), 0.5), torch.zeros(2, dtype=torch.int64)
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(3, 1, 4, 4, generator=generator).repeat_interleave(2, 2).repeat_interleave(2, 3).flatten(1)
    bias = torch.tensor([0.6, 0.0, 0.0])

    def answer(points):
        return (points - 0.5).flatten(1) @ scores.T + bias

    attack, target = Bernoulli(**SMALL, targeted=True), torch.tensor([1, 2])
    *_, (_, _, _, after) = drive(attack, answer, x, y, budget=200, target=target)
    assert answer(attack.best(after)).argmax(1).tolist() == [1, 2]


def test_the_default_grid_is_that_of_the_pixels_and_at_most_50():
    for side, grid in ((1, 1), (32, 32), (50, 50), (224, 50)):
        x = torch.zeros(1, 3, side, side + 3)
        columns = Bernoulli(eps=0.1).init(x, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
        assert columns["theta"].shape == (1, 3, grid, grid)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"grid": 0}, "attack.grid must be at least 1, got 0"),
        ({"rate": 0.0}, "attack.rate must be a positive number, got 0.0"),
        ({"rate": float("nan")}, "attack.rate must be a positive number, got nan"),
        ({"norm": "l1"}, "attack.norm of Bernoulli must be linf or l2, got l1"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        Bernoulli(**options)


def test_a_decision_has_no_loss_to_choose():
    with pytest.raises(UserError, match=r"^unknown argument of "):
        BernoulliDecision(loss="margin")


@pytest.mark.parametrize("share", [-1.0, -0.9, 0.0, 0.3, 1.0])
def test_biased_signs_have_their_means(share):
    # 20,000 signs: |z| passes 4.5 in 1 of 150,000 runs.
    rows = torch.arange(2000)
    signs = rng.biased_signs(rows, 2, rows, torch.full((2000, 2, 5), share))
    assert set(signs.unique().tolist()) <= {-1.0, 1.0}
    assert abs(float(signs.mean()) - share) * math.sqrt(20000) <= 4.5 * math.sqrt(1 - share**2)
    assert torch.equal(signs[:, 0, 0], rng.biased_signs(rows, 2, rows, torch.full((2000, 1), share))[:, 0])


class Climbs(Bernoulli):
    """Sign: theta follows the loss upwards."""

    def objective(self, state, logits):
        return -super().objective(state, logits)


class ForgetsTheMean(Bernoulli):
    """Gradient: theta moves by r s, without the mean of s."""

    def ask(self, state):
        points = super().ask(state)
        state["surprise"] = state["surprise"] + state["theta"].tanh()
        return points


class HasNoBaseline(Bernoulli):
    """Gradient: r is the loss itself in standard deviations, which is as unbiased and far noisier."""

    def tell(self, state, points, answer):
        mean = state["mean"].clone()
        state["mean"] = torch.zeros_like(mean)
        change = self._losses(state, answer) - mean
        super().tell(state, points, answer)
        state["mean"] = mean + (1 / state["step"]).clamp_min(0.05) * change


class LooksAhead(Bernoulli):
    """Gradient: the running mean holds the answer before r is taken of it."""

    def tell(self, state, points, answer):
        change = self._losses(state, answer) - state["mean"]
        state["mean"] = state["mean"] + 0.5 * change
        super().tell(state, points, answer)


class DividesByTheVariance(Bernoulli):
    """Scale: r is divided by the variance, not by its root."""

    def tell(self, state, points, answer):
        variance, change = state["variance"], self._losses(state, answer) - state["mean"]
        weight = (1 / (state["step"] + 1)).clamp_min(0.05)
        state["variance"] = variance.square()
        super().tell(state, points, answer)
        state["variance"] = (1 - weight) * (variance + weight * change.square())


class CountsOutliers(Bernoulli):
    """Scale: an answer far from the mean counts in full."""

    def tell(self, state, points, answer):
        before, change = state["theta"].clone(), self._losses(state, answer) - state["mean"]
        cut = (change.abs() / state["variance"].sqrt().clamp_min(1e-30) / 3).clamp(1, 100)
        super().tell(state, points, answer)
        state["theta"] = self._bounded(before + cut.view(-1, 1, 1, 1) * (state["theta"] - before))


class MovesAtOnce(Bernoulli):
    """Schedule: the first answers move theta too."""

    def tell(self, state, points, answer):
        state["step"] = state["step"] + 4
        super().tell(state, points, answer)
        state["step"] = state["step"] - 4


class HasNoBound(Bernoulli):
    """Bound: theta grows without end, and its signs stop varying."""

    def _bounded(self, theta):
        return theta


class MovesAllCellsAlike(Bernoulli):
    """Size: steps do not shrink with the number of signs."""

    def tell(self, state, points, answer):
        state["surprise"] = state["surprise"] * math.sqrt(state["theta"][0].numel())
        super().tell(state, points, answer)


class RepeatsDraws(Bernoulli):
    """Draws: every query uses the first draw."""

    def ask(self, state):
        step = state["step"]
        state["step"] = torch.zeros_like(step)
        points = super().ask(state)
        state["step"] = step
        return points


class SharesDraws(Bernoulli):
    """Draws: all cells of a row of cells use one draw."""

    def ask(self, state):
        super().ask(state)
        mean = state["theta"].tanh()
        signs = (state["surprise"] + mean)[..., :1].expand_as(mean)
        state["surprise"] = signs - mean
        return self._point(state["x"], signs)


class SubmitsTheMean(Bernoulli):
    """Submission: the mean of the corners, which lies inside the ball."""

    def best(self, state):
        return self._point(state["x"], state["theta"].tanh())


class SmearsCells(Bernoulli):
    """Cells: bilinear upsampling."""

    def _point(self, x, direction):
        size = {"size": x.shape[2:], "mode": "bilinear"}
        return (x + self.eps * torch.nn.functional.interpolate(direction, **size)).clamp(0, 1)


class RoundsCells(Bernoulli):
    """Cells: of the size floor(side / grid), the last one taking the rest."""

    def _point(self, x, direction):
        grid = direction.shape[2]
        rows, columns = ((torch.arange(n) // (n // grid)).clamp_max(grid - 1) for n in x.shape[2:])
        return (x + self.eps * direction[:, :, rows][..., columns]).clamp(0, 1)


class CountsTheWrongVotes(BernoulliDecision):
    """Votes: the loss is that of an untargeted attack."""

    def _losses(self, state, answer):
        return (answer == state["y"]).float()


class HalvesOnce(BernoulliMultiscale):
    """Scales: the second one lasts."""

    def _cells_at(self, query, grid):
        return super()._cells_at(query.clamp_max(79), grid)


class HalvesEarly(BernoulliMultiscale):
    """Scales: the first one is a query shorter."""

    def _cells_at(self, query, grid):
        return super()._cells_at(query + 1, grid)


class CountsFineCells(BernoulliMultiscale):
    """Size: steps are those of the last scale at all of them."""

    def _root_of_count(self, state):
        return math.sqrt(state["theta"][0].numel())


CAUGHT = [
    (Climbs, {}, ["check_reference", "check_rate"]),
    (ForgetsTheMean, {"rate": 0.2}, ["check_reference", "check_no_drift"]),
    (HasNoBaseline, {}, ["check_reference"]),
    (LooksAhead, {}, ["check_reference", "check_rate"]),
    (DividesByTheVariance, {}, ["check_reference", "check_scale"]),
    (CountsOutliers, {}, ["check_outliers"]),
    (MovesAtOnce, {}, ["check_reference"]),
    (HasNoBound, {}, ["check_bound"]),
    (MovesAllCellsAlike, {}, ["check_reference", "check_rate"]),
    (RepeatsDraws, {}, ["check_reference", "check_corners"]),
    (SharesDraws, {}, ["check_reference", "check_rate"]),
    (SubmitsTheMean, {}, ["check_reference", "check_corners"]),
    (SmearsCells, {}, ["check_reference", "check_corners"]),
    (RoundsCells, {"grid": 5}, ["check_reference"]),
    (HalvesOnce, {"grid": None}, ["check_scales"]),
    (HalvesEarly, {"grid": None}, ["check_scales"]),
    (CountsFineCells, {}, ["check_reference"]),
    (CountsTheWrongVotes, {"targeted": True}, ["check_reference"]),
]

VICTIM = {"check_reference", "check_scale"}


@pytest.mark.parametrize(("mutant", "options", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, options, check, network, clean):
    x, y = clean[0][:1], clean[1][:1]
    with pytest.raises(AssertionError):
        globals()[check](mutant(**{**SMALL, **options}), *((network, x, y) if check in VICTIM else ()))
