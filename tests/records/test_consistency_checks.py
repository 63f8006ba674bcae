"""What a run's own checks say of runs that were written by hand, sound ones and each with one fault."""

import math

import pytest
from hand import UNDECIDED, adversarial, facts, record
from msgspec.structs import asdict, replace

from rfdlight.records.consistency_checks import check_run
from rfdlight.records.facts import FirstStep, NoBall, NoiseComparison, Randomness, SanityCheckResults

SOUND = [record(0), record(1), adversarial(2, 7)]
CONTROLS = SanityCheckResults(
    no_ball=NoBall(images=10, queries=30, right=10, adversarial=0, changed=[]),
    random_noise=NoiseComparison(images=10, queries=30, attack_only=3, noise_only=1),
    step=FirstStep(images=10, signal=2.0, noise=1.0),
)
CHECKS = [
    "images", "final points", "queries", "rows", "clean accuracy", "randomness", "eps 0", "random noise", "step",
    "tails",
]  # fmt: skip


def found(check, records=None, **changes):
    """The finding of one check, of a run of three images with changes."""
    records = SOUND if records is None else records
    run = facts(**{"num_images": 3, "sanity_checks": CONTROLS, **changes})
    return next(finding for finding in check_run(records, run) if finding.check == check)


def sanity_checks(name, **changes):
    return replace(CONTROLS, **{name: replace(asdict(CONTROLS)[name], **changes)})


def test_a_sound_run_passes_every_check():
    findings = check_run(SOUND, facts(num_images=3, sanity_checks=CONTROLS))
    assert [finding.check for finding in findings] == CHECKS
    assert [finding.state for finding in findings] == ["ok"] * len(CHECKS)


def test_checks_without_their_facts_are_skipped():
    run = facts(num_images=3, forwarded=None, card=None, random=None)
    assert [finding.check for finding in check_run(SOUND, run) if finding.state == "skip"] == CHECKS[3:-1]


@pytest.mark.parametrize(
    ("check", "state", "changes"),
    [
        ("images", "fail", {"foreign": 1}),
        ("images", "warn", {"failed": {"digits/test/0009": "too hard"}, "num_images": 4}),
        ("images", "warn", {"num_images": 4}),
        ("rows", "fail", {"forwarded": 401}),
        ("randomness", "warn", {"random": Randomness(declared=True, measured=False)}),
        ("randomness", "warn", {"random": Randomness(declared=False, measured=True)}),
        ("randomness", "ok", {"random": Randomness(declared=False, measured=False)}),
        ("randomness", "warn", {"random": Randomness(declared=False, measured=True, batch_effect=0.02)}),
        ("randomness", "warn", {"random": Randomness(declared=False, measured=False, revealed="digits/test/0001")}),
        # A sound criterion calls at most one in twenty broken, of a random victim; of another one, none.
        ("eps 0", "ok", {"sanity_checks": sanity_checks("no_ball", adversarial=1)}),
        ("eps 0", "fail", {"sanity_checks": sanity_checks("no_ball", adversarial=5)}),
        ("eps 0", "fail", {"sanity_checks": sanity_checks("no_ball", adversarial=1), "deterministic": True}),
        ("eps 0", "ok", {"sanity_checks": sanity_checks("no_ball", changed=["digits/test/0001"])}),
        (
            "eps 0",
            "fail",
            {"sanity_checks": sanity_checks("no_ball", changed=["digits/test/0001"]), "deterministic": True},
        ),
        ("eps 0", "fail", {"sanity_checks": sanity_checks("no_ball", deterministic=False), "deterministic": True}),
        # The one-sided p of 5 to 0 is 1/32, of 4 to 0 1/16.
        ("random noise", "warn", {"sanity_checks": sanity_checks("random_noise", attack_only=0, noise_only=5)}),
        ("random noise", "ok", {"sanity_checks": sanity_checks("random_noise", attack_only=0, noise_only=4)}),
        ("random noise", "ok", {"sanity_checks": sanity_checks("random_noise", attack_only=5, noise_only=0)}),
        ("step", "warn", {"sanity_checks": sanity_checks("step", signal=0.9)}),
        ("step", "ok", {"sanity_checks": sanity_checks("step", noise=0.0)}),
        (
            "step",
            "skip",
            {"sanity_checks": SanityCheckResults(skipped={"step": "no scores"})},
        ),
    ],
)
def test_a_fact_that_is_wrong_is_told(check, state, changes):
    assert found(check, **changes).state == state


