"""The cost of a defense and the sigma of a cost, on victims whose drop is known in closed form."""

import itertools
import math

import numpy as np
import pytest
import torch
from harness import others_slow
from scipy.stats import binom, multinomial, norm
from torch import nn

import rfdlight as rfd
from rfdlight.analysis import calibration
from rfdlight.analysis.calibration import Target, calibrate_noise, calibrate_roughly, rough_meter
from rfdlight.analysis.clean_cost import CleanCostMeter, cost_of, over_images
from rfdlight.data import Images
from rfdlight.defenses import FeatureNoise, InputNoise
from rfdlight.engine.failures import VictimError
from rfdlight.errors import UserError


class Threshold(nn.Module):
    """Class 1 where the first feature, twice the one pixel, is positive: noise nu on it errs with Phi(-2 x / nu)."""

    def __init__(self):
        super().__init__()
        self.feature = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.feature.weight, 2.0)

    def forward(self, x):
        z = self.feature(x.flatten(1))
        return torch.cat([torch.zeros_like(z), z], 1)


def bright(count: int, value: int = 255) -> Images:
    pixels = torch.full((count, 1, 1, 1), value, dtype=torch.uint8)
    return Images(pixels, torch.ones(count, dtype=torch.int64), [f"{number:05d}" for number in range(count)])


def calibrated(victim, images, defense, target=0.02, tolerance=0.002, max_draws=64):
    found = calibrate_noise(CleanCostMeter(victim, images), defense, Target(target, tolerance, max_draws))
    return found, defense.sigma


class Meter:
    """A meter of a victim without errors, whose defended answers `times_right(sigma, first, draws)` counts."""

    def __init__(self, images, times_right):
        self.undefended = torch.ones(images).double()
        self.by_sigma = times_right

    def times_right(self, noise, first, draws):
        return self.by_sigma(noise.sigma, first, draws)


def searched(images, times_right, target, begin=1.0):
    """The result of a search, the sigma, and the sigmas that were tried."""
    tried, noise = [], InputNoise(begin)
    found = calibrate_noise(Meter(images, times_right), noise, target, lambda sigma, cost: tried.append(sigma))
    return found, noise.sigma, tried


def simulated(images, seed, unlucky=range(0)):
    """A victim that errs with 0.02 sigma^2 on each image, and three times as often in some draws."""

    def times_right(sigma, first, draws):
        counts = torch.zeros(images).double()
        for draw in range(first, first + draws):
            generator = torch.Generator().manual_seed(1000 * seed + draw)
            wrong = min(0.02 * sigma**2 * (3 if draw in unlucky else 1), 0.9)
            counts += torch.rand(images, generator=generator).gt(wrong)
        return counts

    return times_right


@pytest.mark.parametrize(
    ("defense", "margin"),
    others_slow([(InputNoise(0.001), 1.0), (FeatureNoise(200.0, "feature"), 2.0)], 0),
    ids=["pixels", "layer"],
)
def test_the_sigma_is_that_of_the_closed_form_wherever_the_search_begins(defense, margin):
    found, sigma = calibrated(Threshold(), bright(2000), defense)
    truth = norm.cdf(-margin / sigma)
    assert abs(truth - 0.02) <= 0.002
    low, high = found.cost.over_draws
    assert 0.018 <= low < high <= 0.022
    assert found.note == ""


@pytest.mark.parametrize(("power", "most"), [(2.0, 2), (2.6, 3)])
def test_a_drop_that_is_about_a_power_of_sigma_takes_few_sigmas(power, most):
    """The drop of a network is one: measured powers lie between 2 and 3."""

    def tries(begin):
        def times_right(sigma, first, draws):
            wrong = min(0.02 * sigma**power, 0.9)
            generator = torch.Generator().manual_seed(first)
            return torch.rand((9000, draws), generator=generator).gt(wrong).sum(1).double()

        _, _, tried = searched(9000, times_right, Target(0.02, 0.003), begin)
        assert len(set(tried)) == len(tried), "no sigma is measured twice by the search"
        return len(tried)

    assert max(tries(0.6), tries(1.5)) <= most
    assert max(tries(0.01), tries(30.0)) <= 6


@pytest.mark.slow
def test_the_interval_over_draws_covers_the_true_drop_as_often_as_it_says():
    """Of 80 intervals of 95 %, so few or so many would happen less than twice in 1000 times."""
    images = bright(120)
    images.pixels[::3] = 60
    meter = CleanCostMeter(Threshold(), images)
    noise = InputNoise(0.7)
    truth = np.mean(norm.cdf(-images.pixels.double().numpy() / 255 / 0.7))
    inside = 0
    for trial in range(80):
        low, high = cost_of(meter.undefended, meter.times_right(noise, 6 * trial, 6), 6).over_draws
        inside += low <= truth <= high
    assert binom.ppf(0.001, 80, 0.95) <= inside <= binom.ppf(0.999, 80, 0.95)


