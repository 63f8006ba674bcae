"""Records written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from rfdlight.records.facts import CardAccuracy, Randomness, Rows, RunFacts
from rfdlight.records.records import Record

PLAIN = Record(
    id="digits/test/0000",
    label=3,
    target=None,
    attack=30,
    gradient=0,
    success_check=0,
    criterion=120,
    billed=30,
    candidates=0,
    voted_candidates=0,
    tested_candidates=0,
    success_query=None,
    first_9_vote_success=None,
    clean_evaluations=20,
    clean_wrong=0,
    clean_margin=2.0,
    clean_prediction=3,
    clean_verdict="right",
    final_evaluations=100,
    final_adversarial=0,
    final_margin=1.0,
    final_prediction=3,
    final_tail_share=0.0,
    verdict="robust",
    majority_verdict="robust",
    linf=0.2,
    l2=5.0,
    low=0.0,
    high=1.0,
)


def record(index: int, **changes: Any) -> Record:
    """Return a record of an image that withstood 30 queries, with changes."""
    return msgspec.structs.replace(PLAIN, **{"id": f"digits/test/{index:04d}", **changes})


def adversarial(index: int, at: int, **changes: Any) -> Record:
    """Return a record of an image that broke at a query, with changes."""
    found = {
        "attack": at,
        "billed": at,
        "success_query": at,
        "first_9_vote_success": at,
        "candidates": 1,
        "voted_candidates": 1,
        "verdict": "adversarial",
        "majority_verdict": "adversarial",
        "final_adversarial": 100,
        "final_margin": -1.0,
        "final_prediction": 5,
    }
    return record(index, **{**found, **changes})


UNDECIDED: dict[str, Any] = {
    "verdict": "undecided",
    "majority_verdict": "undecided",
    "final_adversarial": 50,
    "final_margin": 0.1,
    "final_prediction": 3,
}
"""What an undecided final point has, whose mean margin is positive."""


def facts(**changes: Any) -> RunFacts:
    """Return the facts of a run, with changes."""
    plain = RunFacts(
        name="hand",
        attack="square",
        options="defaults",
        norm="linf",
        eps=0.2,
        budget=30,
        criterion="sequential",
        query_counting="exact",
        eot=1,
        targeted=False,
        precision="float32",
        victim="digits_small",
        data="digits",
        defense="none",
        seed=0,
        totals=Rows(attack=180, success_check=20, criterion=50, checks=30, padding=120),
        wall_seconds=1.5,
        deterministic=False,
        complete=True,
        num_images=10,
        forwarded=400,
        card=CardAccuracy(correct=593, total=599),
        random=Randomness(declared=True, measured=True),
    )
    return msgspec.structs.replace(plain, **changes)


def cut_journal(run: Path, ids: set[str], torn: str = "") -> None:
    """Leave of the journal of a run in one process what a kill leaves after some images."""
    path = run / "journal/0-0.jsonl"
    entries = [(line, json.loads(line)) for line in path.read_text().splitlines()]
    attacks = [(line, entry) for line, entry in entries if not {"end", "sanity_checks"} & entry.keys()]
    kept = [line for line, entry in attacks if "record" not in entry or entry["record"]["id"] in ids]
    path.write_text("".join(f"{line}\n" for line in kept) + torn)


def ten() -> list[Record]:
    """Return ten records, one or more of each kind.

    Initially right 0-6 and 9, undecided 7, wrong 8; adversarial 0, 1, 2, 3; undecided 4 and 5, robust by sign, 4 with a
    heavy tail; robust 6, 7 and 9. The criterion took 9 votes at the candidates.
    """
    return [
        adversarial(0, 1, l2=4.0, linf=0.1),
        adversarial(1, 7, l2=3.0, first_9_vote_success=4),
        adversarial(2, 20, l2=1.0, final_adversarial=60),
        # Late: the final evaluations alone say that it is adversarial, from its last query on.
        adversarial(3, 30, success_query=None, first_9_vote_success=None, final_adversarial=90, l2=2.0),
        record(4, **UNDECIDED, final_tail_share=0.4, clean_wrong=2, candidates=3, voted_candidates=1),
        # Unconfirmed: the criterion called it adversarial at query 12, the final evaluations do not say so.
        adversarial(5, 12, **UNDECIDED),
        # 9 votes called it adversarial once, and it is robust.
        record(6, first_9_vote_success=15, candidates=4, voted_candidates=2, tested_candidates=1, final_adversarial=40),
        # A tie of the clean logits: it was attacked, and counts as right.
        record(7, clean_margin=0.0, clean_wrong=10, clean_verdict="undecided"),
        # Initially wrong; its final point is its clean image.
        record(
            8,
            clean_margin=-1.0,
            clean_prediction=5,
            clean_verdict="wrong",
            clean_wrong=15,
            attack=0,
            billed=0,
            verdict="misclassified",
            final_evaluations=20,
            final_adversarial=15,
            final_margin=-1.0,
            final_prediction=5,
            linf=0.0,
            l2=0.0,
        ),
        record(9),
    ]
