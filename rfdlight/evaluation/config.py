"""What is evaluated, and how: victim, defenses, data, attack and settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import ModuleType
from typing import Any, Literal, get_args

from torch import nn

from rfdlight.attacks.base import Attack
from rfdlight.attacks.surrogate import SurrogateAttack
from rfdlight.core.balls import check_eps
from rfdlight.core.registry import short_name
from rfdlight.data.base import ImageData
from rfdlight.defenses.base import Defense
from rfdlight.defenses.policy import QueryPolicy
from rfdlight.engine.compilation import CompiledVictim
from rfdlight.engine.config import LARGEST
from rfdlight.engine.evaluations import ADVERSARIAL_LEVEL
from rfdlight.engine.oracle import Precision
from rfdlight.engine.query_counting import QueryCounting
from rfdlight.errors import UserError, expect
from rfdlight.records.records import interim_queries
from rfdlight.victims.arrays import Wrapped, outside_torch
from rfdlight.victims.card import VictimCard

Compile = bool | Literal["auto"]
"""Whether the victim is compiled."""

BatchSize = int | Literal["auto"]
"""Rows per forward pass."""

ChannelsLast = bool | Literal["auto"]
"""Whether the victim runs in channels-last memory."""

_OPTIONAL = ("pool_size", "keep_images")
"""Numbers that may be None."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Settings of an evaluation.

    Attributes:
        budget: Billed queries per image, >= 0.
        criterion: Success criterion: "sequential" (Definition 1 of the paper with a bounded error), "paper", "single",
            "never", a name that another package registers, or an import path.
        query_counting: "exact" bills every evaluation that the attacker uses and never exceeds the budget; "paper"
            bills, wastes and exceeds as the paper's code does, and lets queries leave [0, 1] where that code does.
        eot: Evaluations averaged in each query (expectation over transformation), >= 1: mean logits for score-based
            attacks, the most frequent label for decision-based ones; all are billed.
        final_evaluations: Most fresh evaluations of a final point, >= 40; behind a random defense they go on until the
            verdict is certain, which takes 20 to 60 for most images. A clean image gets at most 400.
        batch_size: Rows per forward pass, 1 to 65,536, halved when memory runs out. "auto" times a few sizes where many
            queries are to come, within `memory`, and takes 64 elsewhere; at most half of the images of each process.
        pool_size: Images under attack at a time, >= 1; by default twice the batch size. With a given number, or if the
            pool holds all images, one process attacks them in lockstep: fewer rows are padding at the end, but more
            images are attacked anew after a kill.
        memory: Upper bound on the memory of the pool in GB (10^9 bytes); it may reduce `pool_size`. The victim's
            forward passes need memory of their own.
        precision: Arithmetic of the attack's forward passes; the success criterion always uses float32. bfloat16 hides
            small changes of the scores from a score-based attack, which weakens it. A victim outside torch takes
            float32 alone, and no channels-last memory.
        channels_last: Run the victim in channels-last memory format, usually faster; "auto" does so unless the timing
            of the batch size finds contiguous memory faster.
        compile: Compile the victim's float32 forward passes with torch.compile, which takes a minute; "auto" does so if
            the queries to come are worth it. Where it fails, the victim runs eagerly. Gradients are always eager.
        keep_images: Images whose clean and final pixels are stored, >= 0; null stores all.
        sanity_checks: Run small attacks with a known outcome at the end, see `rfdlight.evaluation.sanity_checks`.
        seed: Seed of the attack's and of the victim's random numbers.

    Raises:
        UserError: If a number is out of range.
    """

    budget: int = 1000
    criterion: str = "sequential"
    query_counting: QueryCounting = "exact"
    eot: int = 1
    final_evaluations: int = 1500
    batch_size: BatchSize = "auto"
    pool_size: int | None = None
    memory: float = 4.0
    precision: Precision = "float32"
    channels_last: ChannelsLast = "auto"
    compile: Compile = "auto"
    keep_images: int | None = 16
    sanity_checks: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"budget": 0, "final_evaluations": 40, "batch_size": 1, "pool_size": 1, "eot": 1, "keep_images": 0}
        for name in (*least, "seed"):
            value = getattr(self, name)
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            left_open = (value is None and name in _OPTIONAL) or (value == "auto" and name == "batch_size")
            expect(whole or left_open, f"model.{name}", "a whole number", repr(value))
        words: dict[str, tuple[object, ...]] = dict.fromkeys(("channels_last", "compile"), ("auto", True, False))
        words |= {"precision": get_args(Precision), "query_counting": get_args(QueryCounting)}
        for name, known in words.items():
            value = getattr(self, name)
            expect(value in known, f"model.{name}", " or ".join(str(word).lower() for word in known), repr(value))
        expect(isinstance(self.memory, Real), "model.memory", "a number of GB", repr(self.memory))
        for name, bound in least.items():
            value = getattr(self, name)
            if value in (None, "auto"):
                continue
            if value < bound:
                raise UserError(f"model.{name} must be at least {bound}, got {value}")
            if value >= 2**53:  # the files of a run hold smaller numbers
                raise UserError(f"model.{name} must be less than 2^53, got {value}")
        rows = LARGEST if self.batch_size == "auto" else self.batch_size
        if rows > LARGEST:
            raise UserError(f"model.batch_size must be at most {LARGEST:,} rows, got {rows}")
        if self.eot > rows:
            raise UserError(f"model.eot must be at most model.batch_size, {rows}, got {self.eot}")
        if not 0 < self.memory <= 1e9:
            raise UserError(f"model.memory must be a positive number of GB, at most 1e9, got {self.memory}")

    @property
    def level(self) -> float:
        """Level of the verdict "adversarial", see `rfdlight.engine.criteria.SuccessCriterion`."""
        return ADVERSARIAL_LEVEL

    @property
    def attacks_misclassified(self) -> bool:
        """Whether the attack is made on all images, since an earlier run has decided which clean images are wrong."""
        return False

    @property
    def interim_queries(self) -> tuple[int, ...]:
        """Queries after which the point that the attack would submit is evaluated, see `EngineConfig`."""
        return interim_queries(self.budget)

    def most_queries(self, images: int) -> int:
        """Return the most queries that a compiled victim may answer, for a number of images."""
        return images * self.budget

    @property
    def given_rows(self) -> int | None:
        """Rows per forward pass that the settings give, None to choose them."""
        return None if self.batch_size == "auto" else self.batch_size

    def pool_size_for(self, rows: int) -> int:
        """Return the number of images under attack at a time for a number of rows per forward pass."""
        return 2 * rows if self.pool_size is None else self.pool_size


@dataclass(frozen=True)
class Passes:
    """Rows and memory format of the forward passes of a run, and whether the victim is compiled."""

    rows: int = 0
    channels_last: bool = True
    compiled: bool = False

    @classmethod
    def recorded(cls, config: EvaluationConfig, begun: dict[str, Any]) -> Passes:
        """Return the passes of the settings, and where these leave them open, of a fingerprint, unchecked."""
        kept = begun.get("channels_last", True) if config.channels_last == "auto" else config.channels_last
        return cls(config.given_rows or begun.get("batch_size", 0), kept, begun.get("compiled", False))


@dataclass(frozen=True)
class Subject:
    """The victim with its defenses attached and in eval mode, the data, and the attack with its radius."""

    victim: nn.Module
    text: str  # the victim in one line
    data: ImageData
    attack: Attack
    defenses: Sequence[Defense] = ()
    defended: nn.Module | None = None  # the module on which the defenses are attached; by default `victim`
    card: VictimCard | None = None
    maker: ModuleType | None = None  # the user's module that made the victim
    checked_rows: int = 0  # of the forward passes that checked the victim when it was loaded
    compiled: CompiledVictim | None = None  # which several evaluations may share; None runs eagerly
    passes: Passes | None = None  # that an earlier evaluation has chosen for itself and for those after it

    def __post_init__(self) -> None:
        outside = outside_torch(self.victim)
        if outside is not None and self.attack.access == "gradient":
            raise UserError(
                f"the attack {self.attack_name} needs gradients, which a victim outside torch does not have: "
                f"{outside.identity}; choose an attack by scores or labels"
            )

    @property
    def network(self) -> nn.Module:
        """The module on which the defenses are attached."""
        return self.victim if self.defended is None else self.defended

    @property
    def surrogate(self) -> nn.Module | None:
        """The loaded surrogate of the attack, None if it has none."""
        found = self.attack.surrogate if isinstance(self.attack, SurrogateAttack) else None
        return None if isinstance(found, str) else found

    @property
    def code(self) -> list[object]:
        """The objects whose source code decides the numbers of the evaluation, besides the victim."""
        schedules = [getattr(defense, "schedule", None) for defense in self.defenses]
        surrogate = () if self.surrogate is None else self.surrogate.modules()
        functions = [module.predict for module in self.victim.modules() if isinstance(module, Wrapped)]
        parts = (self.attack, *surrogate, self.data, *self.defenses, *schedules, self.maker, *functions)
        return [part for part in parts if part is not None]

    @property
    def policy(self) -> QueryPolicy | None:
        """The query policy among the defenses; a UserError if there are several."""
        policies = [defense for defense in self.defenses if isinstance(defense, QueryPolicy)]
        expect(len(policies) <= 1, "defense", "at most one query policy", len(policies), "leave out all but one")
        return policies[0] if policies else None

    def check(self, config: EvaluationConfig) -> None:
        """Raise a UserError for arithmetic and memory that a victim outside torch does not take from torch."""
        outside = outside_torch(self.victim)
        if outside is None:
            return
        where = f"for a victim outside torch, {outside.identity}"
        expect(config.precision == "float32", "model.precision", f"float32 {where}", config.precision, "leave it out")
        fits = config.channels_last is not True
        expect(fits, "model.channels_last", f"auto or false {where}", "true", "leave it out")

    def checked_policy(self, config: EvaluationConfig) -> QueryPolicy | None:
        """Return the query policy, or raise a UserError if it does not go with the settings."""
        policy = self.policy
        if policy is not None:
            why = "a query policy sees each evaluation of a query as a query"
            expect(config.eot == 1, "model.eot", f"1, since {why}", config.eot)
            counting = config.query_counting
            expect(counting == "exact", "model.query_counting", "exact beside a query policy", counting)
        return policy

    @property
    def attack_name(self) -> str:
        """The short name of the attack, or its import path."""
        return short_name("attack", type(self.attack))

    def settings(self, config: EvaluationConfig, passes: Passes) -> dict[str, Any]:
        """Return the settings that decide the numbers."""
        data, attack = self.data, self.attack
        return {
            "data": data.describe(),
            "num_images": data.num_images,
            "selection": data.selection,
            "victim": self.text,
            "defense": "; ".join(defense.description(self.network) for defense in self.defenses) or "none",
            "attack": self.attack_name,
            "options": attack.options(),
            "surrogate": attack.surrogate_text if isinstance(attack, SurrogateAttack) else None,
            "norm": attack.threat.norm,
            "eps": attack.threat.eps,
            "budget": config.budget,
            "criterion": config.criterion,
            "query_counting": config.query_counting,
            "eot": config.eot,
            "targeted": attack.targeted,
            "precision": config.precision,
            "compiled": passes.compiled,
            "channels_last": passes.channels_last,
            "batch_size": passes.rows,
            "seed": config.seed,
            "policy": None if self.policy is None else self.policy.action,
        }


def settle_eps(attack: Attack, data: ImageData) -> Attack:
    """Return the attack, in linf without a radius with the reference radius of the data; an l2 radius is checked."""
    if attack.eps is not None:
        if attack.norm == "l2":
            check_eps(attack.eps, attack.norm, "attack.eps", data.image_shape)
        return attack
    if data.reference_eps is None:
        raise UserError(f"attack.eps must be given: the data {data.name} has no reference radius")
    if attack.norm != "linf":
        raise UserError(
            f"attack.eps must be given for {attack.norm}: the data's reference radius, {data.reference_eps:g}, "
            "is one of linf"
        )
    check_eps(data.reference_eps, "linf", f"the reference_eps of the data {data.name}")
    return attack.configured(eps=data.reference_eps)
