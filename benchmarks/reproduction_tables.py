"""The tables of docs/results/reproduction.md, one function each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import combinations, pairwise
from statistics import median_low

from reproduction_records import Records, cell, differences, table

from rfdlight.records.summary import Estimate

NOISES = {
    "none": "none",
    "aaa": "AAA",
    "input": "input noise",
    "feature": "feature noise",
}
VICTIMS = {"resnet20": "resnet20", "vgg19": "thin VGG19", "vit": "small ViT"}
SCORES = {"square": "square", "nes": "nes 0.01", "signhunt": "signhunt"}


PAPER = "-paper"
"""How the names of runs end that bill and criterion as the paper's code does."""

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


def feature_gains(
    records: Records, victims: Iterable[str] = VICTIMS, attacks: Mapping[str, str] = SEARCHES, end: str = ""
) -> str:
    """Return how many more images are robust behind feature noise than behind input noise."""
    pairs = [
        ([VICTIMS[victim], told], f"{victim}-input-{attack}{end}", f"{victim}-feature-{attack}{end}")
        for victim in victims
        for attack, told in attacks.items()
    ]
    return differences(records, pairs, ["victim", "attack"], declared=end == PAPER)


def table2_paper(records: Records) -> str:
    """Return the VGG19 undefended and behind noise, as the paper's rules declare it."""
    rows = []
    for noise in ("none", "input", "feature"):
        names = [f"vgg19-{noise}-{attack}{PAPER}" for attack in SCORES]
        shares = [records.clean(names), *(records.robust(name, declared=True) for name in names)]
        rows.append([VICTIMS["vgg19"], NOISES[noise], *map(cell, shares)])
    return table(["victim", "noise", "clean", *SCORES.values()], rows)


PLANS = {"": "1000 queries", "-10000@1000": "the first 1000 of 10,000", "-10000": "10,000 queries"}
"""What is read of Square's runs with 1000 and with ten times the queries, and how their names end."""


def table2_long(records: Records) -> str:
    """Return Square with 1000 and with 10,000 queries, and what the latter had reached after 1000."""
    rows = [
        [NOISES[noise], *(cell(records.robust(f"resnet20-{noise}-square{end}")) for end in PLANS)]
        for noise in ("input", "feature")
    ]
    return table(["defense", *PLANS.values()], rows)


def long_gains(records: Records) -> str:
    """Return what the longer schedule and its later queries change, and the gain of feature over input noise."""
    pairs = []
    for noise in ("input", "feature"):
        run = f"resnet20-{noise}-square"
        for before, after in pairwise(PLANS):
            told = f"{NOISES[noise]}: {PLANS[after]}, less {PLANS[before]}"
            pairs.append(([told], run + before, run + after))
    last = "resnet20-input-square-10000", "resnet20-feature-square-10000"
    pairs.append((["10,000 queries: feature less input noise"], *last))
    return differences(records, pairs, ["difference"])


STRENGTHS = {
    "square": {"0.05": "", "0.1": "-0.1"},
    "nes": {"0.01": "", "0.1": "-wide"},
    "signhunt": {"0.05": "", "0.1": "-0.1"},
}
"""Strengths of table 3's attacks, and how the names of their runs end."""


def table3(records: Records) -> str:
    """Return attacks of several strengths against the VGG19 behind both noises, compared on the same images."""
    pairs = []
    for attack, strengths in STRENGTHS.items():
        for strength, end in strengths.items():
            both = f"vgg19-input-{attack}{end}", f"vgg19-feature-{attack}{end}"
            pairs.append(([attack, strength, *(cell(records.robust(name)) for name in both)], *both))
    return differences(records, pairs, ["attack", "mu", "input noise", "feature noise"])


ANALYSES = {"resnet20": "analysis", "vgg19": "analysis-vgg19"}
"""The networks that were analyzed, and the folders of that."""


def figures(records: Records) -> str:
    """Return the medians behind figures 1 and 2, and on how many images they differ in the direction of the paper."""
    rows = []
    for victim, analysis in ANALYSES.items():
        network = VICTIMS[victim]
        image, *layers = records.insertion_points(analysis)
        rows.append([network, image["name"], "1", "1", "-", f"{median_low(image['magnitudes']):.3f}", "-"])
        for place in layers:
            both = list(zip(place["ratios"], place["ratios_after"], strict=True))
            known = [(before, after) for before, after in both if before is not None and after is not None]
            rises = [after > before for before, after in known]
            exceeds = [its > pixels for its, pixels in zip(place["magnitudes"], image["magnitudes"], strict=True)]
            rows.append(
                [
                    network,
                    f"{place['side']} of {place['name']}",
                    *(f"{median_low(each):.3g}" for each in zip(*known, strict=True)),
                    cell(Estimate.of(sum(rises), len(rises))),
                    f"{median_low(place['magnitudes']):.3f}",
                    cell(Estimate.of(sum(exceeds), len(exceeds))),
                ]
            )
    head = ["victim", "insertion point", "ratio", "after a step", "rises on", "magnitude", "exceeds the pixels' on"]
    return table(head, rows)