def test_the_error_and_the_interval_over_images_are_those_of_a_slow_reference():
    draws = torch.randint(2, (7, 50), generator=torch.Generator().manual_seed(3)).double()
    undefended = torch.ones(50).double()
    undefended[:5] = 0
    cost = cost_of(undefended, draws.sum(0), 7)
    variances = [np.var(draws[:, image].numpy(), ddof=1) for image in range(50)]
    assert cost.error == pytest.approx(math.sqrt(sum(variances) / 7 + 0.5 / 7**2) / 50)
    differences = [float(undefended[image] - draws[:, image].mean()) for image in range(50)]
    assert cost.drop == pytest.approx(np.mean(differences))
    more = [*differences, 1, -1]
    half = norm.ppf(0.975) * np.std(more) / len(more) ** 0.5
    assert cost.over_images == pytest.approx((np.mean(more) - half, np.mean(more) + half))


@pytest.mark.parametrize(("images", "drop"), [(100, 0.01), (399, 0.02), (200, 0.05)])
def test_the_interval_over_images_covers_the_drop_also_where_few_images_change(images, drop):
    """Student's covers 0.634 at the least here, with the halves of Agresti and Min added 0.867 at a drop of 0.02."""
    covered = 0.0
    for spoilt in range(images + 1):
        low, high = over_images(torch.tensor([1.0] * spoilt + [0.0] * (images - spoilt)).double())
        covered += binom.pmf(spoilt, images, drop) * (low <= drop <= high)
    assert covered >= 0.93


@pytest.mark.parametrize(("spoils", "mends"), [(0.02, 0.02), (0.08, 0.06)])
def test_the_interval_over_images_covers_the_drop_also_where_the_noise_mends_some(spoils, mends):
    covered = 0.0
    for spoilt, mended in itertools.product(range(30), range(30)):
        changed = [1.0] * spoilt + [-1.0] * mended
        low, high = over_images(torch.tensor(changed + [0.0] * (100 - len(changed))).double())
        if low <= spoils - mends <= high:
            counts = [spoilt, mended, 100 - spoilt - mended]
            covered += multinomial.pmf(counts, 100, [spoils, mends, 1 - spoils - mends])
    assert 0.94 <= covered <= 0.999


def test_the_interval_over_images_has_a_width_where_no_image_changes():
    # By hand: two observations of 1 and -1 beside 98 of 0.
    assert over_images(torch.zeros(98).double()) == pytest.approx((-1.96 * 2**0.5 / 100, 1.96 * 2**0.5 / 100), rel=1e-4)
    assert over_images(torch.ones(2).double())[1] == 1.0