ONCE = {"clean_evaluations": 1, "final_evaluations": 1}


@pytest.mark.parametrize(
    ("deterministic", "records", "state"),
    [
        (True, [record(0, **ONCE), adversarial(1, 7, **ONCE, final_adversarial=1), record(2, **ONCE)], "ok"),
        (True, [record(0, **ONCE), adversarial(1, 7, **ONCE, final_adversarial=0), record(2, **ONCE)], "fail"),
        (True, [record(0, **ONCE), record(1), record(2, **ONCE)], "fail"),
        (False, [record(0), record(1), record(2, **ONCE)], "fail"),
    ],
)
def test_records_that_contradict_how_the_victim_was_judged_fail_the_check(deterministic, records, state):
    random = Randomness(declared=not deterministic, measured=not deterministic)
    assert found("randomness", records, deterministic=deterministic, random=random).state == state


@pytest.mark.parametrize(
    ("changes", "run"),
    [
        ({"linf": 0.21}, {}),
        ({"linf": math.nan}, {}),
        ({"low": -1e-3}, {}),
        ({"high": 1.001}, {}),
        ({"high": math.nan}, {}),
        ({"l2": 0.21, "linf": 0.1}, {"norm": "l2"}),
    ],
)
def test_a_final_point_outside_of_the_ball_or_the_range_is_told(changes, run):
    inside = {"l2": 0.2} if run else {}
    finding = found("final points", [record(0, **inside), record(1, **inside | changes), record(2, **inside)], **run)
    assert finding.state == "fail"
    assert finding.found == "1 lie outside the ball or [0, 1], the first of digits/test/0001"
    assert found("final points", [record(i, **inside) for i in range(3)], **run).state == "ok"


def test_rounding_does_not_carry_a_point_out_of_the_ball():
    assert found("final points", [record(0, linf=0.2 + 5e-7)]).state == "ok"


@pytest.mark.parametrize(
    ("changes", "query_counting", "state"),
    [
        ({"billed": 31, "attack": 31}, "exact", "fail"),
        ({"attack": 29}, "exact", "fail"),
        ({"success_check": 1}, "exact", "fail"),
        ({"attack": 20, "gradient": 5, "success_check": 5}, "exact", "ok"),
        ({"attack": 60}, "paper", "ok"),
        ({"billed": 31}, "paper", "fail"),
    ],
)
def test_what_an_image_is_billed(changes, query_counting, state):
    assert found("queries", [record(0, **changes)], query_counting=query_counting).state == state


def test_the_clean_accuracy_is_compared_with_the_card():
    wrong = {
        "clean_margin": -1.0, "clean_verdict": "wrong", "attack": 0, "billed": 0, "verdict": "misclassified",
    }  # fmt: skip
    few = [record(i, **(wrong if i < 3 else {})) for i in range(100)]
    many = [record(i, **(wrong if i < 30 else {})) for i in range(100)]
    assert found("clean accuracy", few).state == "ok"
    undefended, defended = found("clean accuracy", many), found("clean accuracy", many, defense="noise")
    assert (undefended.state, defended.state) == ("warn", "warn")
    assert undefended.found == (
        "70.0% (60.4% to 78.1%), 99.0% by the victim's card: the images may not be prepared as for its training"
    )
    assert defended.found.endswith("the defense may cost that much")


def test_the_step_is_told_with_the_chance_to_see_which_is_better():
    finding = found("step", sanity_checks=sanity_checks("step", signal=0.5))
    assert "in 69% of the cases" in finding.found  # the normal distribution at one half


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        (UNDECIDED | {"final_tail_share": 0.26}, "warn"),
        (UNDECIDED | {"final_tail_share": 0.25}, "ok"),
        ({"verdict": "misclassified", "final_tail_share": 0.9}, "ok"),
    ],
)
def test_undecided_final_points_with_rare_large_margins_are_told(changes, state):
    finding = found("tails", [record(0), record(1, **changes), adversarial(2, 7)])
    assert finding.state == state
    assert ("digits/test/0001" in finding.found) == (state == "warn")