LABELS = {"rays": "rays", "signflip": "signflip", "square": "square"}
"""The attacks of table 5: two decision-based, and one score-based."""


def table5(records: Records, end: str = "") -> str:
    """Return AAA and noise under decision-based attacks and Square."""
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
    """Return how many more images are robust under each other attack than under RayS."""
    others = LABELS if end else SCORES | {"signflip": "signflip", "random": "random_noise"}
    pairs = [
        ([NOISES[noise], told], f"resnet20-{noise}-rays{end}", f"resnet20-{noise}-{attack}{end}")
        for noise in ("none", "input", "feature")
        for attack, told in others.items()
        if attack != "rays"
    ]
    return differences(records, pairs, ["defense", "other attack"], declared=end == PAPER)


def lucky(records: Records) -> str:
    """Return robust accuracy as the paper's rules declare it, at the same final points, and under the defaults.

    The last column is the mean share of wrong answers at the points that the rules declared adversarial.
    """
    rows = []
    for noise in ("none", "input", "feature"):
        for attack, told in LABELS.items():
            name = f"resnet20-{noise}-{attack}"
            shares = records.robust(name + PAPER, declared=True), records.robust(name + PAPER), records.robust(name)
            adversarial = [record for record in records.run(name + PAPER).records if record.success_query is not None]
            wrong = sum(record.final_adversarial / record.final_evaluations for record in adversarial) / len(
                adversarial
            )
            rows.append([NOISES[noise], told, *map(cell, shares), f"{100 * wrong:.0f} %"])
    head = [
        "defense",
        "attack",
        "declared robust",
        "robust by the final evaluation",
        "robust under the defaults",
        "wrong where declared adversarial",
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
        told = records.run(names[0]).facts.defense
        shares = [records.clean(names), *map(records.robust, names)]
        rows.append([told, f"{norms[layer]:.3g}", *map(cell, shares)])
    return table(["defense", "gradient norm", "clean", *SCORES.values()], rows)


def layer_gains(records: Records, layers: dict[str, str]) -> str:
    """Return how many more images are robust behind noise where the gradient is larger than where it is smaller."""
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
    """Return how many more images are robust under attacks that average than under those that do not."""
    pairs = [
        ([NOISES[noise], name, told], f"resnet20-{noise}-{attack}", f"resnet20-{noise}-{attack}{end}")
        for noise in ("input", "feature")
        for attack, name in SCORES.items()
        for end, told in AVERAGED.items()
        if end
    ]
    return differences(records, pairs, ["defense", "attack", "averaged"])


SPENT = {"": ("1", "1000"), "-m5": ("5", "1000"), "-m5-5000": ("5", "5000")}
"""How the names of SignHunt's runs end: evaluations that each query averages, and evaluations in all."""


def table7_long(records: Records) -> str:
    """Return SignHunt with as many queries as without averages, at five times the price."""
    rows = [
        [NOISES[noise], *spent, cell(records.robust(f"resnet20-{noise}-signhunt{end}"))]
        for noise in ("input", "feature")
        for end, spent in SPENT.items()
    ]
    return table(["defense", "averaged", "evaluations", "signhunt"], rows)


def long_averaging_gains(records: Records) -> str:
    """Return what the price buys, and how many more images are robust behind feature noise at it."""
    told, dear = {"": "1000 evaluations", "-m5": "1000, 5 averaged"}, "5000, 5 averaged"
    pairs = []
    for noise in ("input", "feature"):
        run = f"resnet20-{noise}-signhunt"
        pairs += [([f"{NOISES[noise]}: {dear}, less {told[end]}"], run + end, f"{run}-m5-5000") for end in told]
    last = "resnet20-input-signhunt-m5-5000", "resnet20-feature-signhunt-m5-5000"
    pairs.append(([f"{dear}: feature less input noise"], *last))
    return differences(records, pairs, ["difference"])


TABLES: dict[str, Callable[[Records], str]] = {
    "table 2": table2,
    "feature over input": feature_gains,
    "table 2, the paper's rules": table2_paper,
    "feature over input, the paper's rules": partial(feature_gains, victims=["vgg19"], attacks=SCORES, end=PAPER),
    "table 2, 10,000 queries": table2_long,
    "ten times the queries": long_gains,
    "table 3": table3,
    "figures 1 and 2": figures,
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
    "table 7, five times the evaluations": table7_long,
    "averaging, five times the evaluations": long_averaging_gains,
}
"""The tables of the page, by their names."""
