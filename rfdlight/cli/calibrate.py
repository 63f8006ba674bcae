"""`rfdlight calibrate`: find the sigma at which a defense costs a target drop of clean accuracy."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rfdlight._io import plain_console
from rfdlight.analysis import defense_file
from rfdlight.analysis.calibration import (
    Calibration,
    Sigma,
    Target,
    calibrate_noise,
    checked_noise,
    cost_line,
    sigma_text,
)
from rfdlight.analysis.clean_cost import CleanCost, CleanCostMeter
from rfdlight.analysis.insertion_points import check_acts
from rfdlight.data.base import ImageData
from rfdlight.defenses.base import Defense
from rfdlight.defenses.feature_noise import FeatureNoise
from rfdlight.defenses.noise import Noise
from rfdlight.errors import UserError, expect
from rfdlight.victims.resolve import LoadedVictim, other_data_warning, resolve_victim


def calibrate(
    victim: str,
    data: ImageData,
    defense: Defense,
    parsed: dict[str, Any],
    checkpoint: str | None = None,
    target_drop: float = 0.02,
    tolerance: float = 0.002,
    max_draws: int = 64,
    seed: int = 0,
    sweep: Literal["layers"] | None = None,
    output: str = "calibrated.yaml",
) -> None:
    """Find the sigma at which a defense costs a target drop of clean accuracy.

    Uses the test images that `rfdlight test` does not attack. `rfdlight test --defense` accepts the output file.

    Args:
        victim: As `--model.victim` of `rfdlight test`.
        data: Data set, by default the victim card's; its test images are classified, except the attacked ones.
        defense: A noise. Its sigma is the initial value of the search; several sigmas keep their ratios.
        parsed: The command line as a configuration; its `defense` goes into the file.
        checkpoint: As `--model.checkpoint` of `rfdlight test`.
        target_drop: Drop of the clean accuracy, as a share of the images, in (0, 1).
        tolerance: Accepted distance from the target drop, with 95 % confidence over the draws.
        max_draws: Predictions per image and sigma, at most.
        seed: Seed of the draws.
        sweep: "layers" calibrates each layer of the defense separately; the layer's name is appended to its file.
        output: File to write, a .yaml.

    Raises:
        UserError: If an option is out of range, something cannot be loaded, or no sigma has that cost.
    """
    target = Target(target_drop, tolerance, max_draws)
    defense = checked_noise(defense)
    _check(defense, sweep)
    found = resolve_victim(victim, checkpoint, data)
    loaded = found.module
    layers: dict[str, dict[str, Any]] = {"": {}}
    if sweep:
        layers = {point.name: {"layers": [point.name], "at": point.side} for point in defense.insertion_points(loaded)}
    files = {name: defense_file.plan(output, name) for name in layers}
    meter = CleanCostMeter(loaded, data.held_out(), seed)
    if not sweep:  # a sweep reports such a layer and continues
        check_acts(defense, loaded, meter.images)
    console = plain_console()
    print_victim(console, found, data, meter)
    conditions = defense_file.conditions(victim, found.card, checkpoint, data.name, meter, target)
    initial, results = defense.sigma, {}
    for name, arguments in layers.items():
        defense.reconfigure(**arguments, sigma=initial)
        try:
            result = calibrate_noise(meter, defense, target, partial(_report, console, name))
        except UserError as error:
            if not sweep:
                raise
            console.print(Text(f"{name}: {error}"), soft_wrap=True)
            continue
        config = dict(parsed["defense"])
        config["init_args"] = {**config.get("init_args", {}), **arguments, "sigma": defense.sigma}
        facts = {"defense": defense.description(loaded), **conditions, **defense_file.cost_facts(result.cost)}
        defense_file.write(files[name], config, calibration=facts)
        note = f"; {result.note}" if result.note else ""
        console.print(Text(f"{files[name]}: {defense.description(loaded)}{note}"), soft_wrap=True)
        results[name] = defense.sigma, result
    if not results:
        raise UserError(f"no layer has a sigma that costs {target.points}")
    console.print(_table(results))


def print_victim(console: Console, victim: LoadedVictim, data: ImageData, meter: CleanCostMeter) -> None:
    """Print the victim and its clean accuracy, and warn of other training data or accuracy at chance level."""
    accuracy = (
        f"undefended clean accuracy {meter.clean_accuracy:.2%} on {len(meter.undefended)} test images that "
        "rfdlight test does not attack"
    )
    console.print(Text("\n".join([victim.description, accuracy])), soft_wrap=True)
    for caution in (other_data_warning(victim.card, data), meter.caution(data.num_classes)):
        if caution is not None:
            console.print(Text(f"warning: {caution}", style="yellow"), soft_wrap=True)


def _check(defense: Noise, sweep: str | None) -> None:
    if sweep:
        expect(isinstance(defense, FeatureNoise), "--sweep layers", "a defense with layers", type(defense).__name__)
        several = isinstance(defense.sigma, list) and len(defense.sigma) != 1
        expect(not several, "--sweep layers", "one --defense.sigma", sigma_text(defense.sigma))


def _report(console: Console, layer: str, sigma: Sigma, cost: CleanCost) -> None:
    line = cost_line(sigma, cost)
    console.print(Text(f"{layer}: {line}" if layer else line, style="dim"), soft_wrap=True)


def _table(results: dict[str, tuple[Sigma, Calibration]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    swept = "" not in results
    if swept:
        table.add_column("layer", overflow="fold")
    for column in ("sigma", "drop in points", "over draws", "over images", "draws"):
        table.add_column(column, justify="right")
    for name, (sigma, result) in results.items():
        cost = result.cost
        intervals = [f"{100 * low:.2f} to {100 * high:.2f}" for low, high in (cost.over_draws, cost.over_images)]
        cells = (sigma_text(sigma), f"{100 * cost.drop:.2f}", *intervals, str(cost.draws))
        table.add_row(*((name, *cells) if swept else cells))
    return table
