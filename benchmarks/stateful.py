"""Blacklight against attacks on resnet20-cifar10, and its false positives on the test images of CIFAR-10.

For each attack and action, the table has the share of the attacked images whose attack is detected, the queries to the
first detection, the share of the queries that are detected, refused queries and accounts per attacked image, and the
attack success rate. The last line has the share of clean test images that match an earlier one.

    python benchmarks/stateful.py --images 30 --budget 500 --clean 10000
"""

from __future__ import annotations

import argparse

import rfdlight as rfd
from rfdlight.attacks import NES, Attack, Bernoulli, Square
from rfdlight.data import CIFAR10
from rfdlight.data.conversion import unit_range
from rfdlight.defenses import Blacklight
from rfdlight.records.summary import Estimate

VICTIM = "resnet20-cifar10"
CHUNK = 100
"""Clean images hashed at a time."""


def attacks() -> dict[str, Attack]:
    """Return the attacks by their names in the table."""
    both = {"square": Square, "nes": NES}
    adapting = {f"{name}, on_refusal adapt": made(on_refusal="adapt") for name, made in both.items()}
    return {name: made() for name, made in both.items()} | adapting | {"bernoulli": Bernoulli()}


def text(share: Estimate) -> str:
    """Return a share with its 95 % interval."""
    return f"{share.value:.1%} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def line(name: str, run: rfd.Run) -> str:
    """Return one row of the table; without a policy the columns of detections are empty."""
    found, success = run.summary.detections, text(run.attack_success_rate)
    if found is None:
        return f"| {name} | none | | | | | | {success} |"
    images = found.attacks.total
    first = "-" if found.mean_first is None else f"{found.median_first:g}, {found.mean_first:.1f}"
    per_image = f"{found.refused / images:.1f} | {found.accounts / images:.1f}"
    detected = f"{text(found.attacks)} | {first} | {found.queries.value:.1%}"
    return f"| {name} | {run.facts.policy} | {detected} | {per_image} | {success} |"


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
    arguments = parser.parse_args()
    print("| attack | action | attacks detected | first, median and mean | queries | refused | accounts | success |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
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
            print(line(name, run), flush=True)
    if arguments.clean:
        print(f"clean test images detected: {text(false_positives(arguments.clean))} of {arguments.clean:,}")


if __name__ == "__main__":
    main()
