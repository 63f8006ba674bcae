"""`rfdlight analyze`: where noise should go, and how far the theory is right about it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from rfdlight._io import plain_console, write_file
from rfdlight.analysis.analysis import Attacker, Point, measure_points, ranked
from rfdlight.analysis.layer_selection import chosen_places
from rfdlight.analysis.plots import draw_magnitudes, draw_misled, draw_ratios
from rfdlight.analysis.rough_cost import rough_meter
from rfdlight.cli.cautions import print_cautions
from rfdlight.data.base import ImageData
from rfdlight.data.subset import select
from rfdlight.errors import UserError, shown
from rfdlight.records import run_directory
from rfdlight.victims.resolve import resolve_victim


def analyze(
    victim: str,
    data: ImageData,
    checkpoint: str | None = None,
    layers: str | list[str] | None = None,
    at: Literal["output", "input"] | None = None,
    num_images: int = 200,
    step: float | None = None,
    eps: float | None = None,
    target_drop: float = 0.02,
    draws: int = 20,
    seed: int = 0,
    output: str = "analysis",
) -> None:
    """Compare the places for noise by their gradients, and by how often noise there misleads an attacker.

    Looks at test images that `rfdlight test` does not attack. The folder gets `analysis.json`, `ratios.png` (the
    paper's figure 1), `magnitudes.png` (figure 2) and `misled.png`, each also as a PDF. Each place has the sigma
    that costs about the same clean accuracy, within a quarter of it, measured on up to 1000 of these images.

    Args:
        victim: As `--model.victim` of `rfdlight test`.
        data: Whose test images are looked at.
        checkpoint: As `--model.checkpoint` of `rfdlight test`.
        layers: Patterns over module paths; by default the network's default insertion points.
        at: Whether the output or the input of the layers is meant; by default as `feature_noise` does.
        num_images: How many images, chosen at random.
        step: Standard deviation of the random steps that the attacker compares, in pixel units; by default the
            data's reference radius.
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
        ("step", step, step is None or step > 0),
        ("eps", eps, eps is None or eps > 0),
        ("target_drop", target_drop, 0 < target_drop < 1),
        ("draws", draws, draws >= 1),
        ("num_images", num_images, num_images >= 2),
    ):
        if not fine:
            raise UserError(f"{name} must be {_RANGES[name]}, got {value}")
    folder = run_directory.plan(output, "analysis")
    loaded, card, told = resolve_victim(victim, checkpoint, data)
    places = chosen_places(loaded, layers, at)
    free = data.held_out()
    if num_images > len(free):
        raise UserError(
            f"num_images must be at most the {len(free)} test images that are not attacked, got {num_images}"
        )
    images = free.take(select(free.ids, free.labels.tolist(), num_images, "random", seed))
    step = data.reference_eps if step is None else step
    eps = data.reference_eps if eps is None else eps
    if step is None or eps is None:
        raise UserError(f"step and eps must be given: the data {data.name} has no reference radius")
    attacker = Attacker(step, eps, draws)
    meter = rough_meter(loaded, free, seed)
    console = plain_console()
    print_cautions(console, card, data, meter)
    with console.status(f"gradients and costs at {len(places) + 1} places"):
        ids, points = measure_points(meter, images, places, attacker, target_drop, seed)

    run_directory.create(folder)
    facts = {
        "victim": told,
        "data": data.name,
        "image_ids": ids,
        "target_drop": target_drop,
        "seed": seed,
        "attacker": asdict(attacker),
        "costs_measured_on": len(meter.undefended),
        "places": [_plain(point) for point in points],
        "ranking": [point.name for point in ranked(points)],
    }
    write_file(folder / "analysis.json", json.dumps(facts) + "\n")
    draw_ratios(points, folder / "ratios.png")
    draw_magnitudes(points, folder / "magnitudes.png")
    draw_misled(points, folder / "misled.png")
    right = int((points[0].margins > 0).sum())
    told = "\n".join([told, *meter.notes])
    console.print(Text(f"{told}\n{right} of {len(ids)} images are classified rightly"), soft_wrap=True)
    console.print(_table(points))
    console.print(Text(_legend(attacker, len(meter.undefended)), style="dim"))
    console.print(Text(_ranking(points, target_drop)), soft_wrap=True)
    console.print(f"numbers of every image, and pictures: {shown(str(folder))}", soft_wrap=True)


_RANGES = {
    "step": "positive",
    "eps": "positive",
    "target_drop": "in (0, 1)",
    "draws": "at least 1",
    "num_images": "at least 2",
}


def _plain(point: Point) -> dict[str, Any]:
    values = {name: getattr(point, name) for name in [*point.__dataclass_fields__, "magnitudes", "measured_interval"]}
    return {name: _finite(value.tolist()) if isinstance(value, Tensor) else value for name, value in values.items()}


def _finite(values: list[float]) -> list[float | None]:
    """Leave out the ratios to a gradient of 0, which JSON has no number for."""
    return [value if math.isfinite(value) else None for value in values]


def _table(points: list[Point]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("place", overflow="fold", min_width=len("the image"))
    for column in ("norm", "ratio", "after", "quantile", "magnitude", "sigma", "drop", "theory", "measured"):
        table.add_column(column, justify="right", no_wrap=True)
    for point in points:
        medians = (point.norms, point.ratios, point.ratios_after, point.magnitudes)
        norm, ratio, after, magnitude = (_brief(float(column.nanmedian())) for column in medians)
        cells = [norm, ratio, after, "none" if point.quantile is None else _brief(point.quantile), magnitude]
        within = point.measured_interval
        if point.sigma is None or point.drop is None or within is None:
            cells += ["none", "", "", ""]
        else:
            low, high = within
            measured = f"{100 * float(point.measured.mean()):.1f}+-{50 * (high - low):.1f}"
            predicted = f"{100 * float(point.predicted.mean()):.1f}"
            cells += [f"{point.sigma:.3g}", f"{100 * point.drop:.1f}", predicted, measured]
        table.add_row(point.name, *cells)
    return table


def _brief(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 0.01 else f"{value:.3g}"


def _legend(attacker: Attacker, measured_on: int) -> str:
    return (
        "norm: of the margin's gradient, median; ratio: that over the norm at the image, median; "
        f"after: the same after a step of {attacker.eps:g} against the image; "
        "quantile: 1 % quantile of margin over gradient norm; magnitude: that times the gradient norm, median; "
        f"sigma and drop: what noise there costs, in points of clean accuracy on {measured_on} images; theory and "
        "measured: how often, in %, noise of that sigma misleads an attacker who compares steps of "
        f"{attacker.step:g}"
    )


def _ranking(points: list[Point], drop: float) -> str:
    order = [f"{point.name} {float(point.predicted.mean()):.1%}" for point in ranked(points)]
    return f"predicted to mislead most at a measured cost of about {100 * drop:g} points: {', '.join(order) or 'none'}"
