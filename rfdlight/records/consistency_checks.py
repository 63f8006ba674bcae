"""What a run says for or against itself: checks of its numbers, each a pure function of its records and facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from scipy.stats import binomtest, norm

from rfdlight.core import chance
from rfdlight.core.field_types import (
    Kind,
    is_count,
    is_flag,
    is_number,
    is_positive_count,
    is_text,
    or_none,
    wrong_field,
)
from rfdlight.core.intervals import wilson
from rfdlight.core.mcnemar import mcnemar
from rfdlight.core.threat import reach
from rfdlight.errors import shown
from rfdlight.records.diagnostic import Diagnostic, State
from rfdlight.records.records import Record, clean_right, evaluated_once

FACTS: dict[str, str] = {
    "foreign": "records of images that were not asked for",
    "forwarded": "rows that a hook on the victim saw; null if an attempt was killed",
    "card": "right answers and images on the victim's card, undefended, on the whole test set; null without one",
    "card_data": "data set of the victim's card, null without one",
    "num_classes": "classes of the victim",
    "clean_accuracy_warning": "what speaks against the answers to clean images before the attack, null for nothing",
    "random": "whether a defense is declared random; whether answers to the first images differed; by how much of "
    "their range an image's logits change beside other images; and the image whose later answer differed, or null",
    "sanity_checks": "what the control attacks found, see rfdlight.evaluation.sanity_checks; empty if none were made",
}
"""What an audit reads of a run beside `rfdlight.records.summary.RUN_FIELDS`."""

_ABSENT: dict[str, Any] = {
    "foreign": 0,
    "forwarded": None,
    "card": None,
    "card_data": None,
    "num_classes": None,
    "clean_accuracy_warning": None,
    "random": None,
    "sanity_checks": {},
}
"""What it is where it was not written down."""


def _is_dict_of(**kinds: Kind) -> Kind:
    return lambda value: isinstance(value, dict) and wrong_field(value, kinds) is None


def _is_control(**kinds: Kind) -> Kind:
    made, skipped = _is_dict_of(**kinds), _is_dict_of(skipped=is_text)
    return or_none(lambda value: made(value) or skipped(value))


def _is_part(part: str, whole: str) -> Kind:
    """Say whether a dict holds two counts, the one of which is of some of what the other is of."""
    counts = _is_dict_of(**{part: is_count, whole: is_count})
    return lambda value: counts(value) and value[part] <= value[whole]


def _is_size(value: Any) -> bool:
    return is_number(value) and value >= 0


KINDS: dict[str, Kind] = {
    "foreign": or_none(is_count),
    "forwarded": or_none(is_count),
    "card": or_none(lambda value: _is_part("correct", "total")(value) and value["total"] > 0),
    "card_data": or_none(is_text),
    "num_classes": or_none(is_positive_count),
    "clean_accuracy_warning": or_none(is_text),
    "random": or_none(_is_dict_of(declared=is_flag, measured=is_flag)),
    "sanity_checks": or_none(
        _is_dict_of(
            no_ball=_is_control(
                images=is_count,
                queries=is_count,
                right=is_count,
                adversarial=is_count,
                changed=lambda value: isinstance(value, list) and all(map(is_text, value)),
            ),
            random_noise=_is_control(images=is_count, queries=is_count, attack_only=is_count, noise_only=is_count),
            step=_is_control(images=is_count, signal=_is_size, noise=_is_size),
        )
    ),
}
"""What these facts are; any may be missing."""

_LEVEL = 0.001
"""Of the tests that say that something is wrong: one sound run in a thousand is told so by each."""

_WEAKER = 0.05
"""Of the test that random noise is stronger than the attack."""

_FALSE_VERDICTS = 0.05
"""The part of the points, at most, that a faultless criterion calls broken although they are not; see `SuccessCriterion.verdict`."""

Facts = dict[str, Any]
Found = tuple[State, str]
Check = Callable[[Sequence[Record], Facts], Found]


def audit(records: Sequence[Record], run: Facts) -> list[Diagnostic]:
    """Check a run.

    Args:
        records: One per finished image, see `rfdlight.records.records.FIELDS`.
        run: Its facts, see `rfdlight.records.summary.RUN_FIELDS` and `FACTS`.

    Returns:
        One finding for each of `CHECKS`, in their order: "fail" where the numbers are wrong, "warn" where they may say
        something else than they seem to, "skip" where there was nothing to check.
    """
    known = _ABSENT | {name: fact for name, fact in run.items() if fact is not None}
    found = {name: check(records, known) for name, check in CHECKS.items()}
    # An id may come from a record that a stranger wrote.
    return [Diagnostic(name, state, shown(text)) for name, (state, text) in found.items()]


def _images(records: Sequence[Record], run: Facts) -> Found:
    asked = run["num_images"]
    if run["foreign"]:
        return "fail", f"{run['foreign']:,} records are of images that were not asked for"
    if run["failed"]:
        return "warn", f"{len(run['failed']):,} of {asked:,} failed and have no record"
    if len(records) < asked:
        return "warn", f"{asked - len(records):,} of {asked:,} have no record: the run was stopped"
    return "ok", f"each of the {asked:,} has one record"


def _points(records: Sequence[Record], run: Facts) -> Found:
    farthest = reach(run["norm"], run["eps"])

    def admitted(record: Record) -> bool:
        within = record[run["norm"]] <= farthest  # False for NaN
        return within and record.get("low", 0) >= 0 and record.get("high", 1) <= 1

    outside = [record["id"] for record in records if not admitted(record)]
    if outside:
        return "fail", f"{len(outside):,} lie outside the ball or [0, 1], the first of {outside[0]}"
    return "ok", f"all {len(records):,} lie in the ball and in [0, 1]"


def _query_step(records: Sequence[Record], run: Facts) -> Found:
    def sound(record: Record) -> bool:
        asked = record["attack"] + record["gradient"] + record["success_check"]
        return record["billed"] <= run["budget"] and (run["query_counting"] == "paper" or record["billed"] == asked)

    wrong = [record["id"] for record in records if not sound(record)]
    if wrong:
        return "fail", f"{len(wrong):,} images are billed too much or too little, as {wrong[0]}"
    most = max((record["billed"] for record in records), default=0)
    every = "every evaluation is billed, " if run["query_counting"] == "exact" else ""
    return "ok", f"{every}at most {most:,} to an image, of {run['budget']:,}"


def _rows(records: Sequence[Record], run: Facts) -> Found:
    counted, seen = sum(run["totals"].values()), run["forwarded"]
    if seen is None:
        return "skip", "an attempt was killed before it could say how many rows the victim saw"
    if counted != seen:
        return "fail", f"the ledger has {counted:,}, a hook on the victim saw {seen:,}"
    return "ok", f"{counted:,} in the ledger, as a hook on the victim saw"


def _clean_accuracy(records: Sequence[Record], run: Facts) -> Found:
    card, undefended = run["card"], run["defense"] == "none"
    right, total = sum(map(clean_right, records)), len(records)
    if run["clean_accuracy_warning"] is not None:
        return "warn", run["clean_accuracy_warning"]
    if run["num_classes"] is not None and chance.is_chance(right, total, run["num_classes"]):
        causes = chance.CAUSES if undefended else f"{chance.CAUSES}, or a defense that costs so much"
        return "warn", f"{chance.found(right, total, run['num_classes'])}; likely causes: {causes}"
    if not records:
        return "skip", "no image is finished"
    if card is None and run["card_data"] is not None:
        return "skip", f"the victim's card says what to expect on {run['card_data']}, not on {run['data']}"
    if card is None:
        return "skip", "the victim has no card that says what to expect"
    expected = card["correct"] / card["total"]
    low, high = wilson(right, total)
    found = f"{right / total:.1%} ({low:.1%} to {high:.1%}), {expected:.1%} by the victim's card"
    if binomtest(right, total, expected).pvalue > _LEVEL:
        return "ok", found
    why = "the images may not be prepared as for its training" if undefended else "the defense may cost that much"
    return "warn", f"{found}: {why}"


def _randomness(records: Sequence[Record], run: Facts) -> Found:
    contradiction = _contradiction(records, run)
    if contradiction is not None:
        return "fail", contradiction
    if run["random"] is None:
        return "skip", "the run does not say whether two answers differed"
    declared, measured = run["random"]["declared"], run["random"]["measured"]
    effect, revealed = run["random"].get("batch_effect") or 0.0, run["random"].get("revealed")
    if effect:
        return "warn", f"the victim's answer to an image depends on the other images of its batch, by {effect:.1%}"
    if declared and not measured:
        return "warn", "the defense is random, but answers to the first images were equal"
    if revealed is not None:
        return "warn", f"answers to the first images were equal, later ones, at {revealed}, were not: judged as random"
    if measured and not declared:
        return "warn", "no defense is random, but answers to the first images differed: the victim is random"
    return "ok", f"answers to the first images {'differed' if measured else 'were equal'}, as declared"


def _contradiction(records: Sequence[Record], run: Facts) -> str | None:
    """Return what in the records contradicts the way in which the run judged, None if nothing does."""
    deterministic = run["deterministic"]
    other = [record["id"] for record in records if evaluated_once(record) != deterministic]
    if other:
        how = "several evaluations" if deterministic else "one evaluation"
        kind = "deterministic" if deterministic else "random"
        return f"{len(other):,} images of a {kind} victim were judged by {how}, the first is {other[0]}"
    if not deterministic or run["query_counting"] != "exact":
        return None
    lost = [
        record["id"] for record in records if record["success_query"] is not None and not record["final_adversarial"]
    ]
    if lost:
        return f"the victim was judged as deterministic, but answered {lost[0]} differently at the same point"
    return None


def _no_ball(control: dict[str, Any], run: Facts) -> Found:
    if run["deterministic"] and control["changed"]:
        first = control["changed"][0]
        return "fail", f"the victim's answer to {first} is not what it was before: it has a memory"
    if run["deterministic"] and not control.get("deterministic", True):
        return "fail", "the victim answered equal points differently after the run: it is random or has a memory"
    right, total = control["right"], control["images"]
    adversarial = min(control["adversarial"], right)
    found = f"{adversarial:,} of {right:,} images broken in a ball of no size, at {control['queries']:,} queries"
    allowed = 0.0 if run["deterministic"] else _FALSE_VERDICTS
    if adversarial and (not allowed or binomtest(adversarial, right, allowed, alternative="greater").pvalue <= _LEVEL):
        return "fail", f"{found}: the criterion is wrong"
    return "ok", f"{found}: {right - adversarial:,} of {total:,} right, as before"


def _random_noise(control: dict[str, Any], run: Facts) -> Found:
    alone, attack_alone, total = control["noise_only"], control["attack_only"], control["images"]
    found = (
        f"{control['queries']:,} tries of it break {alone:,} of {total:,} images that {run['attack']} leaves after "
        f"{run['budget']:,} queries, and leave {attack_alone:,} that {run['attack']} breaks"
    )
    if alone > attack_alone and mcnemar(attack_alone, alone) <= 2 * _WEAKER:  # of one side
        return "warn", f"{found}: the attack is weaker than no search at all"
    return "ok", found


def _step(control: dict[str, Any], run: Facts) -> Found:
    signal, noise = control["signal"], control["noise"]
    if noise == 0:
        return "ok", f"the attack's first two queries differ by {signal:.3g} in the loss, without noise"
    found = f"the attack's first two queries differ by {signal:.3g} in the loss, which noise blurs by {noise:.3g}"
    sure = norm.cdf(signal / noise)
    if signal < noise:
        advice = "a larger step or --model.eot may break more"
        return "warn", f"{found}: it sees which is better in {sure:.0%} of the cases; {advice}"
    return "ok", found


def _of_control(name: str, look: Callable[[dict[str, Any], Facts], Found]) -> Check:
    """Return the check that looks at what a control found, where it was made."""

    def check(records: Sequence[Record], run: Facts) -> Found:
        control = run["sanity_checks"].get(name) or {"skipped": "no control attacks were made"}
        return ("skip", control["skipped"]) if "skipped" in control else look(control, run)

    return check


CHECKS: dict[str, Check] = {
    "images": _images,
    "final points": _points,
    "queries": _query_step,
    "rows": _rows,
    "clean accuracy": _clean_accuracy,
    "randomness": _randomness,
    "eps 0": _of_control("no_ball", _no_ball),
    "random noise": _of_control("random_noise", _random_noise),
    "step": _of_control("step", _step),
}
"""The checks of a run by their names, in the order in which they are told."""
