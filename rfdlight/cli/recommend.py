"""`rfdlight recommend`: where noise should go and how much of it, predicted, calibrated and put under attack."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from rfdlight._io import plain_console
from rfdlight.analysis import defense_file
from rfdlight.analysis.calibration import Target
from rfdlight.analysis.candidates import Candidate, LinearisedVictim, candidates, config_of, named, noise_of
from rfdlight.analysis.clean_cost import CleanCost, CleanCostMeter
from rfdlight.analysis.layer_selection import chosen_places
from rfdlight.analysis.noise_calibration import Sigma, calibrate_noise, check_search, shown
from rfdlight.analysis.recommendation import NO_NOISE, Confirmed, best_of, choice_facts, told_agreement, told_choice
from rfdlight.analysis.rough_cost import bring_to, rough_meter
from rfdlight.attacks.base import Attack
from rfdlight.cli.cautions import print_cautions
from rfdlight.cli.recommendation_table import legend, table
from rfdlight.core.registry import short_name
from rfdlight.data.base import ImageData, ImageSource
from rfdlight.data.subset import select
from rfdlight.errors import UserError
from rfdlight.evaluation.short_attack import Outcome, settle_eps, short_attack
from rfdlight.reporting.tables import interval, percent
from rfdlight.victims.resolve import resolve_victim

PREDICTED_ON = 200
"""Images, at most, whose gradients are looked at: the same number as in `rfdlight analyze`."""


def recommend(
    victim: str,
    data: ImageData,
    attack: Attack,
    checkpoint: str | None = None,
    layers: str | list[str] | None = None,
    at: Literal["output", "input"] | None = None,
    target_drop: float = 0.02,
    tolerance: float = 0.005,
    max_draws: int = 64,
    step: float | None = None,
    confirm: int = 3,
    budget: int = 200,
    num_images: int = 100,
    seed: int = 0,
    output: str = "recommended.yaml",
) -> None:
    """Choose where noise should go and how much of it, for a given cost in clean accuracy.

    Brings every layer, the best two, the best three and all of them, and the pixels, to about that cost, and ranks
    them by how often the linearised victim says that noise there misleads an attacker. The best few and the pixels
    are calibrated and put under a short attack. `rfdlight test --defense` takes the file that is written.

    Three sets of test images have no image in common: those that `rfdlight test` attacks, `num_images` for the short
    attacks, and the rest for prediction and calibration. Still the best is chosen by the short attacks, so
    their numbers flatter it; `rfdlight test` says what it is worth.

    Args:
        victim: As `--model.victim` of `rfdlight test`.
        data: Whose test images are looked at, those that are not attacked.
        attack: Of the confirmation, black-box and untargeted; "square" by default.
        checkpoint: As `--model.checkpoint` of `rfdlight test`.
        layers: Patterns over module paths; by default the network's default insertion points.
        at: Whether the output or the input of the layers is meant; by default as `feature_noise` does.
        target_drop: Clean accuracy that the noise may cost, as a share of the images, in (0, 1).
        tolerance: How near to it the drop is to be, with 95 % confidence over the draws.
        max_draws: Answers per image and sigma, at most.
        step: Standard deviation of the random steps of the attacker who is predicted, in pixel units; by
            default as long as the radius of `attack`.
        confirm: How many of the best predicted are calibrated and attacked, the pixels besides.
        budget: Queries per image of the short attacks.
        num_images: Images of the short attacks, chosen at random.
        seed: Of the images, the draws and the attacks.
        output: The file to write, a .yaml.

    Raises:
        UserError: If something is out of range, cannot be loaded, or no candidate has that cost.
    """
    check_search(target_drop, tolerance, max_draws)
    _check(attack, step, confirm, budget, num_images)
    file = defense_file.plan(output)
    loaded, card, told = resolve_victim(victim, checkpoint, data)
    attack = settle_eps(attack, data)
    places = chosen_places(loaded, layers, at)
    fresh, rest = _split(data, num_images, seed)
    step = _as_long_as_the_radius(attack, data) if step is None else step
    console, target = plain_console(), Target(target_drop, tolerance)
    meter = CleanCostMeter(loaded, rest, seed)
    rest = meter.images
    looked_at = rest.take(select(rest.ids, rest.labels.tolist(), min(PREDICTED_ON, len(rest)), "random", seed))
    _say(console, "\n".join([told, *meter.notes]))
    _say(
        console,
        f"undefended {meter.clean_accuracy:.2%} of {len(rest)} test images, on which noise is predicted and "
        f"calibrated; {num_images} others are attacked here; rfdlight test attacks neither",
    )
    print_cautions(console, card, data, meter)
    _say(console, f"step 1 of 3: gradients at {len(places) + 1} places, on {len(looked_at)} images")
    linear = LinearisedVictim(loaded, looked_at, places, step, meter.device)
    rough = rough_meter(loaded, rest, seed)
    _say(console, f"step 2 of 3: the sigma that costs about {_points(target)}, on {len(rough.undefended)} images")

    def settle(candidate: Candidate) -> Candidate | None:
        noise = noise_of(candidate, places[0].side)
        cost = bring_to(rough, noise, target_drop)
        if cost is None:
            return None
        _say(console, f"{candidate}: sigma {shown(noise.sigma)} costs {cost}, {cost.draws} draws", style="dim")
        return linear.at_sigmas(candidate.layers, noise.sigmas(len(candidate.sigmas)))

    with console.status(f"what noise costs, on {len(rough.undefended)} images"):
        ranked, without = candidates(linear, target_drop, settle)
    for layers_without in without:
        _say(console, f"{named(layers_without)}: no sigma costs {_points(target)}")
    if not ranked:
        raise _nothing_costs(target)
    order = ", ".join(f"{one} {one.predicted:.1%}" for one in ranked)
    _say(console, f"predicted share of steps of {step:.3g} that noise misleads, at about that cost: {order}")
    caution = attack.budget_warning(budget)
    if caution:
        _say(console, f"caution: {caution}")

    attacks = 1 + min(confirm, sum(bool(one.layers) for one in ranked)) + sum(not one.layers for one in ranked)
    _say(
        console,
        f"step 3 of 3: calibration, and {attacks} attacks by {short_name('attack', type(attack))}, {num_images} images "
        f"and {budget} queries per image",
    )
    bench = _Bench(console, meter, target, max_draws, fresh, attack, data.num_classes, budget)
    undefended = bench.attacked(NO_NOISE)
    confirmed: list[Confirmed] = []
    for candidate in ranked:
        # The pixels are the baseline, wherever they rank.
        if not candidate.layers or sum(bool(one.candidate.layers) for one in confirmed) < confirm:
            confirmed += bench.confirmed(candidate, places[0].side, linear)
    if not confirmed:
        raise _nothing_costs(target)
    best = best_of(confirmed)
    conditions = {
        "defense": best.noise.description(loaded),
        **defense_file.conditions(victim, card, data.name, meter, target, checkpoint),
    }
    defense_file.write(
        file,
        config_of(best.noise),
        calibration={**conditions, **defense_file.cost_facts(best.calibration.cost)},
        recommendation={**bench.facts(), "step": step, **choice_facts(confirmed, undefended)},
    )
    console.print(table(confirmed, undefended))
    _say(console, legend(step, len(rest), num_images), style="dim")
    for line in (told_agreement(confirmed), *told_choice(confirmed, undefended)):
        _say(console, line)
    _say(console, f"{file}: {best.noise.description(loaded)}")
    _say(
        console,
        "The best was chosen by these attacks, so its number here flatters it. To measure it on images that were not "
        "looked at, with the same options of data and attack:\n"
        f"rfdlight test --data {short_name('data', type(data))} --attack {bench.attack_name} --model.victim {victim} "
        + (f"--model.checkpoint {checkpoint} " if checkpoint else "")
        + f"--defense {file}",
    )


@dataclass
class _Bench:
    """Calibrates candidates and attacks them, and says every step."""

    console: Console
    meter: CleanCostMeter
    target: Target
    max_draws: int
    images: ImageSource
    attack: Attack
    classes: int
    budget: int

    @property
    def attack_name(self) -> str:
        return short_name("attack", type(self.attack))

    def attacked(self, name: str) -> Outcome:
        """Attack the victim as it stands."""
        with self.console.status(Text(f"{name}: {self.attack_name} on {len(self.images)} images")):
            outcome = short_attack(
                self.meter.victim,
                self.images,
                self.attack,
                classes=self.classes,
                budget=self.budget,
                device=self.meter.device,
                seed=self.meter.seed,
            )
        robust = outcome.robust
        told = f"{name}: {percent(robust)} ({interval(robust)}) withstand {self.attack_name}, {self.budget} queries"
        _say(self.console, told, style="dim")
        return outcome

    def confirmed(
        self, candidate: Candidate, side: Literal["output", "input"], linear: LinearisedVictim
    ) -> list[Confirmed]:
        """Calibrate a candidate and attack it; none where no sigma has the cost, which is said."""
        noise = noise_of(candidate, side)

        def tell(sigma: Sigma, cost: CleanCost) -> None:
            _say(self.console, f"{candidate}: sigma {shown(sigma)} costs {cost}, {cost.draws} draws", style="dim")

        try:
            calibration = calibrate_noise(self.meter, noise, self.target, self.max_draws, tell)
        except UserError as error:
            _say(self.console, f"{candidate}: {error}")
            return []
        calibrated = linear.at_sigmas(candidate.layers, noise.sigmas(len(candidate.sigmas)))
        with noise.on(self.meter.victim):
            outcome = self.attacked(str(candidate))
        return [Confirmed(calibrated, noise, calibration, outcome)]

    def facts(self) -> dict[str, Any]:
        """Return how candidates were attacked, for the file."""
        return {
            "attack": self.attack_name,
            "options": self.attack.options(),
            "norm": self.attack.norm,
            "eps": self.attack.threat.eps,
            "budget": self.budget,
            "criterion": "sequential",
            **defense_file.image_facts(self.images),
        }


def _say(console: Console, line: str, style: str = "") -> None:
    console.print(Text(line, style=style), soft_wrap=True)


def _check(attack: Attack, step: float | None, confirm: int, budget: int, num_images: int) -> None:
    for name, value, fine, wanted in (
        ("step", step, step is None or step > 0, "positive"),
        ("confirm", confirm, confirm >= 1, "at least 1"),
        ("budget", budget, budget >= 1, "at least 1"),
        ("num_images", num_images, num_images >= 1, "at least 1"),
    ):
        if not fine:
            raise UserError(f"{name} must be {wanted}, got {value}")
    if attack.access == "gradient":
        raise UserError(f"--attack must be a black-box attack, got {short_name('attack', type(attack))}")
    if attack.targeted:
        raise UserError("attack.targeted must be false: what is compared is robust accuracy")


def _split(data: ImageData, num_images: int, seed: int) -> tuple[ImageSource, ImageSource]:
    """Divide the test images that are not attacked into those of the short attacks and the rest, at least 2."""
    free = data.held_out()
    if num_images > len(free) - 2:
        raise UserError(
            f"num_images must be at most {max(0, len(free) - 2)}, got {num_images}: {len(free)} test images of "
            f"{data.name} are not attacked, and at least 2 are needed for the calibration"
        )
    chosen = select(free.ids, free.labels.tolist(), num_images, "random", seed)
    return free.take(chosen), free.take(sorted(set(range(len(free))) - set(chosen)))


def _as_long_as_the_radius(attack: Attack, data: ImageData) -> float:
    """Return the standard deviation of steps that are about as long as the radius of the ball."""
    eps = attack.threat.eps
    return eps if attack.norm == "linf" else eps / math.prod(data.image_shape) ** 0.5


def _nothing_costs(target: Target) -> UserError:
    return UserError(f"no candidate has a sigma that costs {_points(target)}")


def _points(target: Target) -> str:
    return f"{100 * target.drop:g} points"
