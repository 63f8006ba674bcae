"""The tables of docs/reproduction.md, one function each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations

from reproduction_records import Records, cell, differences, table

NOISES = {
    "none": "none",
    "aaa": "AAA",
    "input": "input noise",
    "feature": "feature noise",
}
VICTIMS = {"resnet20": "resnet20", "vgg19": "thin VGG19", "vit": "small ViT"}
SCORES = {"square": "square", "nes": "nes 0.01", "signhunt": "signhunt"}


SEARCHES = SCORES | {"random": "random_noise"}
"""The attacks of table 2, and what an attacker reaches who does not search."""


def table2(records: Records) -> str:
    """Return every network undefended and behind noise, with the worst case over the attacks."""
    rows = []
    for victim, network in VICTIMS.items():
        for noise in ("none", "input", "feature"):
            names = [f"{victim}-{noise}-{attack}" for attack in SEARCHES]
            shares = [records.clean(names), *map(records.robust, names), records.worst(names)]
            rows.append([network, NOISES[noise], *map(cell, shares)])
    return table(["victim", "noise", "clean", *SEARCHES.values(), "worst case"], rows)


def feature_gains(records: Records) -> str:
    """Return how many more images stand behind feature noise than behind input noise."""
    pairs = [
        ([network, told], f"{victim}-input-{attack}", f"{victim}-feature-{attack}")
        for victim, network in VICTIMS.items()
        for attack, told in SEARCHES.items()
    ]
    return differences(records, pairs, ["victim", "attack"])


PAPER = "-paper"
"""How the names of runs end that bill and judge as the paper's code does."""


LABELS = {"rays": "rays", "signflip": "signflip", "square": "square"}
"""The attacks of table 5: two that read labels, and one that reads scores."""


def table5(records: Records, end: str = "") -> str:
    """Return AAA and noise under attacks that read labels."""
    rows = []
    for noise in ("none", "aaa", "input", "feature"):
        names = [f"resnet20-{noise}-{attack}{end}" for attack in LABELS]
        shares = [records.robust(name, declared=end == PAPER) for name in names]
        rows.append([NOISES[noise], cell(records.clean(names)), *map(cell, shares)])
    return table(["defense", "clean", *LABELS.values()], rows)


def aaa_gains(records: Records, end: str = "") -> str:
    """Return what AAA gains over no defense."""
    pairs = [([told], f"resnet20-none-{attack}{end}", f"resnet20-aaa-{attack}{end}") for attack, told in LABELS.items()]
    return differences(records, pairs, ["attack"], declared=end == PAPER)


def rays_against_others(records: Records, end: str = "") -> str:
    """Return how many more images stand under each other attack than under RayS."""
    others = LABELS if end else SCORES | {"signflip": "signflip", "random": "random_noise"}
    pairs = [
        ([NOISES[noise], told], f"resnet20-{noise}-rays{end}", f"resnet20-{noise}-{attack}{end}")
        for noise in ("none", "input", "feature")
        for attack, told in others.items()
        if attack != "rays"
    ]
    return differences(records, pairs, ["defense", "other attack"], declared=end == PAPER)


def lucky(records: Records) -> str:
    """Return what the paper's rules declare robust, what stands at the points then, and what the defaults leave.

    The last column is how often the victim's answers are wrong, on average, at the points that were declared broken.
    """
    rows = []
    for noise in ("none", "input", "feature"):
        for attack, told in LABELS.items():
            name = f"resnet20-{noise}-{attack}"
            shares = records.robust(name + PAPER, declared=True), records.robust(name + PAPER), records.robust(name)
            broken = [record for record in records.run(name + PAPER).records if record["broken_at"] is not None]
            wrong = sum(record["final_wrong"] / record["final_draws"] for record in broken) / len(broken)
            rows.append([NOISES[noise], told, *map(cell, shares), f"{100 * wrong:.0f} %"])
    head = [
        "defense",
        "attack",
        "declared robust",
        "stands",
        "stands under the defaults",
        "wrong where declared broken",
    ]
    return table(head, rows)


FIXED = {"layer1": "layer1", "layer2": "layer2-fixed", "layer3": "layer3-fixed"}
"""Noise of one sigma at one layer of resnet20, and how the names of its runs go."""

EQUAL = {"the image": "input", "layer1": "layer1", "layer2": "layer2", "layer3": "feature"}
"""Noise at one place, that costs about 2 points there."""


def table6(records: Records, layers: dict[str, str]) -> str:
    """Return noise at single layers, with the gradient's norm there."""
    norms = records.gradient_norms()
    rows = []
    for layer, noise in layers.items():
        names = [f"resnet20-{noise}-{attack}" for attack in SCORES]
        told = records.run(names[0]).facts["defense"]
        shares = [records.clean(names), *map(records.robust, names)]
        rows.append([told, f"{norms[layer]:.3g}", *map(cell, shares)])
    return table(["defense", "gradient norm", "clean", *SCORES.values()], rows)


def layer_gains(records: Records, layers: dict[str, str]) -> str:
    """Return how many more images stand behind noise where the gradient is larger than where it is smaller."""
    norms = records.gradient_norms()
    order = sorted(layers, key=norms.__getitem__)
    pairs = [
        (
            [f"{larger} over {smaller}", told],
            f"resnet20-{layers[smaller]}-{attack}",
            f"resnet20-{layers[larger]}-{attack}",
        )
        for smaller, larger in combinations(order, 2)
        for attack, told in SCORES.items()
    ]
    return differences(records, pairs, ["noise at", "attack"])


AVERAGED = {"": "1", "-m5": "5", "-m10": "10"}
"""How the names of runs end that average so many evaluations in every query, of 1000 in all."""


def table7(records: Records) -> str:
    """Return noise under attacks that average."""
    rows = [
        [NOISES[noise], told, *(cell(records.robust(f"resnet20-{noise}-{attack}{end}")) for attack in SCORES)]
        for noise in ("input", "feature")
        for end, told in AVERAGED.items()
    ]
    return table(["defense", "averaged", *SCORES.values()], rows)


def averaging_gains(records: Records) -> str:
    """Return how many more images stand under attacks that average than under those that do not."""
    pairs = [
        ([NOISES[noise], name, told], f"resnet20-{noise}-{attack}", f"resnet20-{noise}-{attack}{end}")
        for noise in ("input", "feature")
        for attack, name in SCORES.items()
        for end, told in AVERAGED.items()
        if end
    ]
    return differences(records, pairs, ["defense", "attack", "averaged"])


TABLES: dict[str, Callable[[Records], str]] = {
    "table 2": table2,
    "feature over input": feature_gains,
    "table 5": table5,
    "aaa": aaa_gains,
    "rays": rays_against_others,
    "table 5, the paper's rules": partial(table5, end=PAPER),
    "aaa, the paper's rules": partial(aaa_gains, end=PAPER),
    "rays, the paper's rules": partial(rays_against_others, end=PAPER),
    "lucky": lucky,
    "table 6, one sigma": partial(table6, layers=FIXED),
    "layers, one sigma": partial(layer_gains, layers=FIXED),
    "table 6, equal cost": partial(table6, layers=EQUAL),
    "layers, equal cost": partial(layer_gains, layers=EQUAL),
    "table 7": table7,
    "averaging": averaging_gains,
}
"""The tables of the page, by their names."""
