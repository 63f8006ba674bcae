"""Writes the tables of docs/reproduction.md from the records of their runs.

Usage: python benchmarks/reproduction.py RUNS [--page docs/reproduction.md] [--check]

RUNS holds a folder per cell, as `rfdlight sweep` leaves them, or as docs/reproduction-records.tar.xz unpacks, and
`analysis`, which `rfdlight analyze` writes for table 6. Each table stands between two comments of the page,
`<!-- NAME -->` and `<!-- end NAME -->`, and takes the place of what is there. With --check nothing is written, and the
exit status says whether the page is what the records say.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import combinations, pairwise
from pathlib import Path
from statistics import mean

from rfdlight.errors import UserError
from rfdlight.results.grid import pooled_clean, standing
from rfdlight.results.mcnemar import mcnemar
from rfdlight.results.paired import holm, paired_interval
from rfdlight.results.report import p_text, points, points_interval
from rfdlight.results.runs import Run, load
from rfdlight.results.summary import Share, share_of

NOISES = {
    "none": "none",
    "aaa": "AAA",
    "input": "input noise",
    "feature": "feature noise",
}
VICTIMS = {"resnet20": "resnet20", "vgg19": "thin VGG19", "vit": "small ViT"}
SCORES = {"square": "square", "nes": "nes 0.01", "signhunt": "signhunt"}


class Records:
    """The runs of a folder by name, read when they are wanted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.run = cache(self._run)

    def _run(self, name: str) -> Run:
        run = load(self._folder / name, name)
        if not run.facts["complete"]:
            raise UserError(f"{name} is not complete")
        return run

    def robust(self, name: str, declared: bool = False) -> Share:
        """Return the robust accuracy of a run by its final draws, or by its judge's calls.

        NAME@QUERIES means the run called NAME, as it stood after so many queries.
        """
        run, budget = self._read(name)
        if budget is not None:
            return share_of(sum(standing([run], run.by_id, budget)), len(run.by_id))
        share: Share = run.summary["declared"] if declared else run.summary["mean_logits"]["robust"]
        return share

    def _read(self, name: str) -> tuple[Run, int | None]:
        name, _, budget = name.partition("@")
        return self.run(name), int(budget) if budget else None

    def worst(self, names: Iterable[str]) -> Share:
        """Return the share of the images that stand in every one of some runs."""
        runs = [self.run(name) for name in names]
        ids = set.intersection(*(set(run.by_id) for run in runs))
        return share_of(sum(standing(runs, ids, None)), len(ids))

    def clean(self, names: Iterable[str]) -> Share:
        """Return the clean accuracy over runs of one method."""
        return pooled_clean([self.run(name) for name in names])

    def gradient_norms(self) -> dict[str, float]:
        """Return the mean norm of the margin's gradient at each layer of resnet20, and at the image."""
        analysis = json.loads((self._folder / "analysis" / "analysis.json").read_text())
        return {place["name"]: mean(place["norms"]) for place in analysis["places"]}

    def pair(self, first: str, second: str, declared: bool = False) -> tuple[int, int, int]:
        """Return on how many images only the first run stands, only the second, and how many images both have."""
        read = [self._read(name) for name in (first, second)]
        if declared:
            read = [(run.as_declared(), budget) for run, budget in read]
        ids = sorted(read[0][0].by_id.keys() & read[1][0].by_id.keys())
        one, two = (standing([run], ids, budget) for run, budget in read)
        pairs = list(zip(one, two, strict=True))
        return pairs.count((True, False)), pairs.count((False, True)), len(ids)


def cell(share: Share) -> str:
    """Return a share with its interval, in per cent."""
    return f"{100 * share['share']:.1f} ({100 * share['low']:.1f} to {100 * share['high']:.1f})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def differences(
    records: Records, pairs: Sequence[tuple[Sequence[str], str, str]], head: Sequence[str], declared: bool = False
) -> str:
    """Return a table of second less first, each pair with what stands before it, and Holm's p over the table."""
    counts = [records.pair(first, second, declared) for _, first, second in pairs]
    adjusted = holm([mcnemar(first, second) for first, second, _ in counts])
    rows = []
    for (told, *_), (first, second, images), p in zip(pairs, counts, adjusted, strict=True):
        gain = f"{points((second - first) / images)} ({points_interval(paired_interval(first, second, images))})"
        rows.append([*told, gain, f"{second} : {first}", p_text(p)])
    return table([*head, "points", "only", "p, Holm"], rows)


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


