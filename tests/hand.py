"""Records written by hand."""

from __future__ import annotations

from typing import Any


def record(index: int, **changes: Any) -> dict[str, Any]:
    """Return a record of an image that withstood 30 queries, with changes."""
    plain = {
        "id": f"digits/test/{index:04d}",
        "label": 3,
        "target": None,
        "attack": 30,
        "gradient": 0,
        "observe": 0,
        "judge": 120,
        "billed": 30,
        "candidates": 0,
        "votings": 0,
        "tests": 0,
        "broken_at": None,
        "first_screen9": None,
        "clean_draws": 20,
        "clean_wrong": 0,
        "clean_margin": 2.0,
        "clean_prediction": 3,
        "final_draws": 100,
        "final_wrong": 0,
        "final_margin": 1.0,
        "final_prediction": 3,
        "verdict": "robust",
        "linf": 0.2,
        "l2": 5.0,
        "low": 0.0,
        "high": 1.0,
    }
    assert changes.keys() <= plain.keys()
    return {**plain, **changes}


def broken(index: int, at: int, **changes: Any) -> dict[str, Any]:
    """Return a record of an image that broke at a query, with changes."""
    found = {"attack": at, "billed": at, "broken_at": at, "first_screen9": at, "candidates": 1, "votings": 1}
    return record(
        index,
        **{**found, "verdict": "broken", "final_wrong": 100, "final_margin": -1.0, "final_prediction": 5, **changes},
    )


def facts(**changes: Any) -> dict[str, Any]:
    """Return the facts of a run, with changes."""
    plain = {
        "name": "hand",
        "attack": "square",
        "options": "defaults",
        "norm": "linf",
        "eps": 0.2,
        "budget": 30,
        "judge": "sequential",
        "accounting": "exact",
        "eot": 1,
        "targeted": False,
        "precision": "float32",
        "victim": "digits_small",
        "data": "digits",
        "defense": "none",
        "seed": 0,
        "totals": {"attack": 180, "gradient": 0, "observe": 20, "judge": 50, "padding": 150},
        "wall_seconds": 1.5,
        "deterministic": False,
        "complete": True,
        "failed": {},
        "num_images": 10,
        "under_way": {"begun": 0, "robust": 0},
        "card_data": None,
        "num_classes": None,
        "clean_caution": None,
        "foreign": 0,
        "forwarded": 400,
        "card": {"correct": 593, "total": 599},
        "random": {"declared": True, "measured": True},
        "controls": {},
    }
    assert changes.keys() <= plain.keys()
    return {**plain, **changes}


def ten() -> list[dict[str, Any]]:
    """Return ten records, one or more of each kind.

    Initially right 0-7 and 9; broken 0, 1, 2, 3; undecided 4 and 5; robust 6, 7 and 9; initially wrong 8.
    """
    return [
        broken(0, 1, l2=4.0, linf=0.1),
        broken(1, 7, l2=3.0, first_screen9=4),
        broken(2, 20, l2=1.0, final_wrong=60),
        # Late: the final draws alone say that it is broken, so it broke at its last query.
        broken(3, 30, broken_at=None, first_screen9=None, final_wrong=90, l2=2.0),
        record(4, verdict="undecided", final_wrong=50, clean_wrong=2, candidates=3, votings=1),
        # Unconfirmed: the judge called it broken at query 12, the final draws do not say so.
        broken(5, 12, verdict="undecided", final_wrong=50),
        # It passed the screen and 9 votes, but withstood the test.
        record(6, first_screen9=15, candidates=4, votings=2, tests=1, final_wrong=40),
        # A tie of the clean logits that the label won: it was attacked.
        record(7, clean_margin=0.0, clean_wrong=10),
        # Initially wrong; its final point is its clean image.
        record(
            8,
            clean_margin=-1.0,
            clean_prediction=5,
            clean_wrong=15,
            attack=0,
            billed=0,
            verdict="misclassified",
            final_wrong=70,
            linf=0.0,
            l2=0.0,
        ),
        record(9),
    ]
