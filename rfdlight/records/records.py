"""One record per attacked image, as JSON lines."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rfdlight._io import parse_json, read_bytes
from rfdlight.core.field_types import Kind, is_count, is_number, is_positive_count, is_text, or_none, wrong_field
from rfdlight.errors import UserError

FIELDS: dict[str, str] = {
    "id": "image id, <dataset>/<split>/<file name>",
    "label": "class index",
    "target": "the class that a targeted attack has to reach, or null",
    "attack": "evaluations whose answer chose the attacker's next move",
    "gradient": "evaluations of a white-box attack, with their gradient",
    "success_check": "evaluations that only told the attacker whether it has finished",
    "criterion": "evaluations of the criterion, never billed",
    "billed": "queries billed, at most the budget",
    "candidates": "queries inside the ball that were hits: answered with a wrong label, or with the target",
    "voted_candidates": "candidates that the criterion took up",
    "tests": "those of them that a majority of the votes called hits, and a test decided",
    "success_query": "the query at which the criterion called the image broken, or null",
    "first_9_vote_success": "the first query whose candidate a majority of 9 votes called a hit, or null",
    "clean_evaluations": "evaluations at the clean image before the attack",
    "clean_wrong": "those with a wrong label",
    "clean_margin": "margin of their mean logits; the image is attacked if the label has the largest",
    "clean_prediction": "the class with the largest mean logit at the clean image",
    "final_evaluations": "fresh evaluations at the final point",
    "final_adversarial": "those that were hits",
    "final_margin": "the attacker's loss at their mean logits: the label's margin, or the target's, its sign changed",
    "final_prediction": "the class with the largest mean logit at the final point",
    "verdict": "robust, broken or undecided: what the final draws say of the mean logits; misclassified if the clean "
    "draws do not call the image right, so that it is not attacked",
    "linf": "largest pixel change at the final point, in pixel units",
    "l2": "Euclidean length of the change at the final point, in pixel units",
    "low": "smallest pixel of the final point",
    "high": "largest pixel of the final point",
}
"""The fields of a record and what they mean."""

LATER = {"low", "high", "clean_prediction", "final_prediction"}
"""The fields that a file may lack: the first runs, some of which are published, did not write them."""

VERDICTS = ("robust", "adversarial", "undecided", "misclassified")
"""The values of `verdict`."""

Record = dict[str, Any]

KINDS: dict[str, Kind] = {
    **dict.fromkeys(FIELDS, is_count),
    **dict.fromkeys(("target", "success_query", "first_9_vote_success"), or_none(is_count)),
    **dict.fromkeys(("clean_evaluations", "final_evaluations"), is_positive_count),
    **dict.fromkeys(("clean_margin", "final_margin", "linf", "l2"), is_number),
    **dict.fromkeys(("low", "high"), or_none(is_number)),
    **dict.fromkeys(("clean_prediction", "final_prediction"), or_none(is_count)),
    "id": is_text,
    "verdict": lambda value: value in VERDICTS,
}
"""What the fields of a record are."""


_SEAL = "crc32"


def seal(record: Record) -> str:
    """Return a record as the line that a file holds, with the CRC-32 of all before it as its last field.

    Example:
        >>> seal({"id": "a"})
        '{"id": "a", "crc32": "62f14df2"}'
    """
    body = json.dumps(record).removesuffix("}")
    return f'{body}, "{_SEAL}": "{zlib.crc32(body.encode()):08x}"}}'


def unseal(line: str) -> Record:
    """Return the record that a line holds.

    Raises:
        ValueError: If it holds none, or was changed since it was written.
    """
    record = parse_json(line)
    if not isinstance(record, dict):
        raise ValueError("no record")
    if _SEAL in record:
        del record[_SEAL]
        if seal(record) != line:
            raise ValueError("damaged")
    return record


def fault(record: Record) -> str | None:
    """Return what is wrong with the fields of a record, None if nothing is."""
    missing = FIELDS.keys() - LATER - record.keys()
    if missing:
        return f"the record lacks {min(missing)}"
    unknown = record.keys() - FIELDS.keys()
    if unknown:
        return f"the record has {min(unknown)!r:.40}, which is no field of one"
    wrong = wrong_field(record, KINDS) or _too_many(record)
    return None if wrong is None else f"{wrong} cannot be {record[wrong]!r:.40}; it is {FIELDS[wrong]}"


def evaluated_once(record: Record) -> bool:
    """Return whether an image was judged by single evaluations, as those of a deterministic victim are."""
    return record["clean_evaluations"] == 1


def _too_many(record: Record) -> str | None:
    """Return the first count that is above that of the draws it is of."""
    counts = ("clean", "final")
    return next((f"{part}_wrong" for part in counts if record[f"{part}_wrong"] > record[f"{part}_draws"]), None)


def read_records(path: Path) -> list[Record]:
    """Read a file of records, ordered by id; a file without checksums is taken as it is.

    Raises:
        UserError: If there is none, or a line is no record, or its checksum is not its own.
    """
    try:
        lines = read_bytes(path).splitlines()
    except OSError as error:
        raise UserError(f"cannot read the records {path}: {error.strerror}") from error
    records = []
    sealed = any(_SEAL.encode() in line for line in lines)
    for number, line in enumerate(lines, 1):
        try:
            record = unseal(line.decode())
            if sealed and _SEAL.encode() not in line:
                raise ValueError("damaged")
        except ValueError as error:
            what = "damaged" if str(error) == "damaged" else "no record"
            raise UserError(f"{path}, line {number}, is {what}") from error
        wrong = fault(record)
        if wrong:
            raise UserError(f"{path}, line {number}: {wrong}")
        records.append(current(record))
    return in_order(records)


def clean_right(record: Record) -> bool:
    """Return whether the label has the largest mean logit at the clean image.

    A tie went to the label if that is the prediction, or, in a record without predictions, if the image was attacked.
    """
    if record["clean_margin"] != 0:
        return bool(record["clean_margin"] > 0)
    if record.get("clean_prediction") is not None:
        return bool(record["clean_prediction"] == record["label"])
    return bool(record["attack"] + record["gradient"] > 0)


def current(record: Record) -> Record:
    """Return a record with the verdict of today; earlier versions called misclassified images broken or robust."""
    return record if clean_right(record) else {**record, "verdict": "misclassified"}


def in_order(records: Iterable[Record]) -> list[Record]:
    """Return the records ordered by id."""
    return sorted(records, key=lambda record: record["id"])
