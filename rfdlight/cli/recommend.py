"""`rfdlight recommend`: choose insertion points and sigma of noise for a given cost, and confirm the choice."""

from __future__ import annotations

import math
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rfdlight._io import plain_console
from rfdlight.analysis import defense_file
from rfdlight.analysis.calibration import Target
from rfdlight.analysis.candidates import config_of
from rfdlight.analysis.clean_cost import CleanCostMeter
from rfdlight.analysis.insertion_points import chosen_points
from rfdlight.analysis.recommendation import NO_NOISE, Confirmed, best_of, choice_facts, choice_lines
from rfdlight.analysis.recommender import RecommendConfig, Recommender
from rfdlight.attacks.base import Attack
from rfdlight.cli.calibrate import print_victim
from rfdlight.core.registry import short_name
from rfdlight.data.base import ImageData
from rfdlight.data.sources import ImageSource
from rfdlight.data.subset import select
from rfdlight.errors import expect
from rfdlight.evaluation.config import settle_eps
from rfdlight.evaluation.standard import StandardAttack
from rfdlight.records.runs import Run
from rfdlight.reporting.tables import number, percent
from rfdlight.victims.resolve import resolve_victim


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
    """Choose insertion points and sigma of noise for a given cost in clean accuracy, and confirm them under attack.

    Sets noise at every layer, at the best two, the best three and all of them, and on the pixels, to about that cost,
    and ranks these candidates by how often the linearised victim predicts that the noise misleads an attacker. The best
    few and the pixels are calibrated and evaluated under a short attack. `rfdlight test --defense` accepts the output
    file.

    Three disjoint sets of test images are used: those that `rfdlight test` attacks, `num_images` for the short attacks,
    and the rest for prediction and calibration. The robust accuracy of the best is biased upward, since the short
    attacks choose it; `rfdlight test` measures it without this bias.

    Args:
        victim: As `--model.victim` of `rfdlight test`.
        data: Data set, by default the victim card's; its test images are used, except the attacked ones.
        attack: Attack of the confirmation, black-box and untargeted; by default the short form of the standard
            evaluation, its first two stages.
        checkpoint: As `--model.checkpoint` of `rfdlight test`.
        layers: Patterns over module paths; by default the network's default insertion points.
        at: Output or input of the layers; by default as `feature_noise` chooses.
        target_drop: Drop of the clean accuracy, as a share of the images, in (0, 1).
        tolerance: Accepted distance from the target drop, with 95 % confidence over the draws.
        max_draws: Predictions per image and sigma, at most.
        step: Standard deviation of the random steps of the predicted attacker, in pixel units; by default as long as
            the radius of `attack`.
        confirm: Number of best predicted candidates to calibrate and attack, the pixels not counted.
        budget: Queries per image of each short attack.
        num_images: Images of the short attacks, chosen at random.
        seed: Seed of the images, the draws and the attacks.
        output: File to write, a .yaml.

    Raises:
        UserError: If an option is out of range, something cannot be loaded, or no candidate has that cost.
    """
    target = Target(target_drop, tolerance, max_draws)
    expect(step is None or step > 0, "step", "a positive number", step)
    for name, value in (("confirm", confirm), ("budget", budget), ("num_images", num_images)):
        expect(value >= 1, name, "at least 1", value)
    _check(attack)
    file = defense_file.plan(output)
    found = resolve_victim(victim, checkpoint, data)
    loaded = found.module
    attack = settle_eps(attack, data)
    points = chosen_points(loaded, layers, at)
    fresh, rest = split_held_out(data, num_images, seed)
    config = RecommendConfig(target, step or _radius(attack, data), confirm, attack, budget, data.num_classes)
    console = plain_console()
    meter = CleanCostMeter(loaded, rest, seed)
    print_victim(console, found, data, meter)
    recommender = Recommender(meter, points, fresh, config, console)
    undefended, confirmed = recommender.confirm(recommender.select())
    best = best_of(confirmed)
    calibration = {"defense": best.noise.description(loaded)}
    calibration |= defense_file.conditions(victim, found.card, checkpoint, data.name, meter, target)
    calibration |= defense_file.cost_facts(best.calibration.cost)
    reasons = recommender.facts() | choice_facts(confirmed, undefended)
    defense_file.write(file, config_of(best.noise), calibration=calibration, recommendation=reasons)
    _render(console, recommender, undefended, confirmed)
    recommender.say(f"{file}: {best.noise.description(loaded)}")
    named = "standard" if isinstance(attack, StandardAttack) else recommender.attack_name
    recommender.say(
        "The robust accuracy of the best is biased upward, since these attacks chose it. To measure it on other "
        "images, with the same options of data and attack:\n"
        f"rfdlight test --data {short_name('data', type(data))} --attack {named} "
        f"--model.victim {victim} {f'--model.checkpoint {checkpoint} ' if checkpoint else ''}--defense {file}"
    )


