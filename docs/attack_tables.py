"""Writes the support matrix and the option tables of the attacks into docs/reference/attacks.md.

Usage: python docs/attack_tables.py
"""

import re
from pathlib import Path

from docstring_parser import parse

from rfdlight.attacks import Attack
from rfdlight.core.registry import NAMES, component
from rfdlight.core.signatures import parameters

PAGE = Path(__file__).parent / "reference" / "attacks.md"
COMMON = ("eps", "norm", "targeted")

QUERIES = {
    "square": "1; up to 2 with `refresh`",
    "bernoulli": "1",
    "bernoulli_decision": "1",
    "bernoulli_multiscale": "1",
    "adaptive_square": "1, up to 15 more in a race; 2 or 5 at the start",
    "adaptive_nes": "4 to 40 probes and 1 look; 2 or 5 at the start",
    "signhunt": "1; 2 with `base_query`; 1 more per pass",
    "parsimonious": "1; 1 more per batch of blocks",
    "nes": "2 `pairs` and 1 look: 41 in linf, 31 in l2",
    "nattack": "1; a step every 20",
    "zo_signsgd": "`samples` + 1: 16",
    "bandits": "2 probes and 1 look",
    "simba": "1 or 2 per coordinate; 1 at the start",
    "rays": "1; more in each bisection",
    "signflip": "2; 11 at the start",
    "geoda": "50 to 80 in the first iteration, then 1.4 times as many; about 15 at the start",
    "signopt": "50 and a line search of about 20",
    "opt": "10 searches of 10 to 15 and a line search of about 20",
    "hsja": "floor(40 sqrt(t)) in iteration t and about 20 (l2) or 26 (linf) at 32 x 32; about 30 at the start",
    "popskipjump": "floor(40 sqrt(t)), more behind noise; 20 to 63 per bisection",
    "boundary": "1; 2 at each fifth step; about 12 at the start",
    "evolutionary": "1; about 12 at the start",
    "fgsm": "1 gradient and 1 look",
    "pgd": "1 gradient; 1 look per run",
    "transfer": "1",
    "prgf": "12 or 62: 2 + `norm_samples`, and `samples` where the surrogate does not suffice",
    "random_noise": "1",
}
"""Billed queries per step at the default options; all other cells come from the class."""


def needs(attack: type[Attack]) -> str:
    """What an attack needs beside queries and memory."""
    if attack.access == "gradient":
        return "a backward pass of the victim per query"
    if "surrogate" in parameters(attack):
        return "a surrogate network"
    return "targeted: an image of the target class" if attack.needs_starting_point else "none"


def matrix() -> str:
    """The table, as it is between the two comments of the page."""
    lines = ["| name | access | norms | targeted | queries per step | extra cost |", "|---|---|---|---|---|---|"]
    assert QUERIES.keys() == NAMES["attack"].keys(), "each attack has one line in QUERIES"
    for name, queries in QUERIES.items():
        attack = component("attack", name)
        targeted = "yes" if attack.has_targeted_form else "no"
        lines.append(
            f"| `{name}` | {attack.access} | {', '.join(attack.norms)} | {targeted} | {queries} | {needs(attack)} |"
        )
    return "\n".join(lines) + "\n"


def options(name: str) -> str:
    """The options of an attack, but for the common ones, from its signature and its docstrings."""
    attack = component("attack", name)
    meaning: dict[str, str] = {}
    for base in reversed(attack.__mro__):
        meaning |= {p.arg_name: p.description or "" for p in parse(base.__doc__ or "").params}
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for option, parameter in parameters(attack).items():
        if option in COMMON or (option, parameter.default) == ("loss", "margin"):
            continue
        default = "" if parameter.default is None else f"`{str(parameter.default).lower()}`"
        text = re.sub(r'"(\w+)"', r"`\1`", " ".join(meaning[option].split())).replace("|", "\\|")
        lines.append(f"| `--attack.{option}` | {default} | {text} |")
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    """The page with each table as the classes have it."""
    page = re.sub(r"(?s)(<!-- matrix -->\n).*?(<!-- end -->\n)", lambda found: found[1] + matrix() + found[2], page)
    return re.sub(
        r"(?s)(<!-- options (\w+) -->\n).*?(<!-- end -->\n)",
        lambda found: found[1] + options(found[2]) + found[3],
        page,
    )


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
