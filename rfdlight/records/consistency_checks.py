"""Consistency checks of a run: each compares numbers of the run, as a pure function of its records and facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import scipy  # which imports scipy.stats where it is used first: that takes a second
from scipy.special import ndtr

from rfdlight.core import chance
from rfdlight.core.balls import reach
from rfdlight.core.statistics import mcnemar, wilson
from rfdlight.errors import shown
from rfdlight.records.diagnostic import Diagnostic, State
from rfdlight.records.facts import RunFacts
from rfdlight.records.records import HEAVY_TAIL, Record

_LEVEL = 0.001
"""False alarm rate of each test for a wrong number."""

_WEAKER = 0.05
"""False alarm rate of the test that random noise is stronger than the attack."""

_FALSE_VERDICTS = 0.05
"""Largest share of non-adversarial points that a correct success criterion calls adversarial."""

Found = tuple[State, str]


def check_run(records: Sequence[Record], run: RunFacts) -> list[Diagnostic]:
    """Run every check of `CHECKS` on a run: "fail" for wrong numbers, "warn" for numbers that may mislead."""
    found = {name: check(records, run) for name, check in CHECKS.items()}
    # Ids in the text may come from a file of a stranger.
    return [Diagnostic(name, state, shown(text)) for name, (state, text) in found.items()]


def _images(records: Sequence[Record], run: RunFacts) -> Found:
    if run.foreign:
        return "fail", f"{run.foreign:,} records are of images that are not images of the run"
    if run.failed:
        return "warn", f"{len(run.failed):,} of {run.num_images:,} failed and have no record"
    if len(records) < run.num_images:
        return "warn", f"{run.num_images - len(records):,} of {run.num_images:,} have no record: the run was stopped"
    return "ok", f"each of the {run.num_images:,} has one record"


def _points(records: Sequence[Record], run: RunFacts) -> Found:
    farthest = reach(run.norm, run.eps)

    def admitted(record: Record) -> bool:
        within = (record.linf if run.norm == "linf" else record.l2) <= farthest  # False for NaN
        low, high = (0.0 if pixel is None else pixel for pixel in (record.low, record.high))
        return within and low >= 0 and high <= 1

    outside = [record.id for record in records if not admitted(record)]
    if outside:
        return "fail", f"{len(outside):,} lie outside the ball or [0, 1], the first of {outside[0]}"
    return "ok", f"all {len(records):,} lie in the ball and in [0, 1]"


def _queries(records: Sequence[Record], run: RunFacts) -> Found:
    exact = run.query_counting == "exact"
    wrong = [r.id for r in records if r.billed > run.budget or (exact and r.billed != r.queries + r.refused)]
    if wrong:
        return "fail", f"{len(wrong):,} images are billed too much or too little, the first is {wrong[0]}"
    most = max((record.billed for record in records), default=0)
    every = "every evaluation is billed, " if exact else ""
    if refused := sum(record.refused for record in records):
        every += f"and every one of {refused:,} refused queries, "
    return "ok", f"{every}at most {most:,} per image, of {run.budget:,}"


def _rows(records: Sequence[Record], run: RunFacts) -> Found:
    counted, seen = run.totals.total, run.forwarded
    if seen is None:
        return "skip", "an attempt was killed before it could write how many rows the victim saw"
    if counted != seen:
        return "fail", f"the query ledger has {counted:,} rows, a hook on the victim counted {seen:,}"
    return "ok", f"{counted:,} in the query ledger, as a hook on the victim counted"


def _clean_accuracy(records: Sequence[Record], run: RunFacts) -> Found:
    right, total, undefended = sum(record.clean_correct for record in records), len(records), run.defense == "none"
    if run.clean_accuracy_warning is not None:
        return "warn", run.clean_accuracy_warning
    if run.num_classes is not None and chance.is_chance(right, total, run.num_classes):
        causes = chance.CAUSES if undefended else f"{chance.CAUSES}, or a defense that costs so much"
        return "warn", f"{chance.found(right, total, run.num_classes)}; likely causes: {causes}"
    if not records:
        return "skip", "no image is finished"
    if run.card is None:
        return "skip", f"no card of the victim has an accuracy on {run.data}"
    expected = run.card.correct / run.card.total
    low, high = wilson(right, total)
    found = f"{right / total:.1%} ({low:.1%} to {high:.1%}), {expected:.1%} by the victim's card"
    if scipy.stats.binomtest(right, total, expected).pvalue > _LEVEL:
        return "ok", found
    why = "the images may not be prepared as for its training" if undefended else "the defense may cost that much"
    return "warn", f"{found}: {why}"


def _randomness(records: Sequence[Record], run: RunFacts) -> Found:
    contradiction = _contradiction(records, run)
    if contradiction is not None:
        return "fail", contradiction
    random = run.random
    if random is None:
        return "skip", "the run has no measurement of whether two answers differ"
    if random.batch_effect:
        return "warn", f"the answer to an image depends on the others of its batch, by {random.batch_effect:.1%}"
    answers = f"answers to the first images {'differed' if random.measured else 'were equal'}"
    if random.declared != random.measured:
        return "warn", f"{answers}, but {'the defense is' if random.declared else 'no defense is'} random"
    if random.revealed is not None and not random.declared:
        return "warn", f"{answers}, later ones, at {random.revealed}, were not"
    return "ok", f"{answers}, as declared"


def _contradiction(records: Sequence[Record], run: RunFacts) -> str | None:
    """Return how the records contradict the run's decision that the victim is deterministic or random."""
    other = [record.id for record in records if record.evaluated_once != run.deterministic]
    if other:
        kind, how = ("deterministic", "several") if run.deterministic else ("random", "single")
        return f"{len(other):,} images of a {kind} victim have {how} evaluations, the first is {other[0]}"
    if not run.deterministic or run.query_counting != "exact":
        return None
    lost = next((r.id for r in records if r.success_query is not None and not r.final_adversarial), None)
    if lost is not None:
        return f"the victim was evaluated as deterministic, but answered {lost} differently at the same point"
    return None


