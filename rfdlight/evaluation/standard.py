"""`standard`: the standard evaluation, several attacks in turn and one robust accuracy."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from rfdlight import _io
from rfdlight._io import plain_console
from rfdlight.attacks.base import Attack
from rfdlight.core.norms import Norm
from rfdlight.core.registry import component, short_name
from rfdlight.defenses.base import Defense
from rfdlight.engine.evaluations import ADVERSARIAL_LEVEL
from rfdlight.errors import ResumeError, UserError, expect
from rfdlight.evaluation import fingerprint
from rfdlight.evaluation.config import EvaluationConfig, settle_eps
from rfdlight.evaluation.evaluate import Data, Prepared, prepared
from rfdlight.evaluation.run import Run, load_run
from rfdlight.records.facts import Rows
from rfdlight.records.schema import decode
from rfdlight.records.standard import (
    Access,
    Settings,
    StandardImage,
    StandardSummary,
    combine,
    summarize_standard,
    to_attack,
)
from rfdlight.records.summary import Estimate
from rfdlight.reporting.standard_table import standard_table
from rfdlight.victims.resolve import LoadedVictim

VERSION = "standard-1"

_SCORE = ("bernoulli", "random_noise", "nes", "square", "signhunt")
STAGES: dict[Norm, dict[Access, tuple[str, ...]]] = {
    "linf": {
        "score": _SCORE,
        "decision": ("bernoulli_decision", "random_noise", "rays"),
        "both": (*_SCORE, "bernoulli_decision", "rays"),
    },
    "l2": {
        "score": _SCORE,
        "decision": ("bernoulli_decision", "random_noise", "hsja"),
        "both": (*_SCORE, "bernoulli_decision", "hsja"),
    },
}
"""The attacks of `VERSION`, each with its default options, by norm and access; a change is a new version."""

FILE = "standard.json"
"""In the folder of a standard evaluation: its settings, and once all stages are done its numbers."""

_RANDOM = "random"
"""Folder of the stages that are run anew, when the victim turns out to be random after the first stage."""

_SEED_STEP = 1000

_DESCRIBED = ("norm", "eps", "budget", "seed", "victim", "defense", "data", "num_images")
"""Settings of the first stage that are those of the evaluation."""


@dataclass(frozen=True, kw_only=True)
class StageConfig(EvaluationConfig):
    """Settings of one stage, which shares the error probability with the others."""

    stages: int
    first: bool

    @property
    def level(self) -> float:
        return ADVERSARIAL_LEVEL / self.stages

    @property
    def attacks_misclassified(self) -> bool:
        return not self.first


class _Begun(msgspec.Struct, frozen=True):
    """The part of `FILE` that is read: the numbers are computed again."""

    settings: Settings


class _File(_Begun, frozen=True, omit_defaults=True):
    """The content of `FILE`."""

    summary: StandardSummary | None = None


@dataclass(frozen=True)
class StandardRun:
    """Result of a standard evaluation; `print(run)` shows its table, `clean, robust = run` gives the two accuracies."""

    settings: Settings
    stages: tuple[Run, ...]
    void: tuple[Run, ...] = ()  # of a victim that turned out to be random later
    folder: Path | None = None
    order: tuple[str, ...] = field(default=(), repr=False)

    @cached_property
    def images(self) -> tuple[StandardImage, ...]:
        """The result on each image, in the order of the given data."""
        found = {image.id: image for image in combine([stage.by_id for stage in self.stages])}
        return tuple(found[name] for name in self.order or found if name in found)

    @cached_property
    def summary(self) -> StandardSummary:
        """Every number, computed from the records of the stages."""
        settings = self.settings
        return summarize_standard(self.images, self.stages, settings.budget, len(settings.stages), self.void)

    @property
    def clean_accuracy(self) -> Estimate:
        """Accuracy of the mean logits on the clean images."""
        return self.summary.clean

    @property
    def robust_accuracy(self) -> Estimate:
        """Share of images on which every stage fails, undecided ones by the sign of their mean margin."""
        return self.summary.robust

    @property
    def ids(self) -> tuple[str, ...]:
        """Image ids in the order of `images` and `adversarial`."""
        return tuple(image.id for image in self.images)

    @property
    def rows(self) -> Rows:
        """Rows of the victim's forward passes over all stages, by purpose."""
        return sum((run.facts.totals for run in (*self.void, *self.stages)), Rows())

    @property
    def adversarial(self) -> Tensor:
        """Final points of the last stage that attacked each image, (N, C, H, W) in [0, 1], in order of `ids`.

        Raises:
            UserError: If a final point was not kept.
        """
        points: dict[str, Tensor] = {}
        for stage in self.stages:
            points |= stage.points
        missing = [name for name in self.ids if name not in points]
        if missing or not self.ids:
            raise UserError(f"adversarial: expected the final points of {len(self.ids)} images, {len(missing)} missing")
        return torch.stack([points[name] for name in self.ids])

    def __iter__(self) -> Iterator[Estimate]:
        return iter((self.clean_accuracy, self.robust_accuracy))

    def __str__(self) -> str:
        console = plain_console(file=io.StringIO())
        console.width = 100
        with console.capture() as captured:
            console.print(standard_table(self.settings, self.summary))
        return "\n".join(line.rstrip() for line in captured.get().splitlines()).rstrip()


