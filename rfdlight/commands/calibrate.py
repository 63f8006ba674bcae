"""`rfdlight calibrate`: the sigma at which a defense costs a given part of the clean accuracy."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from rfdlight.data.base import ImageData, ImageSource
from rfdlight.defenses.feature_noise import FeatureNoise
from rfdlight.defenses.noise import Noise
from rfdlight.errors import UserError
from rfdlight.protocol.calibration import FIRST_DRAWS, Calibration, Target, find_factor
from rfdlight.protocol.clean_cost import CleanCost, CleanCostMeter
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
    files = {name: _file(output, name) for name in places}
    images = _calibration_images(data)
    meter = CleanCostMeter(loaded, images, seed)
    console = Console()
    console.print(Text(told), soft_wrap=True)
    console.print(f"undefended {meter.clean_accuracy:.2%} of {len(images)} test images that are not attacked")
    common = {
        "victim": victim,
        "weights_sha256": card.sha256 if card else _digest(safetensors.torch.save(loaded.state_dict())),
        "data": data.name,
        "images": len(images),
        "images_sha256": _digest("\n".join(sorted(images.ids)).encode()),
        "clean_accuracy": meter.clean_accuracy,
        "target_drop": target_drop,
        "tolerance": tolerance,
        "seed": seed,
        "rfdlight": version("rfdlight"),
    }
    begin, results = defense.sigma, {}
    for name, place in places.items():
        for argument, value in place.items():
            setattr(defense, argument, value)
        try:
            result = _search(console, meter, defense, begin, Target(target_drop, tolerance), max_draws, name)
        except UserError as error:
            if not sweep:
                raise
            console.print(Text(f"{name}: {error}"), soft_wrap=True)
            continue
        defense.sigma = _times(begin, result.factor)
        chosen = dict(parsed["defense"])
        chosen["init_args"] = {**chosen.get("init_args", {}), **place, "sigma": defense.sigma}
        chosen["calibration"] = {"defense": defense.describe(loaded), **common, **_facts(result.cost)}
        files[name].write_text(yaml.safe_dump(chosen, sort_keys=False))
        told = f"{files[name]}: {defense.describe(loaded)}"
        console.print(Text(f"{told}; {result.note}" if result.note else told), soft_wrap=True)
        results[name] = defense.sigma, result
    if not results:
        raise UserError(f"no layer has a sigma that costs {100 * target_drop:g} points")
    console.print(_table(results))


def _check(defense: Noise, target_drop: float, tolerance: float, max_draws: int, sweep: str | None) -> None:
    if not 0 < target_drop < 1:
        raise UserError(f"target_drop must lie in (0, 1), got {target_drop}; 0.02 is 2 points")
    if not 0 < tolerance < target_drop:
        raise UserError(f"tolerance must lie in (0, target_drop), got {tolerance}; 0.002 is 0.2 points")
    if max_draws < FIRST_DRAWS:
        raise UserError(f"max_draws must be at least {FIRST_DRAWS}, got {max_draws}")
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
    return {place.name: {"layers": [place.name], "at": place.side} for place in defense.places(victim)}


def _file(output: str, layer: str) -> Path:
    path = Path(output)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"--output must end in .yaml, got '{output}'")
    path = path.with_stem(f"{path.stem}-{layer}") if layer else path
    if path.exists():
        raise UserError(f"{path} is there already; give --output another name, or move it")
    if not path.parent.is_dir():
        raise UserError(f"the folder of --output {output} does not exist")
    return path


def _search(
    console: Console,
    meter: CleanCostMeter,
    defense: Noise,
    begin: float | list[float],
    target: Target,
    max_draws: int,
    layer: str,
) -> Calibration:
    """Find the factor of the sigma `begin`, and say every step."""

    def times_right(factor: float, first: int, draws: int) -> Tensor:
        defense.sigma = _times(begin, factor)
        return meter.times_right(defense, first, draws)

    def tell(factor: float, cost: CleanCost) -> None:
        sigma = _shown(_times(begin, factor))
        step = f"{layer}: sigma {sigma}" if layer else f"sigma {sigma}"
        console.print(Text(f"{step} costs {cost}, {cost.draws} draws", style="dim"), soft_wrap=True)

    return find_factor(times_right, meter.undefended, target, max_draws, tell)


def _times(sigma: float | list[float], factor: float) -> float | list[float]:
    """Multiply, to five digits: a sigma is to be read, and nothing hangs on the sixth."""
    if isinstance(sigma, list):
        return [float(f"{value * factor:.5g}") for value in sigma]
    return float(f"{sigma * factor:.5g}")


def _shown(sigma: float | list[float]) -> str:
    return "/".join(f"{value:g}" for value in (sigma if isinstance(sigma, list) else [sigma]))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _facts(cost: CleanCost) -> dict[str, Any]:
    return {
        "drop": cost.drop,
        "interval_over_draws": list(cost.over_draws),
        "interval_over_images": list(cost.over_images),
        "draws": cost.draws,
    }


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
        cells = (_shown(sigma), f"{100 * cost.drop:.2f}", *intervals, str(cost.draws))
        table.add_row(*((name, *cells) if swept else cells))
    return table