def _no_ball(records: Sequence[Record], run: RunFacts) -> Found:
    check = run.sanity_checks.no_ball
    if check is None:
        return _skipped(run, "no_ball")
    if run.deterministic and check.changed:
        return "fail", f"the victim's answer to {check.changed[0]} is not the one before the run: it has a memory"
    if run.deterministic and not check.deterministic:
        return "fail", "the victim answered equal points differently after the run: it is random or has a memory"
    right, adversarial = check.right, min(check.adversarial, check.right)
    found = f"{adversarial:,} of {right:,} images are adversarial in a ball of no size, after {check.queries:,} queries"
    allowed = 0.0 if run.deterministic else _FALSE_VERDICTS
    if adversarial and (
        not allowed or scipy.stats.binomtest(adversarial, right, allowed, alternative="greater").pvalue <= _LEVEL
    ):
        return "fail", f"{found}: the success criterion is wrong"
    return "ok", f"{found}: {right - adversarial:,} of {check.images:,} right, as before"


def _random_noise(records: Sequence[Record], run: RunFacts) -> Found:
    check = run.sanity_checks.random_noise
    if check is None:
        return _skipped(run, "random_noise")
    found = (
        f"of {check.images:,} images, {check.noise_only:,} are adversarial only under {check.queries:,} queries of "
        f"random noise, {check.attack_only:,} only under {run.budget:,} queries of {run.attack}"
    )
    one_sided = 2 * _WEAKER
    if check.noise_only > check.attack_only and mcnemar(check.attack_only, check.noise_only) <= one_sided:
        return "warn", f"{found}: the attack is weaker than no search at all"
    return "ok", found


def _step(records: Sequence[Record], run: RunFacts) -> Found:
    check = run.sanity_checks.step
    if check is None:
        return _skipped(run, "step")
    found = f"the attack's first two queries differ by {check.signal:.3g} in the loss"
    if check.noise == 0:
        return "ok", f"{found}, without noise"
    found = f"{found}, with noise of {check.noise:.3g}"
    if check.signal < check.noise:
        sure = ndtr(check.signal / check.noise)
        advice = "a larger step or --model.eot may make more images adversarial"
        return "warn", f"{found}: the attack ranks the two correctly in {sure:.0%} of the cases; {advice}"
    return "ok", found


def _tails(records: Sequence[Record], run: RunFacts) -> Found:
    heavy = [record.id for record in records if record.is_heavy_tailed]
    if heavy:
        return "warn", (
            f"at {len(heavy):,} final points, the first of {heavy[0]}, one evaluation carries over {HEAVY_TAIL:.0%} of "
            "the margin's variance: the mean logits are undecided, majority_vote is not affected"
        )
    return "ok", "no undecided final point has rare large margins"


def _skipped(run: RunFacts, name: str) -> Found:
    return "skip", run.sanity_checks.skipped.get(name, "no sanity checks were made")


CHECKS: dict[str, Callable[[Sequence[Record], RunFacts], Found]] = {
    "images": _images,
    "final points": _points,
    "queries": _queries,
    "rows": _rows,
    "clean accuracy": _clean_accuracy,
    "randomness": _randomness,
    "eps 0": _no_ball,
    "random noise": _random_noise,
    "step": _step,
    "tails": _tails,
}
"""The checks of a run by name, in the order of the table."""
