"""`rfdlight calibrate`: the sigma at which a defense costs a given part of the clean accuracy."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from rfdlight._io import plain_console
from rfdlight.analysis import defense_file
from rfdlight.analysis.acting import check_acts
from rfdlight.analysis.calibration import Calibration, Target
from rfdlight.analysis.clean_cost import CleanCost, CleanCostMeter
from rfdlight.analysis.noise_calibration import Sigma, calibrate_noise, check_search, shown
from rfdlight.cli.cautions import print_cautions
from rfdlight.data.base import ImageData
from rfdlight.data.sources import ImageSource
from rfdlight.defenses.feature_noise import FeatureNoise
from rfdlight.defenses.noise import Noise
from rfdlight.errors import UserError
from rfdlight.victims.resolve import resolve_victim


def calibrate(
    victim: str,
    data: ImageData,
    defense: Noise,
    parsed: dict[str, Any],
    checkpoint: str | None = None,
    target_drop: float = 0.02,
    tolerance: float = 0.002,
    max_draws: int = 64,
    seed: int = 0,
    sweep: Literal["layers"] | None = None,
    output: str = "calibrated.yaml",
) -> None:
    """Find the sigma at which a defense costs a given part of the clean accuracy.

    Looks at the test images that `rfdlight test` does not attack. `rfdlight test --defense` takes the
    file that is written.

    Args:
        victim: As `--model.victim` of `rfdlight test`.
        data: Whose test images are classified, those that are not attacked.
        defense: A noise. Its sigma is where the search begins; of several sigmas the ratios stay.
        parsed: The command line as a configuration, of which `defense` goes into the file.
        checkpoint: As `--model.checkpoint` of `rfdlight test`.
        target_drop: Clean accuracy that may be lost, as a share of the images, in (0, 1).
        tolerance: How near to it the drop is to be, with 95 % confidence over the draws.
        max_draws: Answers per image and sigma, at most.
        seed: Of the draws.
        sweep: "layers" calibrates each layer of the defense by itself; the files get the layers' names.
        output: The file to write, a .yaml.

    Raises:
        UserError: If something is out of range, cannot be loaded, or no sigma has that cost.
    """
    _check(defense, target_drop, tolerance, max_draws, sweep)
    loaded, card, told = resolve_victim(victim, checkpoint, data)
    places = _single_layers(defense, loaded) if sweep else {"": {}}
    files = {name: defense_file.plan(output, name) for name in places}
    images = _calibration_images(data)
    meter, target = CleanCostMeter(loaded, images, seed), Target(target_drop, tolerance)
    if not sweep:  # which names such a layer and goes on
        check_acts(defense, loaded, meter.images)
    console = plain_console()
    console.print(Text("\n".join([told, *meter.notes])), soft_wrap=True)
    console.print(f"undefended {meter.clean_accuracy:.2%} of {len(meter.images)} test images that are not attacked")
    print_cautions(console, card, data, meter)
    conditions = defense_file.conditions(victim, card, data.name, meter, target, checkpoint)
    begin, results = defense.sigma, {}
    for name, place in places.items():
        defense.reconfigure(**place, sigma=begin)
        try:
            result = calibrate_noise(meter, defense, target, max_draws, partial(_tell, console, name))
        except UserError as error:
            if not sweep:
                raise
            console.print(Text(f"{name}: {error}"), soft_wrap=True)
            continue
        chosen = dict(parsed["defense"])
        chosen["init_args"] = {**chosen.get("init_args", {}), **place, "sigma": defense.sigma}
        facts = {"defense": defense.description(loaded), **conditions, **defense_file.cost_facts(result.cost)}
        defense_file.write(files[name], chosen, calibration=facts)
        told = f"{files[name]}: {defense.description(loaded)}"
        console.print(Text(f"{told}; {result.note}" if result.note else told), soft_wrap=True)
        results[name] = defense.sigma, result
    if not results:
        raise UserError(f"no layer has a sigma that costs {100 * target_drop:g} points")
    console.print(_table(results))


def _check(defense: Noise, target_drop: float, tolerance: float, max_draws: int, sweep: str | None) -> None:
    check_search(target_drop, tolerance, max_draws)
    sigmas = defense.sigma if isinstance(defense.sigma, list) else [defense.sigma]
    if not any(sigmas):
        raise UserError("defense.sigma must be positive: the search begins there")
    if sweep and not isinstance(defense, FeatureNoise):
        raise UserError("--sweep layers is for a defense with layers, such as feature_noise")
    if sweep and len(sigmas) > 1:
        raise UserError("--sweep layers needs one --defense.sigma, from which the search of every layer begins")


def _calibration_images(data: ImageData) -> ImageSource:
    images = data.held_out()
    if len(images) < 2:
        raise UserError(
            f"{len(images)} test images of {data.name} are not attacked, at least 2 are needed; "
            f"lower --data.num_images, {data.num_images}"
        )
    return images


def _single_layers(defense: Noise, victim: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the arguments of `defense` that choose each of its layers alone, by the layer's name."""
    return {place.name: {"layers": [place.name], "at": place.side} for place in defense.insertion_points(victim)}


def _tell(console: Console, layer: str, sigma: Sigma, cost: CleanCost) -> None:
    step = f"{layer}: sigma {shown(sigma)}" if layer else f"sigma {shown(sigma)}"
    console.print(Text(f"{step} costs {cost}, {cost.draws} draws", style="dim"), soft_wrap=True)


def _table(results: dict[str, tuple[Any, Calibration]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    swept = "" not in results
    if swept:
        table.add_column("layer", overflow="fold")
    for column in ("sigma", "drop in points", "over draws", "over images", "draws"):
        table.add_column(column, justify="right")
    for name, (sigma, result) in results.items():
        cost = result.cost
        intervals = [f"{100 * low:.2f} to {100 * high:.2f}" for low, high in (cost.over_draws, cost.over_images)]
        cells = (shown(sigma), f"{100 * cost.drop:.2f}", *intervals, str(cost.draws))
        table.add_row(*((name, *cells) if swept else cells))
    return table