def _check(attack: Attack) -> None:
    expect(attack.access != "gradient", "--attack", "a black-box attack", short_name("attack", type(attack)))
    expect(not attack.targeted, "attack.targeted", "false", "true", "candidates are compared by robust accuracy")


def split_held_out(data: ImageData, num_images: int, seed: int) -> tuple[ImageSource, ImageSource]:
    """Split the test images that are not attacked into images of the short attacks and the rest, at least 2."""
    free = data.held_out()
    most = max(0, len(free) - 2)
    hint = f"{len(free)} test images of {data.name} are not attacked, and the calibration needs 2"
    expect(num_images <= most, "num_images", f"at most {most}", num_images, hint)
    chosen = select(free.ids, free.labels.tolist(), num_images, "random", seed)
    return free.take(chosen), free.take(sorted(set(range(len(free))) - set(chosen)))


def _radius(attack: Attack, data: ImageData) -> float:
    """Return the standard deviation of steps that are about as long as the radius of the ball."""
    eps = attack.eps
    assert eps is not None  # settled
    return eps if attack.norm == "linf" else eps / math.prod(data.image_shape) ** 0.5


def _render(console: Console, recommender: Recommender, undefended: Run, confirmed: list[Confirmed]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("noise at", overflow="fold")
    for column in ("drop", "misled %", "robust %", "single %", "criterion"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row(NO_NOISE, "", "", *_attack_cells(undefended))
    for one in sorted(confirmed, key=lambda one: -one.candidate.predicted):
        sigmas, cost = one.candidate.sigmas, one.calibration.cost
        listed = f"{min(sigmas):.3g}" if len(set(sigmas)) == 1 else f"{min(sigmas):.3g} to {max(sigmas):.3g}"
        drop = _with_interval(cost.drop, *cost.over_draws, digits=2)
        name = Text(f"{one.candidate}\nsigma {listed}")
        table.add_row(name, drop, f"{100 * one.candidate.predicted:.1f}", *_attack_cells(one.outcome))
    console.print(table)
    legend = (
        f"drop: measured, clean accuracy in points on {len(recommender.meter.undefended)} images, 95 % over draws; "
        f"misled: predicted by theorem 1, share of steps of {recommender.config.step:.3g} at which the noise misleads; "
        f"robust: measured robust accuracy, {len(recommender.images)} images, 95 %; single: "
        "expected single-query robust accuracy; criterion: its rows per row of the attack"
    )
    recommender.say(legend, style="dim")
    for line in choice_lines(confirmed, undefended):
        recommender.say(line)


def _attack_cells(outcome: Run) -> list[str]:
    robust, summary = outcome.robust_accuracy, outcome.summary
    return [
        _with_interval(robust.value, robust.low, robust.high, digits=1),
        percent(summary.single_query.robust).removesuffix("%"),
        number(summary.ledger["criterion_ratio"], 2),
    ]


def _with_interval(value: float, low: float, high: float, digits: int) -> str:
    return f"{100 * value:.{digits}f}\n{100 * low:.{digits}f} to {100 * high:.{digits}f}"
