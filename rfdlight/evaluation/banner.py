"""Banner of a run: its settings and warnings, before the first query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rfdlight.attacks.base import Attack

_ACCESS = {"decision": "decision-based", "score": "score-based", "gradient": "white-box"}


def run_banner(settings: dict[str, Any], attack: Attack, pool_size: int, warnings: Sequence[str] = ()) -> str:
    """Return the lines that a user reads before the first query.

    Args:
        settings: Settings of the evaluation, see `rfdlight.evaluation.description.Subject.settings`.
        attack: The attack.
        pool_size: Images under attack at a time.
        warnings: Warnings about the victim and the data, one line each.
    """
    name = f"{settings['attack']}, targeted" if settings["targeted"] else settings["attack"]
    averaged = f", {settings['eot']} evaluations averaged in each" if settings["eot"] > 1 else ""
    at_a_time = min(pool_size, settings["num_images"])
    lines = [
        f"victim   {settings['victim']}",
        f"defense  {settings['defense']}",
        f"attack   {name}, {_ACCESS[attack.access]}, {settings['norm']} ball of eps {settings['eps']:g}",
        f"options  {settings['options']}",
        f"budget   {settings['budget']} queries per image{averaged}, query counting {settings['query_counting']}, "
        f"criterion {settings['criterion']}, attack in {settings['precision']}",
        f"images   {settings['num_images']} of {settings['data']} ({settings['selection']}), "
        f"up to {at_a_time} at a time",
        *(f"warning  {warning}" for warning in [*warnings, *_attack_warnings(settings, attack)]),
    ]
    return "\n".join(lines)


def _attack_warnings(settings: dict[str, Any], attack: Attack) -> list[str]:
    """Return the reasons why the attack is weaker than its name promises."""
    own = attack.budget_warning(settings["budget"])
    warnings = [] if own is None else [own]
    if settings["precision"] == "bfloat16" and attack.access != "decision":
        warnings.append(f"bfloat16 rounds the {attack.access}s, which hides small changes from the attack")
    return warnings
