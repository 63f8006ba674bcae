"""What a run is about to do, in words, before its first query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rfdlight.attacks.base import Attack


def run_banner(asked: dict[str, Any], attack: Attack, pool_size: int, cautions: Sequence[str] = ()) -> str:
    """Return the lines that a user reads before the first query.

    Args:
        asked: What was asked for, see `AttackEvaluation`.
        attack: That is made.
        pool_size: Images in work at a time.
        cautions: About the victim and the data.
    """
    name = f"{asked['attack']}, targeted" if asked["targeted"] else asked["attack"]
    access = "gradients (white-box)" if attack.access == "gradient" else attack.access
    averaged = f", {asked['eot']} evaluations averaged in each" if asked["eot"] > 1 else ""
    all_cautions = "".join(f"\ncaution  {budget_warning}" for budget_warning in [*cautions, *_cautions(asked, attack)])
    at_a_time = min(pool_size, asked["num_images"])
    return (
        f"victim   {asked['victim']}\n"
        f"defense  {asked['defense']}\n"
        f"attack   {name}, reads {access}, {asked['norm']} ball of eps {asked['eps']:g}\n"
        f"options  {asked['options']}\n"
        f"budget   {asked['budget']} queries per image{averaged}, query counting {asked['query_counting']}, "
        f"criterion {asked['criterion']}, attack in {asked['precision']}\n"
        f"images   {asked['num_images']} of {asked['data']} ({asked['selection']}), up to {at_a_time} at a time"
        f"{all_cautions}"
    )


def _cautions(asked: dict[str, Any], attack: Attack) -> list[str]:
    """Return what makes the attack weaker than its name promises."""
    own = attack.budget_warning(asked["budget"])
    cautions = [] if own is None else [own]
    if asked["precision"] == "bfloat16" and attack.access != "decision":
        cautions.append(f"bfloat16 rounds the {attack.access}, which hides small changes from the attack")
    return cautions
