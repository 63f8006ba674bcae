"""Query engine: attacks many images at once in full forward passes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.attacks.paper import with_published_steps
from rfdlight.core import rng
from rfdlight.core.tensors import indices
from rfdlight.engine.config import EngineConfig, RunObserver
from rfdlight.engine.criteria.base import SuccessCriterion
from rfdlight.engine.criterion_step import CriterionStep
from rfdlight.engine.error_isolation import ErrorIsolation
from rfdlight.engine.evaluations import EvaluationState
from rfdlight.engine.inspection import Inspection
from rfdlight.engine.ledger import Ledger, QueryCounts
from rfdlight.engine.oracle import Oracle
from rfdlight.engine.pool import Pool, columns_of
from rfdlight.engine.query_counting import COUNTINGS
from rfdlight.engine.query_step import QueryStep
from rfdlight.engine.scheduler import Rows, Scheduler
from rfdlight.engine.state import (
    CandidateState,
    CleanState,
    DetectionState,
    ImageState,
    InterimState,
    Phase,
    PointState,
    describe,
)
from rfdlight.engine.targets import draw_targets
from rfdlight.errors import UserError


class Engine:
    """Runs an attack on a victim: full forward passes, exact budgets, one record per image for the observer.

    An image passes through the phases of `rfdlight.engine.state.Phase`. Images in all phases share the pool. Every
    forward pass is either one of queries or one of fresh evaluations for the success criterion, whichever is full. An
    image on which the victim fails is removed and has no record, see `rfdlight.engine.error_isolation`.
    """

    def __init__(
        self,
        oracle: Oracle,
        attack: Attack,
        criterion: SuccessCriterion,
        config: EngineConfig,
        observer: RunObserver | None = None,
    ) -> None:
        self.oracle = oracle
        steps = with_published_steps(attack) if config.query_counting == "paper" else attack
        self.attack = steps.configured(eot=config.eot)
        self.criterion = criterion
        self.config = config
        self.observer = observer or RunObserver()
        self.ledger = Ledger()
        self._pool = Pool(config.pool_size)
        self._scheduler = Scheduler(config.lockstep)
        self._queue: deque[tuple[Tensor, Tensor, str]] = deque()
        self._waiting: tuple[Rows, Rows, Rows] | None = None  # of the pool since it last changed, see `_look`
        isolation = ErrorIsolation(oracle, self.ledger)
        counting = COUNTINGS[config.query_counting]
        self._counting = counting(self.attack, self._pool, self.ledger, config.budget, config.eot)
        self._inspection = self._begin_inspection()
        self._query_step = QueryStep(
            oracle, isolation, self.attack, self._counting, self._pool, config.eot, self._inspection
        )
        self._criterion_step = CriterionStep(
            oracle,
            isolation,
            self.attack,
            self._counting,
            self._pool,
            criterion,
            config.deterministic,
            config.attacks_misclassified,
            config.interim_queries if criterion.evaluates_interim else (),
        )

    @property
    def deterministic(self) -> bool:
        """Whether the victim has answered equal images equally so far, if it was expected to."""
        return self.config.deterministic

    @property
    def pool_size(self) -> int:
        """Largest number of images in the pool."""
        return self._pool.pool_size

    def submit(self, x: Tensor, y: Tensor, ids: list[str]) -> None:
        """Queue images: (rows, C, H, W) float32 in [0, 1], (rows,) int64 labels and their ids."""
        self._queue.extend(zip(x, y, ids, strict=True))
        self._refill()

    def run(self, low_watermark: int = 0) -> None:
        """Make forward passes until no image is left or the engine needs more images.

        It needs more as soon as the pool holds fewer than `low_watermark` and they cannot fill a forward pass; in
        lockstep, even if they can. Raises RandomVictim if a victim that was expected to be deterministic is random.
        """
        low_watermark = min(low_watermark, self.pool_size)
        while (len(self._pool) or self._queue) and not self.observer.stop():
            self._refill()
            phase, evaluations, evaluated = self._look()
            ready, wanted = np.flatnonzero(phase == Phase.ATTACK), int(evaluations.sum())
            full, queries = self.oracle.batch_size, self.oracle.batch_size // self.config.eot
            starved = self._scheduler.lockstep or (len(ready) < queries and wanted < full)
            if len(self._pool) < low_watermark and starved:
                return
            if self._scheduler.evaluates_next(len(ready), wanted, queries, full):
                self._evaluate()
            else:
                rows = self._scheduler.next_rows(ready, queries, evaluated)
                device = self._pool.images.points.phase.device
                self._query(rows if isinstance(rows, slice) else torch.from_numpy(rows).to(device, non_blocking=True))

    def attack_all(self, batches: Iterable[tuple[Tensor, Tensor, list[str]]]) -> None:
        """Attack all images of some batches, which are submitted as the pool has room; raises as `run` does."""
        for x, y, ids in batches:
            self.submit(x, y, ids)
            self.run(low_watermark=self.pool_size)
        self.run()

    def begin_again(self) -> None:
        """Treat the victim as random from here on; all images are dropped and have to be submitted again."""
        self.config = replace(self.config, deterministic=False)
        self.ledger.discard()
        self._queue.clear()
        self._pool.ids.clear()
        self._waiting = None
        self._scheduler.restart()
        self._begin_inspection()
        self._criterion_step = replace(self._criterion_step, deterministic=False)

    def bound_memory(self, gigabytes: float, x: Tensor) -> None:
        """Lower the pool size to images like `x`, (1, C, H, W), that fit into memory, before the first is submitted.

        Raises a UserError if not even one batch fits.
        """
        size, batch = self.bytes_per_image(x), min(self.oracle.batch_size, self.pool_size)
        pool_size = round(gigabytes * 1e9) // size
        if pool_size < batch:
            needed = math.ceil(size * batch / 1e6) / 1e3  # rounded up to a MB, so that this value suffices
            raise UserError(
                f"model.memory must be at least {needed:g} GB for {batch} images in the pool, got "
                f"{gigabytes:g}; lower model.batch_size or raise it"
            )
        self._pool.pool_size = min(self.pool_size, pool_size)

    @property
    def in_progress(self) -> tuple[int, int]:
        """Number of images in the pool with complete clean evaluations, and how many of these are robust so far."""
        if not len(self._pool):
            return 0, 0
        images, occupied = self._pool.images, self._pool.occupied
        begun = images.points.phase[occupied] != Phase.CLEAN
        attacked = images.clean.clean_verdict[occupied] <= 0
        robust = begun & attacked & (images.candidates.success_query[occupied] < 0)
        return int(begun.sum()), int(robust.sum())

    def bytes_per_image(self, x: Tensor) -> int:
        """Return the memory of an image like `x`, (1, C, H, W), in the pool, in bytes."""
        images = self._new_images(x, torch.zeros(1, dtype=torch.int64, device=x.device), ["any"])
        return sum(column[0].numel() * column.element_size() for column in columns_of(images).values())

    def _begin_inspection(self) -> Inspection | None:
        """Have the query policy, if there is one, forget all queries, and return its inspection of those to come.

        A white-box attack has the victim, and is not inspected.
        """
        policy = self.config.policy
        if policy is None or self.attack.access == "gradient":
            return None
        policy.begin(self.config.seed)
        return Inspection(policy, self.attack, self._pool, self.ledger)

    def _refill(self) -> None:
        # At most one batch at a time, because `init` may need memory of that size.
        while count := min(self._pool.free, len(self._queue), self.oracle.batch_size):
            x, y, ids = zip(*(self._queue.popleft() for _ in range(count)), strict=True)
            self._pool.admit(list(ids), self._new_images(torch.stack(x), torch.stack(y), ids))
            self._waiting = None

    def _look(self) -> tuple[Rows, Rows, Rows]:
        """Return phase, wanted evaluations and queries so far of each image in the pool.

        They are read from the device only after they changed; those of the queries are current in lockstep alone.
        """
        if self._waiting is None:
            images, occupied = self._pool.images, self._pool.occupied
            columns = images.points.phase, images.evaluations.wanted, images.counts.evaluated
            phase, wanted, evaluated = torch.stack([column[occupied] for column in columns]).cpu().numpy()
            self._waiting = phase, wanted, evaluated
        return self._waiting

    def _new_images(self, x: Tensor, y: Tensor, ids: Sequence[str]) -> ImageState:
        """Return the state of new images, which wait for their clean evaluations."""
        config = self.config
        keys = [rng.image_seed(config.seed, image_id) for image_id in ids]
        seed = torch.tensor(keys, dtype=torch.int64, device=x.device)
        own = self.attack.init(x, y, seed)
        shared = {"x": x, "y": y, "seed": seed, "budget": torch.full_like(y, config.budget)}
        shared |= draw_targets(self.attack, y, seed, config.classes, config.starting_points)
        taken = own.keys() & shared.keys()
        if taken:
            raise ValueError(f"{type(self.attack).__name__} may not name a column {', '.join(sorted(taken))}")
        zero, none = torch.zeros_like(y), torch.full_like(y, -1)
        wanted = self._criterion_step.final_test.first
        known, logits = torch.zeros_like(y, dtype=torch.bool), torch.zeros(len(y), config.classes, device=x.device)
        return ImageState(
            shared=shared,
            attack=own,
            criterion=self.criterion.open(y),
            counts=QueryCounts(zero, zero, zero, zero, zero, zero + 1),
            points=PointState(torch.full_like(y, Phase.CLEAN), x, zero, zero, known, logits),
            evaluations=EvaluationState.open(y, config.classes, wanted),
            candidates=CandidateState(zero, zero, zero, none, none),
            clean=CleanState(zero, zero, zero.double(), none, zero),
            interim=InterimState.open(x, len(self._criterion_step.interim_queries)),
            detection=DetectionState(zero, none, torch.zeros_like(y, dtype=torch.bool)),
        )

    def _query(self, rows: slice | Tensor) -> None:
        queries, failed = self._query_step.run(rows)
        if (queries is not None and self._criterion_step.consider(queries)) or self._scheduler.lockstep:
            self._waiting = None
        if self._inspection is not None:  # images whose query was refused
            self._waiting = None
            self._criterion_step.proceed(indices(self.pool_size, self._pool.images.points.phase.device)[rows])
        self._remove(failed, list(self._pool.ids))

    def _evaluate(self) -> None:
        self._waiting = None
        finished, failed = self._criterion_step.evaluate()
        ids = list(self._pool.ids)
        for row in finished:
            image_id, images = self._pool.ids[row], self._pool.images
            billed = int(self._counting.billed(torch.tensor([row], device=images.points.phase.device)))
            self.observer.on_point(image_id, images.shared["x"][row], images.points.point[row])
            self.observer.on_record(describe(image_id, images, row, billed, self._criterion_step.final_test))
            self._pool.release(row)
        self._remove(failed, ids)

    def _remove(self, failed: dict[int, str], ids: list[str]) -> None:
        """Remove images on which the victim failed; `ids` are those of the rows before other images left the pool."""
        for row, reason in failed.items():
            self._waiting = None
            self._pool.release(self._pool.ids.index(ids[row]))
            self.observer.on_failure(ids[row], reason)
