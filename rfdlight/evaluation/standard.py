"""`standard`: the standard evaluation, several attacks in turn and one robust accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from rfdlight import _io
from rfdlight._io import plain_text
from rfdlight.attacks.base import Attack
from rfdlight.attacks.random_noise import RandomNoise
from rfdlight.core.norms import Norm
from rfdlight.core.registry import component, short_name
from rfdlight.core.threat import ThreatModel
from rfdlight.data.base import ImageData
from rfdlight.defenses.base import Defense
from rfdlight.engine.evaluations import ADVERSARIAL_LEVEL
from rfdlight.errors import UserError, expect
from rfdlight.evaluation import fingerprint
from rfdlight.evaluation.config import BatchSize, Compile, EvaluationConfig, Passes, settle_eps
from rfdlight.evaluation.evaluate import Data, Prepared, prepared
from rfdlight.evaluation.processes import Processes
from rfdlight.evaluation.run import Run, load_run
from rfdlight.records.runs import FILES
from rfdlight.records.standard import (
    FILE,
    RANDOM,
    STAGES,
    VERSION,
    Access,
    Begun,
    Settings,
    Standard,
    StandardSummary,
    are_finished,
    loaded_stages,
    settings_in,
    stage_folder,
    stage_seed,
    to_attack,
)
from rfdlight.reporting.standard_table import standard_table
from rfdlight.victims.resolve import LoadedVictim


class StandardAttack(RandomNoise):
    """The options of the standard evaluation, in the place of an attack; see docs/explanation/standard-evaluation.md.

    It is never run itself: its stages are.

    Args:
        eps: Radius of the ball in pixel units, > 0; by default, in linf, the data set's reference radius.
        norm: Norm of the ball.
        access: What the attacker sees: scores, decisions, or both for all attacks.
    """

    def __init__(self, eps: float | None = None, norm: Norm = "linf", access: Access = "both") -> None:
        super().__init__(eps=eps, norm=norm)
        self.stages_access: Access = access

    @property
    def threat(self) -> ThreatModel:
        """A UserError: an evaluation of one attack would need it."""
        raise UserError(f"attack: expected one attack, got {VERSION}, which has several; call rfdlight.standard")

    @property
    def stages(self) -> tuple[str, ...]:
        """The attacks of the stages."""
        return STAGES[self.norm][self.stages_access]

    @property
    def short_stages(self) -> tuple[str, ...]:
        """The attacks of the short form, which finds most of what all find."""
        return self.stages[:2]


@dataclass(frozen=True, kw_only=True)
class StageConfig(EvaluationConfig):
    """Settings of one stage, which shares the error probability with the others."""

    stages: int
    left: int  # stages from this one on

    @property
    def level(self) -> float:
        return ADVERSARIAL_LEVEL / self.stages

    @property
    def attacks_misclassified(self) -> bool:
        return self.left < self.stages

    def most_queries(self, images: int) -> int:
        return self.left * images * self.budget


class _File(Begun, frozen=True, omit_defaults=True):
    """The content of `FILE`."""

    summary: StandardSummary | None = None


@dataclass(frozen=True)
class StandardRun(Standard):
    """Result of a standard evaluation; `print(run)` shows its table, `clean, robust = run` gives the two accuracies."""

    stages: tuple[Run, ...]

    @property
    def adversarial(self) -> Tensor:
        """Final points of the stage that decided on each image, (N, C, H, W) in [0, 1], in order of `ids`.

        These are the points that `rfdlight reevaluate` evaluates; see `deciding`.

        Raises:
            UserError: If a final point was not kept.
        """
        points = self.decided([stage.points for stage in self.stages])
        missing = [name for name in self.ids if name not in points]
        if missing or not self.ids:
            raise UserError(f"adversarial: expected the final points of {len(self.ids)} images, {len(missing)} missing")
        return torch.stack([points[name] for name in self.ids])

    def __repr__(self) -> str:
        return f"<StandardRun {VERSION}: {len(self.ids)} images, robust accuracy {self.robust_accuracy.value:.1%}>"

    def __str__(self) -> str:
        return plain_text(standard_table(self.settings, self.summary), width=100)


def load_standard(folder: str | Path) -> StandardRun:
    """Read the folder of a finished standard evaluation, which holds `standard.json`.

    Raises:
        UserError: If the folder holds none, one that is not finished, or stages of another evaluation.
    """
    return StandardRun.load(folder, load_run)


def standard(
    model: nn.Module | str | LoadedVictim,
    data: Data,
    *,
    eps: float | None = None,
    norm: Norm | None = None,
    budget: int = 1000,
    access: Access = "both",
    defense: Defense | Sequence[Defense] = (),
    batch_size: BatchSize = "auto",
    compile: Compile = "auto",
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
        batch_size: Rows per forward pass; "auto" chooses once for all stages, see `rfdlight.evaluate`.
        compile: Compile the model for all stages: True, False, or "auto", if the queries to come are worth it.
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
    expect(ball in list(STAGES), "norm", "linf or l2", repr(ball))
    expect(access in list(STAGES[ball]), "access", "score, decision or both", repr(access))
    expect(isinstance(seed, int), "seed", "a whole number", repr(seed))
    expect(not resume or out is not None, "resume", "a folder in `out`", out, "give the evaluation to continue")
    config = EvaluationConfig(budget=budget, batch_size=batch_size, compile=compile, keep_images=keep_images, seed=seed)
    run = run_standard(
        model,
        data,
        StandardAttack(eps, ball, access),
        config,
        Processes(),
        defense=defense,
        device=device,
        folder=None if out is None else Path(out),
        resume=resume,
        progress=progress,
    )
    assert run is not None, "one process leads itself, and no signal stops it"
    return run


def run_standard(
    model: nn.Module | str | LoadedVictim,
    data: Data,
    attack: StandardAttack,
    config: EvaluationConfig,
    processes: Processes,
    *,
    defense: Defense | Sequence[Defense] = (),
    device: torch.device | str | None = None,
    folder: Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> StandardRun | None:
    """Run or resume a standard evaluation in this process, one of `processes`; see `standard` for the arguments.

    Several processes need a folder. `on_ready` is called in process 0 when the victim was probed and the folder is
    locked, before anything is written into it.

    Returns:
        The finished evaluation in process 0; None in the others, and if the processes were stopped.
    """
    names = attack.stages
    configs = _configs(names, config)
    attacks: list[Attack] = [component("attack", name)(eps=attack.eps, norm=attack.norm) for name in names]
    with prepared(model, data, defense, device, config.given_rows) as subject:
        attacks = [settle_eps(attack, subject.data) for attack in attacks]
        settings = _settings(subject, attacks[0], configs[0], names, attack.stages_access)
        if folder is not None and processes.leads:
            _check_place(folder, settings, resume)
        found = _Stages(subject, attacks, configs, settings, processes, folder, resume, progress, on_ready).evaluate()
    if folder is not None and found is not None:
        _write(folder, settings, found.summary)
    return found


def short_standard(
    model: nn.Module, data: ImageData, attack: StandardAttack, *, budget: int, device: torch.device, seed: int
) -> StandardRun:
    """Evaluate a model, with the defenses attached to it, under the short form of the standard evaluation, in memory.

    Its stages share one error level, as all stages of the standard evaluation do. `budget` is that of each stage.
    """
    names = attack.short_stages
    configs = _configs(names, EvaluationConfig(budget=budget, sanity_checks=False, seed=seed))
    with prepared(model, data, (), device, None) as subject:
        made: Attack = settle_eps(attack, subject.data)
        attacks = [component("attack", name)(eps=made.eps, norm=made.norm) for name in names]
        settings = _settings(subject, attacks[0], configs[0], names, attack.stages_access)
        settings = msgspec.structs.replace(settings, version=f"{VERSION}, short form")
        run = _Stages(subject, attacks, configs, settings, Processes(), progress=False).evaluate()
    assert run is not None, "one process leads itself, and no signal stops it"
    return run


def _configs(names: Sequence[str], config: EvaluationConfig) -> list[StageConfig]:
    """Return the settings of each stage; the sanity checks follow the first."""
    shared = asdict(config)
    return [
        StageConfig(
            **shared
            | {"sanity_checks": config.sanity_checks and number == 0, "seed": stage_seed(config.seed, number + 1)},
            stages=len(names),
            left=len(names) - number,
        )
        for number in range(len(names))
    ]


@dataclass(frozen=True)
class _Stages:
    """Runs the stages in turn, each on the images that no earlier one found adversarial.

    Process 0 concludes each stage, and publishes which images the next one attacks; it alone gets the runs.
    """

    subject: Prepared
    attacks: Sequence[Attack]
    configs: Sequence[StageConfig]
    settings: Settings
    processes: Processes
    folder: Path | None = None
    resume: bool = False
    progress: bool | None = None
    on_ready: Callable[[], None] = lambda: None

    def evaluate(self) -> StandardRun | None:
        """Run all stages, and again from the first if a later one finds the victim random; None as `run_standard`."""
        folder, leads = self.folder, self.processes.leads
        void: list[Run] = []
        if folder is not None and leads and self.resume and (folder / RANDOM).exists():
            void = loaded_stages(folder, self.settings, load_run)
        again = self.processes.agreed("again", lambda: bool(void))
        runs = [] if again else self.run(folder)
        if again or self.processes.agreed("void", lambda: _is_void(runs)):
            void = void or runs
            runs = self.run(folder and folder / RANDOM, deterministic=False)
        self.processes.next_run()
        self.processes.leave()  # process 0 keeps the store until the others have read all of it
        if not (leads and are_finished(runs, self.settings)):
            return None
        return StandardRun(self.settings, tuple(runs), tuple(void), folder, self.subject.order)

    def run(self, folder: Path | None, deterministic: bool | None = None) -> list[Run]:
        """Return the runs of the stages, below a folder if any; stop when verdicts of earlier ones turn out void.

        A finished stage is read: its failed images are not tried again, since the next stage did not attack them.
        """
        runs: list[Run] = []
        ids: list[str] | None = None
        for number, (attack, config) in enumerate(zip(self.attacks, self.configs, strict=True), 1):
            self.processes.next_run()
            place = folder and stage_folder(folder, number, short_name("attack", type(attack)))
            reads = self.resume and self.processes.leads and place is not None
            run = self.subject.finished(attack, config, place, ids) if place and reads else None
            if not self.processes.agreed("finished", partial(bool, run)):
                run = self.subject.attack(
                    attack,
                    config,
                    ids=ids,
                    out=place,
                    resume=self.resume and place is not None and (place / fingerprint.FILE).exists(),
                    progress=self.progress,
                    deterministic=deterministic,
                    processes=self.processes,
                    on_ready=self.begin,
                )
            if run is not None:
                runs.append(run)
            ids, deterministic = self.processes.agreed("next", lambda: self.next_stage(runs))
            if not ids:
                break
        return runs

    def next_stage(self, runs: Sequence[Run]) -> tuple[list[str], bool | None]:
        """Return the ids that the next stage attacks, none to end, and whether it knows the victim to be random."""
        last = runs[-1]
        goes_on = last.facts.complete and not (_is_void(runs) or self.processes.stopping)
        return to_attack(last.records) if goes_on else [], None if last.facts.deterministic else False

    def begin(self) -> None:
        """Write the settings before the first stage counts as begun; a folder with them is that of an evaluation."""
        if self.folder is not None and not (self.folder / FILE).exists():
            self.on_ready()
            _write(self.folder, self.settings)


def _is_void(runs: Sequence[Run]) -> bool:
    """Return whether the last stage found a victim random that earlier stages took for deterministic."""
    return not runs[-1].facts.deterministic and any(run.facts.deterministic for run in runs)


def _settings(subject: Prepared, attack: Attack, config: StageConfig, names: Sequence[str], access: Access) -> Settings:
    described = subject.subject(attack).settings(config, Passes())
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


def _check_place(folder: Path, settings: Settings, resume: bool) -> None:
    """Refuse a folder that holds a run, whose stages reports would mix up, or to resume one of other settings."""
    if not resume:
        if (folder / FILE).exists():
            raise UserError(f"{folder} already holds a standard evaluation; give another folder, or resume it")
        held = next((path for name in (fingerprint.FILE, *FILES[1:]) for path in folder.rglob(name)), None)
        if held is not None:
            raise UserError(f"{folder} already holds another run, {held}; give another folder")
        return
    try:
        before = settings_in(folder)
    except UserError as error:
        raise fingerprint.cannot_go_on(folder, str(error)) from error
    different = [name for name in Settings.__struct_fields__ if getattr(before, name) != getattr(settings, name)]
    if different:
        changes = "; ".join(f"{name} is {getattr(settings, name)}, was {getattr(before, name)}" for name in different)
        raise fingerprint.mixed(folder, changes)


def _write(folder: Path, settings: Settings, summary: StandardSummary | None = None) -> None:
    content = msgspec.json.encode(_File(settings=settings, summary=summary))
    _io.write_file(folder / FILE, msgspec.json.format(content, indent=2) + b"\n")
