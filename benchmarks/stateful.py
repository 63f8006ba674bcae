"""Blacklight against attacks on resnet20-cifar10, and its false positives on the test images of CIFAR-10.

For each attack and action, the table has the share of the attacked images whose attack is detected, the queries to the
first detection, the share of the queries that are detected, refused queries and accounts per attacked image, and the
attack success rate. The last line has the share of clean test images that match an earlier one.

    python benchmarks/stateful.py --images 30 --budget 500 --clean 10000 [--keep FILE NAME]
"""

from __future__ import annotations

import argparse
from typing import Any

from msgspec import convert, to_builtins
from page_tables import add_keep, keep

import rfdlight as rfd
from rfdlight.attacks import NES, Attack, Bernoulli, Square
from rfdlight.data import CIFAR10
from rfdlight.data.conversion import unit_range
from rfdlight.defenses import Blacklight
from rfdlight.records.summary import Detections, Estimate

VICTIM = "resnet20-cifar10"
CHUNK = 100
"""Clean images hashed at a time."""


def attacks() -> dict[str, Attack]:
    """Return the attacks by their names in the table."""
    both = {"square": Square, "nes": NES}
    adapting = {f"{name}, on_refusal adapt": made(on_refusal="adapt") for name, made in both.items()}
    return {name: made() for name, made in both.items()} | adapting | {"bernoulli": Bernoulli()}


HEAD = (
    "attack",
    "action",
    "attacks detected",
    "first detected query, median and mean",
    "queries detected",
    "refused per image",
    "accounts per image",
    "attack success rate",
)


def measured(run: rfd.Run) -> dict[str, Any]:
    """Return what the table needs of a run."""
    found, success = run.summary.detections, run.attack_success_rate
    return {"action": run.facts.policy or "none", "success": to_builtins(success), "detections": to_builtins(found)}


def cells(action: str, success: object, detections: object) -> list[str]:
    """Return the cells of what was measured; without a policy those of detections are empty."""
    rate, found = str(convert(success, Estimate)), convert(detections, Detections | None)
    if found is None:
        return [action, "", "", "", "", "", rate]
    images = found.attacks.total
    first = "-" if found.mean_first is None else f"{found.median_first:g}, {found.mean_first:.1f}"
    per_image = [f"{found.refused / images:.1f}", f"{found.accounts / images:.1f}"]
    return [action, str(found.attacks), first, f"{found.queries.value:.1%}", *per_image, rate]


def false_positives(count: int) -> Estimate:
    """Return the share of clean test images that Blacklight detects."""
    source, policy = CIFAR10(num_images=count).attacked(), Blacklight()
    detected = 0
    for start in range(0, len(source), CHUNK):
        images = unit_range(source.read(list(range(start, min(start + CHUNK, len(source))))))
        detected += int(policy.detect(images, ["clean"] * len(images)).sum())
    return Estimate.of(detected, len(source))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=30)
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument("--eps", type=float, help="by default that of the data, 0.05")
    parser.add_argument("--attacks", nargs="*", default=list(attacks()), choices=list(attacks()))
    parser.add_argument("--actions", nargs="+", default=["none", "flag", "ban"])
    parser.add_argument("--clean", type=int, default=10_000, help="clean test images; 0 leaves them out")
    add_keep(parser)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    for name in arguments.attacks:
        for action in arguments.actions:
            attack = attacks()[name]
            run = rfd.evaluate(
                VICTIM,
                CIFAR10(num_images=arguments.images),
                attack=attack if arguments.eps is None else attack.configured(eps=arguments.eps),
                defense=() if action == "none" else Blacklight(action),
                budget=arguments.budget,
                sanity_checks=False,
                progress=False,
            )
            found = measured(run)
            rows.append({"attack": name, **found})
            print(f"| {name} | {' | '.join(cells(**found))} |", flush=True)
    clean = false_positives(arguments.clean) if arguments.clean else None
    keep(arguments, rows=rows, clean=to_builtins(clean))
    if clean is not None:
        print(f"clean test images detected: {clean} of {clean.total:,}")


if __name__ == "__main__":
    main()
