"""Criterion step: one forward pass of fresh evaluations, and the way of an image from phase to phase."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core.tensors import Columns, per_row, positions
from rfdlight.engine.criteria.base import Queries, SuccessCriterion, majority
from rfdlight.engine.error_isolation import ErrorIsolation
from rfdlight.engine.evaluations import MOST_BEFORE_FINAL, MeanMarginTest
from rfdlight.engine.failures import RandomVictim
from rfdlight.engine.oracle import Oracle
from rfdlight.engine.pool import Pool
from rfdlight.engine.probe import changed, near_boundary
from rfdlight.engine.query_counting import ExactCounting
from rfdlight.engine.state import Phase


@lru_cache
def _on_device(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Return numbers on a device, (numbers,) int64, copied once since a copy waits for the device."""
    with torch.inference_mode(False):
        return torch.tensor(numbers, device=device)


@dataclass(frozen=True)
class CriterionStep:
    """Evaluates clean images, candidates, would-be submissions and final points for the success criterion.

    For a deterministic victim, one evaluation replaces the evaluations that the criterion wants.
    """

    oracle: Oracle
    isolation: ErrorIsolation
    attack: Attack
    counting: ExactCounting
    pool: Pool
    criterion: SuccessCriterion
    deterministic: bool  # whether the victim answers equal images equally, which is then checked
    attacks_misclassified: bool = False  # whether no clean image counts as wrong
    interim_queries: tuple[int, ...] = ()  # after which a random victim is evaluated at the would-be submission

    @property
    def final_test(self) -> MeanMarginTest:
        """The test of clean images and of final points."""
        return MeanMarginTest(1) if self.deterministic else self.criterion.final_test

    def consider(self, queries: Queries) -> bool:
        """Send candidates to their evaluations, and other images where their queries so far require evaluations.

        Returns whether any image may have left its attack.
        """
        rows, state = queries.rows, queries.state
        candidates = self.criterion.candidates(queries, self.pool.images)
        # One copy to Python, which waits for the device, for all that may happen to an image.
        events = [candidates, self.counting.ended(queries.billed, rows, state)]
        if self._evaluates_interim:
            passed = self._interim_passed(queries.billed)
            events.append(passed > self.pool.images.interim.passed[rows])
        found, *others = torch.stack(events).sum(1).tolist()
        if found:
            chosen = queries.take(positions(candidates, found)) if found < len(rows) else queries
            self._start_candidates(chosen)
        if any(others):
            self.proceed(rows, state)
        return found > 0 or any(others)

    def _start_candidates(self, queries: Queries) -> None:
        points, rows = self.pool.images.points, queries.rows
        chosen, exact = self.criterion.points(queries), not self.counting.leaves_pixel_range
        # A deterministic victim would answer the criterion, at the same point in the same precision, as it did here.
        certain = self.deterministic and self.oracle.config.precision == "float32" and exact
        if certain:
            points.logits[rows] = queries.logits
        if chosen is None:
            chosen = queries.points if exact else self.attack.threat.admit(queries.state["x"], queries.points)
            points.known[rows] = certain
        else:
            if self.criterion.reaches_verdict:  # its verdict is that on the final point
                chosen = self.attack.threat.admit(queries.state["x"], chosen)
            points.known[rows] = False
        points.point[rows] = chosen
        points.clock[rows] = queries.clock
        points.billed[rows] = queries.billed
        first = self.criterion.first_evaluations(self.attack)
        if first and not certain:
            self.pool.images.candidates.voted_candidates[rows] += 1
            self._request(rows, Phase.CANDIDATE, first)
        else:
            self._succeed(rows)

    def _succeed(self, rows: Tensor) -> None:
        images = self.pool.images
        billed = images.points.billed[rows]
        images.candidates.success_query[rows] = billed
        if self.deterministic:
            images.candidates.first_9_vote_success[rows] = billed
        self._finish(rows)

    def proceed(self, rows: Tensor, state: Columns | None = None) -> None:
        """Send images in their attack to their final or interim evaluations, where these are due."""
        self._end_exhausted(rows, state)
        if self._evaluates_interim:
            self._start_interim(rows, state)

    @property
    def _evaluates_interim(self) -> bool:
        return bool(self.interim_queries) and not self.deterministic

    def _interim_passed(self, billed: Tensor) -> Tensor:
        """Return how many of the interim queries images have reached, (rows,), from their billed queries."""
        return torch.searchsorted(_on_device(self.interim_queries, billed.device), billed + self.counting.eot)

    def _start_interim(self, rows: Tensor, state: Columns | None) -> None:
        """Evaluate the point that the attack would submit if its budget were the interim queries that it has reached.

        A point that was evaluated at the last interim queries is not evaluated again.
        """
        images, billed = self.pool.images, self.counting.billed(rows, state)
        passed = self._interim_passed(billed)
        due = (images.points.phase[rows] == Phase.ATTACK) & (passed > images.interim.passed[rows])
        if not due.any():
            return
        rows, billed = rows[due], billed[due]
        images.interim.passed[rows] = passed[due]
        state = self.pool.attack_state(rows)
        submission = self.attack.threat.admit(state["x"], self.attack.best(state))
        new = (submission != images.interim.point[rows]).flatten(1).any(1)
        rows = rows[new]
        images.interim.point[rows] = images.points.point[rows] = submission[new]
        images.points.clock[rows] = images.points.billed[rows] = billed[new]
        self._request(rows, Phase.INTERIM, self.final_test.first)

    def _end_exhausted(self, rows: Tensor, state: Columns | None = None) -> None:
        """Send images without budget, or with a refusal that ended the attack, to final evaluations of `best`."""
        images, billed = self.pool.images, self.counting.billed(rows, state)
        ended = self.counting.ended(billed, rows, state) | images.detection.ended[rows]
        over = (images.points.phase[rows] == Phase.ATTACK) & ended
        if not over.any():
            return
        ended = rows[over]
        state = self.pool.attack_state(ended)
        best, queried = self.attack.best(state), images.counts.evaluated[ended] > 0
        images.points.point[ended] = torch.where(per_row(queried, best), best, state["x"])
        images.points.clock[ended] = billed[over]
        images.points.known[ended] &= ~queried
        self._finish(ended)

    def _finish(self, rows: Tensor) -> None:
        """Send images to their final evaluations, at their current point moved into the ball and [0, 1]."""
        points = self.pool.images.points
        held = points.point[rows]
        admitted = self.attack.threat.admit(self.pool.images.shared["x"][rows], held)
        points.point[rows] = admitted
        points.known[rows] &= (admitted == held).flatten(1).all(1)
        self._request(rows, Phase.FINAL, self.final_test.first)

    def _request(self, rows: Tensor, phase: Phase, evaluations: int) -> None:
        self.pool.images.points.phase[rows] = phase
        self.pool.images.evaluations.restart(rows, min(1, evaluations) if self.deterministic else evaluations)

    def evaluate(self) -> tuple[list[int], dict[int, str]]:
        """Make one forward pass of fresh evaluations; raises RandomVictim if a deterministic victim is random.

        Returns the rows of the images that are finished, and the reason for each row on which the victim failed.
        """
        images, occupied = self.pool.images, self.pool.occupied
        wanted = images.evaluations.wanted[occupied]
        share = (self.oracle.batch_size - (wanted.cumsum(0) - wanted)).clamp_min(0).minimum(wanted)
        rows = torch.repeat_interleave(share)
        batch = {"points": images.points.point[rows], "clock": images.points.clock[rows], "image": rows}
        answered = self.isolation.evaluate("criterion", batch, self._scores)
        if answered.failed:
            rows = rows[answered.rows]
            share = torch.bincount(rows, minlength=len(wanted))
        if not len(rows):
            return [], answered.failed
        self.counting.ledger.charge(images.counts, occupied, "criterion", share)
        again = self._compare(rows, *answered.values) if self.deterministic else None
        images.evaluations.add(rows, *answered.values)
        if again is not None:
            images.evaluations.restart(again, 1)
        return self._advance(((share > 0) & (wanted == 0)).nonzero()[:, 0]), answered.failed

    def _scores(self, batch: Columns) -> tuple[Tensor, ...]:
        return (self.oracle.scores(batch["points"], batch["clock"], "criterion"),)

    def _compare(self, rows: Tensor, logits: Tensor) -> Tensor:
        """Compare a deterministic victim's answers with its earlier answers at the same points.

        Returns the rows that had no earlier answer and need one more: at a final point, and at a clean image near the
        decision boundary, where noise may act that acts nowhere else.
        """
        points = self.pool.images.points
        known = points.known[rows]
        different = known & changed(points.logits[rows], logits)
        if different.any():
            raise RandomVictim(self.pool.ids[int(rows[different][0])])
        new = rows[~known]
        points.logits[new] = logits[~known]
        points.known[new] = True
        phases = points.phase[new]
        return new[(phases == Phase.FINAL) | ((phases == Phase.CLEAN) & near_boundary(logits[~known]))]

    def _advance(self, rows: Tensor) -> list[int]:
        """Move images on whose evaluations are complete; return the finished rows, the last one first."""
        phases = self.pool.images.points.phase[rows]
        clean = self._decided(rows[phases == Phase.CLEAN], MOST_BEFORE_FINAL)
        finished = [self._decided(rows[phases == Phase.FINAL])]
        if len(clean):
            finished.append(self._start_attacks(clean))
        candidates = rows[phases == Phase.CANDIDATE]
        if len(candidates):
            finished.append(self._conclude(candidates))
        submissions = rows[phases == Phase.INTERIM]
        if len(submissions):
            finished.append(self._conclude_interim(submissions))
        return torch.cat(finished).sort(descending=True).values.tolist()

    def _decided(self, rows: Tensor, limit: int | None = None) -> Tensor:
        """Return the images whose test has ended, and request more evaluations of the others."""
        if not len(rows):
            return rows
        evaluations = self.pool.images.evaluations
        undecided = rows[self.final_test.decide(evaluations, rows) == 0]
        evaluations.wanted[undecided] = self.final_test.request(evaluations, undecided, limit)
        return rows[evaluations.wanted[rows] == 0]

    def _start_attacks(self, rows: Tensor) -> Tensor:
        """Start the attack on images that are not found to be misclassified; return the others, which are finished."""
        images, evaluations = self.pool.images, self.pool.images.evaluations
        images.clean.clean_evaluations[rows] = evaluations.count[rows]
        images.clean.clean_wrong[rows] = evaluations.adversarial[rows]
        images.clean.clean_margin[rows] = evaluations.mean_margin(rows)
        images.clean.clean_prediction[rows] = evaluations.mean_label(rows)
        decided = self.final_test.decide(evaluations, rows)
        if self.attacks_misclassified:
            decided = decided.clamp_max(0)
        images.clean.clean_verdict[rows] = decided
        wrong = decided > 0
        right = rows[~wrong]
        images.points.phase[right] = Phase.ATTACK
        evaluations.largest[right] = 0
        target = images.shared["target"][right]
        evaluations.targeted[right] = target >= 0
        evaluations.reference[right] = torch.where(target >= 0, target, evaluations.reference[right])
        self._end_exhausted(right)
        if self.deterministic:  # another evaluation checks that it is
            self._finish(rows[wrong])
            return rows[:0]
        return rows[wrong]

    def _conclude(self, rows: Tensor) -> Tensor:
        """Continue, reject or accept candidates; return the images whose candidate got its final verdict."""
        conclude = majority if self.deterministic else self.criterion.conclude
        images = self.pool.images
        conclusion = conclude(images, rows)
        images.evaluations.wanted[rows] = conclusion.more
        final = conclusion.more <= 0
        success = rows[final & conclusion.adversarial]
        rejected = rows[final & ~conclusion.adversarial]
        images.points.phase[rejected] = Phase.ATTACK
        self.proceed(rejected)
        if self.deterministic or not self.criterion.reaches_verdict:
            self._succeed(success)
            return success[:0]
        return self._end_decided(success)

    def _conclude_interim(self, rows: Tensor) -> Tensor:
        """Continue or record interim evaluations; return the images that are adversarial by a final verdict."""
        images = self.pool.images
        conclusion = self.criterion.conclude_interim(images, rows)
        images.evaluations.wanted[rows] = conclusion.more
        ended, adversarial = rows[conclusion.more <= 0], conclusion.adversarial[conclusion.more <= 0]
        which = ended, images.interim.passed[ended] - 1
        images.interim.queries[which] = images.points.billed[ended]
        images.interim.evaluations[which] = images.evaluations.count[ended]
        images.interim.margin[which] = images.evaluations.mean_margin(ended)
        robust = self.final_test.decide(images.evaluations, ended).clamp_max(0)
        images.interim.verdict[which] = torch.where(adversarial, 1, robust)
        images.points.phase[ended[~adversarial]] = Phase.ATTACK
        return self._end_decided(ended[adversarial])

    def _end_decided(self, success: Tensor) -> Tensor:
        """End the attack on adversarial images; return those whose evaluations decide as final ones."""
        images = self.pool.images
        reached = self.final_test.decide(images.evaluations, success) > 0
        self._succeed(success[~reached])
        images.candidates.success_query[success[reached]] = images.points.billed[success[reached]]
        return success[reached]