class Failing(nn.Module):
    """Raises, or answers NaN, from the second batch on."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return self.answer(x) if self.passes > 1 else torch.zeros(len(x), 2)


def raise_a_value_error(x):
    raise ValueError("too dark\nfor me")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (raise_a_value_error, "^the victim raised ValueError: too dark$"),
        (lambda x: torch.full((len(x), 2), torch.nan), "^the victim answered NaN or infinity; a clean accuracy needs"),
        (lambda x: torch.full((len(x), 2), torch.inf), "^the victim answered NaN or infinity; a clean accuracy needs"),
    ],
)
def test_a_victim_that_fails_is_refused(answer, message):
    with pytest.raises(UserError, match=message):
        CleanCostMeter(Failing(answer), bright(200))


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_are_refused(count):
    with pytest.raises(UserError, match=r"^data: expected at least 2 readable images .*; lower num_images$"):
        CleanCostMeter(Threshold(), bright(count))


def test_draws_are_common_to_all_sigmas_and_new_for_every_number():
    meter = CleanCostMeter(Threshold(), bright(200))
    before = torch.get_rng_state()
    small, large = (meter.times_right(InputNoise(sigma), 0, 8) for sigma in (0.8, 1.6))
    assert torch.equal(torch.get_rng_state(), before)
    # On this victim the same draw with twice the sigma can only err more often, image by image.
    assert bool((large <= small).all())
    assert bool((large < small).any())
    again = meter.times_right(InputNoise(0.8), 0, 3) + meter.times_right(InputNoise(0.8), 3, 5)
    assert torch.equal(again, small)
    assert not torch.equal(meter.times_right(InputNoise(0.8), 8, 8), small)
    other = CleanCostMeter(Threshold(), bright(200), seed=1)
    assert not torch.equal(other.times_right(InputNoise(0.8), 0, 8), small)


def test_the_reported_draws_are_not_those_that_the_search_chose_by():
    measured = []

    def times_right(sigma, first, draws):
        measured.append((first, draws))
        generator = torch.Generator().manual_seed(first * 1000 + draws)
        return torch.rand((1000, draws), generator=generator).gt(0.02).sum(1).double()

    found, _, _ = searched(1000, times_right, Target(0.02, 0.003))
    assert measured[-1][0] >= 64  # the first that no search sees
    assert found.cost.draws == sum(draws for first, draws in measured if first >= 64)


def test_a_drop_that_no_sigma_reaches_is_refused():
    with pytest.raises(
        UserError, match=r"no sigma costs as much as 60 points: (4[89]|5[0-2])\.\d\d points .* the initial sigma$"
    ):
        calibrated(Threshold(), bright(500), InputNoise(1.0), target=0.6, tolerance=0.05)


def test_a_victim_that_no_sigma_spares_is_refused():
    with pytest.raises(UserError, match=r"no sigma costs as little as 2 points: 100\.00 points"):
        searched(100, lambda sigma, first, draws: torch.zeros(100).double(), Target(0.02, 0.002, 8))


class Mending(nn.Module):
    """Right above 0.2 and between -0.6 and -0.2: faint noise mends half of the images just below 0.2."""

    def forward(self, x):
        z = x.flatten(1)
        return torch.cat([torch.zeros_like(z), torch.where(z.abs() < 0.6, z.abs() - 0.2, z)], 1)


@pytest.mark.parametrize("begin", others_slow([0.002, 1.0], 0))
def test_a_reachable_target_is_found_though_fainter_noise_mends_images(begin):
    images = bright(1000)
    images.pixels[:180] = 50
    found, sigma = calibrated(Mending(), images, InputNoise(begin), target=0.02, tolerance=0.01)
    wrong = (
        norm.cdf(0.2, [50 / 255, 1], sigma)
        - norm.cdf(-0.2, [50 / 255, 1], sigma)
        + norm.cdf(-0.6, [50 / 255, 1], sigma)
    )
    assert abs(wrong @ [0.18, 0.82] - 0.18 - 0.02) <= 0.01
    assert found.note == ""


def test_too_few_draws_for_the_tolerance_are_noted_without_a_long_search():
    found, _, tried = searched(400, simulated(400, 0), Target(0.02, 0.002, 8))
    assert found.note == "8 draws do not bring the drop within the tolerance"
    assert found.cost.draws == 8
    assert len(tried) <= 4


@pytest.mark.parametrize("edge", [0.7, 3.3])
def test_a_drop_that_jumps_over_the_target_is_noted_with_draws_that_the_search_has_not_used(edge):
    last = {}

    def times_right(sigma, first, draws):
        last[sigma] = first
        right = torch.full((100,), float(draws)).double()
        if sigma > edge:
            right[:10] = 0
        return right

    found, sigma, _ = searched(100, times_right, Target(0.05, 0.01, 8))
    assert found.note == "8 draws do not bring the drop within the tolerance"
    assert sigma == pytest.approx(edge, rel=0.002)
    assert found.cost.drop == (0.1 if sigma > edge else 0)
    assert last[sigma] >= 8  # the first that no search sees


def test_a_first_sigma_that_hits_exactly_and_is_not_confirmed_is_not_tried_for_ever():
    def times_right(sigma, first, draws):
        right = torch.full((100,), float(draws)).double()
        right[: 10 if sigma == 1 and first >= 64 else 5] = 0
        return right

    found, sigma, tried = searched(100, times_right, Target(0.05, 0.01))
    assert found.note == ""
    assert sigma == pytest.approx(0.5**0.5, rel=1e-4)
    assert len(tried) < 5


def test_an_unlucky_confirmation_does_not_reject_every_later_sigma():
    found, sigma, _ = searched(400, simulated(400, 0, range(64, 128)), Target(0.02, 0.005))
    assert found.note == ""
    assert abs(0.02 * sigma**2 - 0.02) <= 0.005


def test_the_reported_interval_covers_the_drop_as_often_as_it_says():
    """Of 25 intervals of 95 %, fewer than 19 would happen less than twice in 1000 times."""
    inside = 0
    for seed in range(25):
        found, sigma, _ = searched(100, simulated(100, seed), Target(0.02, 0.01))
        assert found.note == ""
        assert abs(0.02 * sigma**2 - 0.02) <= 0.01
        low, high = found.cost.over_draws
        inside += low <= 0.02 * sigma**2 <= high
    assert inside >= binom.ppf(0.001, 25, 0.95)


def test_several_sigmas_keep_their_ratios():
    noise = FeatureNoise([0.1, 1.0], ["a", "b"])
    calibrate_noise(Meter(400, lambda sigma, *draws: simulated(400, 0)(sigma[1], *draws)), noise, Target(0.02, 0.01))
    assert noise.sigma[1] == pytest.approx(10 * noise.sigma[0], rel=1e-4)


def test_where_no_draw_erred_the_interval_over_draws_has_a_width():
    # By hand: half a wrong answer in 4 draws of 100 images, sqrt(0.5) / 400.
    cost = cost_of(torch.ones(100).double(), torch.full((100,), 4.0).double(), 4)
    assert cost.drop == 0
    assert cost.error == pytest.approx(0.5**0.5 / 400)
    assert not Target(0.02, 0.002).surely_missed_by(cost_of(torch.ones(30).double(), torch.full((30,), 4.0), 4))


# Noise at about a cost


class Fragile(nn.Module):
    """Class 1, until a pixel leaves [0, 1]."""

    def forward(self, x):
        if x.min() < 0:
            raise ValueError("no such image")
        return torch.cat([0 * x.flatten(1), 1 + 0 * x.flatten(1)], 1)


class Always(nn.Module):
    """Class 1."""

    def forward(self, x):
        return torch.tensor([[0.0, 1.0]]).expand(len(x), 2)


def test_noise_that_never_costs_so_much_has_no_cost_and_a_victim_that_fails_raises():
    assert calibrate_roughly(rough_meter(Always(), bright(20)), InputNoise(0.1), 0.1) is None
    with pytest.raises(VictimError, match="the victim raised ValueError: no such image"):
        calibrate_roughly(rough_meter(Fragile(), bright(20)), InputNoise(9.0), 0.1)


def test_a_rough_cost_is_measured_on_a_bounded_number_of_images(monkeypatch):
    monkeypatch.setattr(calibration, "ROUGH_IMAGES", 7)
    assert len(rough_meter(Always(), bright(20)).images) == 7


def test_one_call_calibrates_a_noise_and_leaves_the_model_as_it_was():
    # The error of a prediction is Phi(-2 x / nu): 0.1 at nu = 2 x / 1.2816, here with x = 1.
    model = Threshold().train()
    pixels, labels = torch.ones(400, 1, 1, 1), torch.ones(400, dtype=torch.int64)
    noise = FeatureNoise(sigma=0.5, layers="feature")
    found = rfd.calibrate(model, (pixels, labels), noise, drop=0.1)
    assert found.note == ""
    assert abs(found.cost.drop - 0.1) <= 0.01
    assert noise.sigma == pytest.approx(2 / norm.isf(0.1), rel=0.06)
    assert model.training
    assert not model.feature._forward_hooks


class Answer:
    """An output of a library that holds logits among other things."""

    def __init__(self, logits):
        self.loss, self.logits = None, logits


@pytest.mark.parametrize("form", [Answer, lambda logits: (logits, None), lambda logits: {"logits": logits}])
def test_one_call_takes_the_logits_out_of_an_answer_that_holds_them(form):
    class Holding(Threshold):
        def forward(self, x):
            return form(super().forward(x))

    noises = [FeatureNoise(sigma=0.5, layers="feature") for _ in range(2)]
    data = torch.ones(200, 1, 1, 1), torch.ones(200, dtype=torch.int64)
    plain, held = (
        rfd.calibrate(model, data, noise, drop=0.1, max_draws=8)
        for model, noise in zip((Threshold(), Holding()), noises, strict=True)
    )
    assert held == plain
    assert noises[0].sigma == noises[1].sigma


def test_one_call_uses_the_images_of_a_data_module_that_are_not_attacked(monkeypatch):
    used = []
    monkeypatch.setattr(calibration, "calibrate_noise", lambda meter, *_: used.extend(meter.images.ids))
    data = rfd.data.Digits(num_images=200)
    rfd.calibrate("resnet8-digits", data, InputNoise(0.1))
    assert used == data.held_out().ids


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("defense", {"defense": rfd.AAA()}),
        ("defense: expected a noise, got the class", {"defense": InputNoise}),
        ("defense.sigma", {"defense": InputNoise(0.0)}),
        ("target_drop", {"drop": 2.0}),
        ("tolerance", {"tolerance": 0.5}),
        ("data", {"data": (torch.ones(1, 1, 1, 1), torch.ones(1, dtype=torch.int64))}),
        ("model", {"model": "defended"}),
    ],
)
def test_one_call_refuses_what_it_cannot_calibrate_in_one_line(argument, given):
    model = Threshold()
    with FeatureNoise(sigma=1.0, layers="feature").on(model):
        arguments = {
            "data": (torch.ones(4, 1, 1, 1), torch.ones(4, dtype=torch.int64)),
            "defense": InputNoise(0.1),
            **given,
        }
        arguments["model"] = model if "model" in given else Threshold()
        with pytest.raises(UserError) as refused:
            rfd.calibrate(**arguments)
    assert str(refused.value).startswith(argument)
    assert "\n" not in str(refused.value)