def table2_paper(records: Records) -> str:
    """Return the VGG19 undefended and behind noise, as the paper's rules declare it."""
    rows = []
    for noise in ("none", "input", "feature"):
        names = [f"vgg19-{noise}-{attack}{PAPER}" for attack in SCORES]
        shares = [records.clean(names), *(records.robust(name, declared=True) for name in names)]
        rows.append([VICTIMS["vgg19"], NOISES[noise], *map(cell, shares)])
    return table(["victim", "noise", "clean", *SCORES.values()], rows)


def feature_gains_paper(records: Records) -> str:
    """Return how many more images the paper's rules declare robust behind feature noise than behind input noise."""
    pairs = [
        ([VICTIMS["vgg19"], told], f"vgg19-input-{attack}{PAPER}", f"vgg19-feature-{attack}{PAPER}")
        for attack, told in SCORES.items()
    ]
    return differences(records, pairs, ["victim", "attack"], declared=True)


LONG = {noise: f"resnet20-{noise}-square-10000" for noise in ("input", "feature")}
"""The runs of Square with ten times the queries."""

PLANS = {"": "1000 queries", "-10000@1000": "the first 1000 of 10,000", "-10000": "10,000 queries"}
"""What is read of these and of those with a tenth, and how their names end."""


def table2_long(records: Records) -> str:
    """Return Square with 1000 and with 10,000 queries, and what the latter had reached after 1000."""
    names = {noise: [f"resnet20-{noise}-square{end}" for end in PLANS] for noise in LONG}
    rows = [[NOISES[noise], *(cell(records.robust(name)) for name in names[noise])] for noise in LONG]
    return table(["defense", *PLANS.values()], rows)


def long_gains(records: Records) -> str:
    """Return what the longer plan and its later queries change, and how many more images stand behind feature noise."""
    pairs = [
        ([f"{NOISES[noise]}: {PLANS[after]}, less {PLANS[before]}"], *(f"resnet20-{noise}-square{e}" for e in ends))
        for noise in LONG
        for before, after in pairwise(PLANS)
        for ends in [(before, after)]
    ]
    return differences(
        records, [*pairs, (["10,000 queries: feature less input noise"], *LONG.values())], ["difference"]
    )


STRENGTHS = {
    "square": {"0.05": "", "0.1": "-0.1", "0.2": "-0.2", "0.3": "-0.3"},
    "nes": {"0.001": "-0.001", "0.01": "", "0.1": "-wide", "0.2": "-0.2"},
    "signhunt": {"0.01": "-0.01", "0.05": "", "0.075": "-0.075", "0.1": "-0.1"},
}
"""The strengths of table 3's attacks, and how the names of their runs end."""


def table3(records: Records) -> str:
    """Return attacks of several strengths against the VGG19 behind both noises, compared on the same images."""
    pairs = [
        ([attack, strength, *(cell(records.robust(name)) for name in names)], *names)
        for attack, strengths in STRENGTHS.items()
        for strength, end in strengths.items()
        for names in [[f"vgg19-{noise}-{attack}{end}" for noise in ("input", "feature")]]
    ]
    return differences(records, pairs, ["attack", "mu", "input noise", "feature noise"])


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
    "table 2, the paper's rules": table2_paper,
    "feature over input, the paper's rules": feature_gains_paper,
    "table 2, 10,000 queries": table2_long,
    "ten times the queries": long_gains,
    "table 3": table3,
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


def write(page: Path, records: Records, check: bool) -> bool:
    """Put the tables into the page; return whether it was what they say."""
    before = text = page.read_text()
    for name, make in TABLES.items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end {name} -->)", re.DOTALL)
        if not between.search(text):
            raise UserError(f"{page} has no place for the table {name}")
        made = make(records)
        text = between.sub(lambda found, made=made: f"{found[1]}\n{made}\n{found[2]}", text)
    if not check:
        page.write_text(text)
    return text == before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--page", type=Path, default=Path("docs/reproduction.md"))
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    try:
        same = write(options.page, Records(options.runs), options.check)
    except UserError as error:
        parser.error(str(error))
    if options.check and not same:
        print(f"{options.page} is not what the records say; without --check this writes it")
    return int(options.check and not same)


if __name__ == "__main__":
    sys.exit(main())
