"""`rfdlight analyze`: compare insertion points for noise by gradients and by theorem 1."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from rfdlight._io import plain_console, write_file
from rfdlight.analysis.calibration import Target, rough_meter
from rfdlight.analysis.insertion_points import chosen_points
from rfdlight.analysis.measurements import Attacker, Measurement, measure_points, ranked
from rfdlight.analysis.plots import draw_magnitudes, draw_misled, draw_ratios
from rfdlight.cli.calibrate import print_victim
from rfdlight.data.base import ImageData
from rfdlight.data.subset import select
from rfdlight.errors import expect, shown
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
    """Compare insertion points for noise by their gradients, and by how often the noise misleads an attacker.

    Uses test images that `rfdlight test` does not attack. The output folder contains `analysis.json`, `ratios.png` (the
    paper's figure 1), `magnitudes.png` (figure 2) and `misled.png`, each figure also as a PDF. At each insertion point
    the noise costs about the same clean accuracy, within a quarter of it, measured on up to 1000 of these images.

    Args:
        victim: As `--model.victim` of `rfdlight test`.
        data: Data set, by default the victim card's; its test images are used.
        checkpoint: As `--model.checkpoint` of `rfdlight test`.
        layers: Patterns over module paths; by default the network's default insertion points.
        at: Output or input of the layers; by default as `feature_noise` chooses.
        num_images: Number of images, chosen at random.
        step: Standard deviation of the random steps that the attacker compares, in pixel units; by default the
            data's reference radius.
        eps: Size of the gradient-sign step before the ratios are measured again; by default the data's reference
            radius.
        target_drop: Clean accuracy that the noise costs, as a share of the images, in (0, 1).
        draws: Comparisons of the attacker, per image and insertion point.
        seed: Seed of the images and the draws.
        output: Folder to write.

    Raises:
        UserError: If an option is out of range or something cannot be loaded.
    """
    for name, value in (("step", step), ("eps", eps)):
        expect(value is None or value > 0, name, "a positive number", value)
    for name, count, least in (("draws", draws, 1), ("num_images", num_images, 2)):
        expect(count >= least, name, f"at least {least}", count)
    target = Target.rough(target_drop)
    folder = run_directory.plan(output, "analysis")
    found = resolve_victim(victim, checkpoint, data)
    loaded = found.module
    points = chosen_points(loaded, layers, at)
    free = data.held_out()
    attacker = Attacker(_radius("step", step, data), _radius("eps", eps, data), draws)
    expect(num_images <= len(free), "num_images", f"at most {len(free)} test images that are not attacked", num_images)
    images = free.take(select(free.ids, free.labels.tolist(), num_images, "random", seed))
    meter = rough_meter(loaded, free, seed)
    console = plain_console()
    print_victim(console, found, data, meter)
    with console.status(f"gradients and costs at {len(points) + 1} insertion points"):
        ids, measurements = measure_points(meter, images, points, attacker, target.drop, seed)
    facts = {"victim": found.description, "data": data.name, "image_ids": ids, "target_drop": target.drop, "seed": seed}
    facts |= {"attacker": asdict(attacker), "costs_measured_on": len(meter.undefended)}
    _write(run_directory.create(folder), facts, measurements)
    console.print(_table(measurements))
    console.print(Text(_legend(attacker, len(meter.undefended)), style="dim"))
    order = ", ".join(f"{one.name} {float(one.predicted.mean()):.1%}" for one in ranked(measurements)) or "none"
    ranking = f"predicted to mislead most at a measured cost of about {target.points}: {order}"
    written = f"numbers of every image, and figures: {shown(str(folder))}"
    console.print(Text(f"{ranking}\n{written}"), soft_wrap=True)


def _radius(name: str, value: float | None, data: ImageData) -> float:
    value = data.reference_eps if value is None else value
    expect(value is not None, name, "a positive number", "none", f"the data {data.name} has no reference radius")
    return value or 0.0


def _write(folder: Path, facts: dict[str, Any], measurements: list[Measurement]) -> None:
    results = {
        "places": [_plain(one) for one in measurements],
        "ranking": [one.name for one in ranked(measurements)],
    }
    write_file(folder / "analysis.json", json.dumps(facts | results) + "\n")
    draw_ratios(measurements, folder / "ratios.png")
    draw_magnitudes(measurements, folder / "magnitudes.png")
    draw_misled(measurements, folder / "misled.png")


def _plain(measurement: Measurement) -> dict[str, Any]:
    """Return a measurement for JSON, with null for a ratio to a zero gradient."""
    values = vars(measurement) | {
        "magnitudes": measurement.magnitudes,
        "measured_interval": measurement.measured_interval,
    }
    return {
        name: [x if math.isfinite(x) else None for x in value.tolist()] if isinstance(value, Tensor) else value
        for name, value in values.items()
    }


def _table(measurements: list[Measurement]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("point", overflow="fold", min_width=len("the image"))
    for column in ("norm", "ratio", "after", "quantile", "magnitude", "sigma", "drop", "theory", "measured"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in measurements:
        medians = (one.norms, one.ratios, one.ratios_after, one.magnitudes)
        norm, ratio, after, magnitude = (_brief(float(column.nanmedian())) for column in medians)
        cells = [norm, ratio, after, "none" if one.quantile is None else _brief(one.quantile), magnitude]
        within = one.measured_interval
        if one.sigma is None or one.drop is None or within is None:
            cells += ["none", "", "", ""]
        else:
            measured = f"{100 * float(one.measured.mean()):.1f}+-{50 * (within[1] - within[0]):.1f}"
            predicted = f"{100 * float(one.predicted.mean()):.1f}"
            cells += [f"{one.sigma:.3g}", f"{100 * one.drop:.1f}", predicted, measured]
        table.add_row(one.name, *cells)
    return table


def _brief(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 0.01 else f"{value:.3g}"


def _legend(attacker: Attacker, measured_on: int) -> str:
    return (
        "norm: of the margin's gradient, median; ratio: norm over the norm at the image, median; "
        f"after: ratio after a gradient-sign step of {attacker.eps:g}; "
        "quantile: 1 % quantile of margin over gradient norm; magnitude: quantile times gradient norm, median; "
        f"sigma and drop: of the noise, in points of clean accuracy on {measured_on} images; theory and measured: "
        f"percentage of steps of {attacker.step:g} at which this noise misleads the attacker"
    )
