"""`rfdlight analyze`: where noise should go, and how far the theory is right about it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from rfdlight.data.base import ImageData
from rfdlight.data.subset import select
from rfdlight.errors import UserError
from rfdlight.protocol.analysis import Attacker, Point, measure_points, ranked
from rfdlight.protocol.analysis_plots import draw_magnitudes, draw_misled, draw_ratios
from rfdlight.protocol.places import chosen_places
from rfdlight.results import run_directory
from rfdlight.results.intervals import mean_interval
from rfdlight.victims.resolve import resolve_victim
from rfdlight.whole_files import write


def analyze(
    victim: str,
    data: ImageData,
    checkpoint: str | None = None,
    layers: str | list[str] | None = None,
    at: Literal["output", "input"] | None = None,
    num_images: int = 200,
    step: float = 0.01,
    eps: float | None = None,
    target_drop: float = 0.02,
    draws: int = 20,
    seed: int = 0,
    output: str = "analysis",
) -> None:
    """Compare the places for noise by their gradients, and by how often noise there misleads an attacker.

    Looks at test images that `rfdlight test` does not attack. The folder gets `analysis.json`, `ratios.png` (the
    paper's figure 1), `magnitudes.png` (figure 2) and `misled.png`. Each place has the sigma that costs the
    same clean accuracy on the linearised victim.

    Args:
        victim: As `--model.victim` of `rfdlight test`.
        data: Whose test images are looked at.
        checkpoint: As `--model.checkpoint` of `rfdlight test`.
        layers: Patterns over module paths; by default the network's default insertion points.
        at: Whether the output or the input of the layers is meant; by default as `feature_noise` does.
        num_images: How many images, chosen at random.
        step: Standard deviation of the random steps that the attacker compares, in pixel units.
        eps: Size of the one step against the image before the ratios are measured again; by default the
            data's reference radius.
        target_drop: Clean accuracy that the noise may cost, as a share of the images, in (0, 1).
        draws: Comparisons of the attacker, per image and place.
        seed: Of the images and the draws.
        output: The folder to write.

    Raises:
        UserError: If something is out of range or cannot be loaded.
    """
    for name, value, fine in (
        ("step", step, step > 0),
        ("eps", eps, eps is None or eps > 0),
        ("target_drop", target_drop, 0 < target_drop < 1),
        ("draws", draws, draws >= 1),
        ("num_images", num_images, num_images >= 2),
    ):
        if not fine:
            raise UserError(f"{name} must be {_RANGES[name]}, got {value}")
    folder = run_directory.plan(output, "analysis")
    loaded, _, told = resolve_victim(victim, checkpoint, data)
    places = chosen_places(loaded, layers, at)
    free = data.held_out()
    if num_images > len(free):
        raise UserError(
            f"num_images must be at most the {len(free)} test images that are not attacked, got {num_images}"
        )
    images = free.take(select(free.ids, free.labels.tolist(), num_images, "random", seed))
    attacker = Attacker(step, data.reference_eps if eps is None else eps, draws)
    points = measure_points(loaded, images, places, attacker, target_drop, seed)

    run_directory.create(folder)
    facts = {
        "victim": told,
        "data": data.name,
        "image_ids": images.ids,
        "target_drop": target_drop,
        "seed": seed,
        "attacker": asdict(attacker),
        "places": [_plain(point) for point in points],
    }
    write(folder / "analysis.json", json.dumps(facts) + "\n")
    draw_ratios(points, folder / "ratios.png")
    draw_magnitudes(points, folder / "magnitudes.png")
    draw_misled(points, folder / "misled.png")
    console = Console()
    right = int((points[0].margins > 0).sum())
    console.print(Text(f"{told}\n{right} of {num_images} images are classified rightly"), soft_wrap=True)
    console.print(_table(points))
    console.print(Text(_legend(attacker, target_drop), style="dim"))
    console.print(Text(_ranking(points, target_drop)), soft_wrap=True)
    console.print(f"numbers of every image, and pictures: {folder}")


_RANGES = {
    "step": "positive",
    "eps": "positive",
    "target_drop": "in (0, 1)",
    "draws": "at least 1",
    "num_images": "at least 2",
}


def _plain(point: Point) -> dict[str, Any]:
    values = {name: getattr(point, name) for name in point.__dataclass_fields__}
    return {name: _finite(value.tolist()) if isinstance(value, Tensor) else value for name, value in values.items()}


def _finite(values: list[float]) -> list[float | None]:
    """Leave out the ratios to a gradient of 0, which JSON has no number for."""
    return [value if math.isfinite(value) else None for value in values]


def _table(points: list[Point]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("place", overflow="fold", min_width=len("the image"))
    for column in ("ratio", "after", "quantile", "magnitude", "sigma", "theory %", "measured %"):
        table.add_column(column, justify="right", no_wrap=True)
    for point in points:
        ratio, after, magnitude = (
            f"{float(column.nanmedian()):.3g}" for column in (point.ratios, point.ratios_after, point.magnitudes)
        )
        cells = [ratio, after, "none" if point.quantile is None else f"{point.quantile:.3g}", magnitude]
        if point.sigma is None:
            cells += ["none", "", ""]
        else:
            low, high = mean_interval(point.measured.numpy())
            measured = f"{100 * float(point.measured.mean()):.1f} +- {50 * (high - low):.1f}"
            cells += [f"{point.sigma:.3g}", f"{100 * float(point.predicted.mean()):.1f}", measured]
        table.add_row(point.name, *cells)
    return table


def _legend(attacker: Attacker, drop: float) -> str:
    return (
        "ratio: gradient norm of the margin over that at the image, median; "
        f"after: the same after a step of {attacker.eps:g} against the image; "
        "quantile: 1 % quantile of margin over gradient norm; magnitude: that times the gradient norm, median; "
        f"sigma: what costs {100 * drop:g} points on the linearised victim; theory and measured: how often noise "
        f"of that sigma misleads an attacker who compares steps of {attacker.step:g}"
    )


def _ranking(points: list[Point], drop: float) -> str:
    order = [f"{point.name} {float(point.predicted.mean()):.1%}" for point in ranked(points)]
    return f"predicted to mislead most at a cost of {100 * drop:g} points: {', '.join(order) or 'none'}"