def standard(
    model: nn.Module | str | LoadedVictim,
    data: Data,
    *,
    eps: float | None = None,
    norm: Norm | None = None,
    budget: int = 1000,
    access: Access = "both",
    defense: Defense | Sequence[Defense] = (),
    batch_size: int | None = None,
    keep_images: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> StandardRun:
    """Evaluate the robust accuracy of an image classifier under the attacks of `standard-1` in turn.

    Args:
        model: See `rfdlight.evaluate` for this, the data and the defense.
        data: Images and labels.
        eps: Radius of the ball in pixel units, > 0. There is no default except for shipped data sets.
        norm: "linf", the default, or "l2".
        budget: Billed queries per image and stage, >= 0.
        access: What the attacker sees: "score", "decision", or "both" for all attacks.
        defense: Defenses that are attached for the call.
        batch_size: Rows per forward pass; by default chosen from the number of images.
        keep_images: Images per stage whose clean and final pixels are stored in `out`, >= 0; by default all.
        seed: Seed of the first stage; stage k has seed + 1000 (k - 1).
        device: Device of the evaluation; by default the device of the model.
        out: Folder of the stages' run directories and of `standard.json`; by default no file is written.
        resume: Continue the evaluation that `out` holds, which must have the same settings.
        progress: Show a progress line for each stage.

    Returns:
        The finished `StandardRun`.

    Raises:
        UserError: If an argument cannot be used; the message names it.
    """
    ball: Norm = "linf" if norm is None else norm
    expect(ball in STAGES, "norm", "linf or l2", repr(ball))
    expect(access in STAGES[ball], "access", "score, decision or both", repr(access))
    expect(not resume or out is not None, "resume", "a folder in `out`", out, "give the evaluation to continue")
    names = STAGES[ball][access]
    configs = [
        StageConfig(
            budget=budget,
            batch_size=batch_size,
            keep_images=keep_images,
            sanity_checks=number == 0,
            seed=seed + _SEED_STEP * number,
            stages=len(names),
            first=number == 0,
        )
        for number in range(len(names))
    ]
    attacks: list[Attack] = [component("attack", name)(eps=eps, norm=ball) for name in names]
    folder = None if out is None else Path(out)
    with prepared(model, data, defense, device, batch_size) as subject:
        attacks = [settle_eps(attack, subject.data) for attack in attacks]
        settings = _settings(subject, attacks[0], configs[0], names, access)
        if folder is not None:
            _take(folder, settings, resume)
        stages = _Stages(subject, attacks, configs, resume, progress)
        void = _void_stages(folder) if folder is not None and resume else []
        runs = [] if void else stages.run(folder)
        if void or _is_void(runs):
            void, checked = void or runs, not void
            runs = stages.run(folder and folder / _RANDOM, deterministic=False, first=not checked)
    found = StandardRun(settings, tuple(runs), tuple(void), folder, subject.order)
    if folder is not None:
        _write(folder, settings, found.summary)
    return found


@dataclass(frozen=True)
class _Stages:
    """Runs the stages in turn, each on the images that no earlier one found adversarial."""

    subject: Prepared
    attacks: Sequence[Attack]
    configs: Sequence[StageConfig]
    resume: bool
    progress: bool | None

    def run(self, folder: Path | None, deterministic: bool | None = None, first: bool = True) -> list[Run]:
        """Return the runs of the stages, below a folder if any; stop when verdicts of earlier ones turn out void.

        `first` is whether the rows that checked the victim count here.
        """
        runs: list[Run] = []
        ids: list[str] | None = None
        for number, (attack, config) in enumerate(zip(self.attacks, self.configs, strict=True), 1):
            place = folder and folder / f"{number}-{short_name('attack', type(attack))}"
            run = self.subject.attack(
                attack,
                config,
                ids=ids,
                out=place,
                resume=self.resume and place is not None and (place / fingerprint.FILE).exists(),
                progress=self.progress,
                deterministic=deterministic,
                first=first and not runs,
            )
            runs.append(run)
            ids = to_attack(run.records)
            if not ids or _is_void(runs):
                break
            if not run.facts.deterministic:
                deterministic = False
        return runs


def _is_void(runs: Sequence[Run]) -> bool:
    """Return whether the last stage found a victim random that earlier stages took for deterministic."""
    return not runs[-1].facts.deterministic and any(run.facts.deterministic for run in runs)


def _void_stages(folder: Path) -> list[Run]:
    """Return the void stages of an evaluation that was begun anew, none of any other."""
    if not (folder / _RANDOM).exists():
        return []
    numbered = {int(path.parent.name.partition("-")[0]): path.parent for path in folder.glob("*-*/summary.json")}
    return [load_run(numbered[number]) for number in sorted(numbered)]


def _settings(subject: Prepared, attack: Attack, config: StageConfig, names: Sequence[str], access: Access) -> Settings:
    described = subject.subject(attack).settings(config, 0)
    return Settings(
        version=VERSION,
        access=access,
        stages=list(names),
        level=config.level,
        **{
            name: described[name]
            for name in ("norm", "eps", "budget", "seed", "victim", "defense", "data", "num_images")
        },
    )


def _take(folder: Path, settings: Settings, resume: bool) -> None:
    """Begin an evaluation in a folder, or check that the one there has the same settings."""
    path = folder / FILE
    if not resume:
        if path.exists():
            raise UserError(f"{folder} already holds a standard evaluation; give another folder, or resume it")
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, settings)
        return
    if not path.exists():
        raise ResumeError(f"cannot resume {folder}: it has no {FILE}, so no standard evaluation was begun there")
    try:
        before = decode(_io.read_bytes(path), _Begun).settings
    except ValueError as error:
        raise ResumeError(f"cannot resume {folder}: {FILE}: {error}") from error
    different = [name for name in Settings.__struct_fields__ if getattr(before, name) != getattr(settings, name)]
    if different:
        changes = "; ".join(f"{name} is {getattr(settings, name)}, was {getattr(before, name)}" for name in different)
        raise ResumeError(f"cannot resume {folder}: two evaluations would be mixed: {changes}")


def _write(folder: Path, settings: Settings, summary: StandardSummary | None = None) -> None:
    content = msgspec.json.encode(_File(settings=settings, summary=summary))
    _io.write_file(folder / FILE, msgspec.json.format(content, indent=2) + b"\n")
