"""`evaluate`: one call from a model, images and an attack to a robust accuracy."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from rfdlight import _io
from rfdlight.attacks.base import Attack
from rfdlight.core.norms import Norm
from rfdlight.core.registry import component
from rfdlight.core.row_counter import RowCounter
from rfdlight.data.base import ImageData
from rfdlight.data.conversion import unit_range
from rfdlight.data.given import GivenImages, images_from
from rfdlight.defenses.base import Defense, attached_defenses
from rfdlight.engine.compilation import CompiledVictim
from rfdlight.engine.criteria import criterion_named
from rfdlight.engine.oracle import Precision
from rfdlight.engine.query_counting import QueryCounting
from rfdlight.errors import UserError, expect, kind_of
from rfdlight.evaluation import fingerprint
from rfdlight.evaluation.conclusion import conclude
from rfdlight.evaluation.config import BatchSize, ChannelsLast, Compile, EvaluationConfig, Passes, Subject, settle_eps
from rfdlight.evaluation.evaluation import Evaluation, fingerprint_of
from rfdlight.evaluation.interface import SILENT, log_interface
from rfdlight.evaluation.processes import Processes
from rfdlight.evaluation.run import Run, load_run
from rfdlight.evaluation.run_writer import RunWriter
from rfdlight.evaluation.surrogate import settle_surrogate
from rfdlight.victims.answers import Answering, answer_in_logits, count_classes, device_of
from rfdlight.victims.digest import weights_text
from rfdlight.victims.resolve import LoadedVictim, load, resolve_victim

Data = ImageData | tuple[Tensor, Tensor] | Iterable[Any]
"""Attacked images: a data module, tensors `(x, y)`, or an iterable of `(x, y)` or `(x, y, ids)`, such as a loader."""


def evaluate(
    model: nn.Module | str,
    data: Data,
    attack: Attack | str = "square",
    *,
    eps: float | None = None,
    norm: Norm | None = None,
    targeted: bool = False,
    budget: int = 1000,
    defense: Defense | Sequence[Defense] = (),
    criterion: str = "sequential",
    query_counting: QueryCounting = "exact",
    eot: int = 1,
    final_evaluations: int = 1500,
    batch_size: BatchSize = "auto",
    pool_size: int | None = None,
    memory: float = 4.0,
    precision: Precision = "float32",
    channels_last: ChannelsLast = "auto",
    compile: Compile = "auto",
    sanity_checks: bool = True,
    seed: int = 0,
    device: torch.device | str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Run:
    """Evaluate the robust accuracy of an image classifier against a query-based black-box attack.

    The model is put into eval mode for the call and left exactly as it was. Messages go to the logger `rfdlight`.

    Args:
        model: Any module from pixels (N, C, H, W) in [0, 1] to logits (N, classes), with its normalisation inside (see
            `rfdlight.Victim`), or a name for `rfdlight.load_victim`. Answers that hold logits (`.logits`, a tuple, a
            dict) are unwrapped. Defenses that are attached to it stay in force.
        data: Images in [0, 1], float32 (N, C, H, W) or uint8, and labels, int64 (N,).
        attack: A short name (see `rfdlight.list_attacks`) or an attack object, which has eps and norm of its own, such
            as `Transfer(surrogate=network, eps=0.05)`.
        eps: Radius of the ball in pixel units, > 0. There is no default except for shipped data sets.
        norm: Norm of the ball, "linf" or "l2"; by default linf if the attack supports it.
        targeted: Whether the attack must reach a target class, drawn once per image.
        budget: Billed queries per image, >= 0.
        defense: Defenses that are attached for the call.
        criterion: Success criterion; see `EvaluationConfig` for this and all following settings.
        query_counting: "exact" or "paper".
        eot: Evaluations averaged in each query.
        final_evaluations: Most fresh evaluations of a final point; of a clean image, at most 400.
        batch_size: Rows per forward pass; "auto" chooses from the number of images, and by timing in long runs.
        pool_size: Images under attack at a time.
        memory: Upper bound on the memory of the pool in GB.
        precision: Arithmetic of the attack's forward passes; a victim outside torch takes "float32" alone.
        channels_last: Run the model in channels-last memory format: True, False, or "auto", if it is not slower.
        compile: Compile the model: True, False, or "auto", which does so if the queries to come are worth a minute.
        sanity_checks: Run small attacks with a known outcome at the end.
        seed: Seed of the attack's and of the model's random numbers.
        device: Device of the evaluation; by default the device of the model.
        out: Folder for records, summary and pictures; by default no file is written.
        resume: Continue the evaluation that `out` holds, which must have the same settings.
        progress: Show a progress line; by default on a terminal and in a notebook alone.

    Returns:
        The finished `Run` with robust accuracy, records per image and adversarial images.

    Raises:
        UserError: If an argument cannot be used; the message names it.

    Example:
        >>> import torch, rfdlight as rfd
        >>> x, y = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(8, dtype=torch.int64)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
        >>> run = rfd.evaluate(model, (x, y), attack="square", eps=8 / 255, budget=20)
        >>> run.adversarial.shape
        torch.Size([8, 1, 4, 4])
    """
    config = EvaluationConfig(
        budget=budget,
        criterion=criterion,
        query_counting=query_counting,
        eot=eot,
        final_evaluations=final_evaluations,
        batch_size=batch_size,
        pool_size=pool_size,
        memory=memory,
        precision=precision,
        channels_last=channels_last,
        compile=compile,
        keep_images=None,
        sanity_checks=sanity_checks,
        seed=seed,
    )
    if resume and out is None:
        raise UserError("resume: expected a folder in `out`, got None; give the folder of the evaluation to continue")
    chosen = _attack(attack, eps, norm, targeted)
    criterion_named(criterion).check(chosen)
    with prepared(model, data, defense, device, config.given_rows) as subject:
        run = subject.attack(chosen, config, out=out, resume=resume, progress=progress)
    assert run is not None, "one process leads itself"
    return run


@dataclass
class Prepared:
    """A victim in eval mode with its defenses attached, and the attacked images, on which several attacks can run."""

    loaded: LoadedVictim
    victim: Answering
    data: ImageData
    defenses: list[Defense]
    device: torch.device
    order: tuple[str, ...]  # image ids in the order of the given data
    home: torch.device  # of the given images
    checked_rows: int  # that checked the victim and count in no run yet
    compiled: CompiledVictim  # for all attacks
    passes: Passes | None = None  # that the first attack has chosen for all

    def subject(self, attack: Attack, ids: Collection[str] | None = None) -> Subject:
        """Return what an attack evaluates; see `attack` for the arguments."""
        data = self.data if ids is None else self.data.only(ids)
        return Subject(
            self.victim,
            self.loaded.description,
            data,
            settle_surrogate(settle_eps(attack, data), data),
            self.defenses,
            defended=self.loaded.module,
            card=self.loaded.card,
            checked_rows=self.checked_rows,
            compiled=self.compiled,
            passes=self.passes,
        )

    def finished(
        self, attack: Attack, config: EvaluationConfig, folder: Path, ids: Collection[str] | None = None
    ) -> Run | None:
        """Read the complete run of an attack in a folder, None if there is none; its failed images stay failed.

        Raises:
            ResumeError: If the run has other settings, weights, images or code.
        """
        if not (folder / "summary.json").is_file():
            return None
        passes = Passes.recorded(config, fingerprint.read(folder))
        fingerprint.check_same(folder, fingerprint_of(self.subject(attack, ids), config, passes))
        self._keep(config, passes)
        run = load_run(folder)
        return replace(run, order=self._order(ids)).on(self.home) if run.facts.complete else None

    def _keep(self, config: EvaluationConfig, passes: Passes) -> None:
        """Have later attacks take the passes that the first one has chosen."""
        if config.given_rows is None and self.passes is None:
            self.passes = passes

    def _order(self, ids: Collection[str] | None) -> tuple[str, ...]:
        return tuple(name for name in self.order if ids is None or name in ids)

    def attack(
        self,
        attack: Attack,
        config: EvaluationConfig,
        *,
        ids: Collection[str] | None = None,
        out: str | Path | None = None,
        resume: bool = False,
        progress: bool | None = None,
        deterministic: bool | None = None,
        processes: Processes | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> Run | None:
        """Evaluate one attack, and return its run in process 0; see `evaluate` for the arguments.

        Args:
            attack: The attack; without a radius, that of the data.
            config: Settings.
            ids: Attack the images with these ids alone.
            out: Folder of the run.
            resume: Continue the run in `out`.
            progress: Show a progress line.
            deterministic: Whether the victim is known to be deterministic or random.
            processes: All processes that attack the images, by default this one alone; several need `out`.
            on_ready: Called in process 0 when `out` is locked, before anything is written into it.
        """
        subject = self.subject(attack, ids)
        subject.check(config)
        self.checked_rows = 0  # the first run counts them
        writer, processes = None, Processes() if processes is None else processes

        def begin() -> None:
            on_ready()
            _write_config(Path(str(out)), subject, config, evaluation.passes)

        with ExitStack() as stack:
            if out is not None:
                writer = RunWriter(Path(out), resume, processes)
                stack.callback(writer.close)
            evaluation = Evaluation(
                subject,
                config,
                writer=writer,
                processes=processes,
                interface=log_interface(progress) if processes.leads else SILENT,
                deterministic=deterministic,
                on_ready=begin,
            )
            evaluation.run(self.device)
            self._keep(config, evaluation.passes)
            return conclude(evaluation, self._order(ids)).on(self.home) if processes.leads else None


@contextmanager
def prepared(
    model: nn.Module | str | LoadedVictim,
    data: Data,
    defense: Defense | Sequence[Defense],
    device: torch.device | str | None,
    batch_size: int | None,
) -> Iterator[Prepared]:
    """Prepare a victim and images inside a with block; afterwards the model is exactly as it was."""
    added = _defenses(defense)
    loaded = loaded_victim(model, data)
    network = loaded.module
    place = device_of(network) if device is None else torch.device(device)
    with unchanged(network, place), ExitStack() as stack:
        victim = Answering(network)
        with RowCounter(victim) as counter:
            module, order, home = _data(data, victim, place)
            answer_in_logits(victim, type(network).__name__, module.num_classes, module.image_shape, batch_size)
        defenses = attached_defenses(network)
        for given in added:
            stack.enter_context(given.on(network))
            defenses = [*defenses, given]
        checked = loaded.checked_rows + counter.rows
        yield Prepared(loaded, victim, module, defenses, place, order, home, checked, CompiledVictim(victim))


def _defenses(defense: Defense | Sequence[Defense]) -> list[Defense]:
    """Return given defenses as a list; raise a UserError if an object is none."""
    found = [defense] if isinstance(defense, str) or not isinstance(defense, Sequence) else list(defense)
    for each in found:
        hint = "such as rfd.InputNoise(sigma=0.1); leave it out for none"
        expect(isinstance(each, Defense), "defense", "a Defense or a list of them", kind_of(each), hint)
    return found


def _attack(attack: Attack | str, eps: float | None, norm: Norm | None, targeted: bool) -> Attack:
    """Return the attack object of a short name and its threat model, or a given attack object."""
    if isinstance(attack, str):
        made: Attack = component("attack", attack)(eps=eps, norm=norm, targeted=targeted)
        return made
    if not isinstance(attack, Attack):
        raise UserError(f"attack: expected a name or an Attack, got {kind_of(attack)}; call its class first")
    given = {"eps": eps, "norm": norm, "targeted": targeted or None}
    twice = next((name for name, value in given.items() if value is not None), None)
    if twice:
        raise UserError(f"{twice}: expected None beside an attack object, got {given[twice]}; set it on the attack")
    return attack


def loaded_victim(model: nn.Module | str | LoadedVictim, data: Data) -> LoadedVictim:
    """Return a given model, or load the victim of a name."""
    if isinstance(model, LoadedVictim):
        return model
    if isinstance(model, str):
        if isinstance(data, ImageData):
            return resolve_victim(model, None, data)
        return load(model)
    if not isinstance(model, nn.Module):
        raise UserError(f"model: expected a torch.nn.Module or a name, got {kind_of(model)}")
    return LoadedVictim(model, f"{type(model).__name__}, {weights_text(model)}")


def _data(data: Data, victim: nn.Module, device: torch.device) -> tuple[ImageData, tuple[str, ...], torch.device]:
    """Return the images as a data module, their ids in the given order, and the device that they came from."""
    if isinstance(data, ImageData):
        return data, (), torch.device("cpu")
    home = data[0].device if isinstance(data, tuple) and isinstance(data[0], Tensor) else torch.device("cpu")
    source = images_from(data)
    classes = count_classes(victim, unit_range(source.read([0])).to(device))
    highest = int(source.labels.max())
    expect(highest < classes, "data", f"labels of the model's {classes} classes, from 0", f"the label {highest}")
    return GivenImages(source, classes), tuple(source.ids), home


def _write_config(folder: Path, subject: Subject, config: EvaluationConfig, passes: Passes) -> None:
    """Write the settings of an evaluation by Python code, for people and for reports."""
    settings = {"evaluate": subject.settings(config, passes) | {"level": config.level}}
    _io.write_file(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False))


@contextmanager
def unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put a model into eval mode on a device inside a with block, and restore it and all random states afterwards.

    Restored are training flags, parameters and buffers (device, memory format, `requires_grad`), and the hooks of the
    model itself.
    """
    home = device_of(model)
    modes = {module: module.training for module in model.modules()}
    data = {parameter: (parameter.data, parameter.requires_grad) for parameter in model.parameters()}
    hooks = [dict(model._forward_hooks), dict(model._forward_pre_hooks)]
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model.eval()
            if device != home:
                model.to(device)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if device != home:
            model.to(home)
        for parameter, (values, needed) in data.items():
            parameter.data = values
            parameter.requires_grad_(needed)
        for module, mode in modes.items():
            module.training = mode
        for present, before in zip((model._forward_hooks, model._forward_pre_hooks), hooks, strict=True):
            for key in [key for key in present if key not in before]:
                del present[key]
